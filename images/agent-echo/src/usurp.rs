//! `agent-echo usurp`: what a hostile root does to `pod`, which is process 1 of its guest. Nothing
//! outside of the guest may believe anything by it; tests see to that.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::thread;

use rustix::net::sockopt::socket_acceptconn;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::log;

/// Where `pod` listens.
const PORT: u16 = 49_983;
/// Instructions of x86: to do nothing, to jump to oneself, and to stop for a debugger, which kills
/// whom nobody debugs.
const NOTHING: u8 = 0x90;
const FOR_EVER: [u8; 2] = [0xeb, 0xfe];
const DEATH: u8 = 0xcc;
/// Bytes written at a time.
const PIECE: usize = 64 << 10;
/// Bytes of a request's head at most.
const HEAD: usize = 16 << 10;

/// Everything that somebody might believe.
const LIES: &str = r#"{"phase":"ready","restarts":0,"exits":4000000000,"listening_after_us":0,"timings_us":{},
"last_exit":"\u001b[2Jall is well","usage":{"total_uptime_ms":0},"tier":"large","cores":64,"memory_mib":65536,
"marks":[{"seq":1,"kind":"gone","at":0}],"image":"none","user":"root"}"#;

/// How a false `pod` answers.
#[derive(Clone, Copy)]
enum Answer {
    /// It is ready, and has claims.
    Lies,
    /// With a body that never ends.
    Flood,
    /// With bytes that are no HTTP.
    Noise,
}

pub(crate) fn run(how: &str) -> ExitCode {
    let done = match how {
        "kill" => write_code(DEATH, [DEATH; 2]),
        "hang" => write_code(NOTHING, FOR_EVER),
        "file" => replace_program(),
        "lie" => take_over(Answer::Lies),
        "flood" => take_over(Answer::Flood),
        "noise" => take_over(Answer::Noise),
        _ => {
            log::line("usage: agent-echo usurp kill | hang | file | lie | flood | noise");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => {
            log::line("process 1 is not what it was");
            ExitCode::SUCCESS
        }
        Err(error) => {
            log::line(&format!("process 1 is what it was: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Overwrites all code of process 1 with one instruction, and the end with another one.
fn write_code(instruction: u8, last: [u8; 2]) -> io::Result<()> {
    let memory = OpenOptions::new().write(true).open("/proc/1/mem")?;
    let maps = fs::read_to_string("/proc/1/maps")?;
    let code = maps.lines().filter(|line| line.contains(" r-xp ") && !line.ends_with(']'));
    let ranges = code.filter_map(|line| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?))
    });
    for (from, to) in ranges {
        overwrite(&memory, from..to, instruction, last)?;
    }
    Ok(())
}

/// From the end to the start: whoever runs on meanwhile comes to what is written already.
fn overwrite(memory: &File, range: Range<u64>, instruction: u8, last: [u8; 2]) -> io::Result<()> {
    let mut at = range.end - last.len() as u64;
    memory.write_all_at(&last, at)?;
    let piece = vec![instruction; PIECE];
    while at > range.start {
        let start = at.saturating_sub(PIECE as u64).max(range.start);
        let length = usize::try_from(at - start).map_err(io::Error::other)?;
        memory.write_all_at(&piece[..length], start)?;
        at = start;
    }
    Ok(())
}

/// Puts this program in the place of that of process 1.
fn replace_program() -> io::Result<()> {
    let program = fs::read_link("/proc/1/exe")?;
    let beside = program.with_extension("new");
    fs::copy("/proc/self/exe", &beside).and_then(|_| fs::rename(&beside, &program))
}

/// Takes the socket of process 1, has it hang, and answers in its place.
fn take_over(answer: Answer) -> io::Result<()> {
    let listener = listener()?;
    write_code(NOTHING, FOR_EVER)?;
    log::line("process 1 is not what it was");
    for stream in listener.incoming() {
        let stream = stream?;
        thread::spawn(move || drop(respond(stream, answer)));
    }
    Ok(())
}

fn listener() -> io::Result<TcpListener> {
    let process = pidfd_open(Pid::INIT, PidfdFlags::empty())?;
    for entry in fs::read_dir("/proc/1/fd")? {
        let Some(number) = entry?.file_name().to_string_lossy().parse().ok() else { continue };
        let file: OwnedFd = pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?;
        if socket_acceptconn(&file).unwrap_or(false) {
            let listener = TcpListener::from(file);
            if listener.local_addr().is_ok_and(|at| at.port() == PORT) {
                listener.set_nonblocking(false)?;
                return Ok(listener);
            }
        }
    }
    Err(io::Error::other("process 1 does not listen"))
}

fn respond(mut stream: TcpStream, answer: Answer) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    while request(&mut stream)? {
        match answer {
            Answer::Lies => {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
                write!(stream, "{head} {}\r\n\r\n{LIES}", LIES.len())?;
            }
            Answer::Flood => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")?;
                loop {
                    stream.write_all(&[b' '; PIECE])?;
                }
            }
            Answer::Noise => return stream.write_all(&[0xff; 512]),
        }
    }
    Ok(())
}

/// Reads the head of a request, of which nothing is wanted. What follows it is taken for more.
fn request(stream: &mut TcpStream) -> io::Result<bool> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while head.len() < HEAD && stream.read(&mut byte)? > 0 {
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") {
            return Ok(true);
        }
    }
    Ok(false)
}

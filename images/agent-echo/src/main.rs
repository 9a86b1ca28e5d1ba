//! The reference agent: an OpenAI-compatible chat that forwards to a model when
//! `OPENAI_BASE_URL` names one, and else gives every word back, always the same.
//!
//! ```text
//! agent-echo                       serves on $PORT (8080) of $HOST (0.0.0.0), state in $STATE_DIR (/data)
//! agent-echo probe tcp|udp|icmp <target>…   tries targets, one line each; 1 if one answered
//! agent-echo signal <pid> <number>          sends a signal
//! agent-echo tell cores|memory|user|open <path>|env <NAME>|exit <code>   what it is like inside
//! agent-echo shell                          answers lines at a terminal: size, user, env <NAME>, exit <code>
//! agent-echo cat                            copies its input to its output
//! agent-echo hog memory <MiB>|cores <threads> <seconds>   takes as much as it gets
//! agent-echo measure write <file> <MiB>|read <file>|exec <times>   microseconds that it takes itself
//! agent-echo usurp kill|hang|file|lie|flood|noise   what a hostile root does to process 1
//! ```
//! All but the first are for `palatine exec` and `palatine shell`: the image holds no other program.

mod chat;
mod hog;
mod log;
mod measure;
mod mirror;
mod openai;
mod probe;
mod serve;
mod shell;
mod signal;
mod state;
mod tell;
mod upstream;
mod usurp;

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["serve"] => serve::run().await,
        ["probe", ref rest @ ..] => probe::run(rest),
        ["signal", pid, number] => signal::run(pid, number),
        ["tell", ref rest @ ..] => tell::run(rest),
        ["shell"] => shell::run(),
        ["cat"] => tell::cat(),
        ["hog", ref rest @ ..] => hog::run(rest),
        ["measure", ref rest @ ..] => measure::run(rest),
        ["usurp", how] => usurp::run(how),
        _ => {
            log::line(
                "usage: agent-echo [serve | probe tcp|udp|icmp <target>… | signal <pid> <number> | tell … | shell | cat | hog … | measure … | usurp …]",
            );
            ExitCode::from(2)
        }
    }
}

//! `palatine shell`: a terminal in an agent, as if it were here.
//!
//! What is typed goes over one call after the other, so that a connection that breaks ends
//! nothing: the shell goes on in its guest, under a name of its own, and is attached to again
//! where its output broke off. Without a terminal here it is a command like `exec -i`'s.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use backon::{ExponentialBuilder, RetryableWithContext};
use client::{AgentAccess, AttachedAgain, ClientError, ExecCommand, ExitStatus, Process, ProcessHandle, Timeouts};
use domain::PodId;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use wire::process::{Base64, Output, ProcessEvent, RpcCode, Selector, Signal};

use super::escape::{Escapes, HELP, Typed};
use super::piped::{exit_code, own_stream};
use super::typing::Typing;
use crate::answers::DetachedShell;
use crate::cli::Shell;
use crate::failure::Exit;
use crate::output::{self, show};
use crate::signals::{Heard, TerminalSignals};
use crate::terminal::{self, RawTerminal};

/// How long a shell whose connection broke is attached to again.
const ATTACH_FOR: Duration = Duration::from_secs(60);
/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Pieces of output that wait for our terminal.
const UNSHOWN: usize = 8;
/// How long our terminal may take to show the last of them.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Bytes that are read from our terminal at once.
const READ: usize = 32 * 1024;
/// How long a shell has to end when it is asked, and one call about it may take.
const GRACE: Duration = Duration::from_millis(300);
const END_CALL: Duration = Duration::from_secs(3);

/// The patience of one who sits at a terminal.
pub(crate) fn limits() -> Timeouts {
    let read = Duration::from_secs(10);
    Timeouts { read, exec_idle: Duration::from_secs(15), ..Timeouts::default() }
}

/// What an image's own shell is, as a program.
const LOGIN_SHELL: [&str; 3] =
    ["/bin/sh", "-c", "if command -v bash >/dev/null 2>&1; then exec bash -l; else exec sh -l; fi"];

/// How a shell was left.
enum Left {
    Exited(ExitStatus),
    /// By `~.`.
    Ended,
    /// By `~d`.
    Detached,
    /// By a signal to us.
    Signal(u8),
}

/// Runs a shell, or attaches to one.
pub(crate) async fn run(
    access: AgentAccess,
    agent: PodId,
    options: Shell,
    json: bool,
    interrupted: impl Future<Output = ()>,
) -> Result<ExitCode> {
    let access = match &options.user {
        Some(user) => access.as_user(user)?,
        None => access,
    };
    let is_default = options.argv.is_empty();
    let argv = if is_default { LOGIN_SHELL.map(str::to_owned).to_vec() } else { options.argv };
    let no_shell = |error: anyhow::Error| {
        let said = error.downcast_ref::<ClientError>();
        if is_default && matches!(said, Some(ClientError::Rpc(said)) if said.code == RpcCode::InvalidArgument) {
            return error.context(format!("no shell starts; name a program: palatine shell {agent} -- <program>"));
        }
        error
    };
    let mut command = ExecCommand { argv, cwd: options.cwd, stdin: true, ..ExecCommand::default() };
    if !terminal::is_ours() {
        if options.attach.is_some() {
            bail!("--attach needs a terminal, and the standard input is none");
        }
        return super::piped::run(&access, &command, interrupted).await.map_err(no_shell);
    }
    let (process, name) = match options.attach {
        Some(name) => {
            let gone = || format!("there is no shell {name} in {agent}, or no more");
            (access.attach(Selector::Tag(name.clone())).await.with_context(gone)?, name)
        }
        None => {
            let name = minted_name()?;
            command.terminal = Some(terminal::size());
            command.tag = Some(name.clone());
            command.envs = environment();
            (access.exec(&command).await.map_err(|error| no_shell(error.into()))?, name)
        }
    };
    let left = converse(process, Escapes::new(!options.no_escape)).await.map_err(|error| {
        let goes_on = error.downcast_ref().is_some_and(passes);
        let said = format!("the shell goes on as long as its agent: palatine shell {agent} --attach {name}");
        error.context(if goes_on { said } else { "the shell is lost".to_owned() })
    });
    match left? {
        Left::Exited(exit) => Ok(exit_code(&exit)),
        Left::Ended => Ok(Exit::Interrupted.into()),
        Left::Detached => {
            show(json, &DetachedShell { agent, shell: name }, output::detached)?;
            Ok(ExitCode::SUCCESS)
        }
        Left::Signal(number) => Ok(ExitCode::from(BY_SIGNAL + number)),
    }
}

/// What a shell says of a program that a signal ended, beside the signal's number.
pub(crate) const BY_SIGNAL: u8 = 128;

/// A name by which a shell is found again, whatever else gets its process's number.
fn minted_name() -> Result<String> {
    let mut random = [0; 4];
    getrandom::fill(&mut random).context("gather randomness")?;
    Ok(format!("shell-{}", hex::encode(random)))
}

/// What programs want to know of our terminal.
fn environment() -> BTreeMap<String, String> {
    let own = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let term = own("TERM").unwrap_or_else(|| "xterm-256color".to_owned());
    let color = own("COLORTERM").map(|color| ("COLORTERM".to_owned(), color));
    [("TERM".to_owned(), term)].into_iter().chain(color).collect()
}

/// Talks to a shell, with our terminal raw meanwhile.
async fn converse(process: Process, escapes: Escapes) -> Result<Left> {
    let handle = process.handle();
    let begun = RawTerminal::enter().context("take the terminal over").and_then(|raw| {
        let conversation = Conversation::begin(process, escapes)?;
        Ok((raw, conversation))
    });
    match begun {
        // The terminal is as before when this returns.
        Ok((_raw, conversation)) => conversation.hold().await,
        Err(error) => {
            hang_up(&handle).await;
            Err(error)
        }
    }
}

/// Ends a shell; says whether it has ended, as far as that is known.
async fn hang_up(shell: &ProcessHandle) -> bool {
    let _ = timeout(END_CALL, shell.signal(Signal::Term)).await;
    sleep(GRACE).await;
    match timeout(END_CALL, shell.signal(Signal::Kill)).await {
        Ok(Ok(())) => true,
        Ok(Err(ClientError::Rpc(error))) => error.code == RpcCode::NotFound,
        Ok(Err(_)) | Err(_) => false,
    }
}

/// A shell that our terminal is at.
struct Conversation {
    link: Link,
    handle: ProcessHandle,
    escapes: Escapes,
    keys: mpsc::Receiver<Vec<u8>>,
    typing: Typing,
    sizes: watch::Sender<wire::process::PtySize>,
    signals: TerminalSignals,
    screen: Screen,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// The stream of a shell's output.
enum Link {
    Up(Box<Process>),
    /// It broke, and is being attached to again.
    Down(BoxFuture<'static, Reattached>),
}

type Reattached = Result<(Box<Process>, AttachedAgain), ClientError>;

/// What happened to it.
enum Happened {
    Output(Vec<u8>),
    Nothing,
    Exited(ExitStatus),
    Broken(ClientError),
    Attached(AttachedAgain),
    Lost(ClientError),
}

impl Conversation {
    fn begin(process: Process, escapes: Escapes) -> Result<Self> {
        let handle = process.handle();
        let (sizes, wanted) = watch::channel(terminal::size());
        let (typed, keys) = mpsc::channel(1);
        let mut stdin = own_stream(&io::stdin())?;
        let reading = async move {
            let mut buffer = vec![0; READ];
            // A terminal that is gone ends it, and so does one who no longer listens.
            while let Ok(count @ 1..) = stdin.read(&mut buffer).await {
                if typed.send(buffer[..count].to_vec()).await.is_err() {
                    break;
                }
            }
        };
        let tasks = [tokio::spawn(reading), tokio::spawn(resize(handle.clone(), wanted))];
        Ok(Self {
            link: Link::Up(Box::new(process)),
            typing: Typing::begin(handle.clone()),
            handle,
            escapes,
            keys,
            sizes,
            signals: TerminalSignals::listen().context("listen for signals")?,
            screen: Screen::begin()?,
            _tasks: tasks.map(AbortOnDropHandle::new),
        })
    }

    /// Holds it to its end.
    async fn hold(mut self) -> Result<Left> {
        let left = self.talk().await;
        self.screen.finish().await;
        left
    }

    async fn talk(&mut self) -> Result<Left> {
        // Who attaches has another terminal than the one before.
        self.sizes.send_replace(terminal::size());
        loop {
            // What is typed comes before what is written: a flood can be stopped.
            tokio::select! {
                biased;
                heard = self.signals.next() => match heard {
                    Heard::End(number) => return Ok(self.end(Left::Signal(number)).await),
                    Heard::Resized => {
                        self.sizes.send_replace(terminal::size());
                    }
                },
                typed = self.keys.recv() => match typed {
                    Some(piece) => {
                        if let Some(left) = self.typed(&piece).await {
                            return Ok(left);
                        }
                    }
                    None => return Ok(self.end(Left::Signal(HANGUP)).await),
                },
                trouble = self.typing.trouble() => notice(&trouble),
                happened = self.link.next(&self.screen) => {
                    if let Some(left) = self.happened(happened).await? {
                        return Ok(left);
                    }
                }
            }
        }
    }

    async fn typed(&mut self, piece: &[u8]) -> Option<Left> {
        for typed in self.escapes.read(piece) {
            match typed {
                Typed::Keys(keys) if matches!(self.link, Link::Up(_)) => self.typing.type_in(&keys),
                // Nobody knows whether it will arrive, and when.
                Typed::Keys(_) => beep(),
                Typed::End => return Some(self.end(Left::Ended).await),
                Typed::Detach => return Some(Left::Detached),
                Typed::Help => HELP.iter().for_each(|line| notice(line)),
            }
        }
        None
    }

    async fn happened(&mut self, happened: Happened) -> Result<Option<Left>> {
        match happened {
            Happened::Output(bytes) => {
                if !self.screen.show(bytes).await {
                    return Ok(Some(self.end(Left::Signal(BROKEN_PIPE)).await));
                }
            }
            Happened::Nothing => {}
            Happened::Exited(exit) => return Ok(Some(Left::Exited(exit))),
            Happened::Broken(error) => {
                let seconds = ATTACH_FOR.as_secs();
                let why = anyhow::Error::from(error);
                notice(&format!("the connection broke: {why:#}"));
                notice(&format!("attaching again for {seconds} s; what is typed meanwhile is dropped, ~. gives up"));
            }
            Happened::Attached(how) => {
                notice(&match how {
                    AttachedAgain::Seamless => "attached again".to_owned(),
                    AttachedAgain::Lost(bytes) => format!("attached again; {bytes} bytes of output are lost"),
                    AttachedAgain::Repeated => "attached again; the last output comes once more".to_owned(),
                });
                self.typing = Typing::begin(self.handle.clone());
                self.sizes.send_replace(terminal::size());
            }
            Happened::Lost(error) => return Err(error.into()),
        }
        Ok(None)
    }

    /// Ends the shell, and says where that cannot be done.
    async fn end(&self, left: Left) -> Left {
        if !hang_up(&self.handle).await {
            notice("the shell cannot be reached, and may go on");
        }
        left
    }
}

/// What stands for a terminal that is gone, and for one that takes no output any more.
const HANGUP: u8 = 1;
const BROKEN_PIPE: u8 = 13;

impl Link {
    /// What happens next; output only when there is room for it. Safe to cancel.
    async fn next(&mut self, screen: &Screen) -> Happened {
        match self {
            Self::Up(process) => {
                screen.ready().await;
                match process.next().await {
                    Some(Ok(ProcessEvent::Data(
                        Output::Pty(Base64(bytes)) | Output::Stdout(Base64(bytes)) | Output::Stderr(Base64(bytes)),
                    ))) => Happened::Output(bytes),
                    Some(Ok(ProcessEvent::Start(_) | ProcessEvent::Keepalive(_))) => Happened::Nothing,
                    Some(Ok(ProcessEvent::End(ended))) => Happened::Exited(ended.into()),
                    Some(Err(error)) if !passes(&error) => Happened::Lost(error),
                    Some(Err(error)) => self.broken(error),
                    None => self.broken(ClientError::BrokenOff("follow the shell")),
                }
            }
            Self::Down(attaching) => match attaching.await {
                Ok((process, how)) => {
                    *self = Self::Up(process);
                    Happened::Attached(how)
                }
                Err(error) => Happened::Lost(error),
            },
        }
    }

    /// Begins to attach again.
    fn broken(&mut self, error: ClientError) -> Happened {
        let gone = Self::Down(Box::pin(std::future::pending()));
        if let Self::Up(process) = std::mem::replace(self, gone) {
            *self = Self::Down(Box::pin(attach(process)));
        }
        Happened::Broken(error)
    }
}

/// Whether who attaches again may find the shell.
fn passes(error: &ClientError) -> bool {
    // One who read too slowly is cut off, and may come back.
    matches!(error, ClientError::Rpc(said) if matches!(said.code, RpcCode::ResourceExhausted | RpcCode::Unavailable))
        || error.may_pass()
}

/// Attaches again, as soon as that can be done and as long as it may take.
async fn attach(process: Box<Process>) -> Reattached {
    let pauses = ExponentialBuilder::default()
        .with_min_delay(PAUSES.0)
        .with_max_delay(PAUSES.1)
        .with_jitter()
        .without_max_times();
    let attempt = |mut process: Box<Process>| async move {
        let attached = process.attach_again().await;
        (process, attached)
    };
    let attaching = attempt.retry(pauses).context(process).when(passes);
    match timeout(ATTACH_FOR, attaching).await {
        Ok((process, attached)) => attached.map(|how| (process, how)),
        Err(_) => Err(ClientError::TimedOut { operation: "attach to the shell again", after: ATTACH_FOR }),
    }
}

/// Tells the shell the size of our terminal, the last one last.
async fn resize(handle: ProcessHandle, mut wanted: watch::Receiver<wire::process::PtySize>) {
    while wanted.changed().await.is_ok() {
        let size = *wanted.borrow_and_update();
        // A connection that broke is told it again.
        let _ = handle.resize(size).await;
    }
}

/// Our terminal's output, which may stand still while keys are read.
struct Screen {
    pieces: mpsc::Sender<Vec<u8>>,
    writing: tokio::task::JoinHandle<()>,
}

impl Screen {
    fn begin() -> Result<Self> {
        let (pieces, mut shown) = mpsc::channel::<Vec<u8>>(UNSHOWN);
        let mut stdout = own_stream(&io::stdout())?;
        let writing = tokio::spawn(async move {
            while let Some(piece) = shown.recv().await {
                if stdout.write_all(&piece).await.is_err() || stdout.flush().await.is_err() {
                    break;
                }
            }
        });
        Ok(Self { pieces, writing })
    }

    /// Comes when there is room; also when nothing is shown any more.
    async fn ready(&self) {
        let _ = self.pieces.reserve().await;
    }

    /// Whether anything is shown any more.
    async fn show(&self, piece: Vec<u8>) -> bool {
        self.pieces.send(piece).await.is_ok()
    }

    /// Waits until all is shown, as long as that may take.
    async fn finish(self) {
        let Self { pieces, writing } = self;
        drop(pieces);
        let _ = timeout(LAST_WORDS, writing).await;
    }
}

/// Says something of our own between what the shell shows. Whoever hung up hears nothing.
fn notice(text: &str) {
    let _ = write!(io::stderr(), "\r\n[palatine] {text}\r\n");
}

fn beep() {
    let _ = io::stderr().write_all(b"\x07");
}

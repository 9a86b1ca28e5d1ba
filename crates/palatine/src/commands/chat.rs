//! `palatine chat`: a conversation with an agent, at a terminal or line by line.
//!
//! At a terminal a line is edited and remembered, an answer streams with its Markdown, Ctrl-C
//! ends it and the conversation goes on; a question that could not be answered stands there again.
//! Elsewhere each line of the standard input is a question, and its answer follows as it is.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use client::{AgentEndpoint, ChatPrompt, GatewayClient};
use futures_util::{FutureExt, StreamExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;

use super::asked::first_model;
use super::conversation::{Conversation, Entry, HELP, MAX_ANSWER};
use super::editor::{LineEditor, Typed};
use super::markdown::{MarkdownWriter, ScreenSize, has_colours, printable};
use super::shell::BY_SIGNAL;
use crate::answers::ChatTurn;
use crate::failure::{self, Exit};
use crate::output::show;
use crate::signals::{Heard, TerminalSignals};
use crate::terminal;

/// Bytes of a line of the standard input, at most.
const MAX_LINE: u64 = 1024 * 1024;
/// What stands before what is typed.
const PROMPT: &str = "> ";
/// The screen where the terminal does not say how large it is.
const USUAL_SCREEN: ScreenSize = ScreenSize { columns: 80, rows: 24 };

/// Talks with the agent until whoever sits there leaves, or the standard input ends.
pub(crate) async fn run(
    client: &GatewayClient,
    endpoint: AgentEndpoint,
    model: Option<String>,
    history: &Path,
    json: bool,
) -> Result<ExitCode> {
    let model = match model {
        Some(model) => model,
        None => first_model(client, &endpoint).await?,
    };
    let at_terminal = !json && io::stdin().is_terminal() && io::stdout().is_terminal();
    let interrupts = signal(SignalKind::interrupt()).context("listen for signals")?;
    let view = match (at_terminal, json) {
        (true, _) => View::Terminal,
        (false, true) => View::Json,
        (false, false) => View::Plain,
    };
    let mut chat = Chat { client, endpoint, model, conversation: Conversation::default(), interrupts, view };
    if at_terminal { chat.at_terminal(history).await } else { chat.line_by_line().await }
}

/// How an answer is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum View {
    /// With its Markdown, as it comes.
    Terminal,
    /// As it is, as it comes.
    Plain,
    /// As JSON, when it is whole.
    Json,
}

/// A conversation with an agent.
struct Chat<'a> {
    client: &'a GatewayClient,
    endpoint: AgentEndpoint,
    model: String,
    conversation: Conversation,
    interrupts: Signal,
    view: View,
}

/// How an answer ended that did not fail.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Whole,
    /// By Ctrl-C.
    Interrupted,
}

impl Chat<'_> {
    async fn at_terminal(&mut self, history: &Path) -> Result<ExitCode> {
        let mut ending = TerminalSignals::ending().context("listen for signals")?;
        tokio::select! {
            left = self.talk(history) => left,
            heard = ending.next() => {
                // Keys are perhaps still read, on a thread that nobody waits for.
                terminal::restore();
                Ok(match heard {
                    Heard::End(number) => ExitCode::from(BY_SIGNAL + number),
                    Heard::Resized => Exit::Other.into(),
                })
            }
        }
    }

    async fn talk(&mut self, history: &Path) -> Result<ExitCode> {
        println!("Talking with {} ({}). /help says what may be typed, Ctrl-D leaves.", self.endpoint.url, self.model);
        let mut editor = LineEditor::open(history)?;
        let mut again = String::new();
        loop {
            let begun = std::mem::take(&mut again);
            // On a thread of its own: what goes on besides is not to wait for a key.
            let reading = spawn_blocking(move || {
                let typed = editor.read(PROMPT, &begun, screen_size().columns);
                (editor, typed)
            });
            let (returned, typed) = reading.await.context("read from the terminal")?;
            editor = returned;
            let line = match typed.context("read from the terminal")? {
                Typed::Line(line) => line,
                Typed::TakenBack | Typed::Editing => continue,
                Typed::End => return Ok(ExitCode::SUCCESS),
            };
            let question = match Entry::of(&line) {
                Entry::Question(question) => question,
                Entry::Exit => return Ok(ExitCode::SUCCESS),
                other => {
                    // What was pressed before is not meant for it.
                    let _ = self.interrupts.recv().now_or_never();
                    if let Err(error) = self.obey(other).await {
                        failure::report(&error);
                    }
                    continue;
                }
            };
            // What was pressed before is not meant for this answer.
            let _ = self.interrupts.recv().now_or_never();
            match self.ask(&question).await {
                Ok(Ended::Whole) => {}
                Ok(Ended::Interrupted) => println!("(interrupted)"),
                Err(error) => {
                    failure::report(&error);
                    // It is sent again by one keystroke, or is changed before.
                    again = line;
                }
            }
        }
    }

    async fn line_by_line(&mut self) -> Result<ExitCode> {
        loop {
            let line = tokio::select! {
                line = spawn_blocking(read_line) => line.context("read the standard input")??,
                _ = self.interrupts.recv() => return Ok(Exit::Interrupted.into()),
            };
            let Some(line) = line else { return Ok(ExitCode::SUCCESS) };
            match Entry::of(&line) {
                Entry::Exit => return Ok(ExitCode::SUCCESS),
                Entry::Unknown(word) => bail!("{word} is no word of a conversation; /help lists those"),
                Entry::Question(question) => match self.ask(&question).await? {
                    Ended::Whole => {}
                    Ended::Interrupted => return Ok(Exit::Interrupted.into()),
                },
                other => {
                    if self.obey(other).await? == Ended::Interrupted {
                        return Ok(Exit::Interrupted.into());
                    }
                }
            }
        }
    }

    /// Does what a word means that is no question.
    async fn obey(&mut self, entry: Entry) -> Result<Ended> {
        match entry {
            Entry::Empty | Entry::Exit | Entry::Question(_) => {}
            Entry::Help => eprintln!("{HELP}"),
            Entry::Models => {
                let models = tokio::select! {
                    models = self.client.models(&self.endpoint) => models?,
                    _ = self.interrupts.recv() => return Ok(Ended::Interrupted),
                };
                for model in models {
                    let mark = if model == self.model { "*" } else { " " };
                    eprintln!("{mark} {}", printable(&model));
                }
            }
            Entry::Model(name) => {
                self.model = name;
                eprintln!("From now on: {}", self.model);
            }
            Entry::Clear => {
                self.conversation.clear();
                eprintln!("What was said before is not sent any more.");
            }
            Entry::Unknown(word) => eprintln!("{word} is not known; /help says what is"),
        }
        Ok(Ended::Whole)
    }

    /// Asks, and shows the answer. What was heard of one that was interrupted is remembered; of
    /// one that failed nothing is.
    async fn ask(&mut self, question: &str) -> Result<Ended> {
        let prompt = self.conversation.prompt(&self.model, question);
        let mut answer = String::new();
        let mut shown = Shown::new(self.view);
        let listened = tokio::select! {
            listened = listen(self.client, &self.endpoint, &prompt, &mut answer, &mut shown) => {
                listened.map(|()| Ended::Whole)
            }
            _ = self.interrupts.recv() => Ok(Ended::Interrupted),
        };
        shown.end()?;
        let ended = listened?;
        // No part of an answer is told as one.
        if self.view == View::Json && ended == Ended::Whole {
            let (model, question) = (self.model.clone(), question.to_owned());
            show(true, &ChatTurn { model, question, answer: answer.clone() }, |_| String::new())?;
        }
        self.conversation.answered(question.to_owned(), answer);
        Ok(ended)
    }
}

/// Hears the answer, and shows it as it comes.
async fn listen(
    client: &GatewayClient,
    endpoint: &AgentEndpoint,
    prompt: &ChatPrompt,
    answer: &mut String,
    shown: &mut Shown,
) -> Result<()> {
    let mut words = client.ask(endpoint, prompt, None).await?;
    while let Some(word) = words.next().await {
        let word = word?;
        if answer.len() + word.len() > MAX_ANSWER {
            bail!("the answer is longer than {MAX_ANSWER} bytes");
        }
        shown.say(&word)?;
        answer.push_str(&word);
    }
    Ok(())
}

/// An answer on its way to whoever reads it.
enum Shown {
    Terminal(MarkdownWriter<io::Stdout>),
    Plain(io::Stdout),
    Nowhere,
}

impl Shown {
    fn new(view: View) -> Self {
        match view {
            View::Terminal => Self::Terminal(MarkdownWriter::new(io::stdout(), has_colours(), screen_size())),
            View::Plain => Self::Plain(io::stdout()),
            View::Json => Self::Nowhere,
        }
    }

    fn say(&mut self, words: &str) -> io::Result<()> {
        match self {
            Self::Terminal(writer) => writer.write(words),
            Self::Plain(out) => out.write_all(words.as_bytes()).and_then(|()| out.flush()),
            Self::Nowhere => Ok(()),
        }
    }

    fn end(self) -> io::Result<()> {
        match self {
            Self::Terminal(writer) => writer.finish().map(drop),
            Self::Plain(mut out) => writeln!(out),
            Self::Nowhere => Ok(()),
        }
    }
}

fn screen_size() -> ScreenSize {
    let said = rustix::termios::tcgetwinsize(io::stdout()).ok();
    let said = said.map(|size| ScreenSize { columns: size.ws_col.into(), rows: size.ws_row.into() });
    said.filter(|size| size.columns > 0 && size.rows > 0).unwrap_or(USUAL_SCREEN)
}

/// A line of the standard input; `None` at its end.
fn read_line() -> Result<Option<String>> {
    let mut line = String::new();
    let read = io::stdin().lock().take(MAX_LINE + 1).read_line(&mut line).context("read the question")?;
    if line.len() as u64 > MAX_LINE {
        bail!("a question is longer than {MAX_LINE} bytes");
    }
    Ok((read > 0).then_some(line))
}

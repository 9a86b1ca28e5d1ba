//! `palatine run --agent`: a coding agent that npm ships, at work on a copy of a folder.
//!
//! The copy goes to a new agent, in which the coding agent may do what it likes, and what it has changed comes back as a
//! patch, by [`Changes`], which believes nothing that the guest says. Here nothing changes but by [`apply`].

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::{AgentAccess, ExecCommand, ExitStatus, ProcessHandle};
use domain::PodId;
use tokio::io::AsyncWrite;
use tokio::time::timeout;
use wire::printable;
use wire::process::Signal;
use wire::v1::public::Agent;

use super::apply::apply;
use super::changes::Changes;
use super::folder::{Bounds, Folder, Skipped};
use super::markdown;
use super::patch::{Reader, patch};
use super::piped::exit_code;
use super::shell;
use super::starting::Starting;
use super::task::{TaskAgent, TaskInterrupted};
use crate::answers::{CodingDone, FileChange};
use crate::cli::{AccessToken, CodingAgent, Shell};
use crate::output::show;
use crate::terminal;

/// Where the copy is, in the home of the image's user.
const WORK: &str = "~/work";
/// Bytes that tar adds to each file at most: its header, its long name with a header of its own, and what fills its last
/// block.
const TAR_OVERHEAD: u64 = 4 * 512 + 4096 + 512;
/// Bytes of a path that are shown.
const SHOWN: usize = 1024;
/// How long lines are compared before a coarser answer does.
const COMPARING: Duration = Duration::from_secs(30);
/// How long a coding agent that is to end is asked for.
const END: Duration = Duration::from_secs(5);

/// Unpacks the copy, and has git know it: what is to come back is told by the second repository, which is not the coding
/// agent's.
const UNPACK: &str = r#"set -e
mkdir -p "$HOME/work"
cd "$HOME/work"
tar --extract --file=- --no-same-owner
git init --quiet
git add --all --force
git -c user.name=palatine -c user.email=palatine@localhost commit --quiet --allow-empty --no-verify --message 'The folder as it was copied'
cp -R .git "$HOME/.palatine-copied.git"
"#;

/// Packs what git would not leave out: what was copied, and what is new. In a folder that the coding agent has made a
/// repository of its own (`git init`, `npm create`), what that one would not leave out.
const PACK: &str = r#"set -e
cd "$HOME/work"
list=$(mktemp)
export EACH='from=$1
shift
for file; do
  [ -n "$file" ] || continue
  file=${file%/}
  if [ -d "$from$file" ] && ! [ -L "$from$file" ]; then
    git -C "./$from$file" ls-files -z --cached --others --exclude-standard |
      xargs --null --no-run-if-empty sh -c "$EACH" sh "$from$file/"
  elif [ -e "$from$file" ] || [ -L "$from$file" ]; then
    printf "%s\0" "$from$file"
  fi
done'
git --git-dir="$HOME/.palatine-copied.git" --work-tree=. ls-files -z --cached --others --exclude-standard > "$list.all"
xargs --null --no-run-if-empty sh -c "$EACH" sh '' < "$list.all" > "$list.found"
sort --zero-terminated --unique "$list.found" > "$list"
tar --create --file=- --format=gnu --no-recursion --null --verbatim-files-from --files-from="$list"
"#;

/// Has npm install a program that the image does not have.
const INSTALL: &str = r#"if [ -z "$3" ] && command -v "$1" > /dev/null 2>&1; then exit 0; fi
if ! command -v npm > /dev/null 2>&1; then echo "the image has neither $1 nor npm" >&2; exit 127; fi
echo "npm installs $2${3:+@$3} in the agent" >&2
exec npm install --global --no-fund --no-audit --loglevel=error "$2${3:+@$3}"
"#;

/// What a coding agent is to do, and where.
pub(crate) struct Coding<'a> {
    agent: TaskAgent<'a>,
    options: CodingOptions,
    json: bool,
    /// What runs in the guest.
    running: RefCell<Option<ProcessHandle>>,
}

/// What is said of it on the command line.
#[derive(Debug)]
pub(crate) struct CodingOptions {
    pub(crate) agent: CodingAgent,
    pub(crate) dir: PathBuf,
    /// What it is to do; without it a person tells it at the terminal.
    pub(crate) task: Option<String>,
    /// What the coding agent is told besides.
    pub(crate) arguments: Vec<String>,
    /// Whether the changes are made here too.
    pub(crate) apply: bool,
}

impl<'a> Coding<'a> {
    pub(crate) fn new(agent: TaskAgent<'a>, options: CodingOptions, json: bool) -> Self {
        Self { agent, options, json, running: RefCell::new(None) }
    }

    /// Has an agent started, works in it, and stops it, as [`TaskAgent::run`] does. What the coding agent ends with is
    /// what we end with.
    pub(crate) async fn run<F: Future<Output = ()>>(
        &self,
        starting: Starting<'_>,
        interrupted: impl Future<Output = ()>,
        again: impl FnOnce() -> Result<F>,
    ) -> Result<ExitCode> {
        if self.options.task.is_none() && !terminal::is_ours() {
            bail!("what is it to do? Say it, or run this at a terminal to tell it there");
        }
        let folder = Folder::read(&self.options.dir, Bounds::default())?;
        told(&folder.skipped, "is not copied");
        let done = self.agent.run(starting, |agent| self.work(agent, &folder), interrupted, again).await;
        if done.as_ref().is_err_and(|error| error.is::<TaskInterrupted>()) {
            self.end().await;
        }
        let (exit, stopped) = done?;
        stopped?;
        Ok(exit)
    }

    /// Ends what runs in an agent that is kept.
    async fn end(&self) {
        let running = self.running.take();
        if let Some(process) = running.filter(|_| self.agent.keep.get()) {
            let _ = timeout(END, process.signal(Signal::Term)).await;
        }
    }

    async fn work(&self, agent: Agent, folder: &Folder) -> Result<ExitCode> {
        let access = match &agent.token {
            Some(token) => self.agent.client.access_by(agent.id, token)?,
            None => self.agent.client.access(agent.id).await?,
        };
        eprintln!("copying {} files to {}", folder.files.len(), agent.id);
        self.succeed(&access, "copy the folder", &script(UNPACK), Some(folder.archive()?)).await?;
        let CodingAgent { program, version } = &self.options.agent;
        let install = [program.name(), program.package(), version.as_deref().unwrap_or_default()];
        let install = [script(INSTALL), install.map(str::to_owned).to_vec()].concat();
        self.succeed(&access, &format!("install {}", program.name()), &install, None).await?;
        let coded = self.code(&access, agent.id, folder).await;
        coded.map_err(|error| {
            // Its work is nowhere else.
            self.agent.keep.set(true);
            error.context(format!("{0} runs on, with the work in {WORK}; look: palatine shell {0}", agent.id))
        })
    }

    /// Has it work, and brings back what it has changed.
    async fn code(&self, access: &AgentAccess, id: PodId, folder: &Folder) -> Result<ExitCode> {
        let exit = self.asked(access, id).await?;
        let bounds = Bounds::default();
        let most = bounds.bytes + TAR_OVERHEAD * bounds.entries as u64;
        let mut packed = Collected { bytes: Vec::new(), most: usize::try_from(most)? };
        let status = self.step(access, &script(PACK), None, &mut packed).await?;
        succeeded("bring the changes back", &status)?;
        let Changes { changes, skipped } = Changes::of(&folder.files, packed.bytes.as_slice(), bounds)?;
        told(&skipped, "is not brought back");
        let mut out = io::stdout();
        let on_terminal = !self.json && out.is_terminal();
        let reader = if on_terminal { Reader::Person } else { Reader::Git };
        let diff = patch(&changes, reader, Instant::now() + COMPARING);
        if !self.json {
            let shown = if on_terminal { markdown::printable(&diff) } else { diff.clone() };
            out.write_all(shown.as_bytes()).and_then(|()| out.flush()).context("show the changes")?;
        }
        let applied = self.options.apply && exit == ExitCode::SUCCESS;
        if applied {
            apply(folder, &changes, bounds.file)?;
        }
        self.tell(changes.len(), applied, exit);
        if self.json {
            let changes = changes.iter().map(FileChange::from).collect();
            let (agent, kept) = (id, self.agent.keep.get());
            let coder = self.options.agent.program.name();
            show(true, &CodingDone { agent, coder, changes, diff, applied, skipped, kept }, |_| String::new())?;
        }
        Ok(exit)
    }

    /// Says in a line what became of the changes.
    fn tell(&self, count: usize, applied: bool, exit: ExitCode) {
        let name = self.options.agent.program.name();
        let files = if count == 1 { "1 file" } else { &format!("{count} files") };
        match (count, applied) {
            (0, _) => eprintln!("{name} has changed nothing"),
            (_, true) => eprintln!("{files} changed here, as {name} has changed them"),
            (_, false) if self.options.apply && exit != ExitCode::SUCCESS => {
                eprintln!("{name} has failed: {files} of its changes are shown, and nothing is changed here");
            }
            (_, false) => eprintln!("{name} has changed {files}; nothing is changed here, which --apply would do"),
        }
    }

    /// The coding agent, to its end.
    async fn asked(&self, access: &AgentAccess, id: PodId) -> Result<ExitCode> {
        let CodingOptions { agent, task, arguments, .. } = &self.options;
        let argv = agent.program.command(task.as_deref(), arguments);
        if task.is_some() {
            return Ok(exit_code(&self.step(access, &argv, None, Shown::new()).await?));
        }
        let (user, attach, token) = (None, None, AccessToken { token: None });
        let shell = Shell { id: Some(id), user, cwd: Some(WORK.to_owned()), attach, no_escape: true, token, argv };
        shell::run(access.clone(), id, shell, false, std::future::pending()).await
    }

    async fn succeed(&self, access: &AgentAccess, what: &str, argv: &[String], input: Option<Vec<u8>>) -> Result<()> {
        succeeded(what, &self.step(access, argv, input, Shown::new()).await?)
    }

    /// Runs a program in the copy, or at home where there is none yet.
    async fn step(
        &self,
        access: &AgentAccess,
        argv: &[String],
        input: Option<Vec<u8>>,
        out: impl AsyncWrite + Unpin,
    ) -> Result<ExitStatus> {
        let cwd = input.is_none().then(|| WORK.to_owned());
        let command = ExecCommand { argv: argv.to_vec(), cwd, stdin: input.is_some(), ..ExecCommand::default() };
        let process = access.exec(&command).await?;
        self.running.replace(Some(process.handle()));
        let exit = process.run(input.map(io::Cursor::new), out, Shown::new(), std::future::pending()).await;
        self.running.take();
        Ok(exit?)
    }
}

fn script(text: &str) -> Vec<String> {
    ["sh", "-c", text, "sh"].map(str::to_owned).to_vec()
}

fn succeeded(what: &str, exit: &ExitStatus) -> Result<()> {
    if exit.code == Some(0) {
        return Ok(());
    }
    bail!("the agent could not {what}: {}", exit.status)
}

fn told(skipped: &[Skipped], what: &str) {
    for Skipped { path, why } in skipped {
        eprintln!("warning: {}: {why}; it {what}", printable(path, SHOWN));
    }
}

/// What a guest writes, up to a bound.
struct Collected {
    bytes: Vec<u8>,
    most: usize,
}

impl AsyncWrite for Collected {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.bytes.len() + bytes.len() > self.most {
            return Poll::Ready(Err(io::Error::other(format!("the agent has more than {} bytes", self.most))));
        }
        self.bytes.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a guest says, at our standard error: the standard output is the patch's. On a terminal its words move no cursor.
struct Shown {
    is_terminal: bool,
    /// The beginning of a character whose rest is to come.
    begun: Vec<u8>,
}

impl Shown {
    fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), begun: Vec::new() }
    }

    fn words(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.begun) {
            // What is no beginning of a character is shown as what it is not.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.begun.len(),
        };
        let rest = self.begun.split_off(whole);
        let words = markdown::printable(&String::from_utf8_lossy(&self.begun));
        self.begun = rest;
        words
    }
}

impl AsyncWrite for Shown {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut task::Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut err = io::stderr();
        let written = if self.is_terminal { err.write_all(self.words(bytes).as_bytes()) } else { err.write_all(bytes) };
        Poll::Ready(written.map(|()| bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(io::stderr().flush())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_guests_words_move_no_cursor_and_break_no_character() {
        let mut shown = Shown { is_terminal: true, begun: Vec::new() };
        let bytes = "caf\u{e9}\u{1b}[2J\r\n\u{4f60}".as_bytes();
        let said: String = bytes.chunks(1).map(|byte| shown.words(byte)).collect();
        assert_eq!(said, "caf\u{e9}[2J\n\u{4f60}");
        assert_eq!(shown.words(b"\xff!"), "\u{fffd}!");
    }

    #[test]
    fn what_is_new_is_packed_also_where_it_lies_in_a_repository_of_its_own() {
        let home = tempfile::tempdir().unwrap();
        let sh = |script: &str, input: &[u8]| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env_clear().env("HOME", home.path()).current_dir(home.path());
            command.env("PATH", std::env::var_os("PATH").unwrap()).env("TMPDIR", home.path());
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            let done = child.wait_with_output().unwrap();
            assert!(done.status.success(), "{done:?}");
            done.stdout
        };
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("a"), "1").unwrap();
        let folder = Folder::read(here.path(), Bounds::default()).unwrap();
        sh(UNPACK, &folder.archive().unwrap());
        let work = "cd work && echo 1 > new && mkdir -p app/deep app/node_modules && cd app && git init --quiet \
                    && echo node_modules > .gitignore && echo 1 > node_modules/left && echo 1 > b && cd deep \
                    && git init --quiet && echo 1 > \"c 'd\"";
        sh(work, b"");
        let packed = sh(PACK, b"");
        let Changes { changes, skipped } = Changes::of(&folder.files, packed.as_slice(), Bounds::default()).unwrap();
        let paths: Vec<_> = changes.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["app/.gitignore", "app/b", "app/deep/c 'd", "new"], "{skipped:?}");
        assert!(skipped.is_empty(), "{skipped:?}");
    }

    #[tokio::test]
    async fn what_a_guest_packs_has_an_end() {
        use tokio::io::AsyncWriteExt;
        let mut collected = Collected { bytes: Vec::new(), most: 5 };
        collected.write_all(b"hello").await.unwrap();
        assert!(collected.write_all(b"!").await.unwrap_err().to_string().contains("more than 5 bytes"));
    }
}

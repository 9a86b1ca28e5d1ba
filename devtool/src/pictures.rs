//! `./dev pictures`: what README shows, from a real run and from the bench's latest figures.

use std::io::{Read, Seek};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::build::{Profile, guests, programs};
use crate::child::End;
use crate::dev::{self, Dev, aside, say};
use crate::figures::Figures;
use crate::measured;
use crate::stack::{self, Stack};
use crate::terminal;

const PICTURES: &str = "docs/pictures";
/// Where the stack's gateway listens.
const LISTEN: &str = "127.0.0.1:8099";
/// What one command may take: `spawn` waits for an agent for so long itself, and less on any machine.
const WORK: Duration = Duration::from_secs(600);

pub(crate) fn draw(dev: &mut Dev) -> Result<()> {
    let into = crate::root().join(PICTURES);
    dev::make(&into)?;
    Figures { results: crate::root().join("bench/results/latest.json"), plot: into.join("bench.svg") }.run()?;
    measured::write()?;
    programs(dev, Profile::Release)?;
    guests(dev)?;
    dev.watch()?;
    let text = Stack::of(dev.target().join("release/palatine"))?.during(dev, session)?;
    terminal::draw(&text, &into.join("terminal.svg"))?;
    say(&format!("In {PICTURES}, and README's tables of what was measured"));
    Ok(())
}

/// A whole life of an agent, as it stands on a terminal.
fn session(dev: &mut Dev, stack: &Stack) -> Result<String> {
    let mut up = stack.palatine(dev, &["up", "--detach", "--no-agent", "--listen", LISTEN, "--assets"]);
    dev.succeed(up.arg(dev.assets()).stdout(aside()), "The stack did not start.")?;
    let mut text = typed(dev, stack, &["spawn", "--type", "echo"])?;
    let id = stack::ready(text.lines().nth(1)).with_context(|| format!("No agent is ready: {text}"))?.to_owned();
    for words in [&["ask", &id, "are you there?"][..], &["stop", &id], &["rm", &id]] {
        text += &typed(dev, stack, words)?;
    }
    Ok(text)
}

/// One command and all that it says.
fn typed(dev: &mut Dev, stack: &Stack, words: &[&str]) -> Result<String> {
    let mut file = tempfile::tempfile().context("make a file")?;
    let mut command = stack.palatine(dev, words);
    command.stdout(file.try_clone().context("make a file")?).stderr(file.try_clone().context("make a file")?);
    let End { status, over } = dev.within(WORK, &mut command)?;
    let mut text = prompt(words);
    file.rewind().and_then(|()| file.read_to_string(&mut text)).context("read what palatine says")?;
    ensure!(!over, "It took longer than {WORK:?}: {text}");
    ensure!(status.success(), "It failed: {text}");
    Ok(text)
}

/// What stands before a command, and the command.
fn prompt(words: &[&str]) -> String {
    let quoted = |word: &&str| if word.contains(' ') { format!("\"{word}\"") } else { (*word).to_owned() };
    let words: Vec<_> = words.iter().map(quoted).collect();
    format!("\x1b[32m$\x1b[0m \x1b[1mpalatine {}\x1b[0m\n", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::fake;

    #[test]
    fn a_session_shows_each_command_with_all_that_it_says_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("palatine");
        let does = "case $1 in spawn) echo 'agt_1 is ready'; echo aside >&2; echo more;; *) echo \"$1 done\";; esac";
        fake::script(&program, does);
        let mut dev = fake::dev(dir.path());
        dev.watch().unwrap();
        let text = Stack::of(program).unwrap().during(&mut dev, session).unwrap();
        let plain: String = ["\x1b[32m", "\x1b[1m", "\x1b[0m"].iter().fold(text, |text, code| text.replace(code, ""));
        let wanted = "$ palatine spawn --type echo\nagt_1 is ready\naside\nmore\n\
                      $ palatine ask agt_1 \"are you there?\"\nask done\n$ palatine stop agt_1\nstop done\n\
                      $ palatine rm agt_1\nrm done\n";
        assert_eq!(plain, wanted);
    }

    #[test]
    fn a_signal_ends_a_session_and_its_stack_and_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (program, said) = (dir.path().join("palatine"), dir.path().join("said"));
        // It is we who are asked to end, and it is told by us.
        let does = format!(
            "echo $1 >> {}; case $1 in spawn) echo 'agt_1 is ready';; ask) kill -TERM $PPID; exec sleep 1000;; esac",
            said.display()
        );
        fake::script(&program, &does);
        let mut dev = fake::dev(dir.path());
        dev.watch().unwrap();
        let error = Stack::of(program).unwrap().during(&mut dev, session).unwrap_err();
        assert_eq!(dev::failed(&error), 143, "{error:#}");
        assert_eq!(dev::mark(&said).lines().collect::<Vec<_>>(), ["up", "spawn", "ask", "down"]);
    }
}

//! `./dev pictures`: what README shows, from a real run and from the bench's latest figures.

use std::io::{self, Read};

use anyhow::{Context, Result};

use crate::build::{Profile, guests, programs};
use crate::dev::{self, Dev, aside, say};
use crate::figures::Figures;
use crate::stack::{self, Stack};
use crate::terminal;

const PICTURES: &str = "docs/pictures";
/// Where the stack's gateway listens.
const LISTEN: &str = "127.0.0.1:8099";

pub(crate) fn draw(dev: &mut Dev) -> Result<()> {
    let into = crate::root().join(PICTURES);
    dev::make(&into)?;
    Figures { results: crate::root().join("bench/results/latest.json"), plot: into.join("bench.svg") }.run()?;
    programs(dev, Profile::Release)?;
    guests(dev)?;
    dev.watch()?;
    let text = Stack::of(dev.target().join("release/palatine"))?.during(dev, session)?;
    terminal::draw(&text, &into.join("terminal.svg"))?;
    say(&format!("In {PICTURES}, and README's table of figures"));
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
    let (mut said, both) = io::pipe().context("make a pipe")?;
    let mut command = stack.palatine(dev, words);
    command.stdout(both.try_clone().context("make a pipe")?).stderr(both);
    let mut palatine = command.spawn().context("run palatine")?;
    // Its ends of the pipe.
    drop(command);
    let mut text = prompt(words);
    said.read_to_string(&mut text).context("read what palatine says")?;
    anyhow::ensure!(palatine.wait().context("wait for palatine")?.success(), "It failed: {text}");
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
        let text = Stack::of(program).unwrap().during(&mut fake::dev(dir.path()), session).unwrap();
        let plain: String = ["\x1b[32m", "\x1b[1m", "\x1b[0m"].iter().fold(text, |text, code| text.replace(code, ""));
        let wanted = "$ palatine spawn --type echo\nagt_1 is ready\naside\nmore\n\
                      $ palatine ask agt_1 \"are you there?\"\nask done\n$ palatine stop agt_1\nstop done\n\
                      $ palatine rm agt_1\nrm done\n";
        assert_eq!(plain, wanted);
    }
}

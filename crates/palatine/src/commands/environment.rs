//! An agent's environment: from the command line, and from files as docker's `--env-file` takes
//! them.
//!
//! A file holds a variable a line, `NAME=VALUE`, where the value is all that follows, quotes and
//! spaces too. `NAME` alone takes our own variable, and none where it is not set here. Empty lines
//! and those that begin with `#` say nothing. What is wrong is told by its line alone: it may be
//! a secret.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use wire::{Environment, EnvironmentError, Secret};

use crate::cli::EnvEntry;

/// Bytes of a file of variables at most: more than an environment may have.
const MAX_FILE: u64 = 1024 * 1024;
/// What editors of another system put before a file's text.
const BYTE_ORDER_MARK: &str = "\u{feff}";
/// What may stand before a name.
const BLANKS: [char; 2] = [' ', '\t'];

/// The agent's environment: the file's variables, then those of the command line, where a bare
/// name takes our own value.
pub(crate) fn environment(entries: Vec<EnvEntry>, file: Option<&Path>) -> Result<Environment> {
    let mut all = file.map_or_else(|| Ok(BTreeMap::new()), read)?;
    for EnvEntry { name, value } in entries {
        let value = match value {
            Some(value) => value,
            None => Secret::from(std::env::var(&name).with_context(|| format!("--env {name}: it is not set here"))?),
        };
        all.insert(name, value);
    }
    let env = Environment(all);
    env.check()?;
    Ok(env)
}

fn read(path: &Path) -> Result<BTreeMap<String, Secret>> {
    let mut bytes = Vec::new();
    let shown = || path.display().to_string();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).with_context(shown)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("{}: it is longer than {MAX_FILE} bytes", path.display());
    }
    let mut all = BTreeMap::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let text = std::str::from_utf8(line).context("it is not UTF-8");
        let variable = text.and_then(|text| variable(text, number == 1, |name| std::env::var_os(name)));
        all.extend(variable.with_context(|| format!("{}:{number}", path.display()))?);
    }
    Ok(all)
}

/// What a line says, if it says something.
fn variable(
    line: &str,
    is_first: bool,
    own: impl Fn(&str) -> Option<std::ffi::OsString>,
) -> Result<Option<(String, Secret)>> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let line = if is_first { line.trim_start_matches(BYTE_ORDER_MARK) } else { line };
    let line = line.trim_start_matches(BLANKS);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let (name, value) = match line.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (line, None),
    };
    // The value comes after the name has its shape: what stands here may be one that was pasted.
    check(name, "")?;
    let value = match value.map_or_else(|| own(name).map(std::ffi::OsString::into_string), |value| Some(Ok(value))) {
        Some(Ok(value)) => value,
        Some(Err(_)) => bail!("what {name} is set to here is not UTF-8"),
        None => return Ok(None),
    };
    check(name, &value)?;
    Ok(Some((name.to_owned(), Secret::from(value))))
}

fn check(name: &str, value: &str) -> Result<()> {
    let one = Environment(BTreeMap::from([(name.to_owned(), Secret::from(value.to_owned()))]));
    match one.check() {
        Ok(()) => Ok(()),
        Err(EnvironmentError::Name(_)) => bail!(
            "expected NAME=VALUE or NAME, where a name is letters, digits and _, begins with no digit and not with \
             PALATINE_"
        ),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(text: impl AsRef<[u8]>) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.env");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn value(env: &Environment, name: &str) -> Option<String> {
        env.0.get(name).map(|value| value.expose().to_owned())
    }

    #[test]
    fn variables_of_the_command_line_win_over_the_files() {
        let (_dir, path) = file("# keys\nA=1\n\nB=x=y\n");
        let env = environment(vec!["A=2".parse().unwrap(), "PATH".parse().unwrap()], Some(&path)).unwrap();
        assert_eq!((value(&env, "A").unwrap(), value(&env, "B").unwrap()), ("2".to_owned(), "x=y".to_owned()));
        assert_eq!(value(&env, "PATH").unwrap(), std::env::var("PATH").unwrap());
    }

    #[test]
    fn a_file_is_read_as_docker_reads_it() {
        let text =
            "\u{feff}A=1\r\n  \t B= two words \n#C=3\n \t# D=4\nE=\"quoted\" # not a comment\nF=\nPATH\nNOT_SET_HERE\n";
        let (_dir, path) = file(text);
        let env = environment(vec![], Some(&path)).unwrap();
        let names: Vec<_> = env.0.keys().map(String::as_str).collect();
        assert_eq!(names, ["A", "B", "E", "F", "PATH"]);
        let values = ["A", "B", "E", "F"].map(|name| value(&env, name).unwrap());
        assert_eq!(values, ["1", " two words ", "\"quoted\" # not a comment", ""]);
        assert_eq!(value(&env, "PATH").unwrap(), std::env::var("PATH").unwrap());
    }

    #[test]
    fn what_is_wrong_is_told_by_file_and_line_and_no_secret_is_repeated() {
        let cases: [(&[u8], &str); 7] = [
            (b"A=1\nhush-hush\n", ":2: expected NAME=VALUE"),
            (b"=hush\n", ":1: expected NAME=VALUE"),
            (b"A =hush\n", ":1: expected NAME=VALUE"),
            (b"\n\nhush/x=hush\n", ":3: expected NAME=VALUE"),
            (b"PALATINE_X=hush\n", ":1: expected NAME=VALUE"),
            (b"A=1\nB=hush\xff\n", ":2: it is not UTF-8"),
            (b"A=hush\0\n", ":1: "),
        ];
        for (text, said) in cases {
            let (_dir, path) = file(text);
            let error = format!("{:#}", environment(vec![], Some(&path)).unwrap_err());
            assert!(error.contains(&format!("agent.env{said}")) && !error.contains("hush"), "{error}");
        }
        let (_dir, path) = file(vec![b'#'; 1024 * 1024 + 1]);
        assert!(environment(vec![], Some(&path)).unwrap_err().to_string().contains("longer than 1048576 bytes"));
        let missing = format!("{:#}", environment(vec![], Some(Path::new("/no/such.env"))).unwrap_err());
        assert!(missing.contains("/no/such.env"), "{missing}");
    }
}

//! The program of these tests, compiled by the test itself.

use std::path::Path;
use std::process::Command;

/// The agent needs nothing from outside: the compiler itself is enough.
pub(crate) fn compile_agent(to: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pod/program.rs");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--edition", "2024", "-C", "opt-level=1", "-C", "target-feature=+crt-static", "-C", "strip=symbols"]);
    run(command.arg("-o").arg(to).arg(source));
}

/// Runs a command that must succeed; gives its output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} is needed for this test: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

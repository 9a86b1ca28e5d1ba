//! `dev.d/package.sh`: a package is tried as it is, and a trial leaves nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs this with the functions of `./dev package`.
fn package(dir: &Path, script: &str) -> Output {
    let sourced = format!(
        "CACHE={0}/cache TARGET={0}/target ASSETS={0}/assets TRIPLE=x TMPDIR={0}; export TMPDIR; say() {{ :; }}; \
         fail() {{ echo \"$*\" >&2; exit 1; }}; . dev.d/setup.sh; . dev.d/package.sh; mkdir -p \"$PACKAGES\"; {script}",
        dir.display()
    );
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &sourced]).current_dir(crate::root()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn fault_3_5_a_trial_ends_its_stack_and_removes_its_folder_however_it_ends() {
    for (spawned, good) in [("an agent is ready", true), ("no", false)] {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("palatine-1/bin/palatine");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let script = format!(
            "#!/usr/bin/env bash\n[ \"$1\" != spawn ] || echo '{spawned}'\n[ \"$1\" != ask ] || echo 'are you there?'\n\
             echo \"$1\" >> {}/said\n",
            dir.path().display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let pack = format!("tar -czf \"$PACKAGES/palatine-1.tar.gz\" -C {} palatine-1; ", dir.path().display());
        // The trial's own PATH has no shell: its programs need none, and this one does.
        let output = package(dir.path(), &format!("{pack} needs() {{ echo bash; echo env; }}; try_package"));
        assert_eq!(output.status.success(), good, "{}{}", text(&output.stdout), text(&output.stderr));
        let said = fs::read_to_string(dir.path().join("said")).unwrap();
        assert!(said.starts_with("up\nspawn\n") && said.ends_with("down\n"), "{said}");
        let left = fs::read_dir(dir.path()).unwrap().map(|entry| text(entry.unwrap().file_name().as_encoded_bytes()));
        assert!(!left.into_iter().any(|name| name.starts_with("tmp.")), "the folder is left");
    }
}

#[test]
fn fault_3_5_programs_that_cannot_be_looked_into_are_not_static() {
    let dir = tempfile::tempdir().unwrap();
    let output = package(dir.path(), "cargo() { :; }; rustc() { echo /rust; }; static dev");
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("cannot be looked into"), "{}", text(&output.stderr));
}

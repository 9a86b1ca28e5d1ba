//! `dev.d/package.sh`: a package is tried as it is, and a trial leaves nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Runs this with the functions of `./dev package`.
fn package(dir: &Path, script: &str) -> Output {
    let sourced = format!(
        "CACHE={0}/cache TARGET={0}/target ASSETS={0}/assets TRIPLE=x TMPDIR={0}; export TMPDIR; say() {{ :; }}; \
         fail() {{ echo \"$*\" >&2; exit 1; }}; . dev.d/setup.sh; . dev.d/build.sh; . dev.d/package.sh; mkdir -p \"$PACKAGES\"; {script}",
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

#[test]
fn fault_3_5_no_program_of_a_package_is_told_where_it_is_built() {
    let dir = tempfile::tempdir().unwrap();
    let cargo =
        "cargo() { echo \"$*\" \"${CARGO_ENCODED_RUSTFLAGS:-}\" \"${CFLAGS:-}\"; }; rustc() { echo /its/rust; }";
    let told = "readelf() { :; }; grep() { return 1; }; assets() { :; }; CARGO_HOME=/its/cargo";
    for build in ["static release", "guests"] {
        let output = package(dir.path(), &format!("{cargo}; {told}; {build}"));
        assert!(output.status.success(), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        let cache = format!("{}/cache=/cache", dir.path().display());
        let here = format!("{}=/palatine", crate::root().display());
        // The guests' programs are the same in every checkout, and are not built again in another.
        assert_eq!(said.contains(&here), build != "guests", "{build}: {said}");
        for pair in [cache.as_str(), "/its/cargo=/cargo", "/its/rust/lib/rustlib=/rust"] {
            assert!(said.contains(&format!("--remap-path-prefix={pair}")), "{build}, {pair}: {said}");
            assert!(
                build == "guests" || said.contains(&format!("-ffile-prefix-map={pair}")),
                "{build}, {pair}: {said}"
            );
        }
    }
}

#[test]
fn fault_3_5_a_program_that_names_a_folder_of_its_builder_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    for (home, named, good) in [
        ("/its/cargo", "/its/cargo/registry/src/x.rs", false),
        ("/its/cargo", "/cargo/registry/src/x.rs", true),
        ("/cargo", "/cargo/registry/src/x.rs", true),
        ("/src", "/cargo/registry/src/x.rs", true),
        ("/its/cargo", "/usr/lib/libc.so", true),
    ] {
        let script = format!(
            "rustc() {{ echo /its/rust; }}; CARGO_HOME={home}; printf 'x\\0{named}\\0' > \"$CACHE/program\"; \
             placeless \"$CACHE/program\""
        );
        assert_eq!(package(dir.path(), &script).status.success(), good, "{home} {named}");
    }
    let lost = package(dir.path(), "rustc() { echo /its/rust; }; placeless \"$CACHE/no-program\"");
    assert!(text(&lost.stderr).contains("cannot be looked into"), "{}", text(&lost.stderr));
}

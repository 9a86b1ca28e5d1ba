//! `palatine cp`: files and folders into an agent, and out of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use fixtures::{PLAIN, SMALL, Stack, stderr_of, stdout_of};

/// Larger than what goes up in one piece.
const LARGE_BYTES: usize = 9 * 1024 * 1024;

/// What is in a folder: each file's path, bytes and permissions.
fn contents(folder: &Path) -> BTreeMap<String, (Vec<u8>, u32)> {
    let mut all = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(here) = folders.pop() {
        for entry in fs::read_dir(here).unwrap() {
            let path = entry.unwrap().path();
            let found = fs::symlink_metadata(&path).unwrap();
            if found.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                all.insert(name, (fs::read(&path).unwrap(), found.permissions().mode() & 0o777));
            }
        }
    }
    all
}

#[tokio::test]
async fn a_folder_that_is_copied_into_an_agent_and_out_of_it_is_the_same() {
    let mut stack = Stack::start(PLAIN).await;
    let holder = stack.holder(SMALL);
    let run = |words: &[&str]| stack.cli(&holder, words).output().unwrap();
    assert!(run(&["spawn", "--type", "echo", "--name", "copied"]).status.success());

    let (from, back) = (stack.path("from"), stack.path("back"));
    fs::create_dir_all(from.join("deep/er")).unwrap();
    let mut large = vec![0; LARGE_BYTES];
    getrandom::fill(&mut large).unwrap();
    fs::write(from.join("large"), &large).unwrap();
    fs::write(from.join("deep/er/ünï côde"), "words\n").unwrap();
    fs::write(from.join("empty"), "").unwrap();
    fs::write(from.join("run.sh"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(from.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let whole = contents(&from);
    symlink("large", from.join("link")).unwrap();

    let up = run(&["cp", from.to_str().unwrap(), "copied:/data/there"]);
    assert!(stdout_of(&up).contains("4 files copied"), "{up:?}");
    assert!(stderr_of(&up).contains("link: it is neither a file nor a folder"), "{}", stderr_of(&up));
    // It goes with the agent's data.
    stack.stop(&holder, "copied").await.expect(200);
    assert!(run(&["start", "copied"]).status.success());
    let down = run(&["cp", "copied:/data/there/.", back.to_str().unwrap()]);
    assert!(stdout_of(&down).contains("4 files copied"), "{down:?}");
    assert!(contents(&back) == whole, "{:?}", contents(&back).keys());

    let absent = run(&["cp", "copied:/data/nowhere", back.to_str().unwrap()]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(stderr_of(&absent).contains("there is no such file in the agent"), "{}", stderr_of(&absent));
    let stranger = stack.holder(SMALL);
    let taken = stack
        .cli(&stranger, &["cp", "--token", "plt_x", "copied:/data/there/large", back.to_str().unwrap()])
        .output()
        .unwrap();
    assert_eq!(taken.status.code(), Some(3), "{}", stderr_of(&taken));
    stack.end();
}

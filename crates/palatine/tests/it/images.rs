//! A holder's own image, from an archive on its machine to an agent that runs from it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Output;

use domain::ImageDigest;
use fixtures::{Holder, PLAIN, SMALL, Stack, archive_of, stderr_of, stdout_of, until_holds};
use serde_json::Value;

fn run(stack: &Stack, holder: &Holder, words: &[&str]) -> Output {
    stack.cli(holder, words).output().unwrap()
}

fn json(stack: &Stack, holder: &Holder, words: &[&str]) -> Value {
    let words = [words, &["--json"]].concat();
    serde_json::from_str(&stdout_of(&run(stack, holder, &words))).unwrap()
}

/// The digest of the image that the operator offers as `echo`.
fn echo(store: &Path) -> ImageDigest {
    std::fs::read_to_string(store.join("names/echo")).unwrap().trim().parse().unwrap()
}

/// What the store, which other tests' nodes have too, has of holders.
fn held(store: &Path) -> BTreeSet<PathBuf> {
    let listed = ["pins", "going", "uploads"].map(|name| store.join(name).read_dir());
    listed.into_iter().flatten().flatten().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn a_holders_image_is_pushed_spawned_hidden_from_others_and_gone_when_nothing_runs_from_it() {
    let mut stack = Stack::start(PLAIN).await;
    let (owner, other) = (stack.holder(SMALL), stack.holder(SMALL));
    let store = fixtures::images();
    let before = held(&store);
    let archive = stack.path("work.tar");
    std::fs::write(&archive, archive_of(&store, echo(&store))).unwrap();
    let archive = archive.display().to_string();

    let pushed = json(&stack, &owner, &["image", "push", &archive, "work:v1"]);
    assert_eq!((pushed["image"].as_str(), pushed["published"].as_bool()), (Some("work:v1"), Some(false)), "{pushed}");
    assert_eq!(pushed["digest"], echo(&store).to_string().as_str());
    let again = json(&stack, &owner, &["image", "import", &archive, "work:v1"]);
    assert_eq!(again, pushed, "what is there is not sent again");
    let listed = stdout_of(&run(&stack, &owner, &["image", "ls"]));
    assert!(listed.contains("work:v1") && listed.contains("yours") && listed.contains("the operator's"), "{listed}");
    assert!(!stdout_of(&run(&stack, &other, &["image", "ls"])).contains("work:v1"));

    let spawned = json(&stack, &owner, &["spawn", "--type", "work:v1"]);
    let agent = spawned["agent"]["id"].as_str().unwrap();
    assert_eq!(spawned["agent"]["image"], pushed["digest"]);
    assert!(stdout_of(&run(&stack, &owner, &["ask", agent, "are you mine?"])).contains("are you mine?"));
    let theirs = format!("{}/work:v1", owner.wallet());
    for kind in ["work:v1", &theirs] {
        let refused = run(&stack, &other, &["spawn", "--type", kind]);
        assert!(!refused.status.success() && stderr_of(&refused).contains("unknown_agent_type"));
    }

    // The bytes of no image, and what is wrong with them.
    let bad = stack.path("bad.tar");
    std::fs::write(&bad, b"no archive").unwrap();
    let refused = run(&stack, &owner, &["image", "push", &bad.display().to_string(), "bad"]);
    let said = stderr_of(&refused);
    assert!(!refused.status.success() && said.contains("invalid_image") && said.contains("neither an OCI"), "{said}");

    assert!(stdout_of(&run(&stack, &owner, &["image", "tag", "work:v1", "work"])).contains("work"));
    for name in ["work:v1", "work"] {
        assert!(stdout_of(&run(&stack, &owner, &["image", "rm", name])).contains("removed"));
    }
    let gone = run(&stack, &owner, &["spawn", "--type", "work"]);
    assert!(stderr_of(&gone).contains("unknown_agent_type"), "{}", stderr_of(&gone));
    assert!(stdout_of(&run(&stack, &owner, &["ask", agent, "still there?"])).contains("still there?"));
    assert!(stdout_of(&run(&stack, &owner, &["stop", agent])).contains("stopped"));
    // The operator's of the same content stays, and nothing of the holder's but that.
    until_holds("the node has forgotten the holder's image", || held(&store) == before).await;
    assert!(store.join("names/echo").exists());
    stack.end();
}

#[tokio::test]
async fn a_holders_containerfile_is_built_shut_in_told_as_it_goes_and_spawned() {
    needs::needs!(root, cgroups);
    let mut stack = Stack::start(&format!("{PLAIN}\n[images]\nbuild_runtimes = [\"container-bubblewrap\"]\n")).await;
    let (owner, other) = (stack.holder(SMALL), stack.holder(SMALL));
    let before = held(&fixtures::images());
    let folder = stack.path("app");
    fixtures::build_folder(&folder, "RUN echo built here > /told && echo a line of the build\n");
    let folder = folder.display().to_string();
    let built: Vec<_> = [0, 1]
        .map(|_| {
            let output = run(&stack, &owner, &["image", "build", &folder, "work", "--json"]);
            assert!(stderr_of(&output).contains("a line of the build"), "{}", stderr_of(&output));
            serde_json::from_str::<Value>(&stdout_of(&output)).unwrap()
        })
        .into();
    assert_eq!((&built[0]["digest"], &built[0]["runtime"]), (&built[1]["digest"], &"container-bubblewrap".into()));
    assert_eq!(built[0]["published"], false);
    assert!(!stdout_of(&run(&stack, &other, &["image", "ls"])).contains("work"));

    // On one's own image, which nobody else may build on.
    let above = stack.path("above");
    std::fs::create_dir(&above).unwrap();
    std::fs::write(above.join("Dockerfile"), "FROM work\nRUN cat /told > /again\n").unwrap();
    let above = above.display().to_string();
    let again = json(&stack, &owner, &["image", "build", &above, "above"]);
    assert_ne!(again["digest"], built[0]["digest"]);
    let refused = run(&stack, &other, &["image", "build", &above, "theirs"]);
    assert!(!refused.status.success() && stderr_of(&refused).contains("does not have"), "{}", stderr_of(&refused));

    // What forks for ever is ended, and told.
    let bomb = stack.path("bomb");
    fixtures::build_folder(&bomb, "RUN bomb() { bomb | bomb & }; bomb; sleep 600\n");
    let ended = run(&stack, &owner, &["image", "build", &bomb.display().to_string(), "bomb"]);
    assert!(!ended.status.success() && stderr_of(&ended).contains("processes"), "{}", stderr_of(&ended));
    for name in ["work", "above"] {
        assert!(stdout_of(&run(&stack, &owner, &["image", "rm", name])).contains("removed"));
    }
    until_holds("the node has forgotten the holder's builds", || held(&fixtures::images()) == before).await;
    stack.end();
}

//! Files of a volume that no agent has, and of an agent that does not run, are read and written by
//! their owner: by a helper's guest, which is gone when an agent wants the disk. E2B's shapes and
//! the CLI's verbs are tried on the same disks.

use std::fs;
use std::os::unix::fs::FileExt;

use fixtures::{Holder, SMALL, Stack, stderr_of, stdout_of, until};
use reqwest::Method;
use serde_json::{Value, json};

/// What a command of the CLI prints as JSON; it must go well.
fn cli(stack: &Stack, holder: &Holder, words: &[&str]) -> Value {
    let output = stack.cli(holder, &[words, &["--json"]].concat()).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    serde_json::from_str(&stdout_of(&output)).unwrap_or(Value::Null)
}

/// What a command says against what it was asked.
fn refused(stack: &Stack, holder: &Holder, words: &[&str]) -> String {
    let output = stack.cli(holder, words).output().unwrap();
    assert!(!output.status.success(), "{words:?}: {output:?}");
    stderr_of(&output)
}

/// A call of a volume's files, by its token.
async fn call(stack: &Stack, token: &str, method: Method, path: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
    let request = reqwest::Client::new().request(method, format!("{}{path}", stack.url)).bearer_auth(token);
    let answer = request.body(body).send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
}

/// The machines of the node that are no agents'.
fn helpers(stack: &Stack) -> usize {
    let names = fs::read_dir(stack.path("node").join("guests")).unwrap();
    names.filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().starts_with("ffffffff-")).count()
}

#[tokio::test]
async fn files_are_written_to_a_volume_before_an_agent_has_it_and_read_after_it_had_it() {
    needs::needs!(root, network, tun, cgroups);
    let mut stack = Stack::start("").await;
    let holder = stack.holder(SMALL);
    let volume = cli(&stack, &holder, &["volume", "create", "work", "--size", "128M"]);
    let id = volume["volumeID"].as_str().unwrap().to_owned();
    let written: Vec<u8> =
        (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).take(9 << 20).collect();
    let folder = stack.path("folder");
    fs::create_dir_all(folder.join("in")).unwrap();
    fs::write(folder.join("in/large"), &written).unwrap();
    fs::write(folder.join("note"), "before any agent").unwrap();
    cli(&stack, &holder, &["volume", "cp", folder.to_str().unwrap(), "work:/"]);
    assert_eq!(helpers(&stack), 1);
    let listed = cli(&stack, &holder, &["volume", "ls", "work:/folder"]);
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["in", "note"]);
    let cat = stack.cli(&holder, &["volume", "cat", "work:folder/note"]).output().unwrap();
    assert_eq!(stdout_of(&cat), "before any agent");

    // An agent has the disk at once, and what is on it is the agent's user's.
    let spawned = cli(&stack, &holder, &["spawn", "-t", "echo", "--volume", "work:/workspace"]);
    let agent = spawned["agent"]["id"].as_str().unwrap().to_owned();
    assert_eq!(helpers(&stack), 0, "one writer");
    let copy = stack.path("copy");
    cli(&stack, &holder, &["cp", &format!("{agent}:/workspace/folder/in/large"), copy.to_str().unwrap()]);
    assert!(fs::read(&copy).unwrap() == written);
    fs::write(stack.path("reply"), "by the agent").unwrap();
    cli(&stack, &holder, &["cp", stack.path("reply").to_str().unwrap(), &format!("{agent}:/workspace/folder/reply")]);
    cli(&stack, &holder, &["cp", stack.path("reply").to_str().unwrap(), &format!("{agent}:/data/kept")]);

    // While it runs the same calls go through its guest.
    let cat = stack.cli(&holder, &["volume", "cat", "work:folder/reply"]).output().unwrap();
    assert_eq!((stdout_of(&cat).as_str(), helpers(&stack)), ("by the agent", 0), "{cat:?}");
    stack.stop(&holder, &agent).await.expect(200);

    // And after it, E2B's shapes: nothing leads out of the disk, and numbers are what the agent left.
    let shown = cli(&stack, &holder, &["volume", "show", "work"]);
    assert!(shown["token"].is_null(), "the command prints no secret: {shown}");
    let opened = stack.ask(&holder, Method::GET, &format!("/volumes/{id}"), Value::Null).await.expect(200);
    let token = opened["token"].as_str().unwrap();
    let files = format!("/volumecontent/{id}");
    let (status, stat) = call(&stack, token, Method::GET, &format!("{files}/path?path=folder/reply"), vec![]).await;
    let stat: Value = serde_json::from_slice(&stat).unwrap();
    assert_eq!((status, &stat["size"], &stat["type"], &stat["uid"]), (200, &json!(12), &json!("file"), &json!(1000)));
    let (_, note) = call(&stack, token, Method::GET, &format!("{files}/path?path=folder/note"), vec![]).await;
    assert_eq!(serde_json::from_slice::<Value>(&note).unwrap()["uid"], 1000, "it was handed over");
    let put = format!("{files}/file?path=/folder/later&uid=7&mode=384");
    assert_eq!(call(&stack, token, Method::PUT, &put, written.clone()).await.0, 201);
    assert_eq!(call(&stack, token, Method::PUT, &put, b"again".to_vec()).await.0, 409);
    let (status, bytes) = call(&stack, token, Method::GET, &format!("{files}/file?path=/folder/later"), vec![]).await;
    assert!(status == 200 && bytes == written);
    for path in ["/../../../etc/passwd", "/proc/self/environ", "/init", "/mnt"] {
        let (status, said) = call(&stack, token, Method::GET, &format!("{files}/file?path={path}"), vec![]).await;
        assert_eq!(status, 404, "{path}: {}", String::from_utf8_lossy(&said));
    }
    let (status, _) = call(&stack, token, Method::DELETE, &format!("{files}/path?path=/folder/in"), vec![]).await;
    assert_eq!(status, 204);

    // What is kept of the agent is reached by the same command as while it ran.
    let kept = stack.path("kept-copy");
    cli(&stack, &holder, &["cp", &format!("{agent}:/data/kept"), kept.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&kept).unwrap(), "by the agent");
    let said = refused(&stack, &holder, &["cp", &format!("{agent}:/workspace/x"), kept.to_str().unwrap()]);
    assert!(said.contains("does not run"), "{said}");
    fs::write(stack.path("more"), "while it slept").unwrap();
    cli(&stack, &holder, &["cp", stack.path("more").to_str().unwrap(), &format!("{agent}:/data/more")]);
    cli(&stack, &holder, &["start", &agent]);
    assert_eq!(helpers(&stack), 0);
    cli(&stack, &holder, &["cp", &format!("{agent}:/data/more"), kept.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(&kept).unwrap(), "while it slept");
    cli(&stack, &holder, &["cp", &format!("{agent}:/workspace/folder/later"), copy.to_str().unwrap()]);
    assert!(fs::read(&copy).unwrap() == written);
    stack.remove(&holder, &agent).await.expect(200);

    // The daemon dies while a helper runs: the next one leaves none, and what was acknowledged is there.
    assert_eq!(
        call(&stack, token, Method::PUT, &format!("{files}/file?path=/last"), b"acknowledged".to_vec()).await.0,
        201
    );
    assert_eq!(helpers(&stack), 1);
    stack.kill_node();
    stack.start_node().await;
    until("no helper is left", async || (helpers(&stack) == 0).then_some(())).await;
    let (status, last) = call(&stack, token, Method::GET, &format!("{files}/file?path=/last"), vec![]).await;
    assert_eq!((status, last.as_slice()), (200, &b"acknowledged"[..]));

    // A damaged disk is told, and left as it is.
    let disk = stack.path("node").join("volumes").join(format!("{id}.ext4"));
    until("the helper is gone", async || (helpers(&stack) == 0).then_some(())).await;
    let disk = fs::OpenOptions::new().read(true).write(true).open(disk).unwrap();
    disk.write_all_at(&vec![0; 64 * 1024], 0).unwrap();
    let (status, said) = call(&stack, token, Method::GET, &format!("{files}/path?path=/"), vec![]).await;
    assert_eq!(status, 409, "{}", String::from_utf8_lossy(&said));
    assert!(String::from_utf8_lossy(&said).contains("is damaged"), "{}", String::from_utf8_lossy(&said));
    let mut now = vec![1; 64 * 1024];
    disk.read_exact_at(&mut now, 0).unwrap();
    assert!(now.iter().all(|byte| *byte == 0));
    stack.end();
}

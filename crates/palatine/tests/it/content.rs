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

/// A holder's volume, and what was put on it.
struct Story {
    stack: Stack,
    holder: Holder,
    /// The volume's id.
    id: String,
    written: Vec<u8>,
}

impl Story {
    fn cli(&self, words: &[&str]) -> Value {
        cli(&self.stack, &self.holder, words)
    }

    fn cat(&self, file: &str) -> String {
        stdout_of(&self.stack.cli(&self.holder, &["volume", "cat", file]).output().unwrap())
    }

    /// The path of a file here, with this text.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.stack.path(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn here(&self, name: &str) -> String {
        self.stack.path(name).to_str().unwrap().to_owned()
    }

    async fn call(&self, token: &str, method: Method, what: &str, body: Vec<u8>) -> (u16, Vec<u8>) {
        call(&self.stack, token, method, &format!("/volumecontent/{}/{what}", self.id), body).await
    }

    /// A volume with a folder, which no agent had yet.
    async fn begin() -> Self {
        let mut stack = Stack::start("").await;
        let holder = stack.holder(SMALL);
        let volume = cli(&stack, &holder, &["volume", "create", "work", "--size", "128M"]);
        let id = volume["volumeID"].as_str().unwrap().to_owned();
        let numbers = (0..3_000_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes());
        let story = Self { stack, holder, id, written: numbers.take(9 << 20).collect() };
        let folder = story.stack.path("folder");
        fs::create_dir_all(folder.join("in")).unwrap();
        fs::write(folder.join("in/large"), &story.written).unwrap();
        fs::write(folder.join("note"), "before any agent").unwrap();
        story.cli(&["volume", "cp", folder.to_str().unwrap(), "work:/"]);
        assert_eq!(helpers(&story.stack), 1);
        let listed = story.cli(&["volume", "ls", "work:/folder"]);
        let names: Vec<_> = listed.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["in", "note"]);
        assert_eq!(story.cat("work:folder/note"), "before any agent");
        story
    }

    /// An agent has the disk at once, what is on it is the agent's user's, and while it runs its guest answers.
    async fn an_agent_has_it(&self) -> String {
        let spawned = self.cli(&["spawn", "-t", "echo", "--volume", "work:/workspace"]);
        let agent = spawned["agent"]["id"].as_str().unwrap().to_owned();
        assert_eq!(helpers(&self.stack), 0, "one writer");
        self.cli(&["cp", &format!("{agent}:/workspace/folder/in/large"), &self.here("copy")]);
        assert!(fs::read(self.here("copy")).unwrap() == self.written);
        let reply = self.file("reply", "by the agent");
        self.cli(&["cp", &reply, &format!("{agent}:/workspace/folder/reply")]);
        self.cli(&["cp", &reply, &format!("{agent}:/data/kept")]);
        assert_eq!((self.cat("work:folder/reply").as_str(), helpers(&self.stack)), ("by the agent", 0));
        self.stack.stop(&self.holder, &agent).await.expect(200);
        agent
    }

    /// E2B's shapes: nothing leads out of the disk, and numbers are what the agent left. The volume's token.
    async fn it_is_read_afterwards(&self) -> String {
        let shown = self.cli(&["volume", "show", "work"]);
        assert!(shown["token"].is_null(), "the command prints no secret: {shown}");
        let path = format!("/volumes/{}", self.id);
        let opened = self.stack.ask(&self.holder, Method::GET, &path, Value::Null).await.expect(200);
        let token = opened["token"].as_str().unwrap();
        let (status, stat) = self.call(token, Method::GET, "path?path=folder/reply", vec![]).await;
        let stat: Value = serde_json::from_slice(&stat).unwrap();
        let told = (status, &stat["size"], &stat["type"], &stat["uid"]);
        assert_eq!(told, (200, &json!(12), &json!("file"), &json!(1000)));
        let (_, note) = self.call(token, Method::GET, "path?path=folder/note", vec![]).await;
        assert_eq!(serde_json::from_slice::<Value>(&note).unwrap()["uid"], 1000, "it was handed over");
        let put = "file?path=/folder/later&uid=7&mode=420";
        assert_eq!(self.call(token, Method::PUT, put, self.written.clone()).await.0, 201);
        assert_eq!(self.call(token, Method::PUT, put, b"again".to_vec()).await.0, 409);
        let (status, bytes) = self.call(token, Method::GET, "file?path=/folder/later", vec![]).await;
        assert!(status == 200 && bytes == self.written);
        for path in ["/../../../etc/passwd", "/proc/self/environ", "/init", "/mnt"] {
            let (status, said) = self.call(token, Method::GET, &format!("file?path={path}"), vec![]).await;
            assert_eq!(status, 404, "{path}: {}", String::from_utf8_lossy(&said));
        }
        assert_eq!(self.call(token, Method::DELETE, "path?path=/folder/in", vec![]).await.0, 204);
        token.to_owned()
    }

    /// What is kept of the agent is reached by the same command as while it ran.
    async fn what_is_kept_is_reached(&self, agent: &str) {
        let kept = self.here("kept-copy");
        self.cli(&["cp", &format!("{agent}:/data/kept"), &kept]);
        assert_eq!(fs::read_to_string(&kept).unwrap(), "by the agent");
        let said = refused(&self.stack, &self.holder, &["cp", &format!("{agent}:/workspace/x"), &kept]);
        assert!(said.contains("does not run"), "{said}");
        self.cli(&["cp", &self.file("more", "while it slept"), &format!("{agent}:/data/more")]);
        self.cli(&["start", agent]);
        assert_eq!(helpers(&self.stack), 0);
        self.cli(&["cp", &format!("{agent}:/data/more"), &kept]);
        assert_eq!(fs::read_to_string(&kept).unwrap(), "while it slept");
        self.cli(&["cp", &format!("{agent}:/workspace/folder/later"), &self.here("copy")]);
        assert!(fs::read(self.here("copy")).unwrap() == self.written);
        self.stack.remove(&self.holder, agent).await.expect(200);
    }

    /// The daemon dies while a helper runs: the next one leaves none, and what was acknowledged is there.
    async fn the_daemon_dies(&mut self, token: &str) {
        assert_eq!(self.call(token, Method::PUT, "file?path=/last", b"acknowledged".to_vec()).await.0, 201);
        assert_eq!(helpers(&self.stack), 1);
        self.stack.kill_node();
        self.stack.start_node().await;
        until("no helper is left", async || (helpers(&self.stack) == 0).then_some(())).await;
        let (status, last) = self.call(token, Method::GET, "file?path=/last", vec![]).await;
        assert_eq!((status, last.as_slice()), (200, &b"acknowledged"[..]));
    }

    /// A damaged disk is told, and left as it is.
    async fn the_disk_is_damaged(&self, token: &str) {
        let disk = self.stack.path("node").join("volumes").join(format!("{}.ext4", self.id));
        until("the helper is gone", async || (helpers(&self.stack) == 0).then_some(())).await;
        let disk = fs::OpenOptions::new().read(true).write(true).open(disk).unwrap();
        disk.write_all_at(&vec![0; 64 * 1024], 0).unwrap();
        let (status, said) = self.call(token, Method::GET, "path?path=/", vec![]).await;
        let said = String::from_utf8_lossy(&said);
        assert!(status == 409 && said.contains("is damaged"), "{status} {said}");
        let mut now = vec![1; 64 * 1024];
        disk.read_exact_at(&mut now, 0).unwrap();
        assert!(now.iter().all(|byte| *byte == 0));
    }
}

#[tokio::test]
async fn files_are_written_to_a_volume_before_an_agent_has_it_and_read_after_it_had_it() {
    needs::needs!(root, network, tun, cgroups);
    let mut story = Story::begin().await;
    let agent = story.an_agent_has_it().await;
    let token = story.it_is_read_afterwards().await;
    story.what_is_kept_is_reached(&agent).await;
    story.the_daemon_dies(&token).await;
    story.the_disk_is_damaged(&token).await;
    story.stack.end();
}

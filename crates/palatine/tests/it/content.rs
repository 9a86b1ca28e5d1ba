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
        assert_eq!(listed[1]["uid"], 4_294_967_040_u64);
        let shown = stdout_of(&story.stack.cli(&story.holder, &["volume", "ls", "work:/folder"]).output().unwrap());
        assert!(shown.contains("user") && !shown.contains("4294967040"), "{shown}");
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

/// An archive with one of all that a volume keeps, made elsewhere.
fn archive(path: &std::path::Path) {
    let mut builder = tar::Builder::new(fs::File::create(path).unwrap());
    let mut add = |name: &str, kind: tar::EntryType, mode: u32, bytes: &[u8], link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(1234);
        header.set_gid(4321);
        header.set_mtime(1_700_000_000);
        header.set_size(bytes.len() as u64);
        match link {
            "" => builder.append_data(&mut header, name, bytes).unwrap(),
            link => builder.append_link(&mut header, name, link).unwrap(),
        }
    };
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    add("folder/", tar::EntryType::Directory, 0o755, b"", "");
    add("folder/large", tar::EntryType::Regular, 0o644, &large, "");
    add(&format!("folder/{}", "n".repeat(150)), tar::EntryType::Regular, 0o4755, b"a long name", "");
    add("folder/link", tar::EntryType::Symlink, 0o777, b"", "../elsewhere/file");
    add("folder/second", tar::EntryType::Link, 0o644, b"", "folder/large");
    drop(builder.into_inner().unwrap());
}

/// What an archive holds, in a line for each entry.
fn entries(path: &std::path::Path) -> Vec<String> {
    let mut archive = tar::Archive::new(fs::File::open(path).unwrap());
    let mut lines = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (header, kind) = (entry.header().clone(), entry.header().entry_type());
        if kind.is_pax_global_extensions() {
            continue;
        }
        let name = entry.path().unwrap().to_string_lossy().trim_start_matches("./").trim_end_matches('/').to_owned();
        let link = entry.link_name().unwrap().map(|link| link.to_string_lossy().trim_start_matches("./").to_owned());
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
        let sum = bytes.iter().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
        lines.push(format!(
            "{name} {kind:?} {:o} {}:{} {} {link:?} {} {sum}",
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap(),
            bytes.len()
        ));
    }
    lines.sort();
    lines
}

#[tokio::test]
async fn a_volume_is_written_to_an_archive_and_filled_from_one_and_what_is_none_leaves_nothing() {
    needs::needs!(root, network, tun, cgroups);
    let mut stack = Stack::start("").await;
    let holder = stack.holder(SMALL);
    let here = |name: &str| stack.path(name).to_str().unwrap().to_owned();
    archive(&stack.path("made.tar"));
    let wanted = entries(&stack.path("made.tar"));
    // Filled from an archive of others', and written out again: the same but for the folder of the disk itself.
    let said = refused(&stack, &holder, &["volume", "import", "work", &here("made.tar")]);
    assert!(said.contains("--size"), "{said}");
    let made = cli(&stack, &holder, &["volume", "import", "work", &here("made.tar"), "--size", "128M"]);
    assert_eq!((&made["created"], &made["archive"]["entries"]), (&json!(true), &json!(5)), "{made}");
    let written = cli(&stack, &holder, &["volume", "export", "work", &here("out.tar")]);
    assert_eq!((&written["entries"], &written["left_out"]), (&json!(6), &json!(0)), "{written}");
    let found: Vec<_> = entries(&stack.path("out.tar")).into_iter().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(found, wanted);
    // Packed, and its size told by itself.
    cli(&stack, &holder, &["volume", "export", "work", &here("out.tar.zst")]);
    assert!(
        fs::metadata(stack.path("out.tar.zst")).unwrap().len() < fs::metadata(stack.path("out.tar")).unwrap().len()
    );
    let copy = cli(&stack, &holder, &["volume", "import", "copy", &here("out.tar.zst")]);
    assert_eq!(copy["volume"]["size_mib"], 128, "{copy}");
    // What is there gives way to nothing unasked, and to all of an archive at once.
    let said = refused(&stack, &holder, &["volume", "import", "copy", &here("made.tar")]);
    assert!(said.contains("not empty"), "{said}");
    cli(&stack, &holder, &["volume", "cp", &here("made.tar"), "copy:/extra"]);
    cli(&stack, &holder, &["volume", "import", "copy", &here("made.tar"), "--replace"]);
    cli(&stack, &holder, &["volume", "export", "copy", &here("copy.tar")]);
    let found: Vec<_> = entries(&stack.path("copy.tar")).into_iter().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(found, wanted);
    what_is_hostile_or_cut_off_leaves_nothing(&stack, &holder).await;
    // While an agent has it, it is the agent's.
    let spawned = cli(&stack, &holder, &["spawn", "-t", "echo", "--volume", "copy:/workspace"]);
    let agent = spawned["agent"]["id"].as_str().unwrap().to_owned();
    cli(&stack, &holder, &["cp", &format!("{agent}:/workspace/folder/large"), &here("large")]);
    assert_eq!(fs::metadata(stack.path("large")).unwrap().len(), 12_000_000);
    let said = refused(&stack, &holder, &["volume", "export", "copy", &here("none.tar")]);
    assert!(said.contains("stop the agent") && !stack.path("none.tar").exists(), "{said}");
    stack.remove(&holder, &agent).await.expect(200);
    stack.end();
}

async fn what_is_hostile_or_cut_off_leaves_nothing(stack: &Stack, holder: &Holder) {
    let here = |name: &str| stack.path(name).to_str().unwrap().to_owned();
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..9].copy_from_slice(b"../../out");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &[][..]).unwrap();
    fs::write(stack.path("hostile.tar"), builder.into_inner().unwrap()).unwrap();
    let whole = fs::read(stack.path("made.tar")).unwrap();
    fs::write(stack.path("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    fs::write(stack.path("text.tar"), "hello").unwrap();
    for (file, why) in
        [("hostile.tar", "leads out of the archive"), ("cut.tar", "cut off"), ("text.tar", "no tar archive")]
    {
        let said = refused(stack, holder, &["volume", "import", "bad", &here(file), "--size", "64M"]);
        assert!(said.contains(why), "{file}: {said}");
    }
    // More than the volume has room for.
    let mut builder = tar::Builder::new(fs::File::create(stack.path("large.tar")).unwrap());
    header.as_old_mut().name[..9].copy_from_slice(b"too-large");
    header.set_size(100 << 20);
    header.set_cksum();
    builder.append(&header, std::io::Read::take(std::io::repeat(1), 100 << 20)).unwrap();
    drop(builder.into_inner().unwrap());
    let said = refused(stack, holder, &["volume", "import", "bad", &here("large.tar"), "--size", "64M"]);
    assert!(said.contains("not enough disk space"), "{said}");
    // Who interrupts it has neither the volume nor half of it.
    let mut command = stack.cli(holder, &["volume", "import", "bad", "-", "--size", "64M"]);
    let mut child = command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, &whole[..1 << 20]).unwrap();
    let names = async || cli(stack, holder, &["volume", "ls"]);
    until("the volume is made", async || names().await.to_string().contains("\"bad\"").then_some(())).await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(130), "{ended:?}");
    drop(stdin);
    let left = names().await;
    let left: Vec<_> = left.as_array().unwrap().iter().map(|volume| volume["name"].as_str().unwrap()).collect();
    assert_eq!(left, ["copy", "work"]);
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

//! `palatine run --agent`: a real coding agent of npm's, with a scripted model, on a folder of the test's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fixtures::{LocalStack, Reply, ScriptedModel, Turn, images, nonce, program, starter_image, stderr_of};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What such an agent takes.
const SIZE: [&str; 4] = ["--cores", "1", "--memory", "2048"];
/// How long a guest that is emulated may take until its coding agent has asked its model.
const PATIENCE: Duration = Duration::from_secs(600);

/// `EDIT <word>` has a folder changed as a task does it, and as one that means ill; `SLEEP` has nothing done for long.
fn edit(turn: &Turn, nonce: &str) -> Reply {
    let shell = |command: String| Reply::Call("bash", json!({"command": command, "description": "Do as asked"}));
    if !turn.has_tools {
        return Reply::Say("A title".to_owned());
    }
    match (turn.word_after("EDIT"), turn.results.len()) {
        (Some(word), 0) => shell(format!(
            "cat hello.txt && sed -i 's/old/new {nonce}/' hello.txt && rm gone.txt && mkdir -p sub/deep && \
             printf '#!/bin/sh\\necho {word} {nonce}\\n' > sub/deep/run.sh && chmod +x sub/deep/run.sh && \
             printf '\\000{nonce}' > bytes && echo log > a.log && ln -s /etc/passwd link && \
             echo evil > .git/hooks/pre-commit"
        )),
        (Some(_), _) => Reply::Say(format!("done {nonce} {}", turn.results.join(" "))),
        (None, 0) if turn.question.contains("SLEEP") => shell("echo begun >> hello.txt; sleep 3600".to_owned()),
        (None, _) => Reply::Say(format!("heard {nonce}")),
    }
}

/// Has the image with the coding agent built, in the store of all stacks of tests.
#[track_caller]
fn coder_image() {
    starter_image("base", "base");
    let copies = TempDir::with_prefix("palatine-").unwrap();
    let recipe = copies.path().join("coder");
    fs::create_dir(&recipe).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/coder/image.toml");
    fs::copy(from, recipe.join("image.toml")).unwrap();
    let mut command = Command::new(program("palatine"));
    command.args(["image", "--store"]).arg(images()).arg("build").arg(recipe).arg("coder");
    assert!(command.status().unwrap().success(), "the image could not be built");
}

/// A stack, a model, and a folder here.
struct Project {
    stack: LocalStack,
    model: ScriptedModel,
    folder: PathBuf,
    keys: PathBuf,
    /// In a file that is copied, and in one that is not.
    words: [String; 2],
}

impl Project {
    fn begin() -> Self {
        let model = ScriptedModel::start(edit);
        coder_image();
        let stack = LocalStack::with_images(&model.reachable());
        stack.up(&["--no-agent"]);
        let (folder, keys) = (stack.path("project"), stack.path("keys.env"));
        let words = [(); 2].map(|()| nonce());
        fs::create_dir_all(folder.join(".git/hooks")).unwrap();
        let git = format!("[remote \"origin\"]\n\turl = https://{}@example.com\n", words[1]);
        for (path, text) in [
            ("hello.txt", format!("old\n{}\n", words[0])),
            ("gone.txt", "gone\n".to_owned()),
            (".gitignore", "*.log\n".to_owned()),
            ("own.log", words[1].clone()),
            (".git/config", git),
        ] {
            fs::write(folder.join(path), text).unwrap();
        }
        let [url, key] = [1, 3].map(|at| model.env()[at].split_once('=').unwrap().1.to_owned());
        let name = model.models()[0].clone();
        let options = json!({"baseURL": url, "apiKey": key});
        let provider =
            json!({"npm": "@ai-sdk/openai-compatible", "options": options, "models": {&name: {"name": &name}}});
        let named = format!("scripted/{name}");
        let config = json!({
            "model": named, "small_model": named, "autoupdate": false, "share": "disabled",
            "provider": {"scripted": provider},
        });
        let lines = [
            format!("OPENCODE_CONFIG_CONTENT={config}"),
            "OPENCODE_DISABLE_MODELS_FETCH=1".to_owned(),
            "OPENCODE_DISABLE_AUTOUPDATE=1".to_owned(),
            "OPENCODE_DISABLE_LSP_DOWNLOAD=1".to_owned(),
            "OPENCODE_DISABLE_DEFAULT_PLUGINS=1".to_owned(),
        ];
        fs::write(&keys, lines.join("\n")).unwrap();
        Self { stack, model, folder, keys, words }
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self.stack.command(&["run", "--agent", "opencode", "--type", "coder"]);
        command.args(SIZE).arg("--dir").arg(&self.folder).arg("--env-file").arg(&self.keys).args(more);
        command
    }

    #[track_caller]
    fn run(&self, more: &[&str]) -> Output {
        let output = self.command(more).output().unwrap();
        assert!(output.status.success(), "{}", stderr_of(&output));
        output
    }

    /// All files of the folder, by their paths.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        files(&self.folder, &self.folder)
    }

    /// Nothing of it runs any more.
    #[track_caller]
    fn is_over(&self) {
        let agents = self.stack.json(&["ls"]);
        let live = agents["agents"].as_array().unwrap().iter().filter(|agent| agent["state"] != "stopped");
        assert_eq!(live.count(), 0, "{agents}");
    }
}

fn files(root: &Path, folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let each = entries.flat_map(|entry| {
        if entry.file_type().unwrap().is_dir() {
            return files(root, &entry.path());
        }
        let name = entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        BTreeMap::from([(name, fs::read(entry.path()).unwrap())])
    });
    each.collect()
}

#[tokio::test]
async fn soak_agents_a_coding_agent_of_npms_changes_a_folder_by_a_patch_and_nothing_else() {
    let project = Project::begin();
    let before = project.files();
    let word = nonce();

    let output = project.run(&["--apply", "--json", &format!("EDIT {word}")]);
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    let changes: Vec<_> =
        done["changes"].as_array().unwrap().iter().map(|one| (&one["path"], &one["change"])).collect();
    let made = [("bytes", "added"), ("gone.txt", "deleted"), ("hello.txt", "modified"), ("sub/deep/run.sh", "added")];
    let made = made.map(|(path, change)| (json!(path), json!(change)));
    assert_eq!(changes, made.iter().map(|(path, change)| (path, change)).collect::<Vec<_>>(), "{done}");
    assert_eq!((&done["applied"], &done["kept"]), (&json!(true), &json!(false)));
    assert_eq!(done["skipped"], json!([{"path": "link", "why": "it is a link"}]));
    // It has read what was copied, and nothing else of the folder was there to be read.
    let asked = json!(project.model.exchanges().iter().map(|one| &one.request).collect::<Vec<_>>()).to_string();
    assert!(asked.contains(&project.words[0]) && !asked.contains(&project.words[1]), "{asked}");

    let patch = done["diff"].as_str().unwrap();
    let (after, mut expected) = (project.files(), before.clone());
    expected.remove("gone.txt");
    for changed in ["bytes", "hello.txt", "sub/deep/run.sh"] {
        expected.insert(changed.to_owned(), after[changed].clone());
    }
    assert_eq!(after, expected, "{}", stderr_of(&output));
    let run = String::from_utf8(after["sub/deep/run.sh"].clone()).unwrap();
    let made = run.rsplit(' ').next().unwrap().trim();
    assert!(run.contains(&word) && project.model.exchanges().iter().any(|one| one.nonce == made), "{run}");
    assert_eq!(after["hello.txt"], format!("new {made}\n{}\n", project.words[0]).into_bytes());
    assert!(patch.contains(&format!("-old\n+new {made}\n")) && patch.contains("new file mode 100755"), "{patch}");
    project.is_over();

    // What is shown is what git makes of it, but for what is no text.
    let copy = TempDir::new().unwrap();
    for (path, bytes) in before.iter().filter(|(path, _)| !path.starts_with(".git/")) {
        fs::write(copy.path().join(path), bytes).unwrap();
    }
    let parts = patch.split("diff --git ").filter(|part| !part.is_empty() && !part.contains("Binary files"));
    let texts: String = parts.map(|part| format!("diff --git {part}")).collect();
    fs::write(copy.path().join("changes.patch"), texts).unwrap();
    let mut git = Command::new("git");
    git.args(["apply", "changes.patch"]).current_dir(copy.path()).env("GIT_CEILING_DIRECTORIES", copy.path());
    let applied = git.output().unwrap();
    assert!(applied.status.success(), "{}\n{patch}", stderr_of(&applied));
    assert_eq!(fs::read(copy.path().join("hello.txt")).unwrap(), after["hello.txt"]);
    assert!(!copy.path().join("gone.txt").exists());
    assert_eq!(project.stack.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn soak_agents_a_coding_agent_that_is_interrupted_is_stopped_and_has_changed_nothing() {
    let project = Project::begin();
    let before = project.files();
    let mut command = project.command(&["--apply", "SLEEP"]);
    let running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let asked = || project.model.exchanges().iter().any(|one| one.request["tools"].is_array());
    tokio::time::timeout(PATIENCE, async {
        while !asked() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    })
    .await
    .expect("the model is asked");
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    let output = running.wait_with_output().unwrap();
    let said = stderr_of(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted; ") && said.contains(" is stopped"), "{said}");
    assert_eq!(output.stdout, b"");
    assert_eq!(project.files(), before);
    project.is_over();
}

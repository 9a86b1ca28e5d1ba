//! `palatine run --agent`: a real coding agent of npm's, with a scripted model, on a folder of the test's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fixtures::{LocalStack, Reply, ScriptedModel, Turn, nonce, program, starter_image, starters, stderr_of};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What such an agent takes.
const SIZE: [&str; 4] = ["--cores", "1", "--memory", "2048"];
/// How long a guest that is emulated may take until its coding agent has asked its model.
const PATIENCE: Duration = Duration::from_secs(600);

/// A coding agent of npm's.
#[derive(Clone, Copy)]
enum Coder {
    Opencode,
    Claude,
    Codex,
}

impl Coder {
    const fn name(self) -> &'static str {
        match self {
            Self::Opencode => "opencode",
            Self::Claude => "claude",
            Self::Codex => "codex",
        }
    }

    /// What tells it of its model, as its own pages say.
    fn env(self, model: &ScriptedModel) -> Vec<String> {
        let (url, key, [name, _]) = (model.url(), model.key(), model.models());
        match self {
            Self::Opencode => {
                let options = json!({"baseURL": format!("{url}/v1"), "apiKey": key});
                let provider =
                    json!({"npm": "@ai-sdk/openai-compatible", "options": options, "models": {name: {"name": name}}});
                let named = format!("scripted/{name}");
                let config = json!({
                    "model": named, "small_model": named, "autoupdate": false, "share": "disabled",
                    "provider": {"scripted": provider},
                });
                let off = ["MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD", "DEFAULT_PLUGINS"];
                let off = off.map(|what| format!("OPENCODE_DISABLE_{what}=1"));
                [&[format!("OPENCODE_CONFIG_CONTENT={config}")][..], &off].concat()
            }
            Self::Claude => vec![
                format!("ANTHROPIC_BASE_URL={url}"),
                format!("ANTHROPIC_API_KEY={key}"),
                format!("ANTHROPIC_MODEL={name}"),
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1".to_owned(),
            ],
            Self::Codex => vec![
                format!("OPENAI_BASE_URL={url}/v1"),
                format!("OPENAI_API_KEY={key}"),
                format!("OPENAI_MODEL={name}"),
            ],
        }
    }
}

/// Has a command run by the coding agent's own tool for that.
fn shell(turn: &Turn, command: &str) -> Reply {
    let has = |name: &&str| turn.tools.iter().any(|tool| tool == name);
    match ["bash", "Bash", "exec_command", "shell_command"].into_iter().find(has) {
        Some("exec_command") => Reply::Call("exec_command", json!({"cmd": command})),
        Some("shell_command") => Reply::Call("shell_command", json!({"command": command})),
        Some(tool) => Reply::Call(tool, json!({"command": command, "description": "Do as asked"})),
        None => Reply::Say(format!("no tool runs commands: {:?}", turn.tools)),
    }
}

/// `EDIT <word>` has a folder changed as a task does it, and as one that means ill; `SLEEP` has nothing done for long.
fn edit(turn: &Turn, nonce: &str) -> Reply {
    if !turn.has_tools() {
        return Reply::Say("A title".to_owned());
    }
    match (turn.word_after("EDIT"), turn.results.len()) {
        (Some(word), 0) => shell(
            turn,
            &format!(
                "cat hello.txt && sed -i 's/old/new {nonce}/' hello.txt && rm gone.txt && mkdir -p sub/deep && \
                 printf '#!/bin/sh\\necho {word} {nonce}\\n' > sub/deep/run.sh && chmod +x sub/deep/run.sh && \
                 printf '\\000{nonce}' > bytes && echo log > a.log && ln -s /etc/passwd link && \
                 echo evil > .git/hooks/pre-commit"
            ),
        ),
        (Some(_), _) => Reply::Say(format!("done {nonce} {}", turn.results.join(" "))),
        (None, 0) if turn.question.contains("SLEEP") => shell(turn, "echo begun >> hello.txt; sleep 3600"),
        (None, _) => Reply::Say(format!("heard {nonce}")),
    }
}

/// Has the image with the coding agents built, in the store of all stacks of tests.
#[track_caller]
fn coder_image() {
    starter_image("base", "base");
    let copies = TempDir::with_prefix("palatine-").unwrap();
    let recipe = copies.path().join("coder");
    fs::create_dir(&recipe).unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images/coder/image.toml");
    fs::copy(from, recipe.join("image.toml")).unwrap();
    let mut command = Command::new(program("palatine"));
    command.args(["image", "--store"]).arg(starters()).arg("build").arg(recipe).arg("coder");
    assert!(command.status().unwrap().success(), "the image could not be built");
}

/// A stack, a model, and a folder here.
struct Project {
    coder: Coder,
    stack: LocalStack,
    model: ScriptedModel,
    folder: PathBuf,
    keys: PathBuf,
    /// In a file that is copied, and in one that is not.
    words: [String; 2],
}

impl Project {
    fn begin(coder: Coder) -> Self {
        let model = ScriptedModel::start(edit);
        coder_image();
        let stack = LocalStack::with_images(&starters(), &model.reachable());
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
        fs::write(&keys, coder.env(&model).join("\n")).unwrap();
        Self { coder, stack, model, folder, keys, words }
    }

    fn command(&self, more: &[&str]) -> Command {
        let mut command = self.stack.command(&["run", "--agent", self.coder.name(), "--type", "coder"]);
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

#[test]
fn soak_hands_opencode_changes_a_folder_by_a_patch_and_nothing_else() {
    changes_a_folder_by_a_patch_and_nothing_else(Coder::Opencode);
}

#[test]
fn soak_hands_claude_changes_a_folder_by_a_patch_and_nothing_else() {
    changes_a_folder_by_a_patch_and_nothing_else(Coder::Claude);
}

#[test]
fn soak_hands_codex_changes_a_folder_by_a_patch_and_nothing_else() {
    changes_a_folder_by_a_patch_and_nothing_else(Coder::Codex);
}

#[track_caller]
fn changes_a_folder_by_a_patch_and_nothing_else(coder: Coder) {
    let project = Project::begin(coder);
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

    // What is shown is what git makes of it, what is no text included.
    let copy = TempDir::new().unwrap();
    for (path, bytes) in before.iter().filter(|(path, _)| !path.starts_with(".git/")) {
        fs::write(copy.path().join(path), bytes).unwrap();
    }
    fs::write(copy.path().join("changes.patch"), patch).unwrap();
    let mut git = Command::new("git");
    git.args(["apply", "changes.patch"]).current_dir(copy.path()).env("GIT_CEILING_DIRECTORIES", copy.path());
    let applied = git.output().unwrap();
    assert!(applied.status.success(), "{}\n{patch}", stderr_of(&applied));
    for changed in ["bytes", "hello.txt"] {
        assert_eq!(fs::read(copy.path().join(changed)).unwrap(), after[changed]);
    }
    assert!(!copy.path().join("gone.txt").exists());
    assert_eq!(project.stack.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn soak_hands_a_coding_agent_that_is_interrupted_is_stopped_and_has_changed_nothing() {
    let project = Project::begin(Coder::Opencode);
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

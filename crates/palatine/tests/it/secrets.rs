//! A holder's secret is in its guest, and nowhere else; a POD's key is nowhere in the clear.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use domain::Address;
use fixtures::{
    LocalStack, NOW, Postgres, SMALL, SpawnedAgent, Stack, cut_at_commit, pod, program, reservation, stderr_of,
    stdout_of, store_config, until,
};
use identity::Identity;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretBox};
use serde_json::json;
use store::{Config, SealedKeys, SecretName};
use tempfile::TempDir;
use treasury::Identities;

const CANARY: &str = "canary-3f9c1b7e5d2a4860";

#[tokio::test]
async fn a_holders_secret_is_in_no_answer_log_list_command_line_or_file() {
    let trace = "[log]\nfilter = \"trace\"\n";
    let mut stack = Stack::start(trace).await;
    let holder = stack.holder(SMALL);
    let body = json!({"agent_type": "echo", "env": {"OPENAI_API_KEY": CANARY, "CANARY": CANARY}});
    let answer = stack.ask(&holder, Method::POST, "/spawn", body).await.expect(200);
    let agent = SpawnedAgent::of(&answer);
    let (id, token) = (agent.id.as_str(), agent.text("token"));

    // The agent has it, or the rest of this test would prove nothing.
    let inside = stack.exec_echo(&holder, id, &["tell", "env", "CANARY"]).output().unwrap();
    assert_eq!(stdout_of(&inside).trim(), CANARY);

    // A crash while it runs: what is kept for the restart is sealed, and no core is written.
    stack.kill_node();
    stack.start_node().await;
    search(stack.dir.path(), &[CANARY, token]);
    for path in [format!("/status/{id}"), "/agents".to_owned(), format!("/agents/{id}/logs")] {
        let said = stack.read(&holder, &path).await.to_string();
        assert!(!said.contains(CANARY) && !said.contains(token), "{path}");
    }
    assert!(!stack.get("/metrics").await.expect(200).to_string().contains(CANARY));
    let listed = serde_json::to_string(&stack.node_client().list().await.unwrap()).unwrap();
    assert!(!listed.contains(CANARY));
    stack.stop(&holder, id).await.expect(200);
    search(stack.dir.path(), &[CANARY]);
    stack.end();
}

/// The password of a key file.
const PASSWORD: &str = "a-word-3f9c1b7e5d2a4860";

#[tokio::test]
async fn a_pods_key_is_in_no_file_in_the_clear_and_goes_with_its_pod() {
    let stack = LocalStack::new();
    stack.up(&["--no-agent"]);
    stack.json(&["wallet", "link"]);
    let agent = stack.spawn("echo");
    // Its key is made, and its address is on the chain.
    let vault = stack.json(&["vault", "deploy", &agent]);
    assert_eq!(vault["state"], "deployed");
    stack.down();
    let keystore = stack.path("agent.json");
    let exported = stdout_of(&export(&stack, &agent, &keystore));
    let identity = Identity::load(&keystore, &PASSWORD.into()).unwrap();
    for shown in [&exported, &vault.to_string()] {
        assert!(shown.to_lowercase().contains(&identity.address().to_string().to_lowercase()), "{shown}");
    }
    search(&stack.state(), &[PASSWORD]);
    search_key(&stack.state(), &identity.secret());

    stack.up(&["--no-agent"]);
    stack.run(&["rm", &agent]);
    stack.down();
    let refused = export(&stack, &agent, &stack.path("again.json"));
    assert!(!refused.status.success() && stderr_of(&refused).contains("there is no POD"), "{refused:?}");
    search_key(&stack.state(), &identity.secret());
}

fn export(stack: &LocalStack, agent: &str, keystore: &Path) -> Output {
    let mut command = stack.command(&["pod", "identity", "export", agent, "--json", "--out"]);
    command.arg(keystore).arg("--config").arg(stack.state().join("palatine.toml"));
    command.env("POD_PASSWORD", PASSWORD).output().unwrap()
}

/// Looks for a key in every file: as bytes, and as what people write of it.
fn search_key(folder: &Path, secret: &SecretBox<[u8; 32]>) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let digits = hex(secret.expose_secret());
    search(folder, &[&digits, &digits.to_uppercase()]);
    // What `grep` takes for a line is between two zeros: the longest part without one stands for all.
    let parts = secret.expose_secret().split(|byte| *byte == 0);
    let part = parts.max_by_key(|part| part.len()).unwrap();
    let pattern: String = part.iter().map(|byte| format!("\\x{byte:02x}")).collect();
    assert_eq!(files_with(folder, &["-P", "--", &pattern]), "", "the key's bytes are in a file");
}

/// The files of a folder of which `grep` says so. Told that zeros end a line, it passes over the holes of guests' disks,
/// which are most of them.
fn files_with(folder: &Path, words: &[&str]) -> String {
    let found = Command::new("grep").arg("-rlaz").args(words).arg(folder).env("LC_ALL", "C").output().unwrap();
    // What runs may remove a file meanwhile; nothing else keeps it from looking.
    let told = stderr_of(&found);
    assert!(told.lines().all(|line| line.ends_with(": No such file or directory")), "{told}");
    String::from_utf8_lossy(&found.stdout).into_owned()
}

/// Looks for the words in every file of a folder, guests' disks included, and in every
/// command line of the machine.
fn search(folder: &Path, words: &[&str]) {
    let patterns: Vec<_> = words.iter().flat_map(|word| ["-e", word]).collect();
    let files = files_with(folder, &[&["-F"], &patterns[..]].concat());
    assert!(files.is_empty(), "one of {words:?} is in:\n{files}");
    for word in words {
        // `grep` itself has ended; what runs now has no reason to name it.
        let lines =
            fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
        for line in lines {
            assert!(!String::from_utf8_lossy(&line).contains(word), "{word} is on a command line");
        }
    }
}

/// A gateway's store with a key of tokens and one of a POD, and its configuration.
struct SealedStore {
    folder: TempDir,
    config: Config,
    address: Address,
}

impl SealedStore {
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let config = store_config(&folder);
        let identity = Identity::generate().unwrap();
        let sealed = Self { address: identity.address(), folder, config };
        let (store, keys) = SealedKeys::open_store(&sealed.config, NOW).await.unwrap();
        gateway::token_key(&keys, &sealed.path("token.key"), false, NOW).await.unwrap();
        store.reserve(reservation(1, 1)).await.unwrap();
        let identities = Identities::new(store, keys, &treasury::Config::default());
        identities.import(pod(1), &identity, NOW).await.unwrap();
        let (directory, key) = (sealed.config.directory.display(), sealed.config.sealing_key_file.path().display());
        let text = format!("[store]\ndirectory = \"{directory}\"\nsealing_key_file = \"{key}\"\n");
        fs::write(sealed.path("palatine.toml"), text).unwrap();
        sealed
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(program("palatine"));
        command.arg("store").args(words).arg("--config").arg(self.path("palatine.toml"));
        command
    }

    /// Whether all its keys open with the key in this file.
    async fn opens_with(&self, file: &Path) -> bool {
        let config = Config { sealing_key_file: file.to_owned().into(), ..self.config.clone() };
        let Ok((store, keys)) = SealedKeys::open_store(&config, NOW).await else { return false };
        assert!(keys.secret(SecretName::Tokens).await.unwrap().is_some());
        let identities = Identities::new(store, keys, &treasury::Config::default());
        identities.find(pod(1), NOW).await.unwrap().is_some_and(|identity| identity.address() == self.address)
    }
}

#[tokio::test]
async fn a_reseal_that_is_killed_leaves_all_keys_under_the_old_sealing_key_or_all_under_the_new() {
    for (point, done) in [("new-sealing.key.written", false), ("reseal.committing", false), ("reseal.committed", true)]
    {
        let sealed = SealedStore::new().await;
        let (old, new) = (sealed.config.sealing_key_file.path().to_owned(), sealed.path("new.key"));
        let words = ["reseal", "--new-key", new.to_str().unwrap()];
        let killed = sealed.command(&words).env(durable::AT, point).output().unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", stderr_of(&killed));
        assert!(sealed.opens_with(if done { &new } else { &old }).await, "{point}");
        let again = sealed.command(&words).output().unwrap();
        assert!(again.status.success() && stdout_of(&again).contains("sealing_key_file = "), "{again:?}");
        assert!(sealed.opens_with(&new).await && !sealed.opens_with(&old).await, "{point}");
    }
}

#[tokio::test]
async fn lost_keys_are_forgotten_by_the_operators_yes_alone_and_lie_in_a_file_then() {
    let sealed = SealedStore::new().await;
    let key = sealed.config.sealing_key_file.path();
    let (saved, aside) = (sealed.path("saved.key"), sealed.path("aside.json"));
    let tokens = SealedKeys::open_store(&sealed.config, NOW).await.unwrap().1.secret(SecretName::Tokens).await.unwrap();
    let tokens = *tokens.unwrap().expose_secret();
    fs::rename(key, &saved).unwrap();
    let refused = sealed.command(&["forget-lost-keys"]).output().unwrap();
    assert!(!refused.status.success() && stderr_of(&refused).contains("--yes"), "{refused:?}");
    let listed = String::from_utf8_lossy(&refused.stdout);
    assert!(listed.contains(&pod(1).to_string()), "{refused:?}");
    assert!(listed.contains(&format!("{} is not there", key.display())), "{refused:?}");
    fs::write(key, [7; 32]).unwrap();
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
    let foreign = sealed.command(&["forget-lost-keys", "--json"]).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&foreign.stdout).unwrap();
    assert_eq!(listed["tried"], json!([{"file": key, "is": "foreign"}]));
    fs::remove_file(key).unwrap();
    assert!(sealed.opens_with(&saved).await);
    let words = ["forget-lost-keys", "--yes", "--aside", aside.to_str().unwrap()];
    let done = sealed.command(&words).output().unwrap();
    assert!(done.status.success() && stdout_of(&done).contains("aside.json"), "{done:?}");
    assert!(fs::read_to_string(&aside).unwrap().contains(&sealed.address.to_string().to_lowercase()));
    let (store, keys) = SealedKeys::open_store(&sealed.config, NOW).await.unwrap();
    let identities = Identities::new(store, keys, &treasury::Config::default());
    assert!(identities.find(pod(1), NOW).await.unwrap().is_none());
    drop(identities);
    // As long as it is lost, nothing opens.
    let closed = sealed.command(&["restore-keys", aside.to_str().unwrap()]).output().unwrap();
    assert!(!closed.status.success() && stderr_of(&closed).contains("--sealing-key"), "{closed:?}");
    // The lost key is found.
    let words = ["restore-keys", aside.to_str().unwrap(), "--sealing-key", saved.to_str().unwrap(), "--tokens"];
    let back = sealed.command(&words).output().unwrap();
    assert!(back.status.success() && stdout_of(&back).starts_with("1 keys are"), "{back:?}");
    assert!(sealed.opens_with(sealed.config.sealing_key_file.path()).await);
    let before = SealedKeys::open_store(&sealed.config, NOW).await.unwrap().1.secret(SecretName::Tokens).await.unwrap();
    assert_eq!(*before.unwrap().expose_secret(), tokens, "also the key of the tokens is the one of before");
}

#[tokio::test]
async fn a_sealing_key_is_lost_also_where_nothing_but_the_text_that_it_is_known_by_was_sealed() {
    let (folder, home) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let config = store_config(&folder);
    drop(SealedKeys::open_store(&config, NOW).await.unwrap());
    let (key, toml) = (config.sealing_key_file.path(), home.path().join("palatine.toml"));
    let text = format!("[store]\ndirectory = {:?}\nsealing_key_file = {key:?}\n", config.directory);
    fs::write(&toml, text).unwrap();
    let forget = |words: &[&str]| {
        let mut command = Command::new(program("palatine"));
        command.args(["store", "forget-lost-keys"]).args(words).arg("--config").arg(&toml).output().unwrap()
    };
    let none = forget(&[]);
    assert!(none.status.success() && stdout_of(&none).contains("none is lost"), "{none:?}");
    fs::remove_file(key).unwrap();
    let listed = forget(&[]);
    assert!(!listed.status.success() && stderr_of(&listed).contains("--yes"), "{listed:?}");
    let told = String::from_utf8_lossy(&listed.stdout);
    assert!(told.contains("no gateway starts") && !told.contains("none is lost"), "{told}");
    let done = forget(&["--yes"]);
    assert!(done.status.success() && stdout_of(&done).contains("lost-keys-"), "{done:?}");
    drop(SealedKeys::open_store(&config, NOW).await.unwrap());
    assert!(stdout_of(&forget(&[])).contains("none is lost"));
}

#[tokio::test]
async fn a_commit_without_an_answer_is_told_as_not_known_on_the_command_line() {
    let (server, home) = (Postgres::start(), TempDir::new().unwrap());
    let key = home.path().join("sealing.key");
    let config = |url: &str| Config { url: Some(url.parse().unwrap()), ..store_config(&home) };
    let url = server.url("postgres");
    drop(SealedKeys::open_store(&config(&url), NOW).await.unwrap());
    let reseal = |url: &str| {
        let toml = home.path().join("palatine.toml");
        fs::write(&toml, format!("[store]\nurl = {url:?}\nsealing_key_file = {key:?}\n")).unwrap();
        let mut command = Command::new(program("palatine"));
        command.args(["store", "reseal", "--new-key"]).arg(home.path().join("new.key")).arg("--config").arg(toml);
        command.output().unwrap()
    };
    let cut = cut_at_commit(&url, home.path());
    // The gateway that was there counts for a while.
    let unknown = until("no gateway uses it", async || {
        let done = reseal(&cut);
        (!stderr_of(&done).contains("a gateway uses")).then_some(done)
    })
    .await;
    let said = stderr_of(&unknown);
    assert!(!unknown.status.success() && said.contains("keep every sealing key"), "{said}");
    assert!(!said.contains("as they were"), "{said}");
    assert!(stdout_of(&reseal(&url)).contains("already"));
}

#[tokio::test]
async fn a_copy_of_a_store_names_the_sealing_key_that_it_needs() {
    let sealed = SealedStore::new().await;
    let (there, beside) = (sealed.config.directory.join("sealing.key"), sealed.path("copy"));
    fs::rename(sealed.config.sealing_key_file.path(), &there).unwrap();
    let copy = |from: &Path, to: &Path| {
        let mut command = Command::new(program("palatine"));
        let url = |folder: &Path| format!("sqlite://{}", folder.display());
        command.args(["store", "copy", "--from", &url(from), "--to", &url(to)]).output().unwrap()
    };
    let copied = copy(&sealed.config.directory, &beside);
    assert!(copied.status.success() && stderr_of(&copied).contains(there.to_str().unwrap()), "{copied:?}");
    fs::remove_dir_all(&beside).unwrap();
    fs::create_dir(&beside).unwrap();
    fs::rename(&there, beside.join("sealing.key")).unwrap();
    let refused = copy(&sealed.config.directory, &beside);
    let key = beside.join("sealing.key");
    assert!(!refused.status.success() && stderr_of(&refused).contains(key.to_str().unwrap()), "{refused:?}");
    fs::rename(&key, &there).unwrap();
    assert!(copy(&sealed.config.directory, &beside).status.success());
}

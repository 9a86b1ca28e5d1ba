//! The write-ahead log of the local EVM chain.
//!
//! Anvil writes its state every few seconds, and not at each block. A kill would roll
//! back what whoever sent a transaction has already seen mined, and his next nonce
//! would never be accepted again. So all calls go through here: what changes the chain
//! is written down first, and told again when the chain comes back.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

/// Transactions that are told again even if the state on disk may hold them: the chain
/// refuses those that it has.
const RECENT: usize = 256;
/// Bytes of a call at most.
const MAX_CALL: usize = 8 << 20;
/// How long the chain may take for an answer. One that hangs holds up the changes behind
/// it until then, or until it is ended.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// A transaction that its sender has signed.
const RAW: &str = "eth_sendRawTransaction";
/// What else changes the chain, and can be told twice.
const SETTERS: [&str; 6] = [
    "anvil_setBalance",
    "anvil_setCode",
    "anvil_setStorageAt",
    "hardhat_setBalance",
    "hardhat_setCode",
    "hardhat_setStorageAt",
];

/// One call that changed the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// The newest block when it was made.
    block: u64,
    method: String,
    params: Value,
}

/// The log, and the way to the chain.
#[derive(Debug)]
pub(super) struct Wal {
    path: PathBuf,
    client: reqwest::Client,
    /// Where the chain listens, while it does.
    chain: RwLock<Option<String>>,
    /// One change at a time, so that each knows the block before it.
    entries: Mutex<Vec<Entry>>,
}

impl Wal {
    /// Reads the log, if there is one. A last line that a kill has cut was never sent,
    /// and is cut off; a log with other lines that cannot be read is set aside, and the
    /// rest of it is told.
    pub(super) fn open(path: PathBuf) -> Result<Self> {
        let read = || format!("read {}", path.display());
        let log = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            log => log.with_context(read)?,
        };
        let end = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let (mut entries, mut lost) = (Vec::new(), 0);
        for line in log[..end].split_inclusive(|byte| *byte == b'\n') {
            match serde_json::from_slice(line) {
                Ok(entry) => entries.push(entry),
                Err(_) => lost += 1,
            }
        }
        if lost > 0 {
            let aside = durable::name_aside(&path)?;
            fs::copy(&path, &aside).with_context(|| format!("set {} aside", path.display()))?;
            let (path, aside) = (path.display(), aside.display());
            eprintln!(
                "! {lost} lines of {path} cannot be read, and the local EVM chain may lack them: it is kept as {aside}"
            );
        }
        if lost > 0 || end < log.len() {
            rewrite(&path, &entries)?;
        }
        let client = reqwest::Client::builder().no_proxy().timeout(CALL_LIMIT).build()?;
        Ok(Self { path, client, chain: RwLock::new(None), entries: Mutex::new(entries) })
    }

    /// Passes calls on to the chain for as long as what it answers with is held.
    pub(super) fn serve(self: &Arc<Self>, listener: TcpListener) -> AbortOnDropHandle<()> {
        let router = Router::new().fallback(pass).layer(DefaultBodyLimit::max(MAX_CALL)).with_state(Arc::clone(self));
        AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("! nobody passes calls on to the local EVM chain: {error}");
            }
        }))
    }

    /// The chain is back: what it may have lost is told again, and then it is open to
    /// all.
    pub(super) async fn replay(&self, chain: &str) -> Result<()> {
        let entries = self.entries.lock().await;
        let head = self.head(chain).await?;
        for entry in entries.iter().filter(|entry| entry.method == RAW || entry.block >= head) {
            let call = json!({"jsonrpc": "2.0", "id": 1, "method": entry.method, "params": entry.params});
            // What the chain has already, it refuses.
            self.send(chain, Bytes::from(serde_json::to_vec(&call)?)).await?;
        }
        self.turn(Some(chain));
        Ok(())
    }

    /// The chain is gone.
    pub(super) fn close(&self) {
        self.turn(None);
    }

    /// Forgets what a state of this block, which is on disk, holds for certain.
    pub(super) async fn forget(&self, block: u64) -> Result<()> {
        let mut entries = self.entries.lock().await;
        let recent = entries.len().saturating_sub(RECENT);
        let kept: Vec<Entry> = entries
            .iter()
            .enumerate()
            .filter(|(at, it)| *at >= recent || it.block >= block)
            .map(|(_, it)| it.clone())
            .collect();
        if kept.len() < entries.len() {
            rewrite(&self.path, &kept)?;
            *entries = kept;
        }
        Ok(())
    }

    /// Forgets all: the chain that it was told to is no more.
    pub(super) async fn clear(&self) -> Result<()> {
        let mut entries = self.entries.lock().await;
        durable::wipe("wal", &self.path).with_context(|| format!("remove {}", self.path.display()))?;
        entries.clear();
        Ok(())
    }

    fn turn(&self, to: Option<&str>) {
        *self.chain.write().unwrap_or_else(PoisonError::into_inner) = to.map(str::to_owned);
    }

    fn chain(&self) -> Option<String> {
        self.chain.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn head(&self, chain: &str) -> Result<u64> {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []});
        let answer = self.send(chain, Bytes::from(serde_json::to_vec(&call)?)).await?;
        let answer: Value = serde_json::from_slice(&answer).context("read the newest block")?;
        let head = answer["result"].as_str().and_then(|text| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok());
        head.with_context(|| format!("the local EVM chain answers {answer} where its newest block is asked for"))
    }

    async fn send(&self, chain: &str, body: Bytes) -> Result<Bytes> {
        let request = self.client.post(chain).header(CONTENT_TYPE, "application/json").body(body);
        Ok(request.send().await.context("ask the local EVM chain")?.bytes().await?)
    }

    /// Sends a call on; one that changes the chain is on disk before.
    async fn pass(&self, body: Bytes) -> Result<Bytes> {
        let chain = self.chain().context("the local EVM chain is being started")?;
        let changes = changes(&body);
        if changes.is_empty() {
            return self.send(&chain, body).await;
        }
        let mut entries = self.entries.lock().await;
        let block = self.head(&chain).await?;
        let fresh = changes.into_iter().map(|(method, params)| Entry { block, method, params }).collect::<Vec<_>>();
        self.append(&fresh)?;
        entries.extend(fresh);
        self.send(&chain, body).await
    }

    fn append(&self, fresh: &[Entry]) -> Result<()> {
        let text = lines(fresh)?;
        let mut file: File = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        let before = file.metadata()?.len();
        let written = file.write_all(&text).and_then(|()| file.sync_data());
        if written.is_err() {
            // What was not sent must not stand before what will be.
            file.set_len(before).with_context(|| format!("cut {}", self.path.display()))?;
        }
        written.with_context(|| format!("write {}", self.path.display()))
    }
}

async fn pass(State(wal): State<Arc<Wal>>, body: Bytes) -> Response {
    match wal.pass(body).await {
        Ok(answer) => ([(CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
    }
}

fn rewrite(path: &Path, entries: &[Entry]) -> Result<()> {
    durable::replace("wal", path, &lines(entries)?).with_context(|| format!("write {}", path.display()))
}

fn lines(entries: &[Entry]) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut text, entry)?;
        text.push(b'\n');
    }
    Ok(text)
}

/// The calls of a request that change the chain; a request is one call or several.
fn changes(body: &[u8]) -> Vec<(String, Value)> {
    #[derive(Deserialize)]
    struct Call {
        method: String,
        #[serde(default)]
        params: Value,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Request {
        Many(Vec<Call>),
        One(Call),
    }
    let calls = match serde_json::from_slice(body) {
        Ok(Request::Many(calls)) => calls,
        Ok(Request::One(call)) => vec![call],
        // The chain says what is wrong with it.
        Err(_) => Vec::new(),
    };
    let kept = |method: &str| method == RAW || SETTERS.contains(&method);
    calls.into_iter().filter(|call| kept(&call.method)).map(|call| (call.method, call.params)).collect()
}

#[cfg(test)]
mod tests {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

    use super::*;

    /// A chain that takes everything, at a block of its own, and remembers it.
    async fn chain(block: u64) -> (String, Arc<Mutex<Vec<String>>>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&told);
        let answer = move |body: Bytes| {
            let seen = Arc::clone(&seen);
            async move {
                let call: Value = serde_json::from_slice(&body).unwrap();
                if call["method"] == "eth_blockNumber" {
                    return json!({"result": format!("{block:#x}")}).to_string();
                }
                seen.lock().await.push(format!("{} {}", call["method"].as_str().unwrap(), call["params"][0]));
                json!({"result": true}).to_string()
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let place = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
        (place, told)
    }

    fn call(method: &str, word: u64) -> Bytes {
        Bytes::from(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": [word]}).to_string())
    }

    #[tokio::test]
    async fn fault_1_0_what_a_killed_chain_may_have_lost_is_told_again_in_its_order() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.wal");
        let wal = Wal::open(path.clone()).unwrap();
        assert!(wal.pass(call(RAW, 0)).await.is_err(), "nobody is told of a chain that is not there");
        let (first, told) = chain(7).await;
        wal.replay(&first).await.unwrap();
        for (method, word) in [(RAW, 1), ("anvil_setBalance", 2), ("eth_call", 3), (RAW, 4)] {
            wal.pass(call(method, word)).await.unwrap();
        }
        assert_eq!(told.lock().await.len(), 4);
        wal.close();
        // The next program finds the same, but for a line that a kill has cut.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"block\":7,\"meth").unwrap();
        let wal = Wal::open(path.clone()).unwrap();
        let (second, told) = chain(7).await;
        wal.replay(&second).await.unwrap();
        let all = ["eth_sendRawTransaction 1", "anvil_setBalance 2", "eth_sendRawTransaction 4"];
        assert_eq!(*told.lock().await, all);
        // A state of a later block holds what was set before it.
        let (third, told) = chain(8).await;
        wal.replay(&third).await.unwrap();
        assert_eq!(*told.lock().await, [all[0], all[2]]);
    }

    #[tokio::test]
    async fn fault_1_0_a_line_that_cannot_be_read_is_set_aside_and_takes_no_other_with_it() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.wal");
        let (place, _) = chain(7).await;
        let reopen = async || {
            let wal = Wal::open(path.clone()).unwrap();
            wal.replay(&place).await.unwrap();
            wal
        };
        let told = async |wal: &Wal| {
            let entries = wal.entries.lock().await;
            entries.iter().map(|entry| entry.params[0].as_u64().unwrap()).collect::<Vec<_>>()
        };
        let tear = |bytes: &[u8]| OpenOptions::new().append(true).open(&path).unwrap().write_all(bytes).unwrap();
        reopen().await.pass(call(RAW, 1)).await.unwrap();
        tear(b"{\"block\":7,\"meth");
        // What comes after a cut line is a line of its own.
        reopen().await.pass(call(RAW, 2)).await.unwrap();
        assert_eq!(told(&reopen().await).await, [1, 2]);
        let aside = dir.path().join("chain.wal.broken");
        assert!(!aside.exists(), "nobody was told of what was cut");
        tear(b"\xff\0\n");
        let damaged = fs::read(&path).unwrap();
        reopen().await.pass(call(RAW, 3)).await.unwrap();
        assert_eq!(fs::read(&aside).unwrap(), damaged);
        assert_eq!(told(&reopen().await).await, [1, 2, 3]);
    }

    #[test]
    fn fault_1_0_a_change_that_the_disk_did_not_take_stands_before_no_other() {
        needs::needs!(root);
        let dir = tempfile::tempdir().unwrap();
        let full = async || {
            let (path, (place, told)) = (dir.path().join("chain.wal"), chain(7).await);
            let wal = Wal::open(path.clone()).unwrap();
            wal.replay(&place).await.unwrap();
            let large = json!({"method": RAW, "params": ["0".repeat(2 * DISK_BYTES)]}).to_string();
            wal.pass(call(RAW, 1)).await.unwrap();
            assert!(wal.pass(Bytes::from(large)).await.is_err(), "there is no room for it");
            wal.pass(call(RAW, 2)).await.unwrap();
            assert_eq!(told.lock().await.len(), 2, "what is not written down is not sent");
            let (again, aside) = (Wal::open(path.clone()).unwrap(), durable::name_aside(&path).unwrap());
            assert_eq!(*again.entries.lock().await, *wal.entries.lock().await);
            assert!(aside.ends_with("chain.wal.broken"), "all of it can be read");
        };
        on_small_disk(dir.path(), || {
            rustls::crypto::ring::default_provider().install_default().ok();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(full());
        });
    }

    /// Bytes of the disk.
    const DISK_BYTES: usize = 64 << 10;

    /// Does something where so much can be written to a folder.
    fn on_small_disk(folder: &Path, work: impl FnOnce() + Send) {
        let small = || {
            #[expect(unsafe_code, reason = "a table of mounts of this thread's own, which ends at once")]
            // SAFETY: only the mount table is unshared; no file descriptor is.
            let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) };
            unshared.unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            mount("tmpfs", folder, "tmpfs", MountFlags::empty(), Some(c"size=64k")).unwrap();
            work();
        };
        std::thread::scope(|scope| scope.spawn(small).join().unwrap());
    }

    #[tokio::test]
    async fn fault_1_0_the_log_is_bounded_by_what_the_state_on_disk_holds() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let wal = Wal::open(dir.path().join("chain.wal")).unwrap();
        let (place, _) = chain(7).await;
        wal.replay(&place).await.unwrap();
        for word in 0..2 * RECENT as u64 {
            wal.pass(call(RAW, word)).await.unwrap();
        }
        wal.forget(7).await.unwrap();
        assert_eq!(wal.entries.lock().await.len(), 2 * RECENT, "that block's state may lack them");
        wal.forget(8).await.unwrap();
        let kept = Wal::open(dir.path().join("chain.wal")).unwrap();
        assert_eq!(kept.entries.lock().await.len(), RECENT);
        assert_eq!(*kept.entries.lock().await, *wal.entries.lock().await);
    }

    #[test]
    fn several_calls_in_one_request_are_all_looked_at() {
        let many = br#"[{"method":"eth_call","params":[]},{"method":"eth_sendRawTransaction","params":["0x"]}]"#;
        assert_eq!(changes(many), [(RAW.to_owned(), json!(["0x"]))]);
        assert!(changes(b"nonsense").is_empty());
    }
}

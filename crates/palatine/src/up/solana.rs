//! The local Solana: a real validator of the JSON-RPC with the real SPL Token
//! program, a mint, and balances that we hand out.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chain::{Balances, Endpoint, SolanaBalances};
use domain::Wallet;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::health::{HealthRecorder, PartName};
use super::process::{Part, free_port};
use super::state::StateDir;
use super::supervise::Service;

const START_LIMIT: Duration = Duration::from_secs(30);
/// How long its first start may take: it answers, and then two wallets are funded, one
/// after the other.
pub(super) const FIRST_START_LIMIT: Duration = START_LIMIT.saturating_mul(3);
/// Milliseconds a probe's call may take.
const CALL_MS: u64 = 4000;

/// The command that makes tokens for a wallet.
const FUND: &str = "fund";

/// What the chain answers, a line each.
type Answers = Lines<BufReader<ChildStdout>>;

/// Where it answers, and the token's mint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct SolanaInfo {
    pub(crate) rpc: String,
    pub(crate) mint: String,
}

/// The chain: what it is started with, each time.
#[derive(Debug)]
pub(super) struct SolanaService {
    program: PathBuf,
    logs: PathBuf,
    journal: PathBuf,
    /// The same at each start, so that what was told of it stays true.
    port: u16,
    /// Who has tokens, and how many whole ones.
    funded: [(Wallet, u64); 2],
    info: Option<SolanaInfo>,
    /// Its standard input: it ends when that is closed.
    input: Option<ChildStdin>,
}

impl SolanaService {
    /// A new chain, on which these wallets have so many whole tokens; `assets/solana`
    /// holds its program.
    pub(super) fn new(assets: &std::path::Path, state: &StateDir, funded: [(Wallet, u64); 2]) -> Result<Self> {
        let journal = state.solana_journal();
        match fs::remove_file(&journal) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", journal.display()));
            }
            Ok(()) | Err(_) => {}
        }
        let (program, logs) = (assets.join("solana"), state.logs());
        Ok(Self { program, logs, journal, port: free_port()?, funded, info: None, input: None })
    }

    /// Where it answers, once it was started.
    pub(super) fn info(&self) -> Result<SolanaInfo> {
        self.info.clone().context("the local Solana was never started")
    }

    /// Looks at the journal of a chain that was up before. One that does not hold all
    /// that was done on it is set aside, and that is told; the chain is made again from
    /// what is known. Says whether it was so.
    fn lost_journal(&self) -> Result<bool> {
        let from = &self.journal;
        let lack = match fs::read(from) {
            Ok(bytes) => lack(&bytes, &self.funded),
            Err(error) => Some(error.to_string()),
        };
        let Some(lack) = lack else { return Ok(false) };
        match durable::set_aside(from) {
            Ok(aside) => eprintln!("! {} is damaged, and kept as {}: {lack}", from.display(), aside.display()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => eprintln!("! {} is gone", from.display()),
            Err(error) => return Err(error).with_context(|| format!("set {} aside: {lack}", from.display())),
        }
        eprintln!("! the local Solana is made anew: its holders have the tokens that they began with");
        Ok(true)
    }

    /// Gives the holders their tokens, one after the other.
    async fn fund(&self, part: &mut Part, input: &mut ChildStdin, answers: &mut Answers) -> Result<()> {
        for (wallet, tokens) in &self.funded {
            let command = json!({"do": FUND, "wallet": wallet, "amount": tokens});
            input.write_all(format!("{command}\n").as_bytes()).await.context("ask it for tokens")?;
            let answer = part.until(START_LIMIT, answers.next_line()).await??.context("read its answer")?;
            let answer: Value = serde_json::from_str(&answer).with_context(|| format!("understand {answer:?}"))?;
            if answer["ok"] != true {
                bail!("the local Solana could not fund {wallet}: {}", answer["error"]);
            }
        }
        Ok(())
    }
}

/// What a journal lacks of what was done on the chain: nothing but the holders' funding
/// ever is, and it was whole before the chain was in use.
fn lack(journal: &[u8], funded: &[(Wallet, u64)]) -> Option<String> {
    let Some(whole) = journal.strip_suffix(b"\n") else { return Some("its end is cut off".to_owned()) };
    let mut done = Vec::new();
    for (line, number) in whole.split(|byte| *byte == b'\n').zip(1..) {
        match serde_json::from_slice::<Value>(line) {
            Ok(command) => done.push(command),
            Err(error) => return Some(format!("line {number} is no command: {error}")),
        }
    }
    let is_there = |(wallet, tokens): &&(Wallet, u64)| {
        let what = json!([FUND, wallet, tokens]);
        done.iter().any(|command| json!([command["do"], command["wallet"], command["amount"]]) == what)
    };
    let lost = funded.iter().find(|funding| !is_there(funding))?;
    Some(format!("the tokens of {} are not in it", lost.0))
}

impl Service for SolanaService {
    const NAME: PartName = PartName::Solana;
    const RESTARTS_WHEN_HUNG: bool = true;

    async fn start(&mut self, part: &mut Option<Part>, recorder: &HealthRecorder) -> Result<()> {
        let anew = self.info.is_none() || self.lost_journal()?;
        let mut command = Command::new("node");
        command.args(["chain.mjs", "--port", &self.port.to_string(), "--journal"]).arg(&self.journal);
        command.current_dir(&self.program).stdin(Stdio::piped()).stdout(Stdio::piped());
        // A Ctrl-C is for us alone: we end the parts in their order.
        command.process_group(0);
        let part = part.insert(Part::start(Self::NAME.as_str(), &self.logs, command)?);
        recorder.spawned(Self::NAME, part.facts());
        // Taken at once: whoever waits for a child closes what it still has.
        let mut input = part.child().stdin.take().context("take its standard input")?;
        let stdout = part.child().stdout.take().context("take its standard output")?;
        let mut answers = BufReader::new(stdout).lines();
        let line = part.until(START_LIMIT, answers.next_line()).await??.context("read where it answers")?;
        let info: SolanaInfo = serde_json::from_str(&line).with_context(|| format!("understand {line:?}"))?;
        if let Some(before) = &self.info {
            ensure!(*before == info, "the local Solana came back as another: {info:?}");
        }
        // What else is on it again is what its journal says.
        if anew {
            self.fund(part, &mut input, &mut answers).await?;
        }
        self.info = Some(info);
        self.input = Some(input);
        Ok(())
    }

    /// Reads a balance, past all that only says that the program lives. The answer is
    /// the proof, whatever it says: tokens are their holder's to move.
    async fn probe(&self) -> Result<()> {
        let info = self.info()?;
        let config = chain::SolanaConfig {
            endpoints: vec![Endpoint(info.rpc)],
            mint: info.mint,
            timeout_ms: CALL_MS,
            deadline_ms: CALL_MS,
            attempts: 1,
            cache_ms: 0,
            ..chain::SolanaConfig::default()
        };
        let [(holder, _), ..] = &self.funded;
        SolanaBalances::new(&config)?.balance(holder).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    const TOKEN_PROGRAM: &str = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA";

    /// Answers one call of a chain on which nobody has anything.
    async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
        let (mut asked, mut chunk) = (Vec::new(), [0; 4096]);
        // A call is one JSON text, and its last byte ends it.
        while !asked.ends_with(b"}") {
            let read = stream.read(&mut chunk).await?;
            if read == 0 {
                return Ok(());
            }
            asked.extend_from_slice(&chunk[..read]);
        }
        let value = if String::from_utf8_lossy(&asked).contains("getAccountInfo") {
            let info = json!({"decimals": 6, "isInitialized": true, "supply": "1"});
            let data = json!({"program": "spl-token", "space": 82, "parsed": {"type": "mint", "info": info}});
            json!({"owner": TOKEN_PROGRAM, "lamports": 1, "executable": false, "space": 82, "data": data})
        } else {
            json!([])
        };
        let body = json!({"jsonrpc": "2.0", "id": 1, "result": {"context": {"slot": 7}, "value": value}}).to_string();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length:";
        stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes()).await
    }

    #[test]
    fn fault_1_0_a_journal_that_lacks_anything_that_was_done_is_not_believed() {
        let funded = [(Wallet([1; 32]), 5), (Wallet([2; 32]), 6)];
        let line = |(wallet, tokens): &(Wallet, u64)| {
            json!({"key": [1, 2], "do": FUND, "wallet": wallet, "amount": tokens}).to_string() + "\n"
        };
        let lack = |text: &str| lack(text.as_bytes(), &funded).unwrap_or_default();
        let [one, other] = funded.each_ref().map(line);
        let whole = format!("{one}{other}");
        assert_eq!(lack(&whole), "");
        for (text, said) in [
            (String::new(), "its end is cut off".to_owned()),
            (whole[..whole.len() - 9].to_owned(), "its end is cut off".to_owned()),
            (one.clone(), format!("the tokens of {} are not in it", funded[1].0)),
            (other, format!("the tokens of {} are not in it", funded[0].0)),
            (
                one.replace("\"amount\":5", "\"amount\":4") + &line(&funded[1]),
                format!("the tokens of {} are not in it", funded[0].0),
            ),
            (format!("{one}\0\n"), "line 2 is no command: ".to_owned()),
        ] {
            assert!(lack(&text).starts_with(&said), "{text:?}: {}", lack(&text));
        }
    }

    #[tokio::test]
    async fn fault_1_0_a_chain_that_says_that_its_holder_has_nothing_is_well() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::at(Some(dir.path())).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let funded = [(Wallet([1; 32]), 1), (Wallet([2; 32]), 1)];
        let mut solana = SolanaService::new(dir.path(), &state, funded).unwrap();
        let rpc = format!("http://{}", listener.local_addr().unwrap());
        solana.info = Some(SolanaInfo { rpc, mint: Wallet([3; 32]).to_string() });
        let chain = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer(stream).await.ok();
            }
        });
        solana.probe().await.unwrap();
        chain.abort();
        chain.await.unwrap_err();
        assert!(solana.probe().await.is_err(), "nobody answers any more");
    }
}

//! Vaults and their tasks. What needs the owner's or the creator's word is signed
//! here and carried by the gateway, which pays the gas.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use alloy_primitives::keccak256;
use anyhow::{Context, Result, bail};
use chain::evm::typed::{CreateVault, ValidityWindow, digest, factory_domain, task_id, task_payment};
use chain::evm::{EvmConfig, calls};
use client::{ClientError, GatewayClient};
use domain::evm::Call;
use domain::vault::{TaskId, TaskTerms, VaultSettings};
use domain::{Address, B256, Bytes, Clock, PodId, SystemClock, U256, Usdc};
use identity::{Identity, SignerSync};
use relay::client::{ForwarderKind, MaxFee, RelayCall, RelayCallSigner, RelayClient, RelayClientConfig, RelayResult};
use wire::fault::Code;
use wire::v1::vault::{AgentVault, ChainResponse, DeployRequest, SubmitTaskRequest, Task, VaultResponse, VaultState};

use super::{gateway, signer as holder};
use crate::answers::CallOutcome;
use crate::cli::{CreateTask, Signer, Target, VaultCommand, VaultName, VaultTaskArg};
use crate::output::{self, show};
use crate::signer::open;
use crate::up::{LocalStackInfo, StateDir};

/// Gas for a vault's own work in a relayed call.
const GAS: u64 = 300_000;
/// Seconds for which what is signed here is good.
const WINDOW_S: u64 = 15 * 60;
/// Seconds by which the chain's clock may be behind ours.
const BACKDATED_S: u64 = 60;
/// How long a relayed call may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often a vault on its way is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long what is on the chain may be unknown to the gateway's ledger.
const INDEX_LIMIT: Duration = Duration::from_secs(15);
/// What the gateway says of a vault that is on the chain, until it has read that.
const INDEXING: [Code; 2] = [Code::NotFound, Code::VaultDeploying];
/// How long a vault may be on its way before we say so.
const DEPLOY_LIMIT: Duration = Duration::from_secs(120);
/// The largest result that is hashed.
const MAX_RESULT: u64 = 64 * 1024 * 1024;

/// One run of a command.
struct VaultSession<'a> {
    target: &'a Target,
    state: &'a StateDir,
    signer: &'a Signer,
    url: String,
    client: GatewayClient,
}

pub(crate) async fn run(target: &Target, state: &StateDir, signer: &Signer, command: VaultCommand) -> Result<ExitCode> {
    let url = gateway(target, state)?;
    let session = VaultSession { client: GatewayClient::new(&url)?, target, state, signer, url };
    session.run(command).await?;
    Ok(ExitCode::SUCCESS)
}

/// Has the vault of an agent that was just spawned deployed, if a key is known.
pub(crate) async fn deploy_after_spawn(target: &Target, state: &StateDir, signer: &Signer, agent: PodId) -> Result<()> {
    let url = gateway(target, state)?;
    let session = VaultSession { client: GatewayClient::new(&url)?, target, state, signer, url };
    let vault = session.sign_for(agent).await?;
    eprintln!("vault {} ({})", vault.address, vault.state.as_str());
    Ok(())
}

impl VaultSession<'_> {
    async fn run(&self, command: VaultCommand) -> Result<()> {
        let json = self.target.json;
        match command {
            VaultCommand::Deploy { agent } => self.deploy(agent).await,
            VaultCommand::Show { vault } => Ok(show(json, &self.vault(vault).await?, output::vault)?),
            VaultCommand::Tasks { vault } => {
                let vault = self.vault(vault).await?.address;
                Ok(show(json, &self.client.tasks(vault).await?, output::tasks)?)
            }
            VaultCommand::Create(task) => self.create(&task).await,
            VaultCommand::Submit { task, result } => self.submit(&task, result.as_deref()).await,
            VaultCommand::Decline { task } => self.decline(&task).await,
            VaultCommand::Complete { task, pay } => self.complete(&task, pay).await,
            VaultCommand::Dispute { task, reason } => {
                let (vault, found) = self.task(&task).await?;
                let call = calls::dispute(vault, &found.terms, keccak256(reason.as_bytes()));
                self.as_signer("disputed", Some(task.task), &call).await
            }
            VaultCommand::Resolve { task, agent } => {
                let (vault, found) = self.task(&task).await?;
                self.as_signer("resolved", Some(task.task), &calls::resolve(vault, &found.terms, agent)).await
            }
            VaultCommand::Refund { task } => {
                let (vault, found) = self.task(&task).await?;
                self.as_anyone("refunded", task.task, &calls::refund(vault, &found.terms)).await
            }
            VaultCommand::Claim { task } => {
                let (vault, found) = self.task(&task).await?;
                self.as_anyone("claimed", task.task, &calls::claim(vault, &found.terms)).await
            }
            VaultCommand::DefaultResolve { task } => {
                let (vault, found) = self.task(&task).await?;
                self.as_anyone("resolved by default", task.task, &calls::default_resolve(vault, &found.terms)).await
            }
            VaultCommand::Set { vault, arbiter, fee_recipient, fee_bps, pause, resume } => {
                let vault = self.vault(vault).await?;
                if pause || resume {
                    self.as_signer("set", None, &calls::set_paused(vault.address, pause)).await?;
                }
                if arbiter.is_none() && fee_recipient.is_none() && fee_bps.is_none() {
                    return Ok(());
                }
                let settings = VaultSettings {
                    arbiter: arbiter.unwrap_or(vault.arbiter),
                    fee_recipient: fee_recipient.unwrap_or(vault.fee_recipient),
                    fee_bps: fee_bps.unwrap_or(vault.fee_bps),
                };
                self.as_signer("set", None, &calls::set_settings(vault.address, &settings)).await
            }
            VaultCommand::Withdraw { vault, amount, to, credit } => self.withdraw(vault, amount, to, credit).await,
        }
    }

    /// The gateway's client, signing as the holder.
    fn holder(&self) -> Result<GatewayClient> {
        Ok(self.client.clone().signed_by(holder(self.target, self.state)?))
    }

    /// A vault that stands. One that is being deployed is waited for.
    async fn vault(&self, vault: VaultName) -> Result<VaultResponse> {
        match vault {
            VaultName::Address(address) => self.deployed(&[Code::VaultDeploying], address).await,
            VaultName::Agent(agent) => {
                let vault = must_be_there(agent, self.end_of_deployment(agent).await?)?;
                self.deployed(&INDEXING, vault.address).await
            }
        }
    }

    /// A vault as the gateway knows it, waited for as long as it says that it is not there yet.
    async fn deployed(&self, not_yet: &[Code], vault: Address) -> Result<VaultResponse> {
        // Where it was on its way at first, the rest is a matter of reading the chain.
        let limit = if not_yet.contains(&Code::NotFound) { INDEX_LIMIT } else { DEPLOY_LIMIT };
        Ok(self.unless(not_yet, limit, || self.client.vault(vault)).await?)
    }

    /// An agent's vault once it is not on its way any more, or still after a while.
    async fn end_of_deployment(&self, agent: PodId) -> Result<AgentVault> {
        let holder = self.holder()?;
        let mut vault = holder.agent_vault(agent).await?;
        if vault.state == VaultState::Deploying {
            say_waiting(vault.address);
        }
        let limit = Instant::now() + DEPLOY_LIMIT;
        while vault.state == VaultState::Deploying && Instant::now() < limit {
            tokio::time::sleep(LOOK_EVERY).await;
            vault = holder.agent_vault(agent).await?;
        }
        Ok(vault)
    }

    async fn task(&self, name: &VaultTaskArg) -> Result<(Address, Task)> {
        let vault = self.vault(name.vault).await?.address;
        let find = async || -> Result<Option<Task>> {
            Ok(self.client.tasks(vault).await?.tasks.into_iter().find(|task| task.id == name.task.0))
        };
        let limit = Instant::now() + INDEX_LIMIT;
        let mut found = find().await?;
        while found.is_none() && Instant::now() < limit {
            tokio::time::sleep(LOOK_EVERY).await;
            found = find().await?;
        }
        Ok((vault, found.with_context(|| format!("the vault {vault} has no task {}", name.task))?))
    }

    /// Asks until the gateway answers otherwise than by these codes, for so long.
    async fn unless<T, F>(&self, not_yet: &[Code], patience: Duration, ask: impl Fn() -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let limit = Instant::now() + patience;
        loop {
            match ask().await {
                Err(ClientError::Refused(refused))
                    if not_yet.contains(&refused.fault().code) && Instant::now() < limit =>
                {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                answer => return answer,
            }
        }
    }

    /// The chain, once we have seen that its token is one we know.
    async fn chain(&self) -> Result<ChainResponse> {
        let chain = self.client.chain().await?;
        known_token(&chain, self.state.running()?.as_ref())?;
        Ok(chain)
    }

    async fn deploy(&self, agent: PodId) -> Result<()> {
        self.sign_for(agent).await?;
        let vault = self.end_of_deployment(agent).await?;
        if vault.state == VaultState::Deployed {
            self.deployed(&INDEXING, vault.address).await?;
        }
        show(self.target.json, &vault, output::agent_vault)?;
        if vault.state == VaultState::Failed {
            bail!("the vault was not deployed: {}", vault.reason.unwrap_or_default());
        }
        Ok(())
    }

    /// Signs for an agent's vault as its owner, unless it is there or on its way.
    async fn sign_for(&self, agent: PodId) -> Result<AgentVault> {
        let holder = self.holder()?;
        let vault = holder.agent_vault(agent).await?;
        if matches!(vault.state, VaultState::Deployed | VaultState::Deploying) {
            return Ok(vault);
        }
        let owner = open(self.signer, self.state)?;
        if owner.address() != vault.owner {
            bail!("your wallet is linked to {}, and the key is {}'s: pass --keystore", vault.owner, owner.address());
        }
        let evm = config(&self.chain().await?);
        let deadline = now_s() + WINDOW_S;
        let message = CreateVault {
            podId: agent.to_string(),
            owner: vault.owner,
            agentWallet: vault.agent_wallet,
            deadline: U256::from(deadline),
        };
        let signature = owner.sign_hash_sync(&digest(&message, &factory_domain(&evm))).context("sign for the vault")?;
        let request = DeployRequest { deadline, signature: Bytes::from(signature.as_bytes()).to_string() };
        Ok(holder.deploy_vault(agent, &request).await?)
    }

    async fn create(&self, task: &CreateTask) -> Result<()> {
        let chain = self.chain().await?;
        let vault = self.vault(task.vault).await?;
        let creator = open(self.signer, self.state)?;
        let evm = config(&chain);
        let now = now_s();
        let terms = terms(task, &vault, creator.address(), now, random()?);
        let window = ValidityWindow { after: now.saturating_sub(BACKDATED_S), before: now + WINDOW_S };
        let payment = task_payment(&evm, vault.address, &terms, window);
        let domain = chain::evm::typed::token_domain(&evm, &chain.usdc_version);
        let signature = creator.sign_hash_sync(&digest(&payment, &domain)).context("sign the payment")?;
        let call = calls::create_task_with_authorization(
            vault.address,
            &terms,
            &task.metadata,
            window,
            Bytes::from(signature.as_bytes()),
        );
        let id = task_id(&evm, vault.address, &terms);
        let relayed = self.remote(&chain)?.call(party(&creator), &call, &self.fee()?).await?;
        if relayed.success
            && let Err(error) = self.task(&VaultTaskArg { vault: task.vault, task: id }).await
        {
            // Created it is; only the next command may not find it yet.
            eprintln!("The gateway has not read it from the chain yet: {error:#}");
        }
        self.show_relayed("created", Some(id), relayed)
    }

    async fn submit(&self, name: &VaultTaskArg, result: Option<&Path>) -> Result<()> {
        let work = SubmitTaskRequest { result_hash: hash_of(result)? };
        let done = self.holder()?.submit(self.agent_of(name).await?, name.task, &work).await?;
        self.show_transaction("submitted", name.task, &done)
    }

    async fn decline(&self, name: &VaultTaskArg) -> Result<()> {
        let done = self.holder()?.decline(self.agent_of(name).await?, name.task).await?;
        self.show_transaction("declined", name.task, &done)
    }

    /// The agent whose vault is meant: its name is the vault's.
    async fn agent_of(&self, name: &VaultTaskArg) -> Result<PodId> {
        match name.vault {
            VaultName::Agent(agent) => Ok(agent),
            VaultName::Address(address) => {
                self.client.vault(address).await?.pod_id.parse().context("the vault is of no agent of this gateway")
            }
        }
    }

    async fn complete(&self, name: &VaultTaskArg, pay: Option<Usdc>) -> Result<()> {
        let (vault, task) = self.task(name).await?;
        let call = calls::complete(vault, &task.terms, pay.unwrap_or(task.amount));
        self.as_signer("completed", Some(name.task), &call).await
    }

    async fn withdraw(&self, vault: VaultName, amount: Option<Usdc>, to: Option<Address>, credit: bool) -> Result<()> {
        let vault = self.vault(vault).await?;
        let signer = open(self.signer, self.state)?;
        let own = signer.address();
        let owed = vault.credits.get(&own).copied().unwrap_or_default();
        let amount = amount.unwrap_or(if credit { owed } else { vault.available_balance });
        if amount == Usdc::ZERO {
            bail!("there is nothing to withdraw: {} earned, {owed} owed to {own}", vault.available_balance);
        }
        let to = to.unwrap_or(own);
        let call = if credit {
            calls::withdraw_credit(vault.address, to, amount)
        } else {
            calls::withdraw(vault.address, to, amount)
        };
        let chain = self.chain().await?;
        let relayed = self.relay(&chain, &signer, &call).await?;
        self.show_relayed("withdrawn", None, relayed)
    }

    /// A call that must be the signer's own.
    async fn as_signer(&self, what: &'static str, task: Option<TaskId>, call: &Call) -> Result<()> {
        let chain = self.chain().await?;
        let signer = open(self.signer, self.state)?;
        let relayed = self.relay(&chain, &signer, call).await?;
        self.show_relayed(what, task, relayed)
    }

    /// A call that anyone may make; the key would only pay a fee, if one is asked.
    async fn as_anyone(&self, what: &'static str, task: TaskId, call: &Call) -> Result<()> {
        let chain = self.chain().await?;
        let signer = open(self.signer, self.state)?;
        let relayed = self.remote(&chain)?.call(party(&signer), call, &self.fee()?).await?;
        self.show_relayed(what, Some(task), relayed)
    }

    async fn relay(&self, chain: &ChainResponse, signer: &Identity, call: &Call) -> Result<RelayResult> {
        let request = RelayCall {
            to: call.to,
            data: call.data.clone(),
            value: call.value,
            gas: GAS,
            deadline: now_s() + WINDOW_S,
        };
        Ok(self.remote(chain)?.relay(party(signer), &request, &self.fee()?, None).await?)
    }

    fn remote(&self, chain: &ChainResponse) -> Result<RelayClient> {
        if chain.relayer.is_none() {
            bail!("this gateway relays nothing: its operator has not enabled [relayer]");
        }
        let facts = relay::ChainParameters {
            chain_id: chain.chain_id,
            forwarder: chain.forwarder,
            forwarder_name: chain.forwarder_name.clone(),
            factory: chain.factory,
            token: chain.usdc,
            token_name: chain.usdc_name.clone(),
            token_version: chain.usdc_version.clone(),
            relayer: chain.relayer.unwrap_or_default(),
        };
        let config = RelayClientConfig {
            url: self.url.clone(),
            timeout: PATIENCE,
            forwarder_kind: ForwarderKind::Openzeppelin,
            facts,
        };
        Ok(RelayClient::new(config)?)
    }

    /// Nothing is paid for relaying unless somebody says so.
    fn fee(&self) -> Result<MaxFee> {
        Ok(MaxFee { most: self.signer.fee_up_to.unwrap_or_default(), nonce: random()?, now_s: now_s() })
    }

    fn show_transaction(&self, what: &'static str, task: TaskId, done: &wire::v1::vault::TxResponse) -> Result<()> {
        if !done.success {
            eprintln!("It is on its way, and not confirmed yet.");
        }
        Ok(show(self.target.json, &CallOutcome { what, task: Some(task), tx: Some(done.tx) }, output::done)?)
    }

    fn show_relayed(&self, what: &'static str, task: Option<TaskId>, relayed: RelayResult) -> Result<()> {
        match relayed.status {
            Some(wire::v1::relay::CallStatus::Pending) => eprintln!("It is on its way, and not confirmed yet."),
            _ if relayed.success => {}
            _ => bail!("the call did not succeed: {}", relayed.reason.unwrap_or_else(|| "no reason given".to_owned())),
        }
        if let Some(paid) = relayed.paid {
            eprintln!("{paid} USDC were paid for relaying it.");
        }
        Ok(show(self.target.json, &CallOutcome { what, task, tx: relayed.tx }, output::done)?)
    }
}

/// Only whoever sits at a terminal is told.
fn say_waiting(vault: Address) {
    if std::io::stderr().is_terminal() {
        eprintln!("waiting for the vault {vault} to be deployed");
    }
}

/// What stands between an agent and its vault, and what to do next.
fn must_be_there(agent: PodId, vault: AgentVault) -> Result<AgentVault> {
    let next = format!("have it deployed: palatine vault deploy {agent}");
    match vault.state {
        VaultState::Deployed => Ok(vault),
        VaultState::Deploying => bail!(
            "the vault {} of {agent} is still being deployed after {} s; see how far it is: palatine status {agent}",
            vault.address,
            DEPLOY_LIMIT.as_secs()
        ),
        VaultState::Unsigned => bail!("{agent} has no vault yet, as its owner has not signed for it; {next}"),
        VaultState::Failed => {
            bail!(
                "the vault of {agent} was not deployed: {}; {next}",
                vault.reason.as_deref().unwrap_or("no reason given")
            )
        }
    }
}

const fn party(identity: &Identity) -> RelayCallSigner<'_> {
    RelayCallSigner { address: identity.address(), key: identity }
}

/// The token must be one that we know by ourselves: what we sign moves it.
fn known_token(chain: &ChainResponse, stack: Option<&LocalStackInfo>) -> Result<()> {
    let known = x402::Config::default().tokens();
    let real = known.at(chain.chain_id, chain.usdc).is_some();
    let local = stack.is_some_and(|stack| (stack.usdc, stack.factory) == (chain.usdc, chain.factory));
    if real || local {
        return Ok(());
    }
    bail!(
        "the gateway's token {} is no USDC that is known here on chain {}; nothing was signed",
        chain.usdc,
        chain.chain_id
    )
}

/// What is signed for on this chain.
fn config(chain: &ChainResponse) -> EvmConfig {
    let mut config = EvmConfig::new(Vec::new(), chain.chain_id, chain.usdc, chain.factory, chain.forwarder);
    config.usdc_name = chain.usdc_name.clone();
    config
}

fn terms(task: &CreateTask, vault: &VaultResponse, creator: Address, now: u64, salt: B256) -> TaskTerms {
    TaskTerms {
        creator,
        evaluator: task.evaluator.unwrap_or_default(),
        arbiter: vault.arbiter,
        fee_recipient: vault.fee_recipient,
        amount: task.amount,
        min_paid: task.at_least.unwrap_or(task.amount),
        submit_by: now + u64::from(task.submit_within.seconds),
        review_period: task.review.seconds,
        arbiter_period: task.arbitration.seconds,
        default_agent_bps: task.default_agent_bps,
        fee_bps: vault.fee_bps,
        metadata_hash: keccak256(task.metadata.as_bytes()),
        salt,
    }
}

fn hash_of(result: Option<&Path>) -> Result<B256> {
    let mut bytes = Vec::new();
    let read = match result {
        Some(path) => std::fs::File::open(path).and_then(|file| file.take(MAX_RESULT + 1).read_to_end(&mut bytes)),
        None => std::io::stdin().take(MAX_RESULT + 1).read_to_end(&mut bytes),
    };
    read.context("read the result")?;
    anyhow::ensure!(bytes.len() as u64 <= MAX_RESULT, "the result is larger than {MAX_RESULT} bytes");
    Ok(keccak256(&bytes))
}

/// This machine's clock, in Unix seconds.
fn now_s() -> u64 {
    SystemClock.now().0 / 1000
}

fn random() -> Result<B256> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context("gather randomness")?;
    Ok(B256::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_that_does_not_stand_is_told_with_what_to_do_next() {
        let agent: PodId = "agent-123".parse().unwrap();
        let vault = |state, reason: Option<&str>| {
            let (owner, address) = (Address::repeat_byte(1), Address::repeat_byte(2));
            let reason = reason.map(str::to_owned);
            let vault = AgentVault { chain_id: 1, address, owner, agent_wallet: owner, state, tx: None, reason };
            must_be_there(agent, vault)
        };
        assert!(vault(VaultState::Deployed, None).is_ok());
        for (state, reason, told) in [
            (
                VaultState::Unsigned,
                None,
                "its owner has not signed for it; have it deployed: palatine vault deploy agent-123",
            ),
            (
                VaultState::Failed,
                Some("the chain reverted it"),
                "was not deployed: the chain reverted it; have it deployed",
            ),
            (
                VaultState::Deploying,
                None,
                "still being deployed after 120 s; see how far it is: palatine status agent-123",
            ),
        ] {
            let said = vault(state, reason).unwrap_err().to_string();
            assert!(said.contains(told), "{said}");
        }
    }
}

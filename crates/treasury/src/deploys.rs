//! The agents' vaults: where each will be, its owner's consent, its way onto the
//! chain. Every step is written down before it is taken and may be taken again.

use std::net::IpAddr;
use std::time::Duration;

use alloy_primitives::Signature;
use chain::evm::calls::{self, DeadlineSignature};
use chain::evm::{BlockTag, EvmError, SendError, Sender, VaultStanding};
use domain::evm::{IntentKey, TransactionOutcome};
use domain::{Address, Bytes, ClientAddr, Clock, PodId, UnixMillis, Wallet};
use relay::{Beneficiary, CallPurpose, GasSpend};
use store::{DeployState, VaultConsent, VaultDeploy};
use wire::v1::vault::{AgentVault, DeployRequest};

use crate::error::TreasuryError;
use crate::handle::Inner;
use crate::identities::IfMissing;
use crate::services::ChainServices;
use crate::view;

/// An owner's signature must still be good for so long.
const MIN_WINDOW_S: u64 = 60;
/// An owner's signature is not taken for longer than this.
const MAX_WINDOW_S: u64 = 7 * 24 * 60 * 60;
/// Nothing follows from it, nor is one sent.
pub(crate) const UNCONFIRMED: &str = "the agent's vault is in a block that is not deep enough yet";
/// How often what is on its way is looked at, without a signal.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Inner {
    /// An agent's vault, as far as it is known without asking anybody.
    pub(crate) async fn known(&self, agent: PodId) -> Result<Option<AgentVault>, TreasuryError> {
        let deploy = self.store.deploy_of(agent).await?;
        Ok(deploy.map(|deploy| view::deploy(self.evm.chain_id, deploy)))
    }

    /// Whether a vault that our index does not have is being deployed.
    pub(crate) async fn is_on_its_way(&self, vault: Address) -> Result<bool, TreasuryError> {
        Ok(self.fresh.contains_key(&vault) || self.store.is_deploying(vault).await?)
    }

    /// An agent's vault; `None` while its holder is linked to no owner. The first
    /// time, this asks the chain for the address and makes the agent's key. A vault
    /// that somebody else has deployed is found; where it stands for a key that is not
    /// here, none is made, and [`TreasuryError::KeyMissing`] says so.
    pub(crate) async fn ensure(
        &self,
        agent: PodId,
        holder: Wallet,
        now: UnixMillis,
    ) -> Result<Option<VaultDeploy>, TreasuryError> {
        let known = self.store.deploy_of(agent).await?;
        let under_way = |known: &VaultDeploy| matches!(known.state, DeployState::Deploying | DeployState::Deployed);
        if known.as_ref().is_some_and(under_way) {
            return Ok(known);
        }
        let Some(link) = self.store.link_of(holder).await? else { return Ok(known) };
        let services = self.services()?;
        // Until the owner has signed, the holder's newest link counts.
        let here = known.as_ref().filter(|known| known.owner == link.owner);
        let address = match here {
            Some(here) => here.address,
            None => services.chain.vault_of(agent.as_str(), link.owner).await.map_err(unanswered)?,
        };
        let standing = services.chain.standing(address).await.map_err(unanswered)?;
        let agent_wallet = match (self.identities.find(agent, now).await?, standing) {
            (Some(key), _) => key.address(),
            (None, VaultStanding::Absent) => self.new_wallet(agent, known.as_ref(), now).await?,
            (None, VaultStanding::Unconfirmed) => return Err(TreasuryError::Unavailable(UNCONFIRMED.to_owned())),
            (None, VaultStanding::Confirmed { agent_wallet: wallet }) => {
                let missing = TreasuryError::KeyMissing { pod: agent, vault: address, wallet };
                // What was told of the agent's own key stays known.
                if !is_told(known.as_ref()) {
                    let deploy = failed(drafted(agent, link.owner, wallet, address), missing.to_string());
                    self.store.put_deploy(deploy, now).await?;
                }
                return Err(missing);
            }
        };
        let before = here.filter(|here| here.agent_wallet == agent_wallet).cloned();
        let deploy = seen(before.unwrap_or_else(|| drafted(agent, link.owner, agent_wallet, address)), standing);
        self.note(deploy.clone(), now).await?;
        Ok(Some(deploy))
    }

    /// The address of a new key, unless that of the agent's own was told already.
    async fn new_wallet(
        &self,
        agent: PodId,
        known: Option<&VaultDeploy>,
        now: UnixMillis,
    ) -> Result<Address, TreasuryError> {
        let if_missing = if is_told(known) { IfMissing::Refuse } else { IfMissing::Create };
        Ok(self.identities.of(agent, if_missing, now).await?.address())
    }

    /// Takes an owner's consent, and has the vault deployed.
    pub(crate) async fn consent(
        &self,
        agent: PodId,
        holder: Wallet,
        request: &DeployRequest,
        client: IpAddr,
        now: UnixMillis,
    ) -> Result<AgentVault, TreasuryError> {
        let deploy = self.ensure(agent, holder, now).await?.ok_or(TreasuryError::NotLinked)?;
        match deploy.state {
            DeployState::Deployed => return Ok(view::deploy(self.evm.chain_id, deploy)),
            DeployState::Deploying => return Err(TreasuryError::Underway(DeployState::Deploying.as_str())),
            DeployState::Unsigned | DeployState::Failed => {}
        }
        let consent = read_consent(request, now)?;
        let services = self.services()?;
        let sender = services.sender.as_ref().ok_or(TreasuryError::NoRelayer)?;
        let deploy =
            VaultDeploy { state: DeployState::Deploying, consent: Some(consent), tx: None, reason: None, ..deploy };
        let call = call(self.evm.factory, &deploy).ok_or(TreasuryError::Signature)?;
        // Tried first: what the factory would refuse is refused here, with its reason.
        services.chain.evm.call(&call, Some(sender.account().address), BlockTag::Latest).await.map_err(refused)?;
        let gas = services.chain.evm.gas_limit(&call, sender.account().address).await.map_err(refused)?;
        let relayer = services.relayer.as_ref().ok_or(TreasuryError::NoRelayer)?;
        let key = key(&deploy).ok_or(TreasuryError::Signature)?;
        let beneficiary = Some(Beneficiary::Holder(holder));
        let spend = GasSpend { class: CallPurpose::Deploy, wallet: deploy.owner, beneficiary, gas };
        relayer.spend(key.as_str(), spend, Some(ClientAddr::of(client))).await?;
        self.store.put_deploy(deploy.clone(), now).await?;
        self.signal.notify_one();
        Ok(view::deploy(self.evm.chain_id, deploy))
    }

    /// Carries what is on its way, for ever.
    pub(crate) async fn carry_deploys(&self) {
        loop {
            if let Err(error) = self.carry_all().await {
                tracing::warn!(%error, "vaults cannot be deployed now; trying again");
            }
            let _ = tokio::time::timeout(LOOK_EVERY, self.signal.notified()).await;
        }
    }

    async fn carry_all(&self) -> Result<(), TreasuryError> {
        let under_way = self.store.deploying().await?;
        if under_way.is_empty() {
            return Ok(());
        }
        let services = self.services()?;
        for deploy in under_way {
            let agent = deploy.pod;
            match self.carry(&services, deploy).await {
                Ok(VaultDeploy { address, state, .. }) => {
                    tracing::info!(%agent, vault = %address, state = state.as_str(), "a vault's deployment went on");
                }
                Err(error) => {
                    tracing::warn!(%agent, %error, "a vault cannot be deployed now; trying again");
                    // However many cannot: they are listed after those that may.
                    self.store.postpone_deploy(agent, self.clock.now()).await?;
                }
            }
        }
        Ok(())
    }

    async fn carry(&self, services: &ChainServices, deploy: VaultDeploy) -> Result<VaultDeploy, TreasuryError> {
        let standing = services.chain.standing(deploy.address).await.map_err(unanswered)?;
        if standing == VaultStanding::Unconfirmed {
            return Err(TreasuryError::Unavailable(UNCONFIRMED.to_owned()));
        }
        let mut next = seen(deploy, standing);
        if next.state == DeployState::Deploying && next.consent.is_none() {
            // One that was said to stand, when its key was given: nobody waits for who could send it.
            next = unsigned(next, "no vault stands, and its owner has not signed for one".to_owned());
        }
        if next.state == DeployState::Deploying {
            let sender = services.sender.as_ref().ok_or(TreasuryError::NoRelayer)?;
            next = deployed(self.evm.factory, sender, next).await?;
        }
        self.note(next.clone(), self.clock.now()).await?;
        Ok(next)
    }

    async fn note(&self, deploy: VaultDeploy, now: UnixMillis) -> Result<(), TreasuryError> {
        if deploy.state == DeployState::Deployed {
            // Before it counts as deployed: at every instant it is known as one or the other.
            self.fresh.insert(deploy.address, ()).await;
        }
        Ok(self.store.put_deploy(deploy, now).await?)
    }
}

/// Sends the deployment, once, and waits for its end.
async fn deployed(factory: Address, sender: &Sender, deploy: VaultDeploy) -> Result<VaultDeploy, TreasuryError> {
    let (Some(call), Some(key)) = (call(factory, &deploy), key(&deploy)) else {
        return Ok(unsigned(deploy, "its owner's signature is lost".to_owned()));
    };
    match sender.execute(&key, &call).await {
        Ok(TransactionOutcome::Mined(mined)) if mined.success => {
            Ok(VaultDeploy { state: DeployState::Deployed, tx: Some(mined.hash), ..deploy })
        }
        Ok(TransactionOutcome::Mined(mined)) => {
            Ok(failed(VaultDeploy { tx: Some(mined.hash), ..deploy }, "the chain reverted it".to_owned()))
        }
        Ok(TransactionOutcome::Lost { .. }) => {
            Ok(failed(deploy, "the relayer's account sent something else".to_owned()))
        }
        Err(SendError::Evm(EvmError::Reverted(revert))) => Ok(failed(deploy, revert.to_string())),
        Err(error) => Err(TreasuryError::Unavailable(error.to_string())),
    }
}

/// How far a vault is, given how it stands, whoever put it there.
fn seen(deploy: VaultDeploy, standing: VaultStanding) -> VaultDeploy {
    match standing {
        VaultStanding::Absent | VaultStanding::Unconfirmed => deploy,
        VaultStanding::Confirmed { agent_wallet } if agent_wallet == deploy.agent_wallet => {
            VaultDeploy { state: DeployState::Deployed, reason: None, ..deploy }
        }
        VaultStanding::Confirmed { agent_wallet: wallet } => {
            let reason = format!("{}{wallet}", VaultDeploy::OTHER_WALLET);
            // One that failed without a signature would count as another key's.
            if deploy.consent.is_none() { unsigned(deploy, reason) } else { failed(deploy, reason) }
        }
    }
}

/// Whether the address of the agent's own key was told: another one would be another agent.
fn is_told(known: Option<&VaultDeploy>) -> bool {
    known.is_some_and(|known| !known.is_for_another_key())
}

/// Where an agent's vault will be.
const fn drafted(pod: PodId, owner: Address, agent_wallet: Address, address: Address) -> VaultDeploy {
    let state = DeployState::Unsigned;
    VaultDeploy { pod, owner, agent_wallet, address, state, consent: None, tx: None, reason: None }
}

fn unsigned(deploy: VaultDeploy, reason: String) -> VaultDeploy {
    VaultDeploy { state: DeployState::Unsigned, consent: None, reason: Some(reason), ..deploy }
}

fn failed(deploy: VaultDeploy, reason: String) -> VaultDeploy {
    VaultDeploy { state: DeployState::Failed, reason: Some(reason), ..deploy }
}

fn call(factory: Address, deploy: &VaultDeploy) -> Option<domain::evm::Call> {
    let consent = deploy.consent.as_ref()?;
    let signed = DeadlineSignature { deadline: consent.deadline, signature: Bytes::from(consent.signature.clone()) };
    Some(calls::create_vault(factory, deploy.pod.as_str(), deploy.owner, deploy.agent_wallet, Some(&signed)))
}

/// One intent a consent: a new signature is a new try.
fn key(deploy: &VaultDeploy) -> Option<IntentKey> {
    let deadline = deploy.consent.as_ref()?.deadline;
    format!("vault:{}:{}:{deadline}", deploy.pod, deploy.owner).parse().ok()
}

fn read_consent(request: &DeployRequest, now: UnixMillis) -> Result<VaultConsent, TreasuryError> {
    let ahead = request.deadline.saturating_sub(now.0 / 1000);
    if !(MIN_WINDOW_S..=MAX_WINDOW_S).contains(&ahead) {
        return Err(TreasuryError::Deadline { least: MIN_WINDOW_S, most: MAX_WINDOW_S });
    }
    let signature: Signature =
        request.signature.parse().map_err(|error| TreasuryError::Malformed(format!("{error}")))?;
    Ok(VaultConsent { deadline: request.deadline, signature: signature.as_bytes().to_vec() })
}

pub(crate) fn unanswered(error: EvmError) -> TreasuryError {
    TreasuryError::Unavailable(error.to_string())
}

fn refused(error: EvmError) -> TreasuryError {
    match error {
        EvmError::Reverted(revert) => TreasuryError::Reverts(revert.to_string()),
        error => unanswered(error),
    }
}

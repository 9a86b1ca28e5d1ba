//! A local chain with our contracts on it, and a relayer whose account is anvil's
//! second one.

use std::sync::Arc;

use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, B256, U256};
use chain::evm::fake::MemoryOutbox;
use chain::evm::{BlockTag, EvmConfig, LocalContracts, Sender, SigningKey, calls, deploy_local, typed};
use domain::evm::Outbox;
use domain::relay::RelayJournal;
use domain::{SystemClock, Usdc};
use palatine_relay::fake::{MemoryJournal, TestRequest, TestWallet};
use palatine_relay::{Config, EvmChain, RelayError, RelayResponse, Relayer, SponsorAll};
use serde_json::json;
use wire::v1::relay::RelayAnswer;

use crate::fixture::{HERE, body};

use fixtures::ACCOUNT_KEYS;
pub(crate) use fixtures::{Anvil, CHAIN_ID, PATIENCE, now_s};

/// The account that deploys: anvil's first one.
pub(crate) fn deployer() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&ACCOUNT_KEYS[0]).unwrap()
}

/// The account that relays: anvil's second one.
pub(crate) fn relayer_key() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&ACCOUNT_KEYS[1]).unwrap()
}

/// Our contracts, and this much USDC for each of these.
pub(crate) async fn deploy(anvil: &Anvil, holders: &[Address], funds: Usdc) -> EvmConfig {
    let key = SigningKey::new(deployer());
    let mut deployed: Option<LocalContracts> = None;
    for holder in holders {
        deployed = Some(deploy_local(anvil.endpoint(), CHAIN_ID, &key, *holder, funds).await.unwrap());
    }
    deployed.unwrap().config(anvil.endpoint(), CHAIN_ID)
}

/// A relayer on a chain, over this outbox and journal.
pub(crate) async fn relayer(
    evm: &EvmConfig,
    config: Config,
    outbox: Arc<dyn Outbox>,
    journal: Arc<dyn RelayJournal>,
) -> (Relayer, Arc<EvmChain>) {
    let chain = Arc::new(chain::evm::CheckedChain::connect(evm).await.unwrap());
    let sender = Sender::start(Arc::clone(&chain), outbox, SigningKey::new(relayer_key())).await.unwrap();
    let chain = Arc::new(EvmChain::new(chain, sender));
    let (on, clock) = (Arc::clone(&chain) as _, Arc::new(SystemClock));
    let relayer = Relayer::sponsoring(config, on, journal, clock, Arc::new(SponsorAll)).unwrap();
    (relayer, chain)
}

/// A relayer on a chain of its own, with two vaults of two owners.
pub(crate) struct RelayStack {
    pub(crate) anvil: Anvil,
    pub(crate) evm: EvmConfig,
    pub(crate) chain: chain::evm::CheckedChain,
    pub(crate) relayer: Relayer,
    pub(crate) facts: palatine_relay::ChainParameters,
}

impl RelayStack {
    pub(crate) async fn start(config: Config, holders: &[Address]) -> Self {
        let anvil = Anvil::start(&[]);
        let evm = deploy(&anvil, holders, Usdc(1_000_000_000)).await;
        let evm = EvmConfig { poll_ms: 50, ..evm };
        let (outbox, journal): (Arc<MemoryOutbox>, Arc<MemoryJournal>) = Default::default();
        let (relayer, _) = relayer(&evm, config, outbox, journal).await;
        let chain = chain::evm::CheckedChain::connect(&evm).await.unwrap();
        let facts = palatine_relay::facts(&chain, relayer_key().address());
        Self { anvil, evm, chain, relayer, facts }
    }

    /// Deploys a vault by its owner's signature alone.
    pub(crate) async fn vault(&self, pod: &str, owner: &TestWallet, agent: Address) -> Address {
        let call = vault_call(&self.evm, pod, owner, agent);
        let answer = self.call(&call).await.unwrap();
        assert!(answer.body.success, "{answer:?}");
        self.chain.vault_of(pod, owner.address()).await.unwrap()
    }

    pub(crate) async fn call(&self, call: &domain::evm::Call) -> Result<RelayResponse<RelayAnswer>, RelayError> {
        let body = json!({"to": call.to, "data": call.data}).to_string();
        self.relayer.call(body.as_bytes(), None, HERE).await
    }

    /// Has a call relayed in a wallet's name, at its next nonce.
    pub(crate) async fn relay(
        &self,
        wallet: &TestWallet,
        call: &domain::evm::Call,
    ) -> Result<RelayResponse<RelayAnswer>, RelayError> {
        let signed = wallet.ask(&self.facts, &self.ask(wallet.address(), call).await);
        self.relayer.relay(&body(&signed), None, HERE).await
    }

    pub(crate) async fn ask(&self, from: Address, call: &domain::evm::Call) -> TestRequest {
        let nonce = self.chain.forwarder_nonce(from).await.unwrap().to();
        TestRequest {
            to: call.to,
            data: call.data.clone(),
            nonce,
            gas: 300_000,
            value: U256::ZERO,
            deadline: now_s() + 3600,
        }
    }

    pub(crate) async fn usdc(&self, of: Address) -> u64 {
        self.chain.usdc_of(of, BlockTag::Latest).await.unwrap().0
    }

    pub(crate) async fn balance_wei(&self, of: Address) -> U256 {
        self.chain.evm.balance_wei(of).await.unwrap()
    }
}

/// `createPODVault`, signed by its owner.
pub(crate) fn vault_call(evm: &EvmConfig, pod: &str, owner: &TestWallet, agent: Address) -> domain::evm::Call {
    let deadline = now_s() + 3600;
    let consent = typed::CreateVault {
        podId: pod.to_owned(),
        owner: owner.address(),
        agentWallet: agent,
        deadline: U256::from(deadline),
    };
    let signature = owner.sign(typed::digest(&consent, &typed::factory_domain(evm))).parse().unwrap();
    calls::create_vault(
        evm.factory,
        pod,
        owner.address(),
        agent,
        Some(&calls::DeadlineSignature { deadline, signature }),
    )
}

pub(crate) fn word(number: u8) -> B256 {
    B256::repeat_byte(number)
}

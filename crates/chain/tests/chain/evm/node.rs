//! A development chain of the test's own, our contracts on it, and people.

use std::sync::Arc;

use alloy::primitives::keccak256;
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use domain::evm::{Call, TransactionOutcome};
use domain::vault::TaskTerms;
use domain::{Address, B256, Bytes, Usdc};
use palatine_chain::Endpoint;
use palatine_chain::evm::fake::MemoryOutbox;
use palatine_chain::evm::{
    CheckedChain, EvmConfig, LocalContracts, SendError, Sender, SigningKey, calls, deploy_local, typed,
};
use tokio::time::timeout;

pub(crate) use fixtures::{Anvil, CHAIN_ID, PATIENCE, number};
/// What everybody has at first.
pub(crate) const FUNDS: Usdc = Usdc(1_000_000_000);

/// Somebody with a key.
#[derive(Clone)]
pub(crate) struct Person {
    signer: PrivateKeySigner,
}

impl Person {
    pub(crate) fn new(name: &str) -> Self {
        Self { signer: PrivateKeySigner::from_bytes(&keccak256(name)).unwrap() }
    }

    pub(crate) fn address(&self) -> Address {
        self.signer.address()
    }

    pub(crate) fn key(&self) -> SigningKey {
        SigningKey::new(self.signer.clone())
    }

    pub(crate) fn sign(&self, hash: B256) -> Bytes {
        self.signer.sign_hash_sync(&hash).unwrap().as_bytes().to_vec().into()
    }
}

/// A chain with our contracts, and a person who pays for gas.
pub(crate) struct Fixture {
    pub(crate) anvil: Anvil,
    pub(crate) deployed: LocalContracts,
    pub(crate) chain: Arc<CheckedChain>,
    pub(crate) boss: Person,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::start_with(|config| config).await
    }

    pub(crate) async fn start_with(set: impl FnOnce(EvmConfig) -> EvmConfig) -> Self {
        let anvil = Anvil::start(&[]);
        let boss = Person::new("boss");
        anvil.give_coins(boss.address()).await;
        let deployed = deploy(&anvil, &boss, boss.address()).await;
        let config = set(config(&deployed, vec![anvil.endpoint()]));
        let chain = Arc::new(CheckedChain::connect(&config).await.unwrap());
        Self { anvil, deployed, chain, boss }
    }

    /// The same contracts through other endpoints.
    pub(crate) async fn through(&self, endpoints: Vec<Endpoint>) -> Arc<CheckedChain> {
        Arc::new(CheckedChain::connect(&config(&self.deployed, endpoints)).await.unwrap())
    }

    /// Somebody with test USDC and coins.
    pub(crate) async fn person(&self, name: &str) -> Person {
        let person = Person::new(name);
        self.anvil.give_coins(person.address()).await;
        deploy(&self.anvil, &self.boss, person.address()).await;
        person
    }

    pub(crate) async fn sender(&self, person: &Person) -> Sender {
        Sender::start(Arc::clone(&self.chain), Arc::new(MemoryOutbox::default()), person.key()).await.unwrap()
    }

    /// Sends a call and waits for it; it must take effect.
    pub(crate) async fn does(&self, person: &Person, call: &Call) {
        let outcome = self.tries(person, call).await.unwrap();
        assert!(matches!(outcome, TransactionOutcome::Mined(mined) if mined.success), "{outcome:?}");
    }

    /// Sends a call and waits for its end.
    pub(crate) async fn tries(&self, person: &Person, call: &Call) -> Result<TransactionOutcome, SendError> {
        let key = "once".parse().unwrap();
        let sender = self.sender(person).await;
        timeout(PATIENCE, sender.execute(&key, call)).await.expect("a transaction ends")
    }

    /// A vault of this pod, made by the boss with the owner's signature.
    pub(crate) async fn vault(&self, pod_id: &str, owner: &Person, agent: &Person) -> Address {
        let deadline = self.anvil.now().await + 3600;
        let consent = consent(&self.chain, pod_id, owner, agent, deadline);
        let call = calls::create_vault(self.deployed.factory, pod_id, owner.address(), agent.address(), Some(&consent));
        self.does(&self.boss, &call).await;
        self.chain.vault_of(pod_id, owner.address()).await.unwrap()
    }

    /// Terms of a task that is worth a few USDC.
    pub(crate) async fn terms(&self, creator: &Person, salt: u8) -> TaskTerms {
        TaskTerms {
            creator: creator.address(),
            evaluator: Address::ZERO,
            arbiter: Address::ZERO,
            fee_recipient: Address::ZERO,
            amount: Usdc(5_000_000),
            min_paid: Usdc(1_000_000),
            submit_by: self.anvil.now().await + 3600,
            review_period: 600,
            arbiter_period: 900,
            default_agent_bps: 2_500,
            fee_bps: 0,
            metadata_hash: keccak256(METADATA),
            salt: B256::with_last_byte(salt),
        }
    }

    /// The call that creates a task by signature alone; anyone may send it.
    pub(crate) async fn funded(&self, vault: Address, creator: &Person, terms: &TaskTerms) -> Call {
        let window = typed::ValidityWindow { after: 0, before: self.anvil.now().await + 3600 };
        let payment = typed::task_payment(self.chain.evm.config(), vault, terms, window);
        let signature = creator.sign(typed::digest(&payment, &self.chain.usdc_domain));
        calls::create_task_with_authorization(vault, terms, METADATA, window, signature)
    }
}

pub(crate) const METADATA: &str = "translate this";

pub(crate) fn consent(
    chain: &CheckedChain,
    pod_id: &str,
    owner: &Person,
    agent: &Person,
    deadline: u64,
) -> calls::DeadlineSignature {
    let message = typed::CreateVault {
        podId: pod_id.to_owned(),
        owner: owner.address(),
        agentWallet: agent.address(),
        deadline: domain::U256::from(deadline),
    };
    let domain = typed::factory_domain(chain.evm.config());
    calls::DeadlineSignature { deadline, signature: owner.sign(typed::digest(&message, &domain)) }
}

pub(crate) async fn deploy(anvil: &Anvil, boss: &Person, holder: Address) -> LocalContracts {
    deploy_local(anvil.endpoint(), CHAIN_ID, &boss.key(), holder, FUNDS).await.unwrap()
}

/// Impatient settings over these endpoints.
pub(crate) fn config(deployed: &LocalContracts, endpoints: Vec<Endpoint>) -> EvmConfig {
    let first = endpoints[0].clone();
    EvmConfig {
        endpoints,
        poll_ms: 20,
        timeout_ms: 2000,
        deadline_ms: 8000,
        backoff_ms: 10,
        bench_ms: 0,
        ..deployed.config(first, CHAIN_ID)
    }
}

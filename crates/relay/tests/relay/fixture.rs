//! A relayer on a chain in memory.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use domain::Address;
use domain::relay::RelayJournal;
use palatine_relay::chain::{Chain, ChainParameters};
use palatine_relay::fake::{FakeChain, FakeClock, MemoryJournal, TestRequest, TestWallet};
use palatine_relay::{Config, FeePolicy, RelayError, RelayResponse, Relayer, SponsorAll};
use serde_json::{Value, json};
use wire::v1::relay::{BatchAnswer, PaymentRequired, RelayAnswer, SignedRequest};

/// A vault of ours.
pub(crate) const VAULT: Address = Address::repeat_byte(0x7a);
/// Where clients are.
pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// `acceptOwnership()`.
pub(crate) const CALL: [u8; 4] = [0x79, 0xba, 0x50, 0x97];

pub(crate) struct Fixture {
    pub(crate) chain: Arc<FakeChain>,
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) relayer: Relayer,
}

impl Default for Fixture {
    fn default() -> Self {
        Self::new(Config { wait_ms: 2000, ..Config::default() })
    }
}

impl Fixture {
    pub(crate) fn new(config: Config) -> Self {
        let chain = Arc::new(FakeChain::default());
        chain.add_vault(VAULT);
        Self::over(config, chain, Arc::default())
    }

    pub(crate) fn charging() -> Self {
        Self::new(Config { fee: FeePolicy::Charged, wait_ms: 2000, ..Config::default() })
    }

    pub(crate) fn over(config: Config, chain: Arc<FakeChain>, journal: Arc<MemoryJournal>) -> Self {
        let clock = Arc::new(FakeClock::default());
        let parts: (Arc<dyn Chain>, Arc<dyn RelayJournal>) = (chain.clone(), journal.clone());
        let relayer = Relayer::sponsoring(config, parts.0, parts.1, clock.clone(), Arc::new(SponsorAll)).unwrap();
        Self { chain, journal, clock, relayer }
    }

    pub(crate) fn facts(&self) -> &ChainParameters {
        self.chain.facts()
    }

    pub(crate) fn signed(&self, wallet: &TestWallet, nonce: u64) -> SignedRequest {
        wallet.ask(self.facts(), &ask(nonce))
    }

    pub(crate) async fn relay(&self, signed: &SignedRequest) -> Result<RelayResponse<RelayAnswer>, RelayError> {
        self.relay_paid(signed, None).await
    }

    pub(crate) async fn relay_paid(
        &self,
        signed: &SignedRequest,
        payment: Option<&str>,
    ) -> Result<RelayResponse<RelayAnswer>, RelayError> {
        self.relayer.relay(&body(signed), payment, HERE).await
    }

    pub(crate) async fn batch(&self, requests: &[SignedRequest]) -> Result<RelayResponse<BatchAnswer>, RelayError> {
        self.batch_paid(requests, None).await
    }

    pub(crate) async fn batch_paid(
        &self,
        requests: &[SignedRequest],
        payment: Option<&str>,
    ) -> Result<RelayResponse<BatchAnswer>, RelayError> {
        self.relayer.batch(json!({ "requests": requests }).to_string().as_bytes(), payment, HERE).await
    }

    /// The terms of a request that comes without a payment.
    pub(crate) async fn terms(&self, signed: &SignedRequest) -> PaymentRequired {
        match self.relay(signed).await {
            Err(RelayError::PaymentRequired(terms)) => *terms,
            other => panic!("no terms: {other:?}"),
        }
    }
}

/// What most tests ask for.
pub(crate) fn ask(nonce: u64) -> TestRequest {
    TestRequest { to: VAULT, data: CALL.into(), nonce, ..TestRequest::default() }
}

pub(crate) fn body(signed: &SignedRequest) -> Vec<u8> {
    serde_json::to_vec(signed).unwrap()
}

/// Status and body of a refusal, as the wire has them.
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, RelayError>) -> (u16, Value) {
    let error = answer.unwrap_err();
    (error.status(), serde_json::to_value(error.body()).unwrap())
}

/// The code of a refusal.
pub(crate) fn code<T: std::fmt::Debug>(answer: Result<T, RelayError>) -> &'static str {
    answer.unwrap_err().code()
}

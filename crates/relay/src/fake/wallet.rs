//! Wallets that sign requests and payments.

use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy_primitives::{Address, B256, Bytes, U256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::Usdc;
use domain::payment::Authorization;
use wire::v1::relay::{ExactPayload, FeePayment, PaymentRequirements, SignedRequest};

use super::EPOCH_S;
use crate::chain::ChainParameters;
use crate::payment::to_wire;
use crate::request::VerifiedRequest;

/// A wallet with a key of its own, made from a number.
#[derive(Clone, Debug)]
pub struct TestWallet(PrivateKeySigner);

/// What a test asks to be relayed. `Default` is a call of nothing, good for an hour.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named as the fields of the request")]
pub struct TestRequest {
    pub to: Address,
    pub data: Bytes,
    pub nonce: u64,
    pub gas: u64,
    pub value: U256,
    pub deadline: u64,
}

impl Default for TestRequest {
    fn default() -> Self {
        let deadline = EPOCH_S + 3600;
        Self { to: Address::ZERO, data: Bytes::new(), nonce: 0, gas: 200_000, value: U256::ZERO, deadline }
    }
}

impl TestWallet {
    /// The wallet of this number; never zero.
    #[must_use]
    pub fn new(number: u64) -> Self {
        let key = B256::from(U256::from(number.max(1)) << 64);
        #[expect(clippy::expect_used, reason = "a number under the curve's order is a key")]
        Self(PrivateKeySigner::from_bytes(&key).expect("a key"))
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.0.address()
    }

    /// Its key, for those who sign otherwise.
    #[must_use]
    pub const fn signer(&self) -> &PrivateKeySigner {
        &self.0
    }

    /// Signs what it asks for itself.
    #[must_use]
    pub fn ask(&self, facts: &ChainParameters, ask: &TestRequest) -> SignedRequest {
        self.ask_as(self.address(), facts, ask)
    }

    /// Signs a request in somebody's name.
    #[must_use]
    pub fn ask_as(&self, from: Address, facts: &ChainParameters, ask: &TestRequest) -> SignedRequest {
        let request = VerifiedRequest {
            from,
            to: ask.to,
            value: ask.value,
            gas: ask.gas,
            nonce: U256::from(ask.nonce),
            deadline: ask.deadline,
            data: ask.data.clone(),
            signature: Bytes::new(),
            digest: B256::ZERO,
        };
        let signature = self.sign(request.digest(facts).unwrap_or_default());
        SignedRequest { request: request.to_wire(), signature }
    }

    /// An `X-Payment` for these terms, by this nonce.
    #[must_use]
    pub fn pay(&self, facts: &ChainParameters, terms: &PaymentRequirements, nonce: u64) -> String {
        let authorization = Authorization {
            chain_id: facts.chain_id,
            asset: facts.token,
            from: self.address(),
            to: terms.pay_to.parse().unwrap_or_default(),
            value: Usdc::from_micros(&terms.max_amount_required).unwrap_or_default(),
            valid_after: U256::from(EPOCH_S - 60),
            valid_before: U256::from(EPOCH_S + 3600),
            nonce: B256::from(U256::from(nonce)),
        };
        self.pay_by(facts, &terms.network, &authorization)
    }

    /// An `X-Payment` with this authorization.
    #[must_use]
    pub fn pay_by(&self, facts: &ChainParameters, network: &str, authorization: &Authorization) -> String {
        let payment = FeePayment {
            version: wire::v1::relay::X402_VERSION,
            scheme: "exact".to_owned(),
            network: network.to_owned(),
            payload: ExactPayload {
                signature: self.sign(authorization.digest(facts.token_separator())),
                authorization: to_wire(authorization),
            },
        };
        STANDARD.encode(serde_json::to_vec(&payment).unwrap_or_default())
    }

    /// Signs a digest: r, s, v in hexadecimal.
    #[must_use]
    pub fn sign(&self, digest: B256) -> String {
        let signature = self.0.sign_hash_sync(&digest).map(|it| it.as_bytes().to_vec());
        Bytes::from(signature.unwrap_or_default()).to_string()
    }
}

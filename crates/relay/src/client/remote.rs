//! A method for each route.

use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes, U256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use domain::Usdc;
use domain::evm::Call;
use domain::payment::Authorization;
use serde::{Deserialize, Serialize};
use wire::v1::relay::{
    BatchRequest, CallStatus, DomainAnswer, EstimateAnswer, EstimateQuery, ExactPayload, FeePayment, MAX_BATCH,
    NonceAnswer, PaymentRequired, Priority, RelayCallRequest, RelayRequest, RelayerHealth, SignedRequest, X402_VERSION,
};

use super::http::{HttpClient, HttpResponse};
use super::terms::{ForwarderKind, check_domain, choose};
use super::{ClientError, MaxFee, RelayCall, RelayCallSigner, RelayResult};
use crate::chain::{Chain, ChainParameters};
use crate::payment::{SCHEME, network, to_wire};
use crate::request::VerifiedRequest;
use crate::text;
use crate::text::printable;
use domain::relay::ForwarderNonce;

/// Seconds for which a payment is good: the relayer has to mine it.
const PAYMENT_S: u64 = 600;
/// Seconds by which a relayer's clock may be behind ours.
const BACKDATED_S: u64 = 60;
/// How long the chain is asked for a transaction that a relayer names.
const PROOF: Duration = Duration::from_secs(60);

/// Where a relayer is, and what is expected of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayClientConfig {
    /// Its address: `https://host`, or a path on a host.
    pub url: String,
    /// How long one exchange may take. A relayer answers when the chain did.
    pub timeout: Duration,
    /// Its forwarder.
    pub forwarder_kind: ForwarderKind,
    /// The chain, the forwarder and the token we expect; its factory and relayer
    /// are not looked at.
    pub facts: ChainParameters,
}

/// A relayer elsewhere.
#[derive(Clone, Debug)]
pub struct RelayClient {
    http: HttpClient,
    forwarder_kind: ForwarderKind,
    facts: ChainParameters,
}

/// What a relayer, ours or another, says of a call.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    success: bool,
    status: Option<CallStatus>,
    tx_hash: Option<String>,
    payment_tx_hash: Option<String>,
    #[serde(alias = "error")]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BatchSaid {
    payment_tx_hash: Option<String>,
    results: Vec<Said>,
}

impl RelayClient {
    /// A relayer. Nothing is asked yet; a TLS provider must be installed.
    ///
    /// # Errors
    /// When the address is no URL, or no HTTP client can be made.
    pub fn new(config: RelayClientConfig) -> Result<Self, ClientError> {
        let RelayClientConfig { url, timeout, forwarder_kind, facts } = config;
        Ok(Self { http: HttpClient::new(&url, timeout)?, forwarder_kind, facts })
    }

    /// `GET /meta/domain`, held against what is expected.
    ///
    /// # Errors
    /// [`ClientError::OtherDomain`] when it is another one.
    pub async fn domain(&self) -> Result<DomainAnswer, ClientError> {
        let said: DomainAnswer = self.http.get("/meta/domain", &[]).await?.success()?;
        check_domain(&said, &self.facts, self.forwarder_kind)?;
        Ok(said)
    }

    /// `GET /meta/nonce/{address}`.
    ///
    /// # Errors
    /// When the relayer does not answer, or not with a number.
    pub async fn nonce(&self, of: Address) -> Result<U256, ClientError> {
        let said: NonceAnswer = self.http.get(&format!("/meta/nonce/{of}"), &[]).await?.success()?;
        text::number(&said.nonce).map_err(|_| ClientError::Garbage("the nonce is no number".to_owned()))
    }

    /// `GET /estimate`.
    ///
    /// # Errors
    /// When the relayer refuses or does not answer.
    pub async fn estimate(&self, query: &EstimateQuery) -> Result<EstimateAnswer, ClientError> {
        let mut pairs = vec![("to", query.to.clone())];
        pairs.extend(query.data.clone().map(|data| ("data", data)));
        pairs.extend(query.value.clone().map(|value| ("value", value)));
        pairs.extend(query.priority.map(|priority| ("priority", priority.label().to_lowercase())));
        self.http.get("/estimate", &pairs).await?.success()
    }

    /// `GET /health`, whether healthy or not.
    ///
    /// # Errors
    /// When the relayer does not answer.
    pub async fn health(&self) -> Result<RelayerHealth, ClientError> {
        self.http.get("/health", &[]).await?.read()
    }

    /// Has a call relayed: `POST /meta/relay`, once more with a payment if it is
    /// asked for and not above the allowance. Where a chain is given, the relayer's
    /// word is held against it.
    ///
    /// # Errors
    /// [`ClientError`] says what was signed or paid by then.
    pub async fn relay(
        &self,
        signer: RelayCallSigner<'_>,
        call: &RelayCall,
        allowance: &MaxFee,
        chain: Option<&dyn Chain>,
    ) -> Result<RelayResult, ClientError> {
        self.domain().await?;
        let nonce = self.nonce(signer.address).await?;
        let signed = self.sign(signer, call, nonce)?;
        let body = RelayRequest { signed, priority: Priority::Normal };
        let (heard, paid) = self.post(signer, "/meta/relay", &body, allowance).await?;
        let relayed = relayed(heard.success()?, paid);
        self.prove(relayed, self.forwarder_nonce(signer, nonce), call.to, chain).await
    }

    /// Has the gas of a call paid that carries a signature of its own, or needs none:
    /// `POST /meta/call`. The signer pays the fee, if one is asked for and not above
    /// the allowance. Ours alone has this route.
    ///
    /// # Errors
    /// As [`RelayClient::relay`].
    pub async fn call(
        &self,
        signer: RelayCallSigner<'_>,
        call: &Call,
        allowance: &MaxFee,
    ) -> Result<RelayResult, ClientError> {
        self.domain().await?;
        let body = RelayCallRequest { to: call.to.to_string(), data: call.data.to_string() };
        let (heard, paid) = self.post(signer, "/meta/call", &body, allowance).await?;
        Ok(relayed(heard.success()?, paid))
    }

    /// Has up to ten calls of one signer relayed for one payment: `POST
    /// /meta/batch`. CroGas's own servers take one of each signer only.
    ///
    /// # Errors
    /// As [`RelayClient::relay`].
    pub async fn batch(
        &self,
        signer: RelayCallSigner<'_>,
        calls: &[RelayCall],
        allowance: &MaxFee,
        chain: Option<&dyn Chain>,
    ) -> Result<Vec<RelayResult>, ClientError> {
        let calls = &calls[..calls.len().min(MAX_BATCH)];
        self.domain().await?;
        let first = self.nonce(signer.address).await?;
        let nonces = (0..calls.len()).map(|step| first.saturating_add(U256::from(step)));
        let signed = calls.iter().zip(nonces.clone()).map(|(call, nonce)| self.sign(signer, call, nonce));
        let body = BatchRequest { requests: signed.collect::<Result<_, _>>()?, priority: Priority::Normal };
        let (heard, paid) = self.post(signer, "/meta/batch", &body, allowance).await?;
        let said: BatchSaid = heard.success()?;
        if said.results.len() != calls.len() {
            return Err(ClientError::Garbage("a batch with another number of results".to_owned()));
        }
        let mut all = Vec::with_capacity(calls.len());
        for ((result, call), nonce) in said.results.into_iter().zip(calls).zip(nonces) {
            let result = Said { payment_tx_hash: said.payment_tx_hash.clone(), ..result };
            all.push(self.prove(relayed(result, paid), self.forwarder_nonce(signer, nonce), call.to, chain).await?);
        }
        Ok(all)
    }

    fn forwarder_nonce(&self, signer: RelayCallSigner<'_>, nonce: U256) -> ForwarderNonce {
        ForwarderNonce { forwarder: self.facts.forwarder, from: signer.address, nonce }
    }

    /// Signs for the expected domain: never for one that the relayer names.
    fn sign(&self, signer: RelayCallSigner<'_>, call: &RelayCall, nonce: U256) -> Result<SignedRequest, ClientError> {
        let request = VerifiedRequest {
            from: signer.address,
            to: call.to,
            value: call.value,
            gas: call.gas,
            nonce,
            deadline: call.deadline,
            data: call.data.clone(),
            signature: Bytes::new(),
            digest: B256::ZERO,
        };
        let digest = self.forwarder_kind.digest(&request, &self.facts);
        let digest = digest.ok_or_else(|| ClientError::Signing("the deadline is too large".to_owned()))?;
        Ok(SignedRequest { request: request.to_wire(), signature: signature(signer, digest)? })
    }

    /// Posts, and pays if that is asked for.
    async fn post(
        &self,
        signer: RelayCallSigner<'_>,
        path: &str,
        body: &(impl Serialize + Sync),
        allowance: &MaxFee,
    ) -> Result<(HttpResponse, Option<Usdc>), ClientError> {
        let heard = self.http.post(path, body, None).await?;
        if heard.status != 402 {
            return Ok((heard, None));
        }
        let (payee, price) = choose(&heard.read::<PaymentRequired>()?, &self.facts, allowance.most)?;
        let payment = self.payment(signer, payee, price, allowance)?;
        match self.http.post(path, body, Some(&payment)).await {
            Ok(heard) => Ok((heard, Some(price))),
            Err(ClientError::Unreachable { why, .. }) => Err(ClientError::Unreachable { why, paid: Some(price) }),
            Err(error) => Err(error),
        }
    }

    fn payment(
        &self,
        signer: RelayCallSigner<'_>,
        payee: Address,
        price: Usdc,
        allowance: &MaxFee,
    ) -> Result<String, ClientError> {
        let authorization = Authorization {
            chain_id: self.facts.chain_id,
            asset: self.facts.token,
            from: signer.address,
            to: payee,
            value: price,
            valid_after: U256::from(allowance.now_s.saturating_sub(BACKDATED_S)),
            valid_before: U256::from(allowance.now_s.saturating_add(PAYMENT_S)),
            nonce: allowance.nonce,
        };
        let signature = signature(signer, authorization.digest(self.facts.token_separator()))?;
        let payment = FeePayment {
            version: X402_VERSION,
            scheme: SCHEME.to_owned(),
            network: network(self.facts.chain_id),
            payload: ExactPayload { signature, authorization: to_wire(&authorization) },
        };
        let json = serde_json::to_vec(&payment).map_err(|error| ClientError::Signing(error.to_string()))?;
        Ok(STANDARD.encode(json))
    }

    /// Holds a relayer's word against the chain. A success that the chain does not
    /// show is an error; so is a failure that it shows to be a success put right.
    async fn prove(
        &self,
        relayed: RelayResult,
        used: ForwarderNonce,
        to: Address,
        chain: Option<&dyn Chain>,
    ) -> Result<RelayResult, ClientError> {
        let (Some(chain), Some(tx)) = (chain, relayed.tx) else { return Ok(relayed) };
        let mined = chain.mined(tx, 1, if relayed.success { PROOF } else { Duration::ZERO }).await?;
        let proven = mined.as_ref().map(|mined| self.forwarder_kind.proves(mined, &used, to));
        match proven {
            Some(success) if success || !relayed.success => Ok(RelayResult { success, proven: true, ..relayed }),
            None if !relayed.success => Ok(relayed),
            Some(_) | None => Err(ClientError::Disproved { tx }),
        }
    }
}

fn relayed(said: Said, paid: Option<Usdc>) -> RelayResult {
    let hash = |text: Option<String>| text.and_then(|text| text::word(&text).ok());
    RelayResult {
        success: said.success,
        status: said.status,
        tx: hash(said.tx_hash),
        paid,
        payment_tx: hash(said.payment_tx_hash),
        reason: said.reason.map(|words| printable(&words)),
        proven: false,
    }
}

fn signature(signer: RelayCallSigner<'_>, digest: B256) -> Result<String, ClientError> {
    let signature = signer.key.sign_hash_sync(&digest).map_err(|error| ClientError::Signing(error.to_string()))?;
    Ok(Bytes::from(signature.as_bytes().to_vec()).to_string())
}

//! Several endpoints of one chain as one, none of which is trusted.
//!
//! An endpoint says which chain it serves before it is asked anything, and again
//! after each failure. A question whose answer decides about money is asked of
//! several, and an answer that another endpoint contradicts is no answer.

use std::time::Duration;

use backon::Retryable;
use futures_util::future::join_all;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::Block;
use super::{EvmConfig, EvmError};
use crate::lag::LagGuard;
use crate::rpc::{EndpointError, Pool, PooledEndpoint, RetryPolicy, RpcError};

/// Bytes of an answer at most: the logs of some 5,000 tasks.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Why the endpoints gave no answer to rely on. Never holds their URLs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EvmReadError {
    #[error("{host}: {fault}")]
    Call { host: String, fault: EndpointError },
    #[error("{host} serves chain {is}, not {wanted}")]
    OtherChain { host: String, is: u64, wanted: u64 },
    #[error("{host} is {blocks} blocks behind")]
    Behind { host: String, blocks: u64 },
    #[error("{host}: {what}")]
    Invalid { host: String, what: &'static str },
    #[error("{said} of the {wanted} endpoints that must agree have answered; the last failure: {last}")]
    TooFew { said: usize, wanted: usize, last: String },
    #[error("{one} and {other} contradict each other")]
    Disagreement { one: String, other: String },
    #[error("no answer within {0} ms")]
    Late(u128),
}

impl EvmReadError {
    /// A bounded name, for metrics.
    const fn name(&self) -> &'static str {
        match self {
            Self::Call { fault, .. } => fault.name(),
            Self::OtherChain { .. } => "other_chain",
            Self::Behind { .. } => "behind",
            Self::Invalid { .. } => "invalid_answer",
            Self::TooFew { .. } => "too_few",
            Self::Disagreement { .. } => "disagreement",
            Self::Late(_) => "late",
        }
    }

    fn about(self, method: &'static str) -> EvmError {
        match self {
            Self::Disagreement { one, other } => EvmError::Disagreement { method, one, other },
            Self::OtherChain { host, is, wanted } => EvmError::OtherChain { method, host, is, wanted },
            Self::Call { host, fault: fault @ EndpointError::Rpc(_) } if method == "eth_getLogs" => {
                EvmError::TooMany { why: format!("{host}: {fault}") }
            }
            other => EvmError::Unknown { method, why: other.to_string() },
        }
    }
}

/// A request, and which refusals are its answers.
#[derive(Clone, Debug)]
pub(super) struct RpcRequest {
    method: &'static str,
    params: Value,
    is_answer: fn(&RpcError) -> bool,
    needs: u64,
}

impl RpcRequest {
    /// One that no refusal answers.
    pub(super) fn new(method: &'static str, params: Value) -> Self {
        Self { method, params, is_answer: |_| false, needs: 0 }
    }

    /// Only endpoints that have this height can answer it.
    pub(super) fn needs(self, height: u64) -> Self {
        Self { needs: height, ..self }
    }

    /// Refusals of this kind are answers, and no failures of an endpoint.
    pub(super) fn answered_by(self, is_answer: fn(&RpcError) -> bool) -> Self {
        Self { is_answer, ..self }
    }
}

/// An answer, or a refusal that is one.
pub(super) type AnswerOrRefusal<T> = Result<T, RpcError>;

/// All endpoints.
#[derive(Debug)]
pub(super) struct Endpoints {
    pool: Pool,
    chain_id: u64,
    quorum: usize,
    deadline: Duration,
    newest: LagGuard,
}

impl Endpoints {
    /// # Errors
    /// When the machine has no TLS roots, for instance.
    pub(super) fn new(config: &EvmConfig) -> Result<Self, reqwest::Error> {
        let policy = RetryPolicy {
            timeout: Duration::from_millis(config.timeout_ms),
            cooldown: Duration::from_millis(config.bench_ms),
            rounds: config.attempts,
            backoff: Duration::from_millis(config.backoff_ms),
            max_answer: MAX_ANSWER,
        };
        Ok(Self {
            pool: Pool::new(&config.endpoints, policy)?,
            chain_id: config.chain_id,
            quorum: config.quorum(),
            deadline: Duration::from_millis(config.deadline_ms),
            newest: LagGuard::new(config.max_lag_blocks),
        })
    }

    /// The first answer that any endpoint gives.
    pub(super) async fn ask<T: DeserializeOwned>(&self, request: &RpcRequest) -> Result<AnswerOrRefusal<T>, EvmError> {
        let rounds = || async {
            let mut last = none_left();
            for endpoint in self.pool.in_order() {
                match self.call::<T>(endpoint, request).await {
                    Ok(said) => return Ok(said),
                    Err(fault) => last = fault,
                }
            }
            Err(last)
        };
        self.in_time(request.method, rounds.retry(self.pool.policy().pauses())).await
    }

    /// The answer in which as many endpoints agree as must; `None` when they agree
    /// that there is none, or too few know of it yet.
    pub(super) async fn agree<T: DeserializeOwned + PartialEq>(
        &self,
        request: &RpcRequest,
    ) -> Result<Option<T>, EvmError> {
        let rounds = || self.poll(request);
        let retried = rounds
            .retry(self.pool.policy().pauses())
            .when(|fault| !matches!(fault, EvmReadError::Disagreement { .. } | EvmReadError::Call { .. }));
        self.in_time(request.method, retried).await
    }

    async fn poll<T: DeserializeOwned + PartialEq>(&self, request: &RpcRequest) -> Result<Option<T>, EvmReadError> {
        let mut poll = Poll::new(self.quorum);
        for endpoint in self.pool.in_order() {
            match self.call_if_synced::<T>(endpoint, request).await {
                Ok(Ok(said)) => poll.count(endpoint.host(), said)?,
                Ok(Err(refusal)) => {
                    return Err(EvmReadError::Call { host: endpoint.host(), fault: EndpointError::Rpc(refusal) });
                }
                Err(fault) => poll.fail(&fault),
            }
            if poll.is_decided() {
                break;
            }
        }
        poll.result()
    }

    /// The newest block, from an endpoint that is not too far behind.
    pub(super) async fn head(&self) -> Result<Block, EvmError> {
        let request = RpcRequest::new("eth_getBlockByNumber", json!(["latest", false]));
        let rounds = || async {
            let mut last = none_left();
            for endpoint in self.pool.in_order() {
                match self.head_of(endpoint, &request).await {
                    Ok(block) => return Ok(block),
                    Err(fault) => last = fault,
                }
            }
            Err(last)
        };
        self.in_time(request.method, rounds.retry(self.pool.policy().pauses())).await
    }

    async fn head_of(&self, endpoint: &PooledEndpoint, request: &RpcRequest) -> Result<Block, EvmReadError> {
        let host = || endpoint.host();
        let said = self.call::<Option<Block>>(endpoint, request).await?;
        let block =
            said.ok().flatten().ok_or_else(|| EvmReadError::Invalid { host: host(), what: "it has no blocks" })?;
        let fresh = self.newest.check(block.number, Instant::now());
        if let Err(blocks) = fresh {
            self.pool.record_outcome(endpoint, true);
            return Err(EvmReadError::Behind { host: host(), blocks });
        }
        Ok(block)
    }

    /// The height that as many endpoints have reached as must agree.
    pub(super) async fn agreed_head(&self) -> Result<u64, EvmError> {
        let request = height();
        let rounds = || async {
            let mut heights = Vec::new();
            let mut last = none_left();
            for endpoint in self.pool.in_order() {
                match self.height_of(endpoint, &request).await {
                    Ok(height) => heights.push(height),
                    Err(fault) => last = fault,
                }
            }
            reached(heights, self.quorum).map_err(|said| too_few(said, self.quorum, &last))
        };
        self.in_time(request.method, rounds.retry(self.pool.policy().pauses())).await
    }

    async fn height_of(&self, endpoint: &PooledEndpoint, request: &RpcRequest) -> Result<u64, EvmReadError> {
        let said = self.call::<Quantity>(endpoint, request).await?;
        let height = said.map_err(|_| EvmReadError::Invalid { host: endpoint.host(), what: "no height" })?.0;
        endpoint.reached(height);
        Ok(height)
    }

    /// Asks one endpoint, unless it is not as far: then it knows of nothing.
    async fn call_if_synced<T: DeserializeOwned>(
        &self,
        endpoint: &PooledEndpoint,
        request: &RpcRequest,
    ) -> Result<AnswerOrRefusal<Option<T>>, EvmReadError> {
        let is_low = endpoint.height() < request.needs;
        if is_low && self.height_of(endpoint, &height()).await? < request.needs {
            return Ok(Ok(None));
        }
        self.call(endpoint, request).await
    }

    /// The answers of all endpoints, by host; they are asked at once.
    pub(super) async fn each<T: DeserializeOwned>(
        &self,
        request: &RpcRequest,
    ) -> Vec<(String, Result<AnswerOrRefusal<T>, EvmReadError>)> {
        let asked = self
            .pool
            .in_order()
            .into_iter()
            .map(async |endpoint| (endpoint.host(), self.call(endpoint, request).await));
        join_all(asked).await
    }

    /// Endpoints in the order in which they are tried.
    pub(super) fn in_order(&self) -> Vec<&PooledEndpoint> {
        self.pool.in_order()
    }

    pub(super) const fn quorum(&self) -> usize {
        self.quorum
    }

    /// Asks one endpoint.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        endpoint: &PooledEndpoint,
        request: &RpcRequest,
    ) -> Result<AnswerOrRefusal<T>, EvmReadError> {
        let begun = Instant::now();
        let answer = self.call_unrecorded(endpoint, request).await;
        let outcome = answer.as_ref().map_or_else(EvmReadError::name, |_| "ok");
        metrics::counter!("palatine_evm_calls_total", "outcome" => outcome).increment(1);
        metrics::histogram!("palatine_evm_call_seconds").record(begun.elapsed().as_secs_f64());
        if let Err(fault) = &answer {
            tracing::warn!(method = request.method, %fault, "an EVM endpoint failed");
        }
        self.pool.record_outcome(endpoint, answer.is_err());
        answer
    }

    async fn call_unrecorded<T: DeserializeOwned>(
        &self,
        endpoint: &PooledEndpoint,
        request: &RpcRequest,
    ) -> Result<AnswerOrRefusal<T>, EvmReadError> {
        if !endpoint.is_verified() {
            self.verify_chain_id(endpoint).await?;
        }
        match self.pool.call(endpoint, request.method, &request.params).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(EndpointError::Rpc(refusal)) if (request.is_answer)(&refusal) => Ok(Err(refusal)),
            Err(fault) => Err(EvmReadError::Call { host: endpoint.host(), fault }),
        }
    }

    async fn verify_chain_id(&self, endpoint: &PooledEndpoint) -> Result<(), EvmReadError> {
        let said = self.pool.call::<Quantity>(endpoint, "eth_chainId", &json!([])).await;
        let is = said.map_err(|fault| EvmReadError::Call { host: endpoint.host(), fault })?.0;
        if is != self.chain_id {
            return Err(EvmReadError::OtherChain { host: endpoint.host(), is, wanted: self.chain_id });
        }
        endpoint.mark_verified();
        Ok(())
    }

    async fn in_time<T>(
        &self,
        method: &'static str,
        work: impl Future<Output = Result<T, EvmReadError>>,
    ) -> Result<T, EvmError> {
        let late = || Err(EvmReadError::Late(self.deadline.as_millis()));
        let done = tokio::time::timeout(self.deadline, work).await.unwrap_or_else(|_| late());
        done.map_err(|fault| {
            if matches!(fault, EvmReadError::Disagreement { .. }) {
                metrics::counter!("palatine_evm_disagreements_total").increment(1);
                tracing::error!(method, %fault, "EVM endpoints contradict each other");
            }
            fault.about(method)
        })
    }
}

/// A number as JSON-RPC writes it.
#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct Quantity(#[serde(with = "alloy::serde::quantity")] pub(super) u64);

/// How far an endpoint is.
pub(super) fn height() -> RpcRequest {
    RpcRequest::new("eth_blockNumber", json!([]))
}

fn none_left() -> EvmReadError {
    EvmReadError::Invalid { host: "nobody".to_owned(), what: "there is no endpoint" }
}

fn too_few(said: usize, wanted: usize, last: &EvmReadError) -> EvmReadError {
    EvmReadError::TooFew { said, wanted, last: last.to_string() }
}

/// The height that `quorum` of them have; else how many there are.
fn reached(mut heights: Vec<u64>, quorum: usize) -> Result<u64, usize> {
    heights.sort_unstable_by(|one, other| other.cmp(one));
    heights.get(quorum.saturating_sub(1)).copied().ok_or(heights.len())
}

/// Counts who says what.
#[derive(Debug)]
struct Poll<T> {
    quorum: usize,
    said: Option<(String, T, usize)>,
    silent: usize,
    last: Option<String>,
}

impl<T: PartialEq> Poll<T> {
    const fn new(quorum: usize) -> Self {
        Self { quorum, said: None, silent: 0, last: None }
    }

    fn count(&mut self, host: String, answer: Option<T>) -> Result<(), EvmReadError> {
        match (&mut self.said, answer) {
            (_, None) => self.silent += 1,
            (Some((_, first, votes)), Some(answer)) if *first == answer => *votes += 1,
            (Some((one, ..)), Some(_)) => return Err(EvmReadError::Disagreement { one: one.clone(), other: host }),
            (None, Some(answer)) => self.said = Some((host, answer, 1)),
        }
        Ok(())
    }

    fn fail(&mut self, fault: &EvmReadError) {
        self.last = Some(fault.to_string());
    }

    fn votes(&self) -> usize {
        self.said.as_ref().map_or(0, |(_, _, votes)| *votes)
    }

    fn is_decided(&self) -> bool {
        self.votes() >= self.quorum
    }

    fn result(self) -> Result<Option<T>, EvmReadError> {
        let (votes, quorum) = (self.votes(), self.quorum);
        if votes >= quorum {
            return Ok(self.said.map(|(_, answer, _)| answer));
        }
        if votes + self.silent >= quorum {
            return Ok(None);
        }
        let last = self.last.unwrap_or_else(|| "none".to_owned());
        Err(EvmReadError::TooFew { said: votes + self.silent, wanted: quorum, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(quorum: usize, answers: &[Option<u8>]) -> Result<Option<u8>, EvmReadError> {
        let mut poll = Poll::new(quorum);
        for (n, answer) in answers.iter().enumerate() {
            poll.count(n.to_string(), *answer)?;
        }
        poll.result()
    }

    #[test]
    fn an_answer_needs_as_many_voices_as_it_must_have() {
        assert_eq!(poll(1, &[Some(7)]), Ok(Some(7)));
        assert_eq!(poll(2, &[Some(7), Some(7)]), Ok(Some(7)));
        assert_eq!(poll(2, &[Some(7), None]), Ok(None));
        assert_eq!(poll(2, &[None, None]), Ok(None));
        assert_eq!(poll(2, &[Some(7), None, Some(7)]), Ok(Some(7)));
        assert!(matches!(poll(2, &[Some(7)]), Err(EvmReadError::TooFew { said: 1, wanted: 2, .. })));
    }

    #[test]
    fn one_contradiction_spoils_it_whoever_is_in_the_majority() {
        for answers in [[Some(7), Some(8), Some(7)], [Some(7), None, Some(8)]] {
            assert!(matches!(poll(2, &answers), Err(EvmReadError::Disagreement { .. })), "{answers:?}");
        }
    }

    #[test]
    fn a_height_counts_once_enough_endpoints_have_it() {
        assert_eq!(reached(vec![5, 9, 7], 2), Ok(7));
        assert_eq!(reached(vec![5], 1), Ok(5));
        assert_eq!(reached(vec![5], 2), Err(1));
    }
}

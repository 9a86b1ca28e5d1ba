//! One chain: what can be read of it, simulated on it and broadcast to it.

use alloy::primitives::{Log as RawLog, LogData};
use alloy::sol_types::SolCall;
use domain::evm::{BlockRef, Call, MinedTransaction};
use domain::{Address, B256, Bytes, U256};
use serde_json::{Map, Value, json};

use super::answer::{Block, Log, Receipt};
use super::endpoints::{AnswerOrRefusal, Endpoints, Quantity, RpcRequest, height};
use super::fees::{self, FeeCaps, GWEI, GasPrice};
use super::receipt::{self, EndpointReceipt, ReceiptCheck};
use super::{EvmConfig, EvmError, Revert};
use crate::rpc::{PooledEndpoint, RpcError};

/// At which state a call is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockTag {
    /// The newest block an endpoint has.
    Latest,
    /// The end of a block.
    Block(u64),
}

impl BlockTag {
    const fn number(self) -> u64 {
        match self {
            Self::Latest => 0,
            Self::Block(number) => number,
        }
    }

    fn json(self) -> Value {
        match self {
            Self::Latest => json!("latest"),
            Self::Block(number) => json!(format!("{number:#x}")),
        }
    }
}

/// A transaction that is believed, and what it logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfirmedTransaction {
    /// Where, and whether it took effect.
    pub mined: MinedTransaction,
    /// Its logs, in their order.
    pub logs: Vec<RawLog>,
}

/// What is known of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No endpoint knows it in a block.
    NotFound,
    /// In a block that is not deep enough, or not known to enough endpoints.
    Unconfirmed {
        /// The block's number.
        block: u64,
    },
    /// As deep as was asked for, as enough endpoints say alike.
    Confirmed(ConfirmedTransaction),
}

/// What the endpoints did with a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broadcast {
    /// At least one has it, now or before.
    Accepted,
    /// Its nonce is used: it, or another one, is in a block.
    NonceUsed,
    /// None has it; in the words of the last.
    Refused(String),
}

/// One chain, through all its endpoints.
#[derive(Debug)]
pub struct Evm {
    pub(super) endpoints: Endpoints,
    config: EvmConfig,
}

impl Evm {
    /// A chain of which nothing has been checked.
    pub(super) fn unchecked(config: &EvmConfig) -> Result<Self, reqwest::Error> {
        Ok(Self { endpoints: Endpoints::new(config)?, config: config.clone() })
    }

    /// `[evm]`.
    #[must_use]
    pub const fn config(&self) -> &EvmConfig {
        &self.config
    }

    /// The newest block, as one endpoint says.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn head(&self) -> Result<BlockRef, EvmError> {
        Ok(self.endpoints.head().await?.reference())
    }

    /// The newest block that as many endpoints have as must agree.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn agreed_head(&self) -> Result<u64, EvmError> {
        self.endpoints.agreed_head().await
    }

    pub(super) async fn block(&self, number: u64) -> Result<Option<Block>, EvmError> {
        let request = RpcRequest::new("eth_getBlockByNumber", json!([format!("{number:#x}"), false]));
        let block = self.endpoints.agree::<Block>(&request).await?;
        match block {
            Some(block) if block.number != number => {
                Err(EvmError::Inconsistent { method: "eth_getBlockByNumber", what: "a block of another number" })
            }
            block => Ok(block),
        }
    }

    /// Calls a contract without a transaction, as `from` (the zero address if
    /// nobody).
    ///
    /// # Errors
    /// [`EvmError::Reverted`] when the contract refuses; else as every question.
    pub async fn call(&self, call: &Call, from: Option<Address>, at: BlockTag) -> Result<Bytes, EvmError> {
        let request = RpcRequest::new("eth_call", json!([transaction(call, from), at.json()]));
        unless_reverted(self.endpoints.ask(&request.answered_by(is_revert)).await?)
    }

    /// Reads a contract by a function of its ABI: at a block's end as enough
    /// endpoints say alike, at the newest as one says.
    ///
    /// # Errors
    /// As [`Evm::call`].
    pub async fn read<C: SolCall + Sync>(
        &self,
        to: Address,
        function: &C,
        at: BlockTag,
    ) -> Result<C::Return, EvmError> {
        if let BlockTag::Block(_) = at {
            return self.read_agreed(to, function, at).await;
        }
        let call = Call { to, data: function.abi_encode().into(), value: U256::ZERO };
        let data = self.call(&call, None, at).await?;
        decoded::<C>(&data)
    }

    /// The same, as enough endpoints say alike: for what never changes, or at a
    /// block's end.
    pub(super) async fn read_agreed<C: SolCall + Sync>(
        &self,
        to: Address,
        function: &C,
        at: BlockTag,
    ) -> Result<C::Return, EvmError> {
        let call = Call { to, data: function.abi_encode().into(), value: U256::ZERO };
        let request = RpcRequest::new("eth_call", json!([transaction(&call, None), at.json()])).needs(at.number());
        let data = self.endpoints.agree::<Bytes>(&request).await?;
        decoded::<C>(&data.unwrap_or_default())
    }

    /// The code at an address; empty where there is no contract.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn code(&self, address: Address) -> Result<Bytes, EvmError> {
        let request = RpcRequest::new("eth_getCode", json!([address, "latest"]));
        Ok(self.endpoints.agree(&request).await?.unwrap_or_default())
    }

    /// Coins of the chain that an account holds, in wei.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn balance_wei(&self, account: Address) -> Result<U256, EvmError> {
        let request = RpcRequest::new("eth_getBalance", json!([account, "latest"]));
        answered("eth_getBalance", self.endpoints.ask(&request).await?)
    }

    /// Transactions that an account has in blocks.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn nonce(&self, account: Address) -> Result<u64, EvmError> {
        let request = RpcRequest::new("eth_getTransactionCount", json!([account, "latest"]));
        let said: Quantity = answered("eth_getTransactionCount", self.endpoints.ask(&request).await?)?;
        Ok(said.0)
    }

    /// The same at the end of a block, as enough endpoints say alike.
    pub(super) async fn nonce_at(&self, account: Address, block: u64) -> Result<Option<u64>, EvmError> {
        let request = RpcRequest::new("eth_getTransactionCount", json!([account, format!("{block:#x}")]));
        let request = request.needs(block);
        Ok(self.endpoints.agree::<U256>(&request).await?.map(|count| count.saturating_to()))
    }

    /// The gas limit for a call: the estimate, the margin, the cap.
    ///
    /// # Errors
    /// [`EvmError::Reverted`] when the contract refuses the call,
    /// [`EvmError::GasTooMuch`] when it needs more than `[evm] max_gas`.
    pub async fn gas_limit(&self, call: &Call, from: Address) -> Result<u64, EvmError> {
        let request = RpcRequest::new("eth_estimateGas", json!([transaction(call, Some(from))]));
        let estimate: Quantity = unless_reverted(self.endpoints.ask(&request.answered_by(is_revert)).await?)?;
        fees::limit(estimate.0, self.config.gas_margin_percent, self.config.max_gas)
    }

    /// What to offer for gas now.
    ///
    /// # Errors
    /// [`EvmError::GasTooDear`] when the cap is below what gets in.
    pub async fn price(&self) -> Result<GasPrice, EvmError> {
        let head = self.endpoints.head().await?;
        let request = RpcRequest::new("eth_gasPrice", json!([]));
        let price: U256 = answered("eth_gasPrice", self.endpoints.ask(&request).await?)?;
        fees::quote(head.base_fee_per_gas, price.saturating_to(), self.caps())
    }

    pub(super) fn caps(&self) -> FeeCaps {
        FeeCaps { max_fee: u128::from(self.config.max_fee_gwei) * GWEI, tip: u128::from(self.config.tip_gwei) * GWEI }
    }

    /// Hands signed bytes to every endpoint: one that swallows them is overtaken by
    /// another.
    ///
    /// # Errors
    /// [`EvmError::Unknown`] when no endpoint could be asked.
    pub async fn broadcast(&self, raw: &Bytes) -> Result<Broadcast, EvmError> {
        let request = RpcRequest::new("eth_sendRawTransaction", json!([raw])).answered_by(|_| true);
        let mut sum = Err(EvmError::Unknown { method: "eth_sendRawTransaction", why: "no endpoint".to_owned() });
        for (_, answer) in self.endpoints.each::<B256>(&request).await {
            sum = better(sum, answer.map(taken), |fault| EvmError::Unknown {
                method: "eth_sendRawTransaction",
                why: fault.to_string(),
            });
        }
        sum
    }

    /// What is known of a transaction, `[evm] confirmations` deep.
    ///
    /// # Errors
    /// [`EvmError::Disagreement`] when an endpoint that is past its block says
    /// otherwise, [`EvmError::Inconsistent`] when an endpoint's receipt does not fit
    /// its own blocks: then the receipt is not believed.
    pub async fn transaction_status(&self, hash: B256) -> Result<TransactionStatus, EvmError> {
        let Some((claimant, claim)) = self.claim(hash).await? else {
            return Ok(TransactionStatus::NotFound);
        };
        let mut deep = Vec::new();
        for endpoint in self.endpoints.in_order() {
            let Ok(said) = self.statement(endpoint, &claim).await else { continue };
            match receipt::check_receipt(&claim, self.config.confirmations, &said) {
                ReceiptCheck::Confirmed => deep.extend(said.block),
                ReceiptCheck::Unconfirmed => {}
                ReceiptCheck::Contradicted if endpoint.host() == claimant => {
                    return Err(EvmError::Inconsistent { method: RECEIPT, what: "a receipt that changed meanwhile" });
                }
                ReceiptCheck::Contradicted => return Err(contradiction(claimant, endpoint.host())),
                ReceiptCheck::Inconsistent(what) => return Err(EvmError::Inconsistent { method: RECEIPT, what }),
            }
            if deep.len() >= self.endpoints.quorum() {
                break;
            }
        }
        if deep.len() < self.endpoints.quorum() {
            return Ok(TransactionStatus::Unconfirmed { block: claim.block_number });
        }
        Ok(deep
            .first()
            .map_or(TransactionStatus::NotFound, |block| TransactionStatus::Confirmed(confirmed(&claim, block))))
    }

    /// The first receipt that an endpoint claims, and the endpoint's host; `None`
    /// when as many endpoints as must agree know of none.
    async fn claim(&self, hash: B256) -> Result<Option<(String, Receipt)>, EvmError> {
        let request = RpcRequest::new(RECEIPT, json!([hash]));
        let mut silent = 0;
        let mut why = "too few endpoints answer".to_owned();
        for endpoint in self.endpoints.in_order() {
            match self.endpoints.call::<Option<Receipt>>(endpoint, &request).await {
                Ok(Ok(Some(receipt))) if receipt.transaction_hash != hash => {
                    return Err(EvmError::Inconsistent { method: RECEIPT, what: "a receipt of another transaction" });
                }
                Ok(Ok(Some(receipt))) => return Ok(Some((endpoint.host(), receipt))),
                Ok(_) => silent += 1,
                Err(fault) => why = fault.to_string(),
            }
        }
        if silent >= self.endpoints.quorum() { Ok(None) } else { Err(EvmError::Unknown { method: RECEIPT, why }) }
    }

    async fn statement(
        &self,
        endpoint: &PooledEndpoint,
        claim: &Receipt,
    ) -> Result<EndpointReceipt, super::endpoints::EvmReadError> {
        let height = height();
        let receipt = RpcRequest::new(RECEIPT, json!([claim.transaction_hash]));
        let block = RpcRequest::new("eth_getBlockByNumber", json!([format!("{:#x}", claim.block_number), false]));
        Ok(EndpointReceipt {
            height: self.endpoints.call::<Quantity>(endpoint, &height).await?.map_or(0, |height| height.0),
            receipt: self.endpoints.call::<Option<Receipt>>(endpoint, &receipt).await?.unwrap_or_default(),
            block: self.endpoints.call::<Option<Block>>(endpoint, &block).await?.unwrap_or_default(),
        })
    }

    /// Logs in a range of blocks, both ends included, as enough endpoints say alike.
    pub(super) async fn logs(&self, of: &LogFilter<'_>, from: u64, to: u64) -> Result<Vec<Log>, EvmError> {
        let mut filter = of.filter();
        filter.extend([("fromBlock".to_owned(), hex(from)), ("toBlock".to_owned(), hex(to))]);
        let logs = self.agreed_logs(json!([filter]), to).await?;
        sound_logs(of, logs, |log| (from..=to).contains(&log.block_number))
    }

    /// The same in one block, which no re-organisation can exchange meanwhile.
    pub(super) async fn logs_in(&self, of: &LogFilter<'_>, block: BlockRef) -> Result<Vec<Log>, EvmError> {
        let mut filter = of.filter();
        filter.extend([("blockHash".to_owned(), json!(block.hash))]);
        let logs = self.agreed_logs(json!([filter]), block.number).await?;
        sound_logs(of, logs, |log| log.block_hash == block.hash)
    }

    /// Logs as they come, of a filter that ends at a height.
    pub(super) async fn agreed_logs(&self, filter: Value, needs: u64) -> Result<Vec<Log>, EvmError> {
        let request = RpcRequest::new(LOGS, filter).answered_by(is_too_many).needs(needs);
        let unknown = || EvmError::Unknown { method: LOGS, why: "no endpoint has these blocks".to_owned() };
        self.endpoints.agree(&request).await?.ok_or_else(unknown)
    }
}

/// Whose logs are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum LogFilter<'a> {
    /// Of these contracts.
    Contracts(&'a [Address]),
    /// Of anybody, with one of these first topics.
    Topics(&'a [B256]),
}

impl LogFilter<'_> {
    fn filter(&self) -> Map<String, Value> {
        let (key, value) = match self {
            Self::Contracts(contracts) => ("address", json!(contracts)),
            Self::Topics(topics) => ("topics", json!([topics])),
        };
        Map::from_iter([(key.to_owned(), value)])
    }

    fn has(&self, log: &Log) -> bool {
        match self {
            Self::Contracts(contracts) => contracts.contains(&log.address),
            Self::Topics(topics) => log.topics.first().is_some_and(|topic| topics.contains(topic)),
        }
    }
}

fn hex(number: u64) -> Value {
    json!(format!("{number:#x}"))
}

const RECEIPT: &str = "eth_getTransactionReceipt";
const LOGS: &str = "eth_getLogs";

fn transaction(call: &Call, from: Option<Address>) -> Value {
    let mut transaction = json!({"to": call.to, "data": call.data, "value": call.value});
    if let (Some(from), Some(fields)) = (from, transaction.as_object_mut()) {
        fields.insert("from".to_owned(), json!(from));
    }
    transaction
}

fn decoded<C: SolCall>(data: &[u8]) -> Result<C::Return, EvmError> {
    let what = "what the contract returned is not what its ABI says";
    C::abi_decode_returns(data).map_err(|_| EvmError::Inconsistent { method: "eth_call", what })
}

fn answered<T>(method: &'static str, said: AnswerOrRefusal<T>) -> Result<T, EvmError> {
    said.map_err(|refusal| EvmError::Unknown { method, why: refusal.message })
}

fn unless_reverted<T>(said: AnswerOrRefusal<T>) -> Result<T, EvmError> {
    said.map_err(|refusal| EvmError::Reverted(revert(&refusal)))
}

/// Nodes name a revert by code 3, by its data, or in words alone.
fn is_revert(refusal: &RpcError) -> bool {
    const WORDS: [&str; 4] = ["revert", "invalid opcode", "out of gas", "gas required exceeds"];
    let message = refusal.message.to_lowercase();
    refusal.code == 3 || revert_data(refusal).is_some() || WORDS.iter().any(|words| message.contains(words))
}

fn revert(refusal: &RpcError) -> Revert {
    match revert_data(refusal) {
        Some(data) => Revert::decode(&data),
        None => refusal
            .message
            .split_once("execution reverted: ")
            .map_or(Revert::Silent, |(_, words)| Revert::Words(words.to_owned())),
    }
}

fn revert_data(refusal: &RpcError) -> Option<Bytes> {
    let data = refusal.data.as_ref()?;
    let text = data.as_str().or_else(|| data.get("data")?.as_str())?;
    text.parse().ok()
}

/// Every provider has its own words for a range that is too large.
fn is_too_many(refusal: &RpcError) -> bool {
    const WORDS: [&str; 7] = ["limit", "range", "too many", "too large", "more than", "exceed", "size"];
    let message = refusal.message.to_lowercase();
    refusal.code == -32005 || WORDS.iter().any(|words| message.contains(words))
}

fn taken(said: AnswerOrRefusal<B256>) -> Broadcast {
    let Err(refusal) = said else { return Broadcast::Accepted };
    let message = refusal.message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
    if says(&["already known", "already imported", "already exists", "known transaction", "already in mempool"]) {
        Broadcast::Accepted
    } else if says(&["nonce too low", "invalid nonce", "invalid sequence"]) {
        Broadcast::NonceUsed
    } else {
        Broadcast::Refused(refusal.message)
    }
}

/// One that has it is worth more than one that says the nonce is used, and that
/// more than a refusal or none.
fn better<F>(
    sum: Result<Broadcast, EvmError>,
    next: Result<Broadcast, F>,
    unknown: impl Fn(F) -> EvmError,
) -> Result<Broadcast, EvmError> {
    match (sum, next) {
        (Ok(Broadcast::Accepted), _) | (_, Ok(Broadcast::Accepted)) => Ok(Broadcast::Accepted),
        (Ok(Broadcast::NonceUsed), _) | (_, Ok(Broadcast::NonceUsed)) => Ok(Broadcast::NonceUsed),
        (_, Ok(refused)) => Ok(refused),
        (Ok(refused), Err(_)) => Ok(refused),
        (Err(_), Err(fault)) => Err(unknown(fault)),
    }
}

fn contradiction(one: String, other: String) -> EvmError {
    metrics::counter!("palatine_evm_disagreements_total").increment(1);
    tracing::error!(%one, %other, "EVM endpoints contradict each other about a receipt");
    EvmError::Disagreement { method: RECEIPT, one, other }
}

fn confirmed(receipt: &Receipt, block: &Block) -> ConfirmedTransaction {
    let raw =
        |log: &Log| RawLog { address: log.address, data: LogData::new_unchecked(log.topics.clone(), log.data.clone()) };
    ConfirmedTransaction { mined: receipt::mined(receipt, block), logs: receipt.logs.iter().map(raw).collect() }
}

/// In order: what was asked for, nothing else, nothing twice.
fn sound_logs(of: &LogFilter<'_>, mut logs: Vec<Log>, belongs: impl Fn(&Log) -> bool) -> Result<Vec<Log>, EvmError> {
    let refuse = |what| Err(EvmError::Inconsistent { method: LOGS, what });
    if logs.iter().any(|log| log.removed || !belongs(log) || !of.has(log)) {
        return refuse("a log that was not asked for");
    }
    logs.sort_by_key(|log| (log.block_number, log.log_index));
    let twice = logs.windows(2).any(|two| match two {
        [one, other] => (one.block_number, one.log_index) == (other.block_number, other.log_index),
        _ => false,
    });
    if twice { refuse("the same log twice") } else { Ok(logs) }
}

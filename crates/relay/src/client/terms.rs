//! What is expected of a relayer's domain and of its 402. Pure.

use alloy_primitives::{Address, B256, Log, U256};
use alloy_sol_types::{SolEvent, SolStruct, sol};
use domain::Usdc;
use wire::v1::relay::{DomainAnswer, PaymentRequired, PaymentRequirements};

use super::ClientError;
use crate::chain::{ChainParameters, TransactionReceipt};
use crate::outcome;
use crate::payment::{SCHEME, network};
use crate::request::{DOMAIN_VERSION, VerifiedRequest, forwarder_domain};
use crate::text;
use domain::relay::{FinalStatus, ForwarderNonce};

/// Which forwarder a relayer uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwarderKind {
    /// OpenZeppelin's `ERC2771Forwarder`: the one our vaults trust.
    #[default]
    Openzeppelin,
    /// CroGas's own `MinimalForwarder`: deadlines of 256 bits, an event of its own.
    Minimal,
}

/// CroGas's forwarder.
mod minimal {
    use super::sol;

    sol! {
        struct ForwardRequest {
            address from;
            address to;
            uint256 value;
            uint256 gas;
            uint256 nonce;
            uint256 deadline;
            bytes data;
        }

        event Executed(address indexed from, address indexed to, bool success, bytes result);
    }
}

impl ForwarderKind {
    /// What is signed.
    pub(super) fn digest(self, request: &VerifiedRequest, facts: &ChainParameters) -> Option<B256> {
        match self {
            Self::Openzeppelin => request.digest(facts),
            Self::Minimal => {
                let signed = minimal::ForwardRequest {
                    from: request.from,
                    to: request.to,
                    value: request.value,
                    gas: U256::from(request.gas),
                    nonce: request.nonce,
                    deadline: U256::from(request.deadline),
                    data: request.data.clone(),
                };
                Some(signed.eip712_signing_hash(&forwarder_domain(facts)))
            }
        }
    }

    /// The same as EIP-712 encodes the type.
    fn members(self) -> String {
        let deadline = match self {
            Self::Openzeppelin => "uint48",
            Self::Minimal => "uint256",
        };
        format!("from:address to:address value:uint256 gas:uint256 nonce:uint256 deadline:{deadline} data:bytes")
    }

    /// Whether the chain says that this request was executed and succeeded.
    pub(super) fn proves(self, mined: &TransactionReceipt, used: &ForwarderNonce, to: Address) -> bool {
        match self {
            Self::Openzeppelin => outcome::of_request(mined, used).is_some_and(|it| it.status == FinalStatus::Executed),
            Self::Minimal => mined.succeeded && mined.logs.iter().any(|log| executed(log, used, to)),
        }
    }
}

fn executed(log: &Log, used: &ForwarderNonce, to: Address) -> bool {
    let event = minimal::Executed::decode_log(log).ok().filter(|_| log.address == used.forwarder);
    event.is_some_and(|event| event.from == used.from && event.to == to && event.success)
}

/// Holds a relayer's domain against what is expected of it.
pub(super) fn check_domain(
    said: &DomainAnswer,
    facts: &ChainParameters,
    forwarder_kind: ForwarderKind,
) -> Result<(), ClientError> {
    let is_forwarder = |text: &str| text::address(text).is_ok_and(|address| address == facts.forwarder);
    let members: Vec<String> =
        said.types.forward_request.iter().map(|member| format!("{}:{}", member.name, member.kind)).collect();
    let rules = [
        ("another chain", said.domain.chain_id == facts.chain_id),
        ("another forwarder", is_forwarder(&said.domain.verifying_contract) && is_forwarder(&said.forwarder_address)),
        ("another name", said.domain.name == facts.forwarder_name),
        ("another version", said.domain.version == DOMAIN_VERSION),
        ("another type of request", members.join(" ") == forwarder_kind.members()),
    ];
    match rules.into_iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(ClientError::OtherDomain(what)),
        None => Ok(()),
    }
}

/// The first terms of a 402 that we can pay by, whom, and how much.
pub(super) fn choose(
    asked: &PaymentRequired,
    facts: &ChainParameters,
    most: Usdc,
) -> Result<(Address, Usdc), ClientError> {
    let ours = |terms: &&PaymentRequirements| {
        let asset = text::address(&terms.asset).is_ok_and(|asset| asset == facts.token);
        terms.scheme == SCHEME && terms.network == network(facts.chain_id) && asset
    };
    let terms = asked.x402.accepts.iter().find(ours);
    let terms = terms.ok_or(ClientError::OtherTerms("another scheme, network or token"))?;
    let payee = text::address(&terms.pay_to).map_err(|_| ClientError::OtherTerms("payTo is no address"))?;
    let price = Usdc::from_micros(&terms.max_amount_required);
    let price = price.map_err(|_| ClientError::OtherTerms("maxAmountRequired is no amount of micro-USDC"))?;
    if price > most {
        return Err(ClientError::TooDear { asked: price, most });
    }
    Ok((payee, price))
}

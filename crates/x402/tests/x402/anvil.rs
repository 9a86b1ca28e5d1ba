//! The same with real money, as far as a test has any: the contracts' own token
//! on a local chain.

use std::path::PathBuf;
use std::sync::Arc;

use alloy_primitives::{Bytes, Log, hex, keccak256};
use alloy_sol_types::{SolCall, SolValue, sol};
use async_trait::async_trait;
use domain::{Address, B256, U256, Usdc};
use fixtures::{Anvil, CHAIN_ID, PATIENCE};
use palatine_x402::fake::FakePayments;
use palatine_x402::*;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::common::{CLIENT, NAME, PAYEE, PRICE, limits};
use crate::npm::{SellerServer, buys, customer, express, pay_by_hand};

/// Anvil's second account: it mints and settles.
const WORKER: Address = alloy_primitives::address!("70997970C51812dc3A010C7d01b50e0d17dc79C8");

sol! {
    function mint(address to, uint256 amount);
    function balanceOf(address owner) returns (uint256);
    function DOMAIN_SEPARATOR() returns (bytes32);
    function authorizationState(address authorizer, bytes32 nonce) returns (bool);
    function transferWithAuthorization(
        address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce,
        uint8 v, bytes32 r, bytes32 s
    );
}

/// A local chain with the token on it, ended when dropped.
struct Chain {
    anvil: Anvil,
    asset: Address,
}

type Refused = String;

impl Chain {
    async fn start() -> Self {
        let mut chain = Self { anvil: Anvil::start(&[]), asset: Address::ZERO };
        chain.asset = chain.deploy().await;
        chain
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Value, Refused> {
        self.anvil.try_call(method, params).await
    }

    /// Sends from the worker's account; anvil mines it at once.
    async fn send(&self, to: Option<Address>, data: &[u8]) -> Result<Value, Refused> {
        let transaction = json!({ "from": WORKER, "to": to, "data": Bytes::copy_from_slice(data) });
        let hash = self.ask("eth_sendTransaction", json!([transaction])).await?;
        let receipt = timeout(PATIENCE, async {
            loop {
                let receipt = self.ask("eth_getTransactionReceipt", json!([hash])).await.unwrap();
                if !receipt.is_null() {
                    return receipt;
                }
                tokio::task::yield_now().await;
            }
        });
        Ok(receipt.await.expect("a transaction is mined"))
    }

    async fn deploy(&self) -> Address {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../contracts/abi/TestUSDC.json");
        let artifact: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut code = hex::decode(artifact["bytecode"].as_str().unwrap()).unwrap();
        code.extend(("1".to_owned(), WORKER).abi_encode_params());
        let receipt = self.send(None, &code).await.unwrap();
        receipt["contractAddress"].as_str().unwrap().parse().unwrap()
    }

    async fn call<C: SolCall>(&self, call: C) -> C::Return {
        let data = Bytes::from(call.abi_encode());
        let answer = self.ask("eth_call", json!([{ "to": self.asset, "data": data }, "latest"])).await.unwrap();
        C::abi_decode_returns(&hex::decode(answer.as_str().unwrap()).unwrap()).unwrap()
    }

    async fn mint(&self, to: Address, amount: Usdc) {
        let data = mintCall { to, amount: amount.to_u256() }.abi_encode();
        assert_eq!(self.send(Some(self.asset), &data).await.unwrap()["status"], "0x1");
    }

    async fn holds(&self, owner: Address) -> Usdc {
        Usdc::try_from(self.call(balanceOfCall { owner }).await).unwrap()
    }

    fn token(&self) -> Token {
        Token::new(CHAIN_ID, "cronos-testnet", self.asset, NAME, "1")
    }
}

fn logs(receipt: &Value) -> Vec<Log> {
    serde_json::from_value(receipt["logs"].clone()).unwrap()
}

fn hash(value: &Value) -> B256 {
    value.as_str().unwrap().parse().unwrap()
}

#[async_trait]
impl Transfers for Chain {
    async fn transfer(&self, payment: &SignedAuthorization, _: ClientAddr) -> Result<B256, TransferError> {
        let it = &payment.authorization;
        let call = transferWithAuthorizationCall {
            from: it.from,
            to: it.to,
            value: it.value.to_u256(),
            validAfter: it.valid_after,
            validBefore: it.valid_before,
            nonce: it.nonce,
            v: 27 + u8::from(payment.signature.v()),
            r: payment.signature.r().into(),
            s: payment.signature.s().into(),
        };
        let receipt = self.send(Some(it.asset), &call.abi_encode()).await.map_err(TransferError::Refused)?;
        if receipt["status"] != "0x1" || !it.is_paid_by(&logs(&receipt)) {
            return Err(TransferError::Refused("it reverted".into()));
        }
        Ok(hash(&receipt["transactionHash"]))
    }

    async fn submission(&self, _: &SignedAuthorization) -> SubmissionState {
        SubmissionState::Unknown
    }
}

#[async_trait]
impl TokenReader for Chain {
    async fn state(&self, it: &Authorization) -> Result<AuthorizationState, TokenReadError> {
        if !self.call(authorizationStateCall { authorizer: it.from, nonce: it.nonce }).await {
            let block = self.ask("eth_getBlockByNumber", json!(["latest", false])).await.map_err(TokenReadError)?;
            let time = block["timestamp"].as_str().unwrap().trim_start_matches("0x").to_owned();
            return Ok(AuthorizationState::Unused { as_of: u64::from_str_radix(&time, 16).unwrap() });
        }
        let used = keccak256("AuthorizationUsed(address,bytes32)");
        let filter =
            json!([{ "address": it.asset, "fromBlock": "0x0", "topics": [used, it.from.into_word(), it.nonce] }]);
        let found = self.ask("eth_getLogs", filter).await.map_err(TokenReadError)?;
        let Some(tx) = found.get(0).map(|log| hash(&log["transactionHash"])) else {
            return Ok(AuthorizationState::Void);
        };
        let receipt = self.ask("eth_getTransactionReceipt", json!([tx])).await.map_err(TokenReadError)?;
        Ok(if it.is_paid_by(&logs(&receipt)) { AuthorizationState::Paid { tx } } else { AuthorizationState::Void })
    }

    async fn balance(&self, _chain_id: u64, _asset: Address, owner: Address) -> Result<Usdc, TokenReadError> {
        Ok(self.holds(owner).await)
    }
}

/// A server on the chain: where it is, and the chain.
async fn server() -> (String, Arc<Chain>, Arc<Tokens>) {
    let chain = Arc::new(Chain::start().await);
    chain.mint(customer().address(), Usdc(1_000_000)).await;
    let tokens: Arc<Tokens> = Arc::new([chain.token()].into_iter().collect());
    let limits = SettlementLimits { settle_timeout: PATIENCE, ..limits(8) };
    let settlements = Arc::new(Settlements::new(Arc::<FakePayments>::default(), chain.clone(), chain.clone(), limits));
    let token = tokens.at(CHAIN_ID, chain.asset).unwrap();
    (SellerServer::new(&settlements, &tokens, token).open().await, chain, tokens)
}

#[tokio::test]
async fn the_domain_that_is_signed_in_is_the_tokens_own() {
    let chain = Chain::start().await;
    assert_eq!(chain.call(DOMAIN_SEPARATORCall {}).await, chain.token().separator());
}

#[tokio::test]
async fn an_unmodified_client_pays_us_on_a_real_chain_to_the_last_unit() {
    let (base, chain, _) = server().await;
    for paid in 1..=2 {
        let said = buys("fetch-v2.mjs", &base, chain.asset).await;
        assert_eq!((&said["status"], &said["body"]), (&200.into(), &"the answer".into()), "{said}");
        let receipt = chain.ask("eth_getTransactionReceipt", json!([said["receipt"]["transaction"]])).await.unwrap();
        assert_eq!(receipt["status"], "0x1");
        assert_eq!(chain.holds(PAYEE).await, Usdc(paid * PRICE.0));
        assert_eq!(chain.holds(customer().address()).await, Usdc(1_000_000 - paid * PRICE.0));
    }
}

#[tokio::test]
async fn we_pay_an_unmodified_server_on_a_real_chain() {
    let (base, chain, tokens) = server().await;
    let server = express(&base, chain.asset).await;
    let answers = pay_by_hand(&format!("{}/paid", server.base), tokens, 2).await;
    assert_eq!((answers[0].0, answers[0].2.as_str()), (200, "their answer"), "{answers:?}");
    assert_eq!(answers[1].0, 402, "a copy is not served: {answers:?}");
    assert_eq!(chain.holds(PAYEE).await, PRICE);
}

#[tokio::test]
async fn the_chain_tells_a_payment_from_a_nonce_that_was_used_up_otherwise() {
    let chain = Chain::start().await;
    let payer = customer();
    chain.mint(payer.address(), Usdc(1_000_000)).await;
    let honest = Authorization {
        chain_id: CHAIN_ID,
        asset: chain.asset,
        valid_before: U256::MAX,
        ..crate::common::authorization(&payer)
    };
    let honest = Authorization { valid_after: U256::ZERO, ..honest };
    let selfish = Authorization { to: payer.address(), ..honest };
    let signed = |authorization| SignedAuthorization {
        authorization,
        signature: crate::common::sign(&payer, &chain.token(), &authorization),
    };
    assert!(matches!(chain.state(&honest).await.unwrap(), AuthorizationState::Unused { as_of } if as_of > 0));
    let tx = chain.transfer(&signed(selfish), CLIENT).await.unwrap();
    assert_eq!(chain.state(&honest).await.unwrap(), AuthorizationState::Void);
    assert_eq!(chain.state(&selfish).await.unwrap(), AuthorizationState::Paid { tx });
    assert!(matches!(chain.transfer(&signed(honest), CLIENT).await, Err(TransferError::Refused(_))));
}

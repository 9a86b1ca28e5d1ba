//! The JSON, word for word: what CroGas's clients read.

use alloy_primitives::U256;
use palatine_relay::Config;
use palatine_relay::fake::TestWallet;
use serde_json::{Value, json};
use wire::v1::relay::EstimateQuery;

use crate::fixture::{Fixture, HERE, VAULT, refusal};

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[tokio::test]
async fn the_domain_is_what_ethers_signs_with() {
    let fixture = Fixture::default();
    let forwarder = fixture.facts().forwarder.to_string();
    let said = serde_json::to_value(fixture.relayer.domain()).unwrap();
    let members = [
        "from:address",
        "to:address",
        "value:uint256",
        "gas:uint256",
        "nonce:uint256",
        "deadline:uint48",
        "data:bytes",
    ];
    let members: Vec<Value> = members
        .iter()
        .map(|it| it.split_once(':').unwrap())
        .map(|(name, kind)| json!({"name": name, "type": kind}))
        .collect();
    assert_eq!(
        said,
        json!({
            "domain": {"name": "Forwarder", "version": "1", "chainId": 338, "verifyingContract": forwarder},
            "types": {"ForwardRequest": members},
            "forwarderAddress": forwarder,
        })
    );
}

#[tokio::test]
async fn the_nonce_is_a_text_and_the_address_is_echoed() {
    let fixture = Fixture::default();
    let address = TestWallet::new(1).address().to_string();
    let said = serde_json::to_value(fixture.relayer.nonce(&address).await.unwrap()).unwrap();
    assert_eq!(said, json!({"address": address, "nonce": "0"}));
    assert_eq!(refusal(fixture.relayer.nonce("0x1").await).0, 400);
}

#[tokio::test]
async fn a_relayed_call_answers_with_crogass_fields() {
    let fixture = Fixture::default();
    let signed = fixture.signed(&TestWallet::new(1), 0);
    let body = json!({"request": signed.request, "signature": signed.signature, "priority": "fast"}).to_string();
    let answer = fixture.relayer.relay(body.as_bytes(), None, HERE).await.unwrap();
    let said = serde_json::to_value(answer.body).unwrap();
    assert_eq!(keys(&said), ["blockNumber", "effectiveGasPrice", "gasUsed", "priority", "status", "success", "txHash"]);
    assert_eq!(
        (&said["success"], &said["priority"], &said["status"]),
        (&json!(true), &json!("fast"), &json!("executed"))
    );
    let wrong = body.replace("fast", "ludicrous");
    assert_eq!(refusal(fixture.relayer.relay(wrong.as_bytes(), None, HERE).await).0, 400);
}

#[tokio::test]
async fn a_402_is_crogass_down_to_its_quote() {
    let fixture = Fixture::charging();
    let (status, said) = refusal(fixture.relay(&fixture.signed(&TestWallet::new(1), 0)).await);
    assert_eq!((status, &said["error"]), (402, &json!("Payment Required")));
    assert_eq!(said["x402"]["version"], 1);
    assert_eq!(
        keys(&said["x402"]["accepts"][0]),
        ["asset", "description", "extra", "maxAmountRequired", "network", "payTo", "scheme"]
    );
    assert_eq!(
        said["quote"],
        json!({
            "gasEstimate": "158000",
            "gasPriceGwei": "5000.0",
            "croPrice": 0.1,
            "priceUSDC": "0.166800",
            "priority": "normal",
            "priorityEmoji": "🚗",
            "estimatedTime": "not measured yet",
            "validUntil": "2027-01-15T08:01:00Z",
        })
    );
}

#[tokio::test]
async fn a_batch_answers_with_crogass_fields() {
    let fixture = Fixture::default();
    let answer = fixture.batch(&[fixture.signed(&TestWallet::new(1), 0)]).await.unwrap();
    let said = serde_json::to_value(answer.body).unwrap();
    assert_eq!(keys(&said), ["priority", "results", "success", "successCount", "totalCount"]);
    assert_eq!(keys(&said["results"][0]), ["status", "success", "to", "txHash"]);
    assert_eq!(said["results"][0]["to"], VAULT.to_string());
}

#[tokio::test]
async fn an_estimate_has_the_flat_fields_and_the_tiers() {
    let fixture = Fixture::charging();
    let query = |priority: Value| -> EstimateQuery {
        serde_json::from_value(json!({"to": VAULT, "data": "0x", "value": "0", "priority": priority})).unwrap()
    };
    let said = serde_json::to_value(fixture.relayer.estimate(&query(Value::Null)).await.unwrap()).unwrap();
    assert_eq!(said["simulated"], true);
    assert_eq!((&said["gasEstimate"], &said["priceUSDC"]), (&json!("150000"), &json!("0.162000")));
    assert_eq!(
        (&said["croPrice"], &said["validFor"], &said["recommended"]),
        (&json!(0.1), &json!(60), &json!("normal"))
    );
    assert_eq!(keys(&said["pricing"]["slow"]), ["emoji", "estimatedTime", "label", "priceUSDC"]);
    let said = serde_json::to_value(fixture.relayer.estimate(&query(json!("slow"))).await.unwrap()).unwrap();
    assert!(said["pricing"].is_null() && said["priority"] == "slow");
    fixture.chain.set_behavior(VAULT, palatine_relay::fake::TargetBehavior::Reverts(chain::evm::Revert::Silent));
    let said = serde_json::to_value(fixture.relayer.estimate(&query(Value::Null)).await.unwrap()).unwrap();
    assert_eq!((&said["simulated"], &said["gasEstimate"]), (&json!(false), &json!("242587")));
    let wrong: EstimateQuery = serde_json::from_value(json!({"to": "0x"})).unwrap();
    assert_eq!(refusal(fixture.relayer.estimate(&wrong).await).0, 400);
}

#[tokio::test]
async fn health_has_crogass_fields_and_is_a_503_when_cro_is_short() {
    let fixture = Fixture::default();
    fixture.relay(&fixture.signed(&TestWallet::new(1), 0)).await.unwrap();
    let (status, health) = fixture.relayer.health().await;
    let said = serde_json::to_value(health).unwrap();
    assert_eq!((status, &said["status"]), (200, &json!("healthy")));
    assert_eq!(
        keys(&said),
        ["autoRebalance", "pricing", "relayerAddress", "relayerBalance", "relayerPool", "stats", "status", "warnings"]
    );
    assert_eq!(said["relayerBalance"], json!({"CRO": "100.0", "USDC": "0.0"}));
    let stats = json!({"totalRelayed": 1, "pending": 0, "confirmed": 1, "failed": 0, "successRate": "1.000"});
    assert_eq!(said["stats"], stats);
    assert_eq!(said["pricing"], json!({"croUsdPrice": 0.1, "currentGasPriceGwei": "5000"}));
    fixture.chain.set_wei(U256::from(10).pow(U256::from(19)) - U256::from(1));
    let (status, health) = fixture.relayer.health().await;
    assert_eq!((status, health.warnings.len()), (503, 1));
    assert_eq!(health.warnings[0], "Low CRO balance: 9.999999999999999999 CRO (threshold: 10)");
}

#[tokio::test]
async fn a_waived_fee_is_a_price_of_zero() {
    let fixture = Fixture::new(Config::default());
    let query: EstimateQuery = serde_json::from_value(json!({"to": VAULT})).unwrap();
    assert_eq!(fixture.relayer.estimate(&query).await.unwrap().price_usdc, "0.000000");
}

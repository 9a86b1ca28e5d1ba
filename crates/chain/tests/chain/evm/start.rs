//! What is checked before anything is done with a chain.

use domain::Address;
use palatine_chain::Endpoint;
use palatine_chain::evm::{ChainStartError, CheckedChain, DeployError, EvmConfig, EvmError, deploy_local};

use super::node::{CHAIN_ID, FUNDS, Fixture, config, deploy};
use super::proxy::Liar;

async fn refused(config: EvmConfig) -> ChainStartError {
    CheckedChain::connect(&config).await.unwrap_err()
}

#[tokio::test]
async fn a_second_deployment_finds_what_the_first_one_made() {
    let fixture = Fixture::start().await;
    let height = fixture.anvil.height().await;
    assert_eq!(deploy(&fixture.anvil, &fixture.boss, fixture.boss.address()).await, fixture.deployed);
    assert_eq!(fixture.anvil.height().await, height, "nothing was sent");
    assert_eq!(fixture.chain.usdc_of(fixture.boss.address(), palatine_chain::evm::BlockTag::Latest).await, Ok(FUNDS));
}

#[tokio::test]
async fn nothing_is_deployed_where_money_is_real() {
    let fixture = Fixture::start().await;
    for chain_id in [1, 25] {
        let key = fixture.boss.key();
        let refused = deploy_local(fixture.anvil.endpoint(), chain_id, &key, key.address(), FUNDS).await;
        assert!(matches!(refused, Err(DeployError::RealChain(is)) if is == chain_id));
    }
    let wrong = deploy_local(fixture.anvil.endpoint(), 31337, &fixture.boss.key(), fixture.boss.address(), FUNDS).await;
    assert!(matches!(wrong, Err(DeployError::Start(ChainStartError::OtherChain { is: CHAIN_ID, .. }))), "{wrong:?}");
}

#[tokio::test]
async fn what_does_not_fit_the_chain_is_refused_by_its_key() {
    let fixture = Fixture::start().await;
    let good = config(&fixture.deployed, vec![fixture.anvil.endpoint()]);
    let nobody = Address::repeat_byte(0x11);

    let error = refused(EvmConfig { chain_id: 25, ..good.clone() }).await;
    assert!(matches!(error, ChainStartError::OtherChain { is: CHAIN_ID, wanted: 25, .. }), "{error}");
    let error = refused(EvmConfig { factory: nobody, ..good.clone() }).await;
    assert!(matches!(error, ChainStartError::NoCode { key: "factory", .. }), "{error}");
    let error = refused(EvmConfig { forwarder: fixture.deployed.implementation, ..good.clone() }).await;
    assert!(matches!(error, ChainStartError::Factory { key: "forwarder", .. }), "{error}");
    let error = refused(EvmConfig { implementation: Some(nobody), ..good.clone() }).await;
    assert!(matches!(error, ChainStartError::Factory { key: "implementation", .. }), "{error}");
    let error = refused(EvmConfig { usdc: fixture.deployed.implementation, ..good.clone() }).await;
    assert!(matches!(error, ChainStartError::Evm(_)), "{error}");
}

#[tokio::test]
async fn a_token_of_another_domain_is_refused_since_nothing_signed_would_be_good() {
    let fixture = Fixture::start().await;
    let good = config(&fixture.deployed, vec![fixture.anvil.endpoint()]);
    for other in [
        EvmConfig { usdc_version: Some("1".into()), ..good.clone() },
        EvmConfig { usdc_name: "USD Coin".into(), ..good.clone() },
    ] {
        let error = refused(other).await;
        assert!(matches!(error, ChainStartError::Separator { .. }), "{error}");
    }
    CheckedChain::connect(&EvmConfig { usdc_version: Some("2".into()), ..good }).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_of_another_chain_among_good_ones_is_named() {
    let fixture = Fixture::start().await;
    let liar = Liar::before(&fixture.anvil.url, Liar::other_chain).await;
    let endpoints = vec![fixture.anvil.endpoint(), liar.endpoint(), fixture.anvil.endpoint()];
    let error = refused(config(&fixture.deployed, endpoints)).await;
    assert!(
        matches!(&error, ChainStartError::OtherChain { host, is: 1, .. } if *host == liar.endpoint().host()),
        "{error}"
    );
}

#[tokio::test]
async fn nobody_there_is_no_verdict_about_the_chain() {
    let fixture = Fixture::start().await;
    let nobody = Endpoint("http://127.0.0.1:1/secret-key".into());
    let error = refused(config(&fixture.deployed, vec![nobody])).await;
    assert!(matches!(error, ChainStartError::Evm(EvmError::Unknown { .. })), "{error}");
    assert!(!error.to_string().contains("secret"), "{error}");
}

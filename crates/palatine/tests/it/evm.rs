//! A local chain with the real contracts, for tests.

use chain::Endpoint;
use chain::evm::{Chain, Deployed, EvmConfig, Key, deploy_local};
use domain::evm::Call;
use domain::{Address, B256, Bytes, Usdc};
use identity::{Cost, Identity, SignerSync};
use needs::anvil::Anvil;
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) use needs::anvil::CHAIN_ID;
pub(crate) const TOKEN_VERSION: &str = "2";
/// What a payer of a test begins with.
pub(crate) const FUNDS: Usdc = Usdc(1_000_000_000);

/// A local chain of a test, with the contracts on it.
pub(crate) struct Evm {
    pub(crate) anvil: Anvil,
    rpc: String,
    deployer: Identity,
    relayer: Identity,
    pub(crate) deployed: Deployed,
    dir: TempDir,
}

impl Evm {
    pub(crate) async fn start() -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let anvil = Anvil::start(&[]);
        let rpc = anvil.url.clone();
        let (deployer, relayer) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        for who in [&deployer, &relayer] {
            call_rpc(&rpc, "anvil_setBalance", json!([who.address(), "0x21e19e0c9bab2400000"])).await;
        }
        let key = Key::new(deployer.clone());
        let deployed = deploy_local(Endpoint(rpc.clone()), CHAIN_ID, &key, deployer.address(), Usdc(0)).await.unwrap();
        Self { anvil, rpc, deployer, relayer, deployed, dir: TempDir::new().unwrap() }
    }

    pub(crate) fn config(&self) -> EvmConfig {
        let mut config = self.deployed.config(Endpoint(self.rpc.clone()), CHAIN_ID);
        config.usdc_version = Some(TOKEN_VERSION.to_owned());
        config
    }

    pub(crate) async fn chain(&self) -> Chain {
        Chain::connect(&self.config()).await.unwrap()
    }

    /// A payer with test USDC, and without a coin for gas.
    pub(crate) async fn payer(&self) -> Identity {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).unwrap();
        self.payer_of(&secret).await
    }

    /// The payer with this key.
    pub(crate) async fn payer_of(&self, secret: &[u8; 32]) -> Identity {
        let payer = Identity::from_secret(secret).unwrap();
        fund(&self.rpc, self.deployer.clone(), payer.address()).await;
        payer
    }

    /// Makes a call at somebody's own cost.
    pub(crate) async fn pay(&self, call: &Call) {
        let accounts = call_rpc(&self.rpc, "eth_accounts", json!([])).await;
        let tx = json!([{"from": accounts[0], "to": call.to, "data": call.data}]);
        let hash = call_rpc(&self.rpc, "eth_sendTransaction", tx).await;
        let receipt = call_rpc(&self.rpc, "eth_getTransactionReceipt", json!([hash])).await;
        assert_eq!(receipt["status"], "0x1", "{receipt}");
    }

    /// The sections that a house needs to work on this chain.
    pub(crate) fn sections(&self) -> String {
        let password = SecretString::from("of a test");
        let keystore = self.dir.path().join("relayer.json");
        self.relayer.save(&keystore, &password, Cost::LIGHT).unwrap();
        let file = self.dir.path().join("relayer.password");
        std::fs::write(&file, "of a test").unwrap();
        let Deployed { usdc, factory, forwarder, .. } = self.deployed;
        format!(
            r#"
            [evm]
            endpoints = ["{rpc}"]
            chain_id = {CHAIN_ID}
            usdc = "{usdc}"
            factory = "{factory}"
            forwarder = "{forwarder}"
            confirmations = 1
            poll_ms = 50
            [treasury]
            identities = "{dir}/identities"
            key_file = "{dir}/identities.key"
            [relayer]
            enabled = true
            key = "{keystore}"
            password_file = "{file}"
            per_client_minute = 100000
            per_client_day = 100000
            queue = 1000
            budgets = {{ wallet_percent = 100, payee_percent = 100, client_percent = 100 }}
            [x402]
            pay_to = "{payee}"
            tokens = [{{ chain_id = {CHAIN_ID}, network = "cronos-testnet", address = "{usdc}", name = "Bridged USDC (Stargate)", version = "{TOKEN_VERSION}" }}]
            "#,
            rpc = self.rpc,
            dir = self.dir.path().display(),
            keystore = keystore.display(),
            file = file.display(),
            payee = PAYEE,
        )
    }
}

/// Who is paid for requests in these tests.
pub(crate) const PAYEE: Address = Address::repeat_byte(0x77);

pub(crate) async fn call_rpc(rpc: &str, method: &str, params: Value) -> Value {
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let answer = reqwest::Client::new().post(rpc).json(&body).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert!(answer.get("error").is_none(), "{method}: {answer}");
    answer["result"].clone()
}

/// Sees to it that somebody has test USDC.
pub(crate) async fn fund(rpc: &str, deployer: Identity, who: Address) {
    deploy_local(Endpoint(rpc.to_owned()), CHAIN_ID, &Key::new(deployer), who, FUNDS).await.unwrap();
}

pub(crate) fn sign(who: &Identity, hash: B256) -> Bytes {
    Bytes::from(who.sign_hash_sync(&hash).unwrap().as_bytes())
}

pub(crate) fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

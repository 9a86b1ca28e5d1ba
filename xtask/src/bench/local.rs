//! A local EVM chain with our contracts on it, as `palatine up` has one.

use anyhow::{Context, Result, anyhow, ensure};
use chain::evm::{CheckedChain, EvmConfig, SigningKey, calls, deploy_local};
use domain::evm::Call;
use domain::{Address, Usdc};
use fixtures::{Anvil, CHAIN_ID};
use relay::fake::TestWallet;
use serde_json::{Value, json};

use super::machine::pin;

/// Gas that one call may use.
const GAS: &str = "0x7a120";
/// Who deploys and mints.
const DEPLOYER: u64 = 1;
/// The name of the one pod.
const POD: &str = "bench";

/// A running chain on processor 0; it ends when dropped. It lets anybody send for
/// anybody, and makes a block for each transaction until it is told otherwise.
pub(super) struct LocalChain {
    anvil: Anvil,
}

impl LocalChain {
    /// Starts it, and takes this process to processor 1.
    pub(super) async fn start() -> Result<Self> {
        pin(0)?;
        let anvil = Anvil::start(&[]);
        pin(1)?;
        let chain = Self { anvil };
        chain.ask("anvil_autoImpersonateAccount", json!([true])).await?;
        Ok(chain)
    }

    /// A call of the RPC, which must succeed.
    pub(super) async fn ask(&self, method: &str, params: Value) -> Result<Value> {
        let answer = self.anvil.try_call(method, params).await;
        answer.map_err(|refused| anyhow!("{method}: {refused}"))
    }

    pub(super) async fn give_coins(&self, to: Address) {
        self.anvil.give_coins(to).await;
    }

    /// Sends a call in somebody's name.
    pub(super) async fn send(&self, from: Address, call: &Call) -> Result<()> {
        let transaction = json!({"from": from, "to": call.to, "data": call.data, "gas": GAS});
        self.ask("eth_sendTransaction", json!([transaction])).await.map(drop)
    }

    /// Whether each transaction has its block at once.
    pub(super) async fn automine(&self, on: bool) -> Result<()> {
        self.ask("evm_setAutomine", json!([on])).await.map(drop)
    }

    pub(super) async fn mine(&self) -> Result<()> {
        self.ask("evm_mine", json!([])).await.map(drop)
    }

    /// Seconds, as the newest block has them.
    pub(super) async fn now(&self) -> Result<u64> {
        let block = self.ask("eth_getBlockByNumber", json!(["latest", false])).await?;
        let at = block["timestamp"].as_str().and_then(|text| text.strip_prefix("0x")).context("read a block's time")?;
        u64::from_str_radix(at, 16).context("read a block's time")
    }

    /// Our contracts; the holder has coins and this much USDC. The configuration is
    /// the one `palatine up` writes.
    pub(super) async fn deploy(&self, holder: Address, funds: Usdc) -> Result<EvmConfig> {
        let deployer = TestWallet::new(DEPLOYER);
        self.give_coins(deployer.address()).await;
        self.give_coins(holder).await;
        let endpoint = || self.anvil.endpoint();
        let key = SigningKey::new(deployer.signer().clone());
        let deployed = deploy_local(endpoint(), CHAIN_ID, &key, holder, funds).await.context("deploy the contracts")?;
        Ok(deployed.config(endpoint(), CHAIN_ID))
    }

    /// A vault whose owner is its agent as well.
    pub(super) async fn vault(&self, chain: &CheckedChain, owner: Address) -> Result<Address> {
        let call = calls::create_vault(chain.evm.config().factory, POD, owner, owner, None);
        self.send(owner, &call).await?;
        let vault = chain.vault_of(POD, owner).await?;
        ensure!(chain.is_vault(vault).await?, "there is no vault at {vault}");
        Ok(vault)
    }
}

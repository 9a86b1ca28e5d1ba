//! What vaults, the factory, the token and the forwarder say of themselves.

use domain::vault::{TaskId, VaultSettings};
use domain::{Address, B256, U256, Usdc};

use super::abi::ERC2771Forwarder as Forwarder;
use super::abi::PODVault as Vault;
use super::abi::PODVaultFactory as Factory;
use super::abi::TestUSDC as Token;
use super::{BlockTag, CheckedChain, EvmConfig, EvmError, OnChainTaskState, terms};

/// A vault as it stands on the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VaultView {
    /// The pod's name.
    pub pod_id: String,
    /// Who withdraws the earnings and sets the rest.
    pub owner: Address,
    /// Who has been offered the vault; zero for nobody.
    pub pending_owner: Address,
    /// Who delivers for the pod.
    pub agent_wallet: Address,
    /// Who has been offered the agent's role; zero for nobody.
    pub pending_agent_wallet: Address,
    /// For tasks to come.
    pub settings: VaultSettings,
    /// Whether creation is stopped.
    pub paused: bool,
    /// What the owner may withdraw.
    pub available: Usdc,
    /// All that the pod ever earned.
    pub total_earnings: Usdc,
    /// Tasks that were completed.
    pub total_tasks: u64,
    /// What the vault holds of the token.
    pub balance: Usdc,
}

/// Whether a vault is on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaultStanding {
    /// It is not.
    Absent,
    /// In a block that is not `[evm] confirmations` deep: it may be gone again.
    Unconfirmed,
    /// It is.
    Confirmed {
        /// Who delivers for its pod.
        agent_wallet: Address,
    },
}

/// A task as it stands on the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskView {
    /// What was locked at creation.
    pub amount: Usdc,
    /// Who paid.
    pub creator: Address,
    /// Where it stands.
    pub state: OnChainTaskState,
    /// When it was created, in Unix seconds.
    pub created_at: u64,
    /// When its present state's time ends; 0 at the end.
    pub deadline: u64,
}

impl CheckedChain {
    /// Where the vault of a pod and its first owner is, or will be.
    ///
    /// # Errors
    /// [`EvmError`], as everything here.
    pub async fn vault_of(&self, pod_id: &str, owner: Address) -> Result<Address, EvmError> {
        let function = Factory::vaultOfCall { podId: pod_id.to_owned(), owner };
        self.evm.read_agreed(self.factory(), &function, BlockTag::Latest).await
    }

    /// Whether our factory made the vault at this address: by its code and address,
    /// as enough endpoints say alike.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn is_vault(&self, vault: Address) -> Result<bool, EvmError> {
        self.is_vault_at(vault, self.evm.agreed_head().await?).await
    }

    async fn is_vault_at(&self, vault: Address, block: u64) -> Result<bool, EvmError> {
        self.evm.read_agreed(self.factory(), &Factory::isVaultCall { vault }, BlockTag::Block(block)).await
    }

    /// How a vault of our factory stands, as enough endpoints say alike: for whoever writes down
    /// what follows from it.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn standing(&self, vault: Address) -> Result<VaultStanding, EvmError> {
        let head = self.evm.agreed_head().await?;
        if !self.is_vault_at(vault, head).await? {
            return Ok(VaultStanding::Absent);
        }
        let EvmConfig { confirmations, start_block, .. } = *self.evm.config();
        let deep = (head + 1).saturating_sub(confirmations);
        if deep < start_block || deep != head && !self.is_vault_at(vault, deep).await? {
            return Ok(VaultStanding::Unconfirmed);
        }
        let agent_wallet = self.evm.read_agreed(vault, &Vault::agentWalletCall {}, BlockTag::Block(deep)).await?;
        Ok(VaultStanding::Confirmed { agent_wallet })
    }

    /// A vault at one block's end.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn vault(&self, vault: Address, at: BlockTag) -> Result<VaultView, EvmError> {
        let evm = &self.evm;
        let (pod_id, owner, pending_owner, agent_wallet, pending_agent_wallet, settings) = tokio::try_join!(
            evm.read(vault, &Vault::podIdCall {}, at),
            evm.read(vault, &Vault::ownerCall {}, at),
            evm.read(vault, &Vault::pendingOwnerCall {}, at),
            evm.read(vault, &Vault::agentWalletCall {}, at),
            evm.read(vault, &Vault::pendingAgentWalletCall {}, at),
            evm.read(vault, &Vault::settingsCall {}, at),
        )?;
        let (paused, available, total_earnings, total_tasks, balance) = tokio::try_join!(
            evm.read(vault, &Vault::pausedCall {}, at),
            evm.read(vault, &Vault::availableBalanceCall {}, at),
            evm.read(vault, &Vault::totalEarningsCall {}, at),
            evm.read(vault, &Vault::totalTasksCall {}, at),
            self.usdc_of(vault, at),
        )?;
        Ok(VaultView {
            pod_id,
            owner,
            pending_owner,
            agent_wallet,
            pending_agent_wallet,
            settings: terms::settings(&settings),
            paused,
            available: terms::usdc(available)?,
            total_earnings: terms::usdc(total_earnings)?,
            total_tasks: total_tasks.saturating_to(),
            balance,
        })
    }

    /// A task, if it was ever created.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn task(&self, vault: Address, task: TaskId, at: BlockTag) -> Result<Option<TaskView>, EvmError> {
        let found = self.evm.read(vault, &Vault::tasksCall { taskId: task.0 }, at).await?;
        let view = TaskView {
            amount: terms::usdc(found.amount.to())?,
            creator: found.creator,
            state: found.state.into(),
            created_at: found.timestamp.to(),
            deadline: found.deadline.to(),
        };
        Ok((view.state != OnChainTaskState::None).then_some(view))
    }

    /// What an account may withdraw from a vault.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn credit(&self, vault: Address, account: Address, at: BlockTag) -> Result<Usdc, EvmError> {
        terms::usdc(self.evm.read(vault, &Vault::creditsCall { account }, at).await?)
    }

    /// Whether an account may hand in results beside the agent wallet.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn is_operator(&self, vault: Address, account: Address, at: BlockTag) -> Result<bool, EvmError> {
        self.evm.read(vault, &Vault::authorizedOperatorsCall { account }, at).await
    }

    /// What an account holds of the token.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn usdc_of(&self, account: Address, at: BlockTag) -> Result<Usdc, EvmError> {
        terms::usdc(self.evm.read(self.usdc(), &Token::balanceOfCall { account }, at).await?)
    }

    /// What a spender may take of an owner's tokens, in micro-USDC: often more than
    /// there is of the token.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn allowance(&self, owner: Address, spender: Address, at: BlockTag) -> Result<U256, EvmError> {
        self.evm.read(self.usdc(), &Token::allowanceCall { owner, spender }, at).await
    }

    /// The nonce of an account's next permit.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn permit_nonce(&self, owner: Address) -> Result<U256, EvmError> {
        self.evm.read(self.usdc(), &Token::noncesCall { owner }, BlockTag::Latest).await
    }

    /// Whether an ERC-3009 authorization was used or cancelled.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn is_authorization_used(
        &self,
        authorizer: Address,
        nonce: B256,
        at: BlockTag,
    ) -> Result<bool, EvmError> {
        self.evm.read(self.usdc(), &Token::authorizationStateCall { authorizer, nonce }, at).await
    }

    /// The nonce of an account's next forwarded request.
    ///
    /// # Errors
    /// [`EvmError`].
    pub async fn forwarder_nonce(&self, account: Address) -> Result<U256, EvmError> {
        self.evm.read(self.forwarder(), &Forwarder::noncesCall { owner: account }, BlockTag::Latest).await
    }

    /// The token.
    #[must_use]
    pub const fn usdc(&self) -> Address {
        self.evm.config().usdc
    }

    /// The factory.
    #[must_use]
    pub const fn factory(&self) -> Address {
        self.evm.config().factory
    }

    /// The forwarder.
    #[must_use]
    pub const fn forwarder(&self) -> Address {
        self.evm.config().forwarder
    }
}

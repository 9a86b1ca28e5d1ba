//! The ledger against the chain, to the micro-USDC.

use domain::evm::BlockRef;
use domain::vault::Vault;
use domain::{Address, Usdc};

use super::{BlockTag, CheckedChain, EvmError, VaultView};

/// Credits that are compared of one vault at most.
pub const MAX_CREDITS: usize = 10_000;

/// What the ledger says of one vault.
#[derive(Clone, Debug)]
pub struct LedgerVault<'a> {
    /// Its address.
    pub address: Address,
    /// Its ledger.
    pub vault: &'a Vault,
    /// What accounts may withdraw; at most [`MAX_CREDITS`].
    pub credits: &'a [(Address, Usdc)],
}

/// Which figure differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MismatchKind {
    /// What the owner may withdraw.
    Available,
    /// All that the pod ever earned.
    TotalEarnings,
    /// Tasks that were completed.
    TotalTasks,
    /// What an account may withdraw.
    Credit(Address),
    /// What the vault holds is less than what it owes.
    Solvency,
    /// Who has which place, or the settings.
    Places,
}

/// A difference between the ledger and the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The vault.
    pub vault: Address,
    /// What differs.
    pub figure: MismatchKind,
    /// What the ledger says: micro-USDC, or a count.
    pub ledger: u64,
    /// What the chain says.
    pub chain: u64,
}

/// Differences, and gifts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciliation {
    /// None, if the ledger equals the chain.
    pub mismatches: Vec<Mismatch>,
    /// What vaults hold beyond what they owe: sent to them unasked.
    pub gifts: Vec<(Address, Usdc)>,
}

impl CheckedChain {
    /// Compares the ledger's vaults with the chain at the ledger's cursor, as
    /// enough endpoints say alike.
    ///
    /// # Errors
    /// [`EvmError`]; [`EvmError::Inconsistent`] when the cursor's block is not the
    /// chain's: roll back first.
    pub async fn reconcile(&self, cursor: &BlockRef, claims: &[LedgerVault<'_>]) -> Result<Reconciliation, EvmError> {
        self.stands(cursor).await?;
        let mut sum = Reconciliation::default();
        for claim in claims {
            self.compare(claim, BlockTag::Block(cursor.number), &mut sum).await?;
        }
        self.stands(cursor).await?;
        Ok(sum)
    }

    async fn stands(&self, cursor: &BlockRef) -> Result<(), EvmError> {
        let block = self.evm.block(cursor.number).await?;
        let what = "the ledger's last block is not the chain's";
        let same = block.is_some_and(|block| block.hash == cursor.hash);
        if same { Ok(()) } else { Err(EvmError::Inconsistent { method: "eth_getBlockByNumber", what }) }
    }

    async fn compare(&self, claim: &LedgerVault<'_>, at: BlockTag, sum: &mut Reconciliation) -> Result<(), EvmError> {
        let view = self.vault(claim.address, at).await?;
        sum.mismatches.extend(differences(claim, &view));
        for (account, ledger) in claim.credits.iter().take(MAX_CREDITS) {
            let chain = self.credit(claim.address, *account, at).await?;
            if chain != *ledger {
                let figure = MismatchKind::Credit(*account);
                sum.mismatches.push(Mismatch { vault: claim.address, figure, ledger: ledger.0, chain: chain.0 });
            }
        }
        let owed = claim.vault.owes().unwrap_or(Usdc(u64::MAX));
        sum.gifts.extend(view.balance.checked_sub(owed).filter(|gift| gift.0 > 0).map(|gift| (claim.address, gift)));
        Ok(())
    }
}

fn differences(claim: &LedgerVault<'_>, view: &VaultView) -> Vec<Mismatch> {
    let vault = claim.vault;
    let owed = vault.owes().map_or(u64::MAX, |owed| owed.0);
    let figures = [
        (MismatchKind::Available, vault.available.0, view.available.0),
        (MismatchKind::TotalEarnings, vault.total_earnings.0, view.total_earnings.0),
        (MismatchKind::TotalTasks, vault.total_tasks, view.total_tasks),
        (MismatchKind::Solvency, owed, view.balance.0.min(owed)),
        (MismatchKind::Places, 0, u64::from(!same_places(vault, view))),
    ];
    let differing = figures.into_iter().filter(|(_, ledger, chain)| ledger != chain);
    differing.map(|(figure, ledger, chain)| Mismatch { vault: claim.address, figure, ledger, chain }).collect()
}

fn same_places(vault: &Vault, view: &VaultView) -> bool {
    let ours = (vault.owner, vault.agent_wallet, vault.settings, vault.paused);
    let pending = (vault.pending_owner.unwrap_or_default(), vault.pending_agent_wallet.unwrap_or_default());
    let theirs = (view.owner, view.agent_wallet, view.settings, view.paused);
    ours == theirs && pending == (view.pending_owner, view.pending_agent_wallet) && vault.pod_id == view.pod_id
}

//! Things that happen on a chain, and what a ledger says of them.

use std::sync::Arc;

use domain::evm::Call;
use domain::vault::{Ledger, LoggedEvent, VaultLedger};
use domain::{Address, B256, Usdc};
use palatine_chain::evm::fake::{LedgerState, MemoryLedger};
use palatine_chain::evm::{CheckedChain, IndexError, IndexProgress, Indexer, LedgerVault, Reconciliation, calls};
use tokio::time::timeout;

use super::node::{Fixture, PATIENCE, Person};

/// A pod's people and its vault.
pub(crate) struct Pod {
    pub(crate) owner: Person,
    pub(crate) agent: Person,
    pub(crate) creator: Person,
    pub(crate) vault: Address,
}

impl Pod {
    pub(crate) async fn new(fixture: &Fixture, pod_id: &str) -> Self {
        let (owner, agent) = (fixture.person("owner").await, fixture.person("agent").await);
        let creator = fixture.person("creator").await;
        let vault = fixture.vault(pod_id, &owner, &agent).await;
        Self { owner, agent, creator, vault }
    }

    /// A task is created, and ends in one of four ways.
    pub(crate) async fn works(&self, fixture: &Fixture, salt: u8) {
        let terms = fixture.terms(&self.creator, salt).await;
        fixture.does(&fixture.boss, &fixture.funded(self.vault, &self.creator, &terms).await).await;
        let submit = calls::submit(self.vault, &terms, B256::repeat_byte(salt));
        let steps: Vec<(&Person, Call)> = match salt % 4 {
            0 => vec![(&self.agent, calls::decline(self.vault, &terms))],
            1 => vec![(&self.agent, submit), (&self.creator, calls::complete(self.vault, &terms, Usdc(2_000_003)))],
            2 => vec![(&self.agent, submit), (&self.creator, calls::dispute(self.vault, &terms, B256::ZERO))],
            _ => vec![
                (&self.agent, submit),
                (&self.creator, calls::complete(self.vault, &terms, terms.amount)),
                (&self.owner, calls::withdraw(self.vault, self.owner.address(), Usdc(1_999_999))),
            ],
        };
        for (person, call) in steps {
            fixture.does(person, &call).await;
        }
    }
}

/// Passes until the ledger is at the head.
pub(crate) async fn catch_up(chain: &Arc<CheckedChain>, ledger: &Arc<MemoryLedger>) -> Result<(), IndexError> {
    let mut indexer = Indexer::new(Arc::clone(chain), Arc::clone(ledger) as Arc<dyn Ledger>);
    let passes = async {
        while indexer.index_range().await? != IndexProgress::Idle {}
        Ok(())
    };
    timeout(PATIENCE, passes).await.expect("the ledger arrives at the head")
}

/// What a ledger that starts now reads of the whole chain.
pub(crate) async fn afresh(chain: &Arc<CheckedChain>) -> LedgerState {
    let ledger = Arc::new(MemoryLedger::default());
    catch_up(chain, &ledger).await.unwrap();
    ledger.ledger_state()
}

/// The ledger against the chain.
pub(crate) async fn reconcile(chain: &CheckedChain, ledger_state: &LedgerState) -> Reconciliation {
    let vault_ledgers = ledger_state.vault_ledgers().unwrap();
    let credits: Vec<Vec<(Address, Usdc)>> =
        vault_ledgers.values().map(|ledger| ledger.credits().iter().map(|(who, sum)| (*who, *sum)).collect()).collect();
    let claims: Vec<LedgerVault<'_>> = vault_ledgers
        .iter()
        .zip(&credits)
        .map(|((address, ledger), credits)| LedgerVault { address: *address, vault: ledger.vault().unwrap(), credits })
        .collect();
    assert!(vault_ledgers.values().all(|ledger| ledger.check().is_ok()));
    chain.reconcile(&ledger_state.cursor().unwrap(), &claims).await.unwrap()
}

/// Asserts that a ledger is the chain's: event by event, and sum by sum.
pub(crate) async fn equals_the_chain(chain: &Arc<CheckedChain>, ledger_state: &LedgerState) {
    let fresh = afresh(chain).await;
    let key = |logged: &LoggedEvent| (logged.block, logged.log_index, logged.event.clone());
    let keys = |ledger_state: &LedgerState| ledger_state.events.iter().map(key).collect::<Vec<_>>();
    assert_eq!(keys(ledger_state), keys(&fresh));
    assert_eq!(ledger_state.cursor(), fresh.cursor());
    assert_eq!(reconcile(chain, ledger_state).await, Reconciliation::default());
}

/// The ledger of one vault.
pub(crate) fn vault_ledger(ledger_state: &LedgerState, vault: Address) -> VaultLedger {
    ledger_state.vault_ledgers().unwrap().remove(&vault).unwrap()
}

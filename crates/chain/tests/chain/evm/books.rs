//! Things that happen on a chain, and what a ledger says of them.

use std::sync::Arc;

use domain::evm::Call;
use domain::vault::{Books, Logged};
use domain::{Address, B256, Usdc};
use palatine_chain::evm::fake::{MemoryLedger, Pages};
use palatine_chain::evm::{Chain, Claim, IndexError, Indexer, Ledger, Progress, Reconciliation, calls};
use tokio::time::timeout;

use super::node::{PATIENCE, Person, World};

/// A pod's people and its vault.
pub(crate) struct Pod {
    pub(crate) owner: Person,
    pub(crate) agent: Person,
    pub(crate) creator: Person,
    pub(crate) vault: Address,
}

impl Pod {
    pub(crate) async fn new(world: &World, pod_id: &str) -> Self {
        let (owner, agent) = (world.person("owner").await, world.person("agent").await);
        let creator = world.person("creator").await;
        let vault = world.vault(pod_id, &owner, &agent).await;
        Self { owner, agent, creator, vault }
    }

    /// A task is created, and ends in one of four ways.
    pub(crate) async fn works(&self, world: &World, salt: u8) {
        let terms = world.terms(&self.creator, salt).await;
        world.does(&world.boss, &world.funded(self.vault, &self.creator, &terms).await).await;
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
            world.does(person, &call).await;
        }
    }
}

/// Passes until the ledger is at the head.
pub(crate) async fn catch_up(chain: &Arc<Chain>, ledger: &Arc<MemoryLedger>) -> Result<(), IndexError> {
    let mut indexer = Indexer::new(Arc::clone(chain), Arc::clone(ledger) as Arc<dyn Ledger>);
    let passes = async {
        while indexer.pass().await? != Progress::Idle {}
        Ok(())
    };
    timeout(PATIENCE, passes).await.expect("the ledger arrives at the head")
}

/// What a ledger that starts now reads of the whole chain.
pub(crate) async fn afresh(chain: &Arc<Chain>) -> Pages {
    let ledger = Arc::new(MemoryLedger::default());
    catch_up(chain, &ledger).await.unwrap();
    ledger.pages()
}

/// The ledger against the chain.
pub(crate) async fn reconcile(chain: &Chain, pages: &Pages) -> Reconciliation {
    let books = pages.books().unwrap();
    let credits: Vec<Vec<(Address, Usdc)>> =
        books.values().map(|books| books.credits().iter().map(|(who, sum)| (*who, *sum)).collect()).collect();
    let claims: Vec<Claim<'_>> = books
        .iter()
        .zip(&credits)
        .map(|((address, books), credits)| Claim { address: *address, vault: books.vault().unwrap(), credits })
        .collect();
    assert!(books.values().all(|books| books.check().is_ok()));
    chain.reconcile(&pages.cursor().unwrap(), &claims).await.unwrap()
}

/// Asserts that a ledger is the chain's: event by event, and sum by sum.
pub(crate) async fn equals_the_chain(chain: &Arc<Chain>, pages: &Pages) {
    let fresh = afresh(chain).await;
    let key = |logged: &Logged| (logged.block, logged.log_index, logged.event.clone());
    let keys = |pages: &Pages| pages.events.iter().map(key).collect::<Vec<_>>();
    assert_eq!(keys(pages), keys(&fresh));
    assert_eq!(pages.cursor(), fresh.cursor());
    assert_eq!(reconcile(chain, pages).await, Reconciliation::default());
}

/// The books of one vault.
pub(crate) fn books(pages: &Pages, vault: Address) -> Books {
    pages.books().unwrap().remove(&vault).unwrap()
}

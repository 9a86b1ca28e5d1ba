//! One image of a wallet is made at a time: how large each becomes is known when it is made, and every one may become as
//! large as what is left of the quota.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use domain::Wallet;

/// The wallets one of whose uploads is looked at, and is perhaps made an image of.
#[derive(Debug, Default)]
pub(crate) struct ImportTurns(Mutex<BTreeSet<Wallet>>);

/// A wallet's turn.
pub(crate) struct ImportTurn<'a>(&'a ImportTurns, Wallet);

impl ImportTurns {
    pub(crate) fn take(&self, wallet: Wallet) -> Option<ImportTurn<'_>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        taken.insert(wallet).then(|| ImportTurn(self, wallet))
    }
}

impl Drop for ImportTurn<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wallet_has_one_turn_at_a_time_and_another_one_its_own() {
        let (turns, one, other) = (ImportTurns::default(), Wallet([1; 32]), Wallet([2; 32]));
        let turn = turns.take(one);
        assert!(turn.is_some() && turns.take(one).is_none() && turns.take(one).is_none());
        assert!(turns.take(other).is_some());
        drop(turn);
        assert!(turns.take(one).is_some());
    }
}

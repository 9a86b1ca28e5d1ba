//! A chain in memory, for tests.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use domain::{TokenAmount, Wallet};

use crate::{BalanceError, Balances};

/// Decimals of the fake's mint.
pub const DECIMALS: u8 = 6;
/// The fake's mint.
pub const MINT: &str = "Fake111111111111111111111111111111111111111";
/// What the fake says when it is made to fail.
pub const RETRY_AFTER_S: u64 = 5;

/// Balances that a test sets. A wallet that was never set holds nothing.
#[derive(Debug, Default)]
pub struct FakeBalances {
    held: Mutex<Held>,
    reads: AtomicU64,
}

#[derive(Debug, Default)]
struct Held {
    amounts: HashMap<Wallet, TokenAmount>,
    everybody: TokenAmount,
    failing: bool,
}

impl FakeBalances {
    /// A chain on which every wallet holds this many whole tokens until it is
    /// set otherwise.
    #[must_use]
    pub fn with_default_balance(tokens: u64) -> Self {
        let fake = Self::default();
        fake.with(|held| held.everybody = TokenAmount::from_whole(tokens, DECIMALS));
        fake
    }

    /// Sets what a wallet holds, in whole tokens.
    pub fn set(&self, wallet: Wallet, tokens: u64) {
        self.set_raw(wallet, TokenAmount::from_whole(tokens, DECIMALS));
    }

    /// Sets what a wallet holds, in the smallest unit.
    pub fn set_raw(&self, wallet: Wallet, amount: TokenAmount) {
        self.with(|held| held.amounts.insert(wallet, amount));
    }

    /// Makes every reading unknown, or known again.
    pub fn fail(&self, failing: bool) {
        self.with(|held| held.failing = failing);
    }

    /// How often a balance was asked for.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::SeqCst)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Held) -> T) -> T {
        work(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Balances for FakeBalances {
    async fn balance(&self, wallet: &Wallet) -> Result<TokenAmount, BalanceError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.with(|held| {
            if held.failing {
                return Err(BalanceError::Unknown { why: "the test said so".into(), retry_after_s: RETRY_AFTER_S });
            }
            Ok(held.amounts.get(wallet).copied().unwrap_or(held.everybody))
        })
    }

    async fn probe(&self) -> Result<(), BalanceError> {
        self.with(|held| {
            if held.failing {
                return Err(BalanceError::Unknown { why: "the test said so".into(), retry_after_s: RETRY_AFTER_S });
            }
            Ok(())
        })
    }

    fn decimals(&self) -> u8 {
        DECIMALS
    }

    fn mint(&self) -> &str {
        MINT
    }
}

//! Reconcilers: spawn, placement, orphans, balances, billing.

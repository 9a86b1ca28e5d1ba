//! The only RPC: Solana token balances.

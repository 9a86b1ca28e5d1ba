//! Who signed this request: Solana signatures and the agents' bearer tokens.

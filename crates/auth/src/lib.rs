//! Who signed this: Solana and EVM signatures; the agents' bearer tokens, and API keys.
//!
//! Pure: texts in, verdicts out. The clock and all randomness are handed in.
//!
//! # What is signed
//! | text | binds |
//! |---|---|
//! | `romulus:<unix-ms>` | the wallet and the instant: Romulus's own form |
//! | `romulus:<unix-ms>:<METHOD>:<host[:port]><path>:<hex sha256 of the body>` | the gateway and the request too: our clients' form |
//!
//! `<host[:port]>` is a [`GatewayName`]: that of the URL the client was given. It
//! travels as `X-Audience`, and the gateway takes it if its operator listed it.
//! `<path>` is the request target as it was sent: the path **with its query
//! string** (`/agents/a1b2c3d4-e5f6-7890/logs?follow=true`). The body of a request
//! without one is empty. `X-Timestamp` is `<unix-ms>`; [`verify`] rebuilds the text
//! from the request, that of the second form where there is an audience.
//!
//! Romulus's own form can be replayed at any other gateway for five minutes: a
//! caller lets it open no more than it must ([`VerifyPolicy::require_bound`]).
//!
//! Wallets wrap the text before they sign it; [`MessageEncoding`] lists the ways.
//!
//! A [`Link`] is a text of its own, which a holder and an owner sign both: its form
//! stands at the head of `link.rs`, and [`LinkTerms::text`] writes it.
//!
//! # What a caller must still do
//! Spend [`VerifiedSignature::replay_key`] in storage that outlives the process: a
//! signature is good for one request. The key is made of wallet and text, never
//! of the signature's bytes, so another wrapping of the same text is the same
//! request again.

mod apikey;
mod content;
mod evm;
mod files;
mod keypair;
mod link;
mod message;
mod name;
mod token;
mod verify;

pub use apikey::{ApiKey, ApiKeyError};
pub use content::ContentGrant;
pub use evm::{EvmSignature, EvmSignatureError};
pub use files::{FileOperation, FileUrl, FileUrlError};
pub use keypair::{Keypair, KeypairError, SignedHeaders};
pub use link::{
    HolderSignature, Link, LinkError, LinkField, LinkRequirements, LinkTerms, MAX_LIFETIME_MS, MAX_LINK_TEXT,
};
pub use message::{BoundRequest, MessageEncoding, OffchainFormat};
pub use name::{GatewayName, GatewayNameError};
pub use token::TokenIssuer;
pub use verify::{
    AuthError, AuthHeader, FUTURE_MS, MAX_SIGNATURE_TEXT, PAST_MS, SignatureHeaders, TIMESTAMP_DIGITS,
    UnverifiedSignature, VerifiedSignature, VerifyPolicy, verify,
};

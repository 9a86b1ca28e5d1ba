//! Pay per request: x402 in its three dialects.

//! The only SQL: agents, spent messages, idempotency, usage.

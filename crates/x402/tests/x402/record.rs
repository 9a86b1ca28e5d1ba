//! The record in memory keeps the contract of all records.

use std::sync::Arc;

use palatine_x402::conformance;
use palatine_x402::fake::FakePayments;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_record_in_memory_does_what_every_record_must() {
    conformance::record(Arc::<FakePayments>::default()).await;
}

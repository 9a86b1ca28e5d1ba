//! The journal in memory keeps the rules.

use palatine_relay::conformance;
use palatine_relay::fake::MemoryJournal;

#[tokio::test]
async fn the_journal_in_memory_keeps_the_rules() {
    conformance::run(&MemoryJournal::default()).await.unwrap();
}

//! Whether a receipt is true: what endpoints say of one transaction, compared.
//! Pure.

use domain::evm::MinedTransaction;

use super::answer::{Block, Receipt};

/// What one endpoint says when it is asked for a transaction it may know.
#[derive(Clone, Debug)]
pub(super) struct EndpointReceipt {
    /// Its height.
    pub(super) height: u64,
    /// Its receipt.
    pub(super) receipt: Option<Receipt>,
    /// Its block at the claimed receipt's height.
    pub(super) block: Option<Block>,
}

/// What a report says about a claimed receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReceiptCheck {
    /// It says the same, and the block is deep enough.
    Confirmed,
    /// It says the same, or nothing against it, but is not far enough.
    Unconfirmed,
    /// It is past that block and says otherwise.
    Contradicted,
    /// Its own answers do not fit each other.
    Inconsistent(&'static str),
}

/// Compares a report with a claimed receipt, which must be `confirmations`
/// deep, its own block included.
pub(super) fn check_receipt(claim: &Receipt, confirmations: u64, said: &EndpointReceipt) -> ReceiptCheck {
    let depth = (said.height + 1).saturating_sub(claim.block_number);
    let Some(receipt) = &said.receipt else {
        return if depth < confirmations { ReceiptCheck::Unconfirmed } else { ReceiptCheck::Contradicted };
    };
    if !same(claim, receipt) {
        return ReceiptCheck::Contradicted;
    }
    match said.block.as_ref().map(|block| fits(receipt, block)) {
        None if depth == 0 => ReceiptCheck::Unconfirmed,
        None => ReceiptCheck::Inconsistent("the block of a receipt does not exist"),
        Some(Err(what)) => ReceiptCheck::Inconsistent(what),
        Some(Ok(())) if depth < confirmations => ReceiptCheck::Unconfirmed,
        Some(Ok(())) => ReceiptCheck::Confirmed,
    }
}

fn same(one: &Receipt, other: &Receipt) -> bool {
    let logs = |receipt: &Receipt| -> Vec<_> {
        receipt.logs.iter().map(|log| (log.address, log.topics.clone(), log.data.clone(), log.log_index)).collect()
    };
    let facts = |receipt: &Receipt| {
        (receipt.transaction_hash, receipt.block_hash, receipt.block_number, receipt.status, receipt.gas_used)
    };
    facts(one) == facts(other) && logs(one) == logs(other)
}

fn fits(receipt: &Receipt, block: &Block) -> Result<(), &'static str> {
    if block.number != receipt.block_number || block.hash != receipt.block_hash {
        return Err("the receipt is of another block than the one at its height");
    }
    if !block.transactions.contains(&receipt.transaction_hash) {
        return Err("the block of a receipt does not hold its transaction");
    }
    if receipt.status > 1 {
        return Err("a status that is neither success nor failure");
    }
    Ok(())
}

/// A receipt that was believed, in a block that is its own.
pub(super) fn mined(receipt: &Receipt, block: &Block) -> MinedTransaction {
    MinedTransaction {
        hash: receipt.transaction_hash,
        block: block.reference(),
        success: receipt.status == 1,
        gas_used: receipt.gas_used,
        gas_price: receipt.effective_gas_price.unwrap_or(0),
    }
}

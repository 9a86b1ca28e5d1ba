//! From entries to the wire. Pure.

use wire::v1::relay::{BatchAnswer, BatchResult, CallStatus, Priority, RelayAnswer};

use crate::error::RelayError;
use crate::payment::PaymentError;
use crate::request::VerifiedRequest;
use crate::state::{EntryProgress, RelayResponse};
use domain::relay::{CollectedFee, FinalStatus, RelayOutcome, RelayState};

/// Everything is known.
const OK: u16 = 200;
/// Something is not known yet.
const ACCEPTED: u16 = 202;

/// The answer for one entry.
///
/// # Errors
/// When its fee could not be collected.
pub(crate) fn single(
    progress: &EntryProgress,
    priority: Option<Priority>,
) -> Result<RelayResponse<RelayAnswer>, RelayError> {
    let body = match &progress.entry.state {
        RelayState::Unpaid { why } => return Err(unpaid(why)),
        RelayState::Paying => pending(None, None),
        RelayState::Sending { fee } => pending(*fee, progress.tx.map(|tx| tx.to_string())),
        RelayState::Done { fee, outcome } => done(*fee, outcome),
    };
    let status = if body.status == CallStatus::Pending { ACCEPTED } else { OK };
    Ok(RelayResponse { status, body: RelayAnswer { priority, ..body } })
}

/// The answer for a batch.
///
/// # Errors
/// When its fee could not be collected.
pub(crate) fn batch(
    requests: &[VerifiedRequest],
    ended: &[EntryProgress],
    priority: Priority,
) -> Result<RelayResponse<BatchAnswer>, RelayError> {
    let answers = ended.iter().map(|it| single(it, None)).collect::<Result<Vec<_>, _>>()?;
    let status = answers.iter().map(|it| it.status).max().unwrap_or(OK);
    let success_count = answers.iter().filter(|it| it.body.success).count();
    let paid = answers.iter().find(|it| it.body.fee_taken.is_some()).map(|it| it.body.clone());
    let results = requests.iter().zip(answers).map(|(request, answer)| BatchResult {
        success: answer.body.success,
        status: answer.body.status,
        tx_hash: answer.body.tx_hash,
        error: answer.body.reason,
        to: request.to.to_string(),
    });
    let body = BatchAnswer {
        success: success_count == requests.len(),
        success_count,
        total_count: requests.len(),
        payment_tx_hash: paid.as_ref().and_then(|it| it.payment_tx_hash.clone()),
        fee_taken: paid.and_then(|it| it.fee_taken),
        results: results.collect(),
        priority,
    };
    Ok(RelayResponse { status, body })
}

fn unpaid(why: &str) -> RelayError {
    RelayError::Payment(PaymentError::Failed(why.to_owned()), None)
}

fn pending(fee: Option<CollectedFee>, tx_hash: Option<String>) -> RelayAnswer {
    let why = "not on the chain yet; ask again with the same request";
    with_fee(fee, RelayAnswer { tx_hash, reason: Some(why.to_owned()), ..empty(CallStatus::Pending) })
}

fn done(fee: Option<CollectedFee>, outcome: &RelayOutcome) -> RelayAnswer {
    let answer = RelayAnswer {
        tx_hash: outcome.tx.map(|tx| tx.to_string()),
        reason: outcome.reason.clone(),
        block_number: outcome.block,
        gas_used: outcome.gas_used.map(|gas| gas.to_string()),
        effective_gas_price: outcome.gas_price.map(|price| price.to_string()),
        ..empty(status_of(outcome.status))
    };
    with_fee(fee, answer)
}

fn with_fee(fee: Option<CollectedFee>, answer: RelayAnswer) -> RelayAnswer {
    let payment_tx_hash = fee.map(|fee| fee.tx.to_string());
    RelayAnswer { payment_tx_hash, fee_taken: fee.map(|fee| fee.amount.0.to_string()), ..answer }
}

const fn status_of(status: FinalStatus) -> CallStatus {
    match status {
        FinalStatus::Executed => CallStatus::Executed,
        FinalStatus::Reverted => CallStatus::Reverted,
        FinalStatus::Failed => CallStatus::Failed,
        FinalStatus::Superseded => CallStatus::Superseded,
    }
}

/// `success` is true of what was executed, and of nothing else.
pub(crate) fn empty(status: CallStatus) -> RelayAnswer {
    RelayAnswer {
        success: status == CallStatus::Executed,
        status,
        tx_hash: None,
        payment_tx_hash: None,
        fee_taken: None,
        reason: None,
        block_number: None,
        gas_used: None,
        effective_gas_price: None,
        priority: None,
    }
}

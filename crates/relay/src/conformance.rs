//! What every journal must do, whoever keeps it. Called by each journal's own test.

use alloy_primitives::{Address, B256, Bytes, Signature, U256};
use domain::payment::{Authorization, SignedAuthorization};
use domain::relay::{
    CollectedFee, DailyQuota, FeePayment, FinalStatus, ForwarderNonce, RelayAdmission, RelayCounts, RelayEntry,
    RelayJournal, RelayJournalError, RelayOutcome, RelayState, RelayTransaction,
};
use domain::{UnixMillis, Usdc};

/// The result of one rule: which was broken, and how.
pub type RuleResult = Result<(), String>;

/// Runs the suite on an empty journal.
///
/// # Errors
/// The first rule that the journal breaks.
pub async fn run(journal: &dyn RelayJournal) -> RuleResult {
    an_entry_is_kept_as_it_was_given(journal).await?;
    an_id_stands_once(journal).await?;
    a_nonce_has_one_holder(journal).await?;
    a_nonce_is_free_again_when_it_was_not_spent(journal).await?;
    a_payment_buys_one_group(journal).await?;
    steps_go_one_way(journal).await?;
    what_gives_way_is_replaced_by_the_next_attempt_only(journal).await?;
    quotas_count_what_was_taken_on_and_nothing_else(journal).await?;
    what_is_asked_for_again_is_counted_once(journal).await?;
    a_batch_is_taken_on_whole_or_not_at_all(journal).await?;
    open_entries_are_listed_oldest_first(journal).await?;
    everything_is_counted(journal).await
}

/// An entry with this number in each of its names.
#[must_use]
pub fn entry(number: u8) -> RelayEntry {
    let from = Address::repeat_byte(number);
    let nonce = ForwarderNonce { forwarder: Address::repeat_byte(0xf0), from, nonce: U256::MAX };
    let transaction = RelayTransaction {
        to: nonce.forwarder,
        value: U256::from(7),
        data: Bytes::from(vec![number; 70]),
        gas: u64::MAX,
    };
    RelayEntry {
        id: B256::repeat_byte(number),
        nonce: Some(nonce),
        transaction,
        payment: None,
        state: RelayState::Sending { fee: None },
        after: Some(B256::repeat_byte(0xaf)),
        attempt: 0,
        at: UnixMillis(u64::from(number)),
    }
}

/// A payment with this number, for the group of that number.
#[must_use]
pub fn fee_payment(number: u8, group: u8) -> FeePayment {
    let authorization = Authorization {
        chain_id: 338,
        asset: Address::repeat_byte(5),
        from: Address::repeat_byte(number),
        to: Address::repeat_byte(0xee),
        value: Usdc(u64::MAX),
        valid_after: U256::ZERO,
        valid_before: U256::MAX,
        nonce: B256::repeat_byte(number),
    };
    let signature = Signature::new(U256::MAX, U256::from(number), number.is_multiple_of(2));
    FeePayment {
        group: B256::repeat_byte(group),
        signed: SignedAuthorization { authorization, signature },
        gas: 90_000,
    }
}

fn done(status: FinalStatus) -> RelayState {
    let outcome = RelayOutcome {
        status,
        tx: Some(B256::repeat_byte(9)),
        block: Some(u64::MAX),
        gas_used: Some(1),
        gas_price: Some(u128::MAX),
        reason: Some("¿?".to_owned()),
    };
    RelayState::Done { fee: Some(CollectedFee { amount: Usdc(1), tx: B256::repeat_byte(8) }), outcome }
}

fn quota(subject: &str, day: u64, add: u64, limit: u64) -> DailyQuota {
    DailyQuota { subject: subject.to_owned(), day, add, limit }
}

fn ensure(rule: &str, holds: bool) -> RuleResult {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

fn told<T>(rule: &str, answer: Result<T, RelayJournalError>) -> Result<T, String> {
    answer.map_err(|error| format!("{rule}: {error}"))
}

async fn admit(
    journal: &dyn RelayJournal,
    entries: &[RelayEntry],
    quotas: &[DailyQuota],
) -> Result<RelayAdmission, String> {
    told("admit", journal.admit(entries, quotas).await)
}

async fn step(journal: &dyn RelayJournal, id: B256, next: &RelayState) -> Result<RelayEntry, String> {
    told("step", journal.step(id, next).await)
}

async fn an_entry_is_kept_as_it_was_given(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "an entry is kept as it was given";
    let entry = RelayEntry { payment: Some(fee_payment(1, 1)), state: RelayState::Paying, ..entry(1) };
    ensure(rule, admit(journal, std::slice::from_ref(&entry), &[]).await? == RelayAdmission::New)?;
    ensure(rule, told(rule, journal.find(entry.id).await)? == Some(entry))?;
    ensure(rule, told(rule, journal.find(B256::repeat_byte(0xcc)).await)?.is_none())
}

async fn an_id_stands_once(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "an id stands once";
    let first = told(rule, journal.find(B256::repeat_byte(1)).await)?.ok_or(rule)?;
    let again = RelayEntry { at: UnixMillis(99), ..entry(1) };
    ensure(rule, admit(journal, &[again], &[]).await? == RelayAdmission::Known(Box::new(first.clone())))?;
    ensure(rule, told(rule, journal.find(first.id).await)? == Some(first))
}

async fn a_nonce_has_one_holder(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "a nonce has one holder";
    let other = RelayEntry { id: B256::repeat_byte(2), ..entry(1) };
    let nonce = other.nonce.ok_or(rule)?;
    ensure(rule, admit(journal, std::slice::from_ref(&other), &[]).await? == RelayAdmission::NonceTaken(nonce))?;
    ensure(rule, told(rule, journal.find(other.id).await)?.is_none())
}

async fn a_nonce_is_free_again_when_it_was_not_spent(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "a nonce is free again when it was not spent";
    for (number, end, free) in
        [(3, FinalStatus::Failed, true), (4, FinalStatus::Reverted, false), (5, FinalStatus::Superseded, false)]
    {
        let first = entry(number);
        admit(journal, std::slice::from_ref(&first), &[]).await?;
        step(journal, first.id, &done(end)).await?;
        let other = RelayEntry { id: B256::repeat_byte(number + 0x40), ..first };
        let admitted = admit(journal, std::slice::from_ref(&other), &[]).await? == RelayAdmission::New;
        ensure(rule, admitted == free)?;
        if admitted {
            step(journal, other.id, &done(FinalStatus::Executed)).await?;
        }
    }
    Ok(())
}

async fn a_payment_buys_one_group(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "a payment buys one group";
    let with = |number, payment| RelayEntry { payment: Some(payment), state: RelayState::Paying, ..entry(number) };
    ensure(rule, admit(journal, &[with(6, fee_payment(6, 6))], &[]).await? == RelayAdmission::New)?;
    step(journal, B256::repeat_byte(6), &RelayState::Unpaid { why: "no".to_owned() }).await?;
    ensure(rule, admit(journal, &[with(7, fee_payment(6, 7))], &[]).await? == RelayAdmission::PaymentUsed)?;
    ensure(rule, told(rule, journal.find(B256::repeat_byte(7)).await)?.is_none())?;
    let mates = [with(8, fee_payment(8, 8)), with(9, fee_payment(8, 8))];
    ensure(rule, admit(journal, &mates, &[]).await? == RelayAdmission::New)
}

async fn steps_go_one_way(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "steps go one way";
    let id = B256::repeat_byte(8);
    let paid = RelayState::Sending { fee: Some(CollectedFee { amount: Usdc(5), tx: B256::repeat_byte(5) }) };
    ensure(rule, step(journal, id, &done(FinalStatus::Executed)).await?.state == RelayState::Paying)?;
    ensure(rule, step(journal, id, &paid).await?.state == paid)?;
    ensure(rule, step(journal, id, &RelayState::Unpaid { why: "no".to_owned() }).await?.state == paid)?;
    ensure(rule, step(journal, id, &done(FinalStatus::Executed)).await?.state == done(FinalStatus::Executed))?;
    ensure(rule, step(journal, id, &done(FinalStatus::Failed)).await?.state == done(FinalStatus::Executed))?;
    ensure(rule, told(rule, journal.find(id).await)?.is_some_and(|it| it.state == done(FinalStatus::Executed)))?;
    ensure(rule, journal.step(B256::repeat_byte(0xcc), &paid).await.is_err())
}

async fn what_gives_way_is_replaced_by_the_next_attempt_only(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "what gives way is replaced by the next attempt only";
    let call = RelayEntry { nonce: None, after: None, ..entry(10) };
    admit(journal, std::slice::from_ref(&call), &[]).await?;
    let next = RelayEntry { attempt: 1, ..call.clone() };
    ensure(rule, matches!(admit(journal, std::slice::from_ref(&next), &[]).await?, RelayAdmission::Known(_)))?;
    step(journal, call.id, &done(FinalStatus::Failed)).await?;
    ensure(rule, matches!(admit(journal, std::slice::from_ref(&call), &[]).await?, RelayAdmission::Known(_)))?;
    ensure(rule, admit(journal, std::slice::from_ref(&next), &[]).await? == RelayAdmission::New)?;
    ensure(rule, told(rule, journal.find(call.id).await)? == Some(next))
}

async fn quotas_count_what_was_taken_on_and_nothing_else(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "quotas count what was taken on and nothing else";
    let over = || RelayAdmission::OverQuota("b".to_owned());
    let quotas = |add| [quota("a", 1, add, 10), quota("b", 1, add, 5)];
    ensure(rule, admit(journal, &[entry(11)], &quotas(6)).await? == over())?;
    ensure(rule, admit(journal, &[entry(11)], &quotas(5)).await? == RelayAdmission::New)?;
    ensure(rule, matches!(admit(journal, &[entry(11)], &quotas(1)).await?, RelayAdmission::Known(_)))?;
    ensure(rule, admit(journal, &[entry(12)], &quotas(1)).await? == over())?;
    ensure(rule, admit(journal, &[entry(12)], &[quota("a", 1, 5, 10)]).await? == RelayAdmission::New)?;
    ensure(rule, admit(journal, &[entry(13)], &[quota("b", 2, 5, 5)]).await? == RelayAdmission::New)?;
    // What is done without an entry counts for the same.
    let counted = async |once: &str, quotas: &[DailyQuota]| told(rule, journal.count(once, quotas).await);
    ensure(rule, counted("x", &[quota("c", 1, 5, 10), quota("b", 2, 1, 5)]).await? == Some("b".to_owned()))?;
    ensure(rule, counted("x", &[quota("c", 1, 10, 10)]).await?.is_none())?;
    ensure(rule, counted("y", &[quota("c", 1, 1, 10)]).await? == Some("c".to_owned()))
}

async fn what_is_asked_for_again_is_counted_once(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "what is asked for again is counted once";
    let counted = async |once: &str, day| told(rule, journal.count(once, &[quota("f", day, 1, 2)]).await);
    for _ in 0..3 {
        ensure(rule, counted("one", 3).await?.is_none())?;
    }
    ensure(rule, counted("two", 3).await?.is_none())?;
    ensure(rule, counted("three", 3).await? == Some("f".to_owned()))?;
    ensure(rule, counted("one", 3).await?.is_none())?;
    ensure(rule, counted("three", 4).await?.is_none())
}

async fn a_batch_is_taken_on_whole_or_not_at_all(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "a batch is taken on whole or not at all";
    let batch = [entry(14), entry(1)];
    ensure(rule, matches!(admit(journal, &batch, &[quota("d", 1, 1, 1)]).await?, RelayAdmission::Known(_)))?;
    ensure(rule, told(rule, journal.find(B256::repeat_byte(14)).await)?.is_none())?;
    ensure(rule, admit(journal, &[entry(14)], &[quota("d", 1, 1, 1)]).await? == RelayAdmission::New)
}

async fn open_entries_are_listed_oldest_first(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "open entries are listed oldest first";
    let open = told(rule, journal.open(usize::MAX).await)?;
    let ages: Vec<UnixMillis> = open.iter().map(|entry| entry.at).collect();
    ensure(rule, ages.is_sorted() && open.iter().all(|entry| entry.state.is_open()))?;
    ensure(rule, open.len() == 7 && told(rule, journal.open(1).await)? == open[..1])
}

async fn everything_is_counted(journal: &dyn RelayJournal) -> RuleResult {
    let rule = "everything is counted";
    let counts = told(rule, journal.counts().await)?;
    ensure(rule, counts == RelayCounts { pending: 7, executed: 2, failed: 3 })
}

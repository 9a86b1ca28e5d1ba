//! What every journal must do, whoever keeps it. Called by each journal's own test.

use alloy_primitives::{Address, B256, Bytes, U256};
use domain::{UnixMillis, Usdc};

use crate::journal::{
    Admission, Charge, Counts, End, Entry, Fee, Journal, JournalError, Lane, Quota, State, Verdict, Work,
};
use crate::payment::{Authorization, SignedPayment};

/// The result of one rule: which was broken, and how.
pub type Broken = Result<(), String>;

/// Runs the suite on an empty journal.
///
/// # Errors
/// The first rule that the journal breaks.
pub async fn run(journal: &dyn Journal) -> Broken {
    an_entry_is_kept_as_it_was_given(journal).await?;
    an_id_stands_once(journal).await?;
    a_lane_has_one_holder(journal).await?;
    a_lane_is_free_again_when_its_nonce_was_not_spent(journal).await?;
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
pub fn entry(number: u8) -> Entry {
    let from = Address::repeat_byte(number);
    let lane = Lane { forwarder: Address::repeat_byte(0xf0), from, nonce: U256::MAX };
    let work = Work { to: lane.forwarder, value: U256::from(7), data: Bytes::from(vec![number; 70]), gas: u64::MAX };
    Entry {
        id: B256::repeat_byte(number),
        lane: Some(lane),
        work,
        payment: None,
        state: State::Sending { fee: None },
        after: Some(B256::repeat_byte(0xaf)),
        attempt: 0,
        at: UnixMillis(u64::from(number)),
    }
}

/// A payment with this number, for the group of that number.
#[must_use]
pub fn charge(number: u8, group: u8) -> Charge {
    let authorization = Authorization {
        from: Address::repeat_byte(number),
        to: Address::repeat_byte(0xee),
        value: Usdc(u64::MAX),
        valid_after: U256::ZERO,
        valid_before: U256::MAX,
        nonce: B256::repeat_byte(number),
    };
    let payment = SignedPayment { token: Address::repeat_byte(5), authorization, signature: Bytes::from([7; 65]) };
    Charge { group: B256::repeat_byte(group), payment, gas: 90_000 }
}

fn done(status: End) -> State {
    let verdict = Verdict {
        status,
        tx: Some(B256::repeat_byte(9)),
        block: Some(u64::MAX),
        gas_used: Some(1),
        gas_price: Some(u128::MAX),
        reason: Some("¿?".to_owned()),
    };
    State::Done { fee: Some(Fee { amount: Usdc(1), tx: B256::repeat_byte(8) }), verdict }
}

fn quota(subject: &str, day: u64, add: u64, limit: u64) -> Quota {
    Quota { subject: subject.to_owned(), day, add, limit }
}

fn ensure(rule: &str, holds: bool) -> Broken {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

fn told<T>(rule: &str, answer: Result<T, JournalError>) -> Result<T, String> {
    answer.map_err(|error| format!("{rule}: {error}"))
}

async fn admit(journal: &dyn Journal, entries: &[Entry], quotas: &[Quota]) -> Result<Admission, String> {
    told("admit", journal.admit(entries, quotas).await)
}

async fn step(journal: &dyn Journal, id: B256, next: &State) -> Result<Entry, String> {
    told("step", journal.step(id, next).await)
}

async fn an_entry_is_kept_as_it_was_given(journal: &dyn Journal) -> Broken {
    let rule = "an entry is kept as it was given";
    let entry = Entry { payment: Some(charge(1, 1)), state: State::Paying, ..entry(1) };
    ensure(rule, admit(journal, std::slice::from_ref(&entry), &[]).await? == Admission::New)?;
    ensure(rule, told(rule, journal.find(entry.id).await)? == Some(entry))?;
    ensure(rule, told(rule, journal.find(B256::repeat_byte(0xcc)).await)?.is_none())
}

async fn an_id_stands_once(journal: &dyn Journal) -> Broken {
    let rule = "an id stands once";
    let first = told(rule, journal.find(B256::repeat_byte(1)).await)?.ok_or(rule)?;
    let again = Entry { at: UnixMillis(99), ..entry(1) };
    ensure(rule, admit(journal, &[again], &[]).await? == Admission::Known(Box::new(first.clone())))?;
    ensure(rule, told(rule, journal.find(first.id).await)? == Some(first))
}

async fn a_lane_has_one_holder(journal: &dyn Journal) -> Broken {
    let rule = "a lane has one holder";
    let other = Entry { id: B256::repeat_byte(2), ..entry(1) };
    let lane = other.lane.ok_or(rule)?;
    ensure(rule, admit(journal, std::slice::from_ref(&other), &[]).await? == Admission::LaneTaken(lane))?;
    ensure(rule, told(rule, journal.find(other.id).await)?.is_none())
}

async fn a_lane_is_free_again_when_its_nonce_was_not_spent(journal: &dyn Journal) -> Broken {
    let rule = "a lane is free again when its nonce was not spent";
    for (number, end, free) in [(3, End::Failed, true), (4, End::Reverted, false), (5, End::Superseded, false)] {
        let first = entry(number);
        admit(journal, std::slice::from_ref(&first), &[]).await?;
        step(journal, first.id, &done(end)).await?;
        let other = Entry { id: B256::repeat_byte(number + 0x40), ..first };
        let admitted = admit(journal, std::slice::from_ref(&other), &[]).await? == Admission::New;
        ensure(rule, admitted == free)?;
        if admitted {
            step(journal, other.id, &done(End::Executed)).await?;
        }
    }
    Ok(())
}

async fn a_payment_buys_one_group(journal: &dyn Journal) -> Broken {
    let rule = "a payment buys one group";
    let with = |number, charge| Entry { payment: Some(charge), state: State::Paying, ..entry(number) };
    ensure(rule, admit(journal, &[with(6, charge(6, 6))], &[]).await? == Admission::New)?;
    step(journal, B256::repeat_byte(6), &State::Unpaid { why: "no".to_owned() }).await?;
    ensure(rule, admit(journal, &[with(7, charge(6, 7))], &[]).await? == Admission::PaymentUsed)?;
    ensure(rule, told(rule, journal.find(B256::repeat_byte(7)).await)?.is_none())?;
    let mates = [with(8, charge(8, 8)), with(9, charge(8, 8))];
    ensure(rule, admit(journal, &mates, &[]).await? == Admission::New)
}

async fn steps_go_one_way(journal: &dyn Journal) -> Broken {
    let rule = "steps go one way";
    let id = B256::repeat_byte(8);
    let paid = State::Sending { fee: Some(Fee { amount: Usdc(5), tx: B256::repeat_byte(5) }) };
    ensure(rule, step(journal, id, &done(End::Executed)).await?.state == State::Paying)?;
    ensure(rule, step(journal, id, &paid).await?.state == paid)?;
    ensure(rule, step(journal, id, &State::Unpaid { why: "no".to_owned() }).await?.state == paid)?;
    ensure(rule, step(journal, id, &done(End::Executed)).await?.state == done(End::Executed))?;
    ensure(rule, step(journal, id, &done(End::Failed)).await?.state == done(End::Executed))?;
    ensure(rule, told(rule, journal.find(id).await)?.is_some_and(|it| it.state == done(End::Executed)))?;
    ensure(rule, journal.step(B256::repeat_byte(0xcc), &paid).await.is_err())
}

async fn what_gives_way_is_replaced_by_the_next_attempt_only(journal: &dyn Journal) -> Broken {
    let rule = "what gives way is replaced by the next attempt only";
    let call = Entry { lane: None, after: None, ..entry(10) };
    admit(journal, std::slice::from_ref(&call), &[]).await?;
    let next = Entry { attempt: 1, ..call.clone() };
    ensure(rule, matches!(admit(journal, std::slice::from_ref(&next), &[]).await?, Admission::Known(_)))?;
    step(journal, call.id, &done(End::Failed)).await?;
    ensure(rule, matches!(admit(journal, std::slice::from_ref(&call), &[]).await?, Admission::Known(_)))?;
    ensure(rule, admit(journal, std::slice::from_ref(&next), &[]).await? == Admission::New)?;
    ensure(rule, told(rule, journal.find(call.id).await)? == Some(next))
}

async fn quotas_count_what_was_taken_on_and_nothing_else(journal: &dyn Journal) -> Broken {
    let rule = "quotas count what was taken on and nothing else";
    let over = || Admission::OverQuota("b".to_owned());
    let quotas = |add| [quota("a", 1, add, 10), quota("b", 1, add, 5)];
    ensure(rule, admit(journal, &[entry(11)], &quotas(6)).await? == over())?;
    ensure(rule, admit(journal, &[entry(11)], &quotas(5)).await? == Admission::New)?;
    ensure(rule, matches!(admit(journal, &[entry(11)], &quotas(1)).await?, Admission::Known(_)))?;
    ensure(rule, admit(journal, &[entry(12)], &quotas(1)).await? == over())?;
    ensure(rule, admit(journal, &[entry(12)], &[quota("a", 1, 5, 10)]).await? == Admission::New)?;
    ensure(rule, admit(journal, &[entry(13)], &[quota("b", 2, 5, 5)]).await? == Admission::New)?;
    // What is done without an entry counts for the same.
    let counted = async |once: &str, quotas: &[Quota]| told(rule, journal.count(once, quotas).await);
    ensure(rule, counted("x", &[quota("c", 1, 5, 10), quota("b", 2, 1, 5)]).await? == Some("b".to_owned()))?;
    ensure(rule, counted("x", &[quota("c", 1, 10, 10)]).await?.is_none())?;
    ensure(rule, counted("y", &[quota("c", 1, 1, 10)]).await? == Some("c".to_owned()))
}

async fn what_is_asked_for_again_is_counted_once(journal: &dyn Journal) -> Broken {
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

async fn a_batch_is_taken_on_whole_or_not_at_all(journal: &dyn Journal) -> Broken {
    let rule = "a batch is taken on whole or not at all";
    let batch = [entry(14), entry(1)];
    ensure(rule, matches!(admit(journal, &batch, &[quota("d", 1, 1, 1)]).await?, Admission::Known(_)))?;
    ensure(rule, told(rule, journal.find(B256::repeat_byte(14)).await)?.is_none())?;
    ensure(rule, admit(journal, &[entry(14)], &[quota("d", 1, 1, 1)]).await? == Admission::New)
}

async fn open_entries_are_listed_oldest_first(journal: &dyn Journal) -> Broken {
    let rule = "open entries are listed oldest first";
    let open = told(rule, journal.open(usize::MAX).await)?;
    let ages: Vec<UnixMillis> = open.iter().map(|entry| entry.at).collect();
    ensure(rule, ages.is_sorted() && open.iter().all(|entry| entry.state.is_open()))?;
    ensure(rule, open.len() == 7 && told(rule, journal.open(1).await)? == open[..1])
}

async fn everything_is_counted(journal: &dyn Journal) -> Broken {
    let rule = "everything is counted";
    let counts = told(rule, journal.counts().await)?;
    ensure(rule, counts == Counts { pending: 7, executed: 2, failed: 3 })
}

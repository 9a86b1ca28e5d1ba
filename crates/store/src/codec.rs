//! How the domain's values lie in SQLite's columns.

use domain::{End, FailReason, Lack, PodId, RunId, State, StateName, StopReason, UnixMillis};
use rusqlite::Row;
use rusqlite::types::Type;
use serde::Serialize;
use serde::de::DeserializeOwned;
use wire::public::{Reason, StateChange};

use crate::error::StoreError;
use crate::record::PodKey;

/// SQLite's integers end at 2^63; no counter of ours gets there.
pub(crate) fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Back again. Negative values are never written.
pub(crate) fn natural(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(crate) const fn id_column(id: RunId) -> i64 {
    id.bits().cast_signed()
}

pub(crate) const fn id_of(column: i64) -> RunId {
    RunId::from_bits(column.cast_unsigned())
}

/// The id of this key and name.
pub(crate) fn id_from(key: PodKey, name: Option<String>) -> Result<PodId, StoreError> {
    match name {
        None => Ok(PodId::minted(RunId::from_bits(key.0))),
        Some(name) => name.parse().map_err(|_| StoreError::Value("the name of a POD")),
    }
}

pub(crate) fn millis(column: i64) -> UnixMillis {
    UnixMillis(natural(column))
}

/// A value as JSON text.
pub(crate) fn to_json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// A column of JSON text.
pub(crate) fn parse_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error)))
}

const fn stop_text(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Requested => "requested",
        StopReason::Removed => "removed",
        StopReason::Balance => "balance",
        StopReason::Operator => "operator",
    }
}

const fn fail_text(reason: FailReason) -> &'static str {
    match reason {
        FailReason::BootTimeout => "boot_timeout",
        FailReason::CrashLoop => "crash_loop",
        FailReason::NoCapacity => "no_capacity",
        FailReason::ExceedsCapacity => "exceeds_capacity",
        FailReason::NodeRefused => "node_refused",
        FailReason::Interrupted => "interrupted",
        FailReason::Lost => "lost",
    }
}

/// The two columns of a state.
pub(crate) const fn state_columns(state: State) -> (&'static str, Option<&'static str>) {
    let reason = match (state, state.end()) {
        (State::Waiting(lack), _) => Some(lack.as_str()),
        (_, None) => None,
        (_, Some(End::Stopped(reason))) => Some(stop_text(reason)),
        (_, Some(End::Failed(reason))) => Some(fail_text(reason)),
    };
    (state.name().as_str(), reason)
}

fn end_of(reason: Option<&str>) -> Result<End, StoreError> {
    Ok(match reason {
        Some("requested") => End::Stopped(StopReason::Requested),
        Some("removed") => End::Stopped(StopReason::Removed),
        Some("balance") => End::Stopped(StopReason::Balance),
        Some("operator") => End::Stopped(StopReason::Operator),
        Some("boot_timeout") => End::Failed(FailReason::BootTimeout),
        Some("crash_loop") => End::Failed(FailReason::CrashLoop),
        Some("no_capacity") => End::Failed(FailReason::NoCapacity),
        Some("exceeds_capacity") => End::Failed(FailReason::ExceedsCapacity),
        Some("node_refused") => End::Failed(FailReason::NodeRefused),
        Some("interrupted") => End::Failed(FailReason::Interrupted),
        Some("lost") => End::Failed(FailReason::Lost),
        Some(_) | None => return Err(StoreError::Value("the reason of an agent's end")),
    })
}

/// The state of two columns.
pub(crate) fn state_of(name: &str, reason: Option<&str>) -> Result<State, StoreError> {
    match name {
        "reserved" => Ok(State::Reserved),
        "placed" => Ok(State::Placed),
        "booting" => Ok(State::Booting),
        "waiting" => {
            let lack = Lack::ALL.into_iter().find(|lack| Some(lack.as_str()) == reason);
            lack.map(State::Waiting).ok_or(StoreError::Value("what an agent waits for"))
        }
        "ready" => Ok(State::Ready),
        "stopping" => Ok(State::Stopping(end_of(reason)?)),
        "stopped" | "failed" => match (name, end_of(reason)?) {
            ("stopped", End::Stopped(reason)) => Ok(State::Stopped(reason)),
            ("failed", End::Failed(reason)) => Ok(State::Failed(reason)),
            _ => Err(StoreError::Value("an end that does not fit its reason")),
        },
        _ => Err(StoreError::Value("the name of a state")),
    }
}

/// A change of state, as its readers see it.
pub(crate) fn change(seq: u64, at: UnixMillis, state: State) -> StateChange {
    StateChange { seq, at, state: state.name(), reason: Reason::of(state) }
}

/// What an agent's first change was: the reservation itself.
pub(crate) const fn first_change(at: UnixMillis) -> StateChange {
    StateChange { seq: 1, at, state: StateName::Reserved, reason: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_its_columns() {
        let stops = [StopReason::Requested, StopReason::Removed, StopReason::Balance, StopReason::Operator];
        let fails = [
            FailReason::BootTimeout,
            FailReason::CrashLoop,
            FailReason::NoCapacity,
            FailReason::ExceedsCapacity,
            FailReason::NodeRefused,
            FailReason::Interrupted,
            FailReason::Lost,
        ];
        let plain = [State::Reserved, State::Placed, State::Booting, State::Ready];
        let stopped = stops.into_iter().flat_map(|r| [State::Stopped(r), State::Stopping(End::Stopped(r))]);
        let failed = fails.into_iter().flat_map(|r| [State::Failed(r), State::Stopping(End::Failed(r))]);
        let waiting = Lack::ALL.into_iter().map(State::Waiting);
        for state in plain.into_iter().chain(waiting).chain(stopped).chain(failed) {
            let (name, reason) = state_columns(state);
            assert_eq!(state_of(name, reason).unwrap(), state);
        }
    }

    #[test]
    fn columns_that_no_version_writes_are_an_error() {
        for (name, reason) in
            [("asleep", None), ("stopped", Some("lost")), ("failed", None), ("stopping", Some("x")), ("waiting", None)]
        {
            assert!(matches!(state_of(name, reason), Err(StoreError::Value(_))), "{name} {reason:?}");
        }
    }
}

//! How the domain's values lie in columns, in either database.

use domain::{EndReason, FailReason, Meter, NodeShortage, RunId, State, StopReason, UnixMillis};

use crate::error::StoreError;

/// A database's integers end at 2^63; no counter of ours gets there.
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

pub(crate) fn millis(column: i64) -> UnixMillis {
    UnixMillis(natural(column))
}

const fn stop_text(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Requested => "requested",
        StopReason::Removed => "removed",
        StopReason::Balance => "balance",
        StopReason::Operator => "operator",
        StopReason::Expired => "expired",
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
        (_, Some(EndReason::Stopped(reason))) => Some(stop_text(reason)),
        (_, Some(EndReason::Failed(reason))) => Some(fail_text(reason)),
    };
    (state.name().as_str(), reason)
}

fn end_of(reason: Option<&str>) -> Result<EndReason, StoreError> {
    Ok(match reason {
        Some("requested") => EndReason::Stopped(StopReason::Requested),
        Some("removed") => EndReason::Stopped(StopReason::Removed),
        Some("balance") => EndReason::Stopped(StopReason::Balance),
        Some("operator") => EndReason::Stopped(StopReason::Operator),
        Some("expired") => EndReason::Stopped(StopReason::Expired),
        Some("boot_timeout") => EndReason::Failed(FailReason::BootTimeout),
        Some("crash_loop") => EndReason::Failed(FailReason::CrashLoop),
        Some("no_capacity") => EndReason::Failed(FailReason::NoCapacity),
        Some("exceeds_capacity") => EndReason::Failed(FailReason::ExceedsCapacity),
        Some("node_refused") => EndReason::Failed(FailReason::NodeRefused),
        Some("interrupted") => EndReason::Failed(FailReason::Interrupted),
        Some("lost") => EndReason::Failed(FailReason::Lost),
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
            let lack = NodeShortage::ALL.into_iter().find(|lack| Some(lack.as_str()) == reason);
            lack.map(State::Waiting).ok_or(StoreError::Value("what an agent waits for"))
        }
        "ready" => Ok(State::Ready),
        "stopping" => Ok(State::Stopping(end_of(reason)?)),
        "stopped" | "failed" => match (name, end_of(reason)?) {
            ("stopped", EndReason::Stopped(reason)) => Ok(State::Stopped(reason)),
            ("failed", EndReason::Failed(reason)) => Ok(State::Failed(reason)),
            _ => Err(StoreError::Value("an end that does not fit its reason")),
        },
        _ => Err(StoreError::Value("the name of a state")),
    }
}

pub(crate) fn meter((closed_ms, ready_since, seq): (i64, Option<i64>, i64)) -> Meter {
    Meter { closed_ms: natural(closed_ms), ready_since: ready_since.map(millis), last_seq: natural(seq) }
}

/// The bill of an ended agent: a stretch that no mark has closed yet ends with
/// it. The columns stay open, so that a mark that comes late is still exact.
pub(crate) fn ended(meter: Meter, ended_at: Option<UnixMillis>) -> Meter {
    match ended_at {
        None => meter,
        Some(end) => Meter { closed_ms: meter.uptime_ms(end), ready_since: None, last_seq: meter.last_seq },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_its_columns() {
        let stops = [
            StopReason::Requested,
            StopReason::Removed,
            StopReason::Balance,
            StopReason::Operator,
            StopReason::Expired,
        ];
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
        let stopped = stops.into_iter().flat_map(|r| [State::Stopped(r), State::Stopping(EndReason::Stopped(r))]);
        let failed = fails.into_iter().flat_map(|r| [State::Failed(r), State::Stopping(EndReason::Failed(r))]);
        let waiting = NodeShortage::ALL.into_iter().map(State::Waiting);
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

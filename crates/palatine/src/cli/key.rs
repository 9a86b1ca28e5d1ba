//! The words of `palatine key`.

use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use domain::KeyScope;
use wire::Secret;

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key that acts for your wallet, for programs; it is shown once
    Create(CreateKey),
    /// List your keys, without the keys themselves
    Ls,
    /// Revoke keys: from then on they open nothing
    #[command(visible_alias = "revoke")]
    Rm {
        /// Their ids, as `palatine key ls` lists them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<Secret>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateKey {
    /// What it opens: `read` looks at your agents, `run` has them work too
    #[arg(long, value_parser = PossibleValuesParser::new(["read", "run"]).map(|text| scope(&text)))]
    pub(crate) scope: KeyScope,
    /// For how long it is good: 90m, 12h, 30d, 8w
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = lifetime)]
    pub(crate) expires: Duration,
    /// What you call it
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Write it as E2B's SDKs take it: e2b_ and hex digits
    #[arg(long)]
    pub(crate) e2b: bool,
    /// Makes a repeated command leave one key and not two
    #[arg(long)]
    pub(crate) idempotency_key: Option<String>,
}

fn scope(text: &str) -> KeyScope {
    if text == KeyScope::Run.as_str() { KeyScope::Run } else { KeyScope::Read }
}

/// A time of whole seconds, minutes, hours, days or weeks.
pub(super) fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and s, m, h, d or w, such as 30d".to_owned();
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        "w" => 7 * 24 * 60 * 60,
        _ => return Err(wrong()),
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_a_number_with_its_unit() {
        let seconds = |text| lifetime(text).map(|time| time.as_secs());
        assert_eq!(
            [seconds("90s"), seconds("90m"), seconds("12h"), seconds("30d"), seconds("8w")],
            [Ok(90), Ok(5400), Ok(43_200), Ok(2_592_000), Ok(4_838_400)]
        );
        for text in
            ["", "30", "d", "-1d", "1.5h", "30 d", "30y", "30dd", "99999999999999999999d", "9999999999999999w", "é"]
        {
            assert!(lifetime(text).is_err(), "{text}");
        }
    }
}

//! How many checks passed, failed and were skipped, and which.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;

use crate::skips::{Skips, Verdict};

/// The count of a run. Its text is the run's last line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failures: Vec<String>,
    pub(crate) skipped: Vec<String>,
    /// What fails the run beside its checks
    pub(crate) faults: Vec<String>,
}

impl Tally {
    pub(crate) fn good(&self) -> bool {
        self.failures.is_empty() && self.faults.is_empty()
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failures.extend(other.failures);
        self.skipped.extend(other.skipped);
        self.faults.extend(other.faults);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.failures.len() + self.faults.len();
        write!(f, "{} passed, {failed} failed, {} skipped", self.passed, self.skipped.len())
    }
}

/// What `cargo nextest list --message-format json` says, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct TestList {
    rust_suites: BTreeMap<String, Suite>,
}

/// One file of tests, or a program's own tests.
#[derive(Debug, Deserialize)]
struct Suite {
    kind: String,
    testcases: BTreeMap<String, Case>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Case {
    filter_match: FilterMatch,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "status")]
enum FilterMatch {
    Matches,
    Mismatch { reason: String },
}

/// What one run of the tests left behind.
#[derive(Debug)]
pub(crate) struct TestRun<'a> {
    /// What there was to run
    pub(crate) list: &'a TestList,
    /// What ran, by `suite test`, and whether it passed
    pub(crate) ran: &'a BTreeMap<String, bool>,
    /// Tests that said what they lack: `suite test`, need
    pub(crate) lacking: &'a BTreeMap<String, String>,
    /// Whether all tests were asked for, not those of a filter
    pub(crate) whole: bool,
}

/// Counts a run of the tests, and holds its skips to the file that names them.
pub(crate) fn count(run: &TestRun<'_>, skips: &Skips) -> Tally {
    let mut tally = Tally::default();
    let mut all = BTreeSet::new();
    for (id, suite) in &run.list.rust_suites {
        if run.whole && is_empty_suite(suite) {
            tally.faults.push(format!("{id} holds no test"));
        }
        for (name, case) in &suite.testcases {
            let test = format!("{id} {name}");
            match &case.filter_match {
                FilterMatch::Matches => one(run, skips, &test, &mut tally),
                FilterMatch::Mismatch { reason } if reason == "ignored" => skip(skips, &test, None, &mut tally),
                // Of another filter, or of the soak.
                FilterMatch::Mismatch { .. } => {}
            }
            all.insert(test);
        }
    }
    if all.is_empty() || run.ran.is_empty() {
        tally.faults.push("no test ran".to_owned());
    }
    if run.whole {
        let stale = skips.stale(&all).map(|test| format!("tests/skips.toml names {test:?}, which does not exist"));
        tally.faults.extend(stale);
    }
    tally
}

/// A file of tests whose tests are all gone checks nothing, and nobody would notice.
fn is_empty_suite(suite: &Suite) -> bool {
    suite.testcases.is_empty() && suite.kind == "test"
}

fn one(run: &TestRun<'_>, skips: &Skips, test: &str, tally: &mut Tally) {
    match (run.lacking.get(test), run.ran.get(test)) {
        (Some(need), Some(true)) => skip(skips, test, Some(need), tally),
        (_, Some(true)) => tally.passed += 1,
        (_, Some(false)) => tally.failures.push(test.to_owned()),
        (_, None) => tally.failures.push(format!("{test} (did not run)")),
    }
}

fn skip(skips: &Skips, test: &str, need: Option<&str>, tally: &mut Tally) {
    let why = need.map_or_else(|| "ignored".to_owned(), |need| format!("for want of {need}"));
    match skips.judge(test, need) {
        Verdict::Named(reason) => tally.skipped.push(format!("{test}: {why}; {reason}")),
        Verdict::Unnamed => {
            tally.skipped.push(format!("{test}: {why}"));
            tally.faults.push(format!("{test} was skipped ({why}), and tests/skips.toml does not name it"));
        }
        Verdict::Reference => {
            tally.skipped.push(format!("{test}: {why}"));
            tally.faults.push(format!("{test} was skipped {why}, which the reference machine has"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SKIPS: &str = r#"
        reference = ["root"]
        [skips]
        "a::it starts" = "the reason"
    "#;

    fn suite(id: &str, kind: &str, cases: Value) -> Value {
        json!({"binary-id": id, "kind": kind, "testcases": cases})
    }

    fn matching() -> Value {
        json!({"ignored": false, "filter-match": {"status": "matches"}})
    }

    fn ignored() -> Value {
        json!({"ignored": true, "filter-match": {"status": "mismatch", "reason": "ignored"}})
    }

    fn list(suites: &[Value]) -> TestList {
        let suites: serde_json::Map<_, _> =
            suites.iter().map(|suite| (suite["binary-id"].as_str().unwrap().to_owned(), suite.clone())).collect();
        serde_json::from_value(json!({"test-count": 0, "rust-suites": suites})).unwrap()
    }

    fn tally(list: &TestList, ran: &[(&str, bool)], lacking: &[(&str, &str)]) -> Tally {
        let ran = ran.iter().map(|(test, passed)| ((*test).to_owned(), *passed)).collect();
        let lacking = lacking.iter().map(|(test, need)| ((*test).to_owned(), (*need).to_owned())).collect();
        count(&TestRun { list, ran: &ran, lacking: &lacking, whole: true }, &Skips::parse(SKIPS).unwrap())
    }

    #[test]
    fn fault_3_3_what_was_skipped_is_counted_and_named_with_its_reason() {
        let list = list(&[suite("a::it", "test", json!({"starts": matching(), "ends": matching()}))]);
        let tally = tally(&list, &[("a::it starts", true), ("a::it ends", true)], &[("a::it starts", "kvm")]);
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 1 skipped");
        assert_eq!(tally.skipped, ["a::it starts: for want of kvm; the reason"]);
        assert!(tally.good());
    }

    #[test]
    fn fault_3_3_a_skip_that_is_not_named_fails_the_run() {
        let list =
            list(&[suite("a::it", "test", json!({"starts": matching(), "ends": matching(), "by hand": ignored()}))]);
        let ran = [("a::it starts", true), ("a::it ends", true)];
        let tally = tally(&list, &ran, &[("a::it ends", "kvm")]);
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 2 skipped");
        assert!(!tally.good());
    }

    #[test]
    fn fault_3_3_a_skip_for_want_of_what_the_reference_machine_has_fails_the_run_even_if_named() {
        let list = list(&[suite("a::it", "test", json!({"starts": matching(), "ends": matching()}))]);
        let ran = [("a::it starts", true), ("a::it ends", true)];
        let tally = tally(&list, &ran, &[("a::it starts", "root")]);
        assert_eq!(tally.faults, ["a::it starts was skipped for want of root, which the reference machine has"]);
    }

    #[test]
    fn fault_3_3_an_empty_suite_and_a_run_of_nothing_fail() {
        let empty = suite("b::it", "test", json!({}));
        let full = suite("a::it", "test", json!({"starts": matching()}));
        let program = suite("c", "bin", json!({}));
        assert_eq!(
            tally(&list(&[empty, full.clone(), program]), &[("a::it starts", true)], &[]).faults,
            ["b::it holds no test"]
        );
        assert!(tally(&list(&[full]), &[], &[]).faults.contains(&"no test ran".to_owned()));
    }

    #[test]
    fn a_failure_and_a_test_that_never_ran_are_failures() {
        let list = list(&[suite("a::it", "test", json!({"starts": matching(), "ends": matching()}))]);
        let tally = tally(&list, &[("a::it starts", false)], &[]);
        assert_eq!(tally.failures, ["a::it ends (did not run)", "a::it starts"]);
    }

    #[test]
    fn a_reason_for_a_test_that_is_gone_fails_the_run() {
        let list = list(&[suite("a::it", "test", json!({"ends": matching()}))]);
        let tally = tally(&list, &[("a::it ends", true)], &[]);
        assert_eq!(tally.faults, ["tests/skips.toml names \"a::it starts\", which does not exist"]);
    }
}

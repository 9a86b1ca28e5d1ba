//! The end of a run: what failed, what was skipped and why, and the count as its last line.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::skips::Skips;
use crate::tally::{self, Tally, TestList, TestRun};

/// Where a run left what it did.
#[derive(Debug)]
pub(crate) struct Report {
    /// The run's folder, with its steps, the list of tests, the skips and what the contracts' tests said
    pub(crate) run: PathBuf,
    /// Nextest's own report of what ran
    pub(crate) junit: PathBuf,
    /// All tests were asked for, not those of a filter
    pub(crate) whole: bool,
}

/// One step of a run: its name, and whether it ended well.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    name: String,
    passed: bool,
    seconds: u64,
}

impl Report {
    /// Whether all is good. The count is said whatever cannot be read: that is a fault of the run.
    pub(crate) fn run(&self) -> bool {
        let (steps, tally) = self.count();
        say(&steps, &tally);
        tally.good()
    }

    fn count(&self) -> (Vec<Step>, Tally) {
        let mut tally = Tally::default();
        let steps = read(&self.run.join("steps")).and_then(|text| steps(&text)).unwrap_or_else(|error| {
            tally.faults.push(format!("{error:#}"));
            Vec::new()
        });
        if steps.is_empty() {
            tally.faults.push("nothing was checked".to_owned());
        }
        for step in &steps {
            match self.tally_of(step) {
                Ok(counted) => tally.add(counted),
                Err(error) => tally.faults.push(format!("{}: {error:#}", step.name)),
            }
        }
        (steps, tally)
    }

    /// A step counts as what it counted itself, if it did, else as one.
    fn tally_of(&self, step: &Step) -> Result<Tally> {
        let mut tally = match step.name.as_str() {
            "contracts" => contracts(&read(&self.run.join("contracts.log"))?),
            "tests" | "soak" => self.tests()?,
            _ => Tally::default(),
        };
        if step.passed && tally == Tally::default() {
            tally.passed = 1;
        }
        if !step.passed && tally.good() {
            tally.failures.push(step.name.clone());
        }
        Ok(tally)
    }

    fn tests(&self) -> Result<Tally> {
        // A shard may be something else than tests; without a list nothing was built, and the step that failed says so.
        let Ok(list) = fs::read_to_string(self.run.join("tests.json")) else { return Ok(Tally::default()) };
        let list: TestList = serde_json::from_str(&list).context("read the list of tests")?;
        let ran = if self.junit.exists() { ran(&read(&self.junit)?)? } else { BTreeMap::new() };
        let lacking = lacking(&fs::read_to_string(self.run.join("skips")).unwrap_or_default())?;
        let run = TestRun { list: &list, ran: &ran, lacking: &lacking, whole: self.whole };
        Ok(tally::count(&run, &Skips::read()?))
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// Lines of name, tab, exit status, tab, seconds.
fn steps(text: &str) -> Result<Vec<Step>> {
    let step = |line: &str| {
        let mut fields = line.split('\t');
        let (name, status, seconds) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Step { name: name.to_owned(), passed: status == "0", seconds: seconds.parse().ok()? })
    };
    text.lines().map(|line| step(line).with_context(|| format!("no step: {line:?}"))).collect()
}

/// What ran, and whether it passed, of nextest's report.
fn ran(junit: &str) -> Result<BTreeMap<String, bool>> {
    let report = quick_junit::Report::deserialize_from_str(junit).context("read nextest's report")?;
    let cases = report.test_suites.iter().flat_map(|suite| {
        suite.test_cases.iter().map(move |case| {
            let passed = matches!(case.status, quick_junit::TestCaseStatus::Success { .. });
            (format!("{} {}", suite.name.as_str(), case.name.as_str()), passed)
        })
    });
    Ok(cases.collect())
}

/// Tests that said what they lack.
fn lacking(skips: &str) -> Result<BTreeMap<String, String>> {
    let skip = |line: &str| {
        let mut fields = line.split('\t');
        let (suite, test, need) = (fields.next()?, fields.next()?, fields.next()?);
        Some((format!("{suite} {test}"), need.to_owned()))
    };
    skips.lines().map(|line| skip(line).with_context(|| format!("no skip: {line:?}"))).collect()
}

/// What forge counted: `Ran 9 test suites in 3s: 118 tests passed, 0 failed, 0 skipped (118 total tests)`.
fn contracts(log: &str) -> Tally {
    let mut tally = Tally::default();
    for line in log.lines().filter(|line| line.starts_with("Ran ") && line.contains(" test suites in ")) {
        let number = |unit: &str| -> usize {
            let before = line.split(unit).next().filter(|before| before.len() < line.len());
            before.and_then(|before| before.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
        };
        tally.passed += number(" tests passed");
        tally.failures.extend((0..number(" failed")).map(|_| "contracts: a test of forge's".to_owned()));
        for _ in 0..number(" skipped") {
            tally.skipped.push("contracts: a test of forge's".to_owned());
            tally.faults.push("forge skipped a test".to_owned());
        }
    }
    if tally.passed == 0 {
        tally.faults.push("forge ran no test".to_owned());
    }
    tally
}

fn say(steps: &[Step], tally: &Tally) {
    let heading = |title: &str, lines: &[String]| {
        if !lines.is_empty() {
            println!("{title}:");
            lines.iter().for_each(|line| println!("  {line}"));
        }
    };
    let times: Vec<_> = steps.iter().map(|step| format!("{} {} s", step.name, step.seconds)).collect();
    println!("took: {}", times.join(", "));
    heading("skipped", &tally.skipped);
    heading("failed", &tally.failures);
    heading("and what fails the run by itself", &tally.faults);
    println!("{tally}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forge_is_believed_by_its_numbers() {
        let log = "[PASS] a()\nRan 9 test suites in 3.2s (4.1s CPU time): 118 tests passed, 0 failed, 0 skipped (118 total tests)\n";
        assert_eq!(contracts(log), Tally { passed: 118, ..Tally::default() });
        let log = "Ran 2 test suites in 1s: 3 tests passed, 2 failed, 1 skipped (6 total tests)\n";
        assert_eq!(contracts(log).to_string(), "3 passed, 3 failed, 1 skipped");
        assert!(!contracts("Error: no forge here\n").good());
    }

    #[test]
    fn nextests_report_is_read_by_suite_and_test() {
        let junit = r#"<?xml version="1.0" encoding="UTF-8"?>
            <testsuites name="nextest-run" tests="2" failures="1" errors="0" time="1.0">
            <testsuite name="a::it" tests="2" disabled="0" errors="0" failures="1">
            <testcase name="starts" classname="a::it" time="0.1"></testcase>
            <testcase name="ends" classname="a::it" time="0.1"><failure type="test failure"/></testcase>
            </testsuite></testsuites>"#;
        let ran = ran(junit).unwrap();
        assert_eq!(ran.into_iter().collect::<Vec<_>>(), [("a::it ends".into(), false), ("a::it starts".into(), true)]);
    }

    #[test]
    fn fault_3_3_what_cannot_be_read_is_a_fault_and_the_count_is_said() {
        let run = tempfile::tempdir().unwrap();
        let report = Report { run: run.path().into(), junit: run.path().join("junit.xml"), whole: true };
        let count = || report.count().1.to_string();
        assert_eq!(count(), "0 passed, 2 failed, 0 skipped");
        fs::write(run.path().join("steps"), "formatting\t0\t2\ncontracts\t0\t2\ntests\t0\t30\n").unwrap();
        fs::write(run.path().join("tests.json"), "{").unwrap();
        assert_eq!(count(), "1 passed, 2 failed, 0 skipped", "no log of the contracts, and half a list");
        fs::write(run.path().join("steps"), "formatting").unwrap();
        assert_eq!(count(), "0 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn a_step_that_failed_before_it_counted_is_one_failure() {
        let run = tempfile::tempdir().unwrap();
        fs::write(run.path().join("steps"), "formatting\t0\t2\ntests\t101\t30\n").unwrap();
        let report = Report { run: run.path().into(), junit: run.path().join("junit.xml"), whole: true };
        let steps = steps(&read(&run.path().join("steps")).unwrap()).unwrap();
        let texts: Vec<_> = steps.iter().map(|step| report.tally_of(step).unwrap().to_string()).collect();
        assert_eq!(texts, ["1 passed, 0 failed, 0 skipped", "0 passed, 1 failed, 0 skipped"]);
    }
}

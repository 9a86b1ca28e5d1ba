//! Whether the lock file of the fuzzer's workspace is in step with ours. It names our crates by path, and so has to
//! follow each of their dependencies. The files are compared as text: what only the fuzzer needs may not be on this
//! machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

/// What mends it.
const REPAIR: &str = "cp Cargo.lock fuzz/Cargo.lock && cargo metadata --manifest-path fuzz/Cargo.toml >/dev/null";

#[derive(Debug, Deserialize)]
struct Lock {
    package: Vec<LockedPackage>,
}

#[derive(Debug, Deserialize)]
struct LockedPackage {
    name: String,
    version: String,
    source: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

/// Of each crate of ours, the crates that it links, and whether it may do without.
type Linked = BTreeMap<String, BTreeMap<String, bool>>;

impl Lock {
    fn read(text: &str) -> Self {
        toml::from_str(text).unwrap()
    }

    /// Our crates, each with the crates that it is locked to, and their versions.
    fn ours(&self) -> BTreeMap<&str, BTreeSet<(&str, &str)>> {
        let ours = self.package.iter().filter(|package| package.source.is_none());
        ours.map(|package| (package.name.as_str(), self.locked(package))).collect()
    }

    fn locked<'a>(&'a self, package: &'a LockedPackage) -> BTreeSet<(&'a str, &'a str)> {
        package.dependencies.iter().map(|words| self.resolve(words)).collect()
    }

    /// What an entry names: its version is left out where there is only one.
    fn resolve<'a>(&'a self, words: &'a str) -> (&'a str, &'a str) {
        let mut words = words.split(' ');
        let name = words.next().unwrap();
        let only = || self.package.iter().find(|package| package.name == name).unwrap().version.as_str();
        (name, words.next().unwrap_or_else(only))
    }
}

/// Where the fuzzer's lock file says other than ours of a crate of ours.
fn differences(ours: &Lock, fuzz: &Lock, linked: &Linked) -> Vec<String> {
    let (ours, fuzz) = (ours.ours(), fuzz.ours());
    let mut found = Vec::new();
    for (name, locked) in fuzz {
        let (Some(links), Some(wanted)) = (linked.get(name), ours.get(name)) else { continue };
        // Our own file has what only tests link, too.
        let wanted: BTreeSet<_> = wanted.iter().filter(|(link, _)| links.contains_key(*link)).copied().collect();
        let may_lack = |link: &str| links.get(link).is_some_and(|optional| *optional);
        let lacks = wanted.difference(&locked).filter(|(link, _)| !may_lack(link));
        found.extend(lacks.map(|(link, version)| format!("{name} links {link} {version}: it does not say so")));
        let other = locked.difference(&wanted);
        found.extend(other.map(|(link, version)| format!("{name} does not link {link} {version}: it says so")));
    }
    found
}

/// What our crates link, by their manifests.
fn linked() -> Linked {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(crate::root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let links = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        let shipped = all.filter(|dependency| dependency["kind"] != "dev");
        let link =
            |dependency: &Value| (dependency["name"].as_str().unwrap().to_owned(), dependency["optional"] == true);
        shipped.map(link).collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|package| (package["name"].as_str().unwrap().to_owned(), links(package))).collect()
}

#[test]
fn the_fuzzers_lock_file_is_in_step_with_ours() {
    let read = |path| Lock::read(&fs::read_to_string(crate::root().join(path)).unwrap());
    let (ours, fuzz, linked) = (read("Cargo.lock"), read("fuzz/Cargo.lock"), linked());
    let shared = fuzz.ours().keys().filter(|name| linked.contains_key(**name)).count();
    assert!(shared > 10, "it names {shared} of our crates");
    let found = differences(&ours, &fuzz, &linked);
    assert!(found.is_empty(), "fuzz/Cargo.lock is stale:\n{}\nMend it: {REPAIR}", found.join("\n"));
}

#[test]
fn a_lock_file_that_was_left_behind_is_told_of() {
    let lock = |one: &str, version: &str| {
        Lock::read(&format!(
            "[[package]]\nname = \"one\"\nversion = \"1.0.0\"\ndependencies = [{one}]\n\
             [[package]]\nname = \"two\"\nversion = \"{version}\"\nsource = \"registry\"\n\
             [[package]]\nname = \"three\"\nversion = \"3.0.0\"\nsource = \"registry\"\n"
        ))
    };
    let linked = |three: Option<bool>| -> Linked {
        let mut links = BTreeMap::from([("two".to_owned(), false)]);
        links.extend(three.map(|optional| ("three".to_owned(), optional)));
        BTreeMap::from([("one".to_owned(), links)])
    };
    let (ours, only_two) = (lock("\"two\", \"three\"", "2.0.0"), lock("\"two\"", "2.0.0"));
    assert!(differences(&ours, &only_two, &linked(None)).is_empty(), "only tests link three");
    assert!(differences(&ours, &only_two, &linked(Some(true))).is_empty(), "it does without three");
    assert_eq!(differences(&ours, &only_two, &linked(Some(false))), ["one links three 3.0.0: it does not say so"]);
    assert_eq!(differences(&only_two, &ours, &linked(None)), ["one does not link three 3.0.0: it says so"]);
    let newer = lock("\"two\"", "2.1.0");
    let said = differences(&newer, &only_two, &linked(None));
    assert_eq!(said, ["one links two 2.1.0: it does not say so", "one does not link two 2.0.0: it says so"]);
}

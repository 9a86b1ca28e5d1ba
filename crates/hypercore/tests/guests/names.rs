//! Two of these tests run at a time: what one calls its own on the machine is no other's.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;

/// How a test names what it has on the machine, and what of it is counted.
const NAMED: [(&str, &str); 4] = [
    ("NodeProcess::new(\"", "node"),
    ("NodeProcess::plan(\"", "node"),
    ("Internet::new(\"", "internet"),
    ("machine::network(\"", "network"),
];

/// A name, and the tenth of addresses and users, of one test.
#[derive(Debug)]
struct Own {
    test: String,
    name: String,
    kind: &'static str,
    number: Option<u32>,
}

fn owned(file: &str, text: &str) -> Vec<Own> {
    let tests = text.split("fn ").skip(1).map(|body| (body.split('(').next().unwrap(), body));
    let named = tests.flat_map(|(test, body)| {
        NAMED.iter().flat_map(move |(start, kind)| {
            body.split(start).skip(1).map(move |rest| {
                let (name, rest) = rest.split_once('"').unwrap();
                let number = rest.trim_start_matches([',', ' ']).split([',', ')']).next().unwrap().parse().ok();
                Own { test: format!("{file}: {test}"), name: name.to_owned(), kind, number }
            })
        })
    });
    named.collect()
}

#[test]
fn fault_1_3_each_test_has_names_and_numbers_of_its_own() {
    let mut all: Vec<Own> = Vec::new();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests")).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        if file != "names.rs" {
            all.extend(owned(&file, &std::fs::read_to_string(path).unwrap()));
        }
    }
    assert!(all.len() > 15, "only {} are found: how are they named now?", all.len());
    for (at, one) in all.iter().enumerate() {
        for other in all.iter().skip(at + 1).filter(|other| other.test != one.test) {
            // What is left of a node is found by how its names begin.
            let named = one.name.starts_with(&other.name) || other.name.starts_with(&one.name);
            let numbered = one.kind == other.kind && one.number.is_some() && one.number == other.number;
            assert!(!named && !numbered, "{one:?}\n{other:?}");
        }
    }
}

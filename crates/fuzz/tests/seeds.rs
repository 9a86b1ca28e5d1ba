//! The seeds of `fuzz/`, and what fuzzing found, as plain tests.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed, and says at which seed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn fault_3_4_every_target_holds_over_its_seeds() {
    for (name, body) in bodies::TARGETS {
        let dir = fuzz().join("seeds").join(name);
        let seeds = names(&dir);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in seeds {
            println!("{name}/{seed}");
            body(&std::fs::read(dir.join(seed)).unwrap());
        }
        body(b"");
    }
}

#[test]
fn fault_3_4_every_target_is_a_program_of_the_fuzzer() {
    let targets: BTreeSet<String> = bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("seeds")), targets);
    let programs: BTreeSet<String> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), programs);
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    assert!(targets.iter().all(|name| manifest.contains(&format!("name = \"{name}\""))));
}

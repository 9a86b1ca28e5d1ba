//! The workspace's seams: who may import whom. `docs/ARCHITECTURE.md` shows the same
//! table to people.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// A crate of ours and the crates of ours it may link.
const TABLE: &[(&str, &[&str])] = &[
    (
        "fuzz",
        &["domain", "wire", "auth", "chain", "identity", "relay", "x402", "image", "sandbox", "hypercore", "gateway"],
    ),
    ("domain", &[]),
    ("needs", &[]),
    ("fixtures", &["domain", "needs", "auth", "store", "chain", "identity", "x402", "client"]),
    ("durable", &[]),
    ("seal", &["durable"]),
    ("telemetry", &[]),
    ("wire", &["domain"]),
    ("auth", &["domain"]),
    ("store", &["domain", "durable", "seal"]),
    ("chain", &["domain"]),
    ("identity", &["domain", "durable"]),
    ("relay", &["domain", "wire", "chain"]),
    ("x402", &["domain"]),
    ("image", &["domain", "durable", "wire"]),
    ("sandbox", &["domain", "durable", "wire"]),
    ("hypercore", &["domain", "durable", "seal", "wire", "sandbox", "image", "telemetry"]),
    ("pod", &["domain", "wire"]),
    ("client", &["domain", "wire", "auth"]),
    ("control", &["domain", "wire", "store", "chain", "client"]),
    ("treasury", &["domain", "durable", "seal", "wire", "store", "chain", "identity", "relay", "x402"]),
    (
        "gateway",
        &["domain", "seal", "wire", "auth", "store", "chain", "relay", "x402", "treasury", "control", "client"],
    ),
];

/// What the node daemon and the guest must not even carry.
const FOREIGN: &[(&str, &[&str])] = &[("hypercore", &["rusqlite"]), ("pod", &["rusqlite", "reqwest", "ring"])];

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn short(package: &str) -> Option<&str> {
    package.strip_prefix("palatine-")
}

/// What each crate of ours links of ours, tests aside.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let metadata: Value =
        serde_json::from_slice(&cargo(&["metadata", "--no-deps", "--offline", "--format-version", "1"])).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let linked = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        let shipped = all.filter(|dependency| dependency["kind"].is_null());
        shipped.filter_map(|dependency| short(dependency["name"].as_str()?)).map(str::to_owned).collect()
    };
    let ours =
        packages.iter().filter_map(|package| Some((short(package["name"].as_str()?)?.to_owned(), linked(package))));
    ours.collect()
}

#[test]
fn every_crate_imports_only_what_the_table_lets_it() {
    let imports = imports();
    let known: BTreeSet<&str> = TABLE.iter().map(|(name, _)| *name).chain(["palatine"]).collect();
    let there: BTreeSet<&str> = imports.keys().map(String::as_str).collect();
    assert_eq!(known, there, "the table and the workspace list different crates");
    for (name, allowed) in TABLE {
        for import in &imports[*name] {
            assert!(allowed.contains(&import.as_str()), "{name} imports {import}, which the table does not let it");
        }
    }
}

#[test]
fn the_node_and_the_guest_carry_no_database_and_no_chain_client() {
    for (name, foreign) in FOREIGN {
        let package = format!("palatine-{name}");
        let tree =
            cargo(&["tree", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}", "-p", &package]);
        let tree = String::from_utf8(tree).unwrap();
        for line in tree.lines() {
            let crate_name = line.split(' ').next().unwrap_or_default();
            assert!(!foreign.contains(&crate_name), "{name} links {crate_name}");
        }
    }
}

//! Documents that must keep up with the code.

use std::fs;
use std::path::Path;

/// A section of `palatine.toml`, and the type that reads it.
const SECTIONS: [(&str, &str, &str); 14] = [
    ("gateway", "gateway/src/config/gateway.rs", "Config"),
    ("tls", "gateway/src/config/tls.rs", "TlsConfig"),
    ("limits", "gateway/src/config/limits.rs", "Limits"),
    ("solana", "chain/src/config.rs", "SolanaConfig"),
    ("evm", "chain/src/evm/config.rs", "EvmConfig"),
    ("treasury", "treasury/src/config.rs", "Config"),
    ("relayer", "relay/src/config.rs", "Config"),
    ("x402", "x402/src/config.rs", "Config"),
    ("control", "control/src/config.rs", "Config"),
    ("store", "store/src/config.rs", "Config"),
    ("node", "hypercore/src/config.rs", "Config"),
    ("network", "sandbox/src/network/config.rs", "Config"),
    ("images", "image/src/config.rs", "Config"),
    ("log", "telemetry/src/lib.rs", "Config"),
];

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The public fields of a type, and what their comments say of the default.
fn keys(source: &str, name: &str) -> Vec<(String, String)> {
    let (_, body) = source.split_once(&format!("pub struct {name} {{")).unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let mut keys = Vec::new();
    let mut comment = String::new();
    for line in body.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            comment += words;
        } else if let Some((key, _)) = line.strip_prefix("pub ").and_then(|field| field.split_once(':')) {
            keys.push((key.to_owned(), std::mem::take(&mut comment)));
        }
    }
    keys
}

#[test]
fn every_key_of_the_configuration_is_documented_with_its_default() {
    let page = read("docs/configuration.md");
    for (section, file, name) in SECTIONS {
        let (_, rest) =
            page.split_once(&format!("## `[{section}]`")).unwrap_or_else(|| panic!("[{section}] is missing"));
        let rest = rest.split_once("\n## ").map_or(rest, |(own, _)| own);
        for (key, comment) in keys(&read(&format!("crates/{file}")), name) {
            let row = format!("| `{key}` |{}", comment.replace('|', "\\|"));
            assert!(rest.contains(&row), "docs/configuration.md, [{section}]: expected the row\n{row} |");
            let told = comment.contains("efault") || comment.ends_with("Required.");
            assert!(told, "[{section}] {key}: its comment tells no default");
        }
    }
}

#[test]
fn the_map_stays_a_map() {
    let lines = read("docs/ARCHITECTURE.md").lines().count();
    assert!(lines < 200, "docs/ARCHITECTURE.md has {lines} lines");
}

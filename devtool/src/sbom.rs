//! The bill of materials of a package, as CycloneDX 1.5: every crate that is linked into its programs, as cargo
//! resolves it for the target, and every npm package of the local chains.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use cyclonedx_bom::external_models::date_time::DateTime;
use cyclonedx_bom::external_models::uri::Purl;
use cyclonedx_bom::models::bom::{Bom, SpecVersion};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata;
use cyclonedx_bom::validation::Validate;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::dev;

/// The packages of ours that are in a package.
const PROGRAMS: [&str; 4] = ["palatine-palatine", "palatine-hypercore", "palatine-pod", "agent-echo"];
/// The folders whose npm packages are in a package.
const CHAINS: [&str; 2] = ["deploy/dev/solana", "deploy/dev/evm"];

/// Of what, and when.
#[derive(Debug)]
pub(crate) struct Sbom {
    /// The version of the package
    pub(crate) version: String,
    /// The commit's time, in Unix seconds
    pub(crate) epoch: i64,
    /// The target that it is built for
    pub(crate) target: String,
}

/// A component, and what it needs itself.
#[derive(Debug, Default)]
struct Graph {
    components: BTreeMap<String, Component>,
    needs: BTreeMap<String, BTreeSet<String>>,
}

impl Sbom {
    /// Writes the bill.
    pub(crate) fn run(&self, into: &Path) -> Result<()> {
        let sums = sums(&read("Cargo.lock")?)?;
        let mut graph = Graph::default();
        for program in PROGRAMS {
            graph.crates(&tree(program, &self.target)?, &sums)?;
        }
        for folder in CHAINS {
            graph.npm(&read(&format!("{folder}/package-lock.json"))?).with_context(|| folder.to_owned())?;
        }
        let bom = self.bom(graph)?;
        let found = bom.validate_version(SpecVersion::V1_5);
        anyhow::ensure!(found.passed(), "the bill of materials is not valid: {found:?}");
        let mut json = Vec::new();
        bom.output_as_json_v1_5(&mut json).context("write the bill of materials")?;
        json.push(b'\n');
        dev::write(into, json)
    }

    fn bom(&self, graph: Graph) -> Result<Bom> {
        let time = OffsetDateTime::from_unix_timestamp(self.epoch)?.format(&Rfc3339)?;
        let whole = Component::new(Classification::Application, "palatine", &self.version, Some("palatine".to_owned()));
        let metadata =
            Metadata { timestamp: Some(DateTime::try_from(time)?), component: Some(whole), ..Metadata::default() };
        let needs = graph
            .needs
            .into_iter()
            .map(|(dependency_ref, needs)| Dependency { dependency_ref, dependencies: needs.into_iter().collect() });
        Ok(Bom {
            metadata: Some(metadata),
            dependencies: Some(Dependencies(needs.collect())),
            components: Some(Components(graph.components.into_values().collect())),
            // A number of its own would make each run another file.
            serial_number: None,
            ..Bom::default()
        })
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(crate::root().join(path)).with_context(|| format!("read {path}"))
}

/// What cargo links into a program: lines of depth, name, version, and the licence.
fn tree(program: &str, target: &str) -> Result<String> {
    let words = ["tree", "--locked", "--edges", "normal", "--prefix", "depth", "--format", " {p}\t{l}"];
    let mut cargo = Command::new("cargo");
    cargo.args(words).args(["--target", target, "-p", program]).current_dir(crate::root());
    let output = cargo.output().context("run cargo tree")?;
    anyhow::ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("read cargo's tree")
}

/// The checksums of a lock file, by name and version.
fn sums(lock: &str) -> Result<BTreeMap<(String, String), String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let lock: Lock = toml::from_str(lock).context("read Cargo.lock")?;
    let sum = |package: Package| Some(((package.name, package.version), package.checksum?));
    Ok(lock.package.into_iter().filter_map(sum).collect())
}

impl Graph {
    /// Takes in a tree of cargo's. A crate that was shown before is not shown again with what it needs.
    fn crates(&mut self, tree: &str, sums: &BTreeMap<(String, String), String>) -> Result<()> {
        let mut path: Vec<String> = Vec::new();
        for line in tree.lines() {
            let (depth, name, version, license) = row(line).with_context(|| format!("not of cargo tree: {line:?}"))?;
            let purl = Purl::new("cargo", name, version)?;
            let key = purl.to_string();
            let sum = sums.get(&(name.to_owned(), version.to_owned()));
            let component =
                component(name, version, purl, license, sum.map(|sum| (HashAlgorithm::SHA_256, sum.clone())));
            self.components.insert(key.clone(), component);
            path.truncate(depth);
            self.edge(path.last(), key.clone());
            path.push(key);
        }
        Ok(())
    }

    /// Takes in a lock file of npm's.
    fn npm(&mut self, lock: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct Lock {
            packages: BTreeMap<String, Package>,
        }
        #[derive(Deserialize)]
        struct Package {
            version: Option<String>,
            license: Option<String>,
        }
        let lock: Lock = serde_json::from_str(lock).context("read package-lock.json")?;
        for (place, package) in lock.packages {
            let Some((_, name)) = place.rsplit_once("node_modules/") else { continue };
            let version = package.version.with_context(|| format!("{name} has no version"))?;
            let purl = Purl::new("npm", name, &version)?;
            let key = purl.to_string();
            let license = package.license.unwrap_or_default();
            self.components.insert(key.clone(), component(name, &version, purl, &license, None));
            self.edge(None, key);
        }
        Ok(())
    }

    fn edge(&mut self, from: Option<&String>, to: String) {
        let from = from.cloned().unwrap_or_else(|| "palatine".to_owned());
        self.needs.entry(to.clone()).or_default();
        self.needs.entry(from).or_default().insert(to);
    }
}

/// `3 serde v1.0.0 (proc-macro)`, tab, the licence and perhaps `(*)`.
fn row(line: &str) -> Option<(usize, &str, &str, &str)> {
    let (package, license) = line.split_once('\t')?;
    let mut words = package.split(' ');
    let depth = words.next()?.parse().ok()?;
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    Some((depth, name, version, license.trim_end_matches(" (*)")))
}

fn component(name: &str, version: &str, purl: Purl, license: &str, sum: Option<(HashAlgorithm, String)>) -> Component {
    let mut component = Component::new(Classification::Library, name, version, Some(purl.to_string()));
    component.purl = Some(purl);
    // The old way of writing a choice of licences.
    let license = license.replace('/', " OR ");
    component.licenses = (!license.is_empty()).then(|| Licenses(vec![LicenseChoice::expression(&license)]));
    component.hashes = sum.map(|(alg, sum)| Hashes(vec![Hash { alg, content: HashValue(sum) }]));
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: &str = "0 palatine-pod v0.1.0 (/a)\tApache-2.0\n1 serde v1.0.2\tMIT/Apache-2.0\n2 serde_core v1.0.2\tMIT OR Apache-2.0\n1 serde_core v1.0.2\tMIT OR Apache-2.0 (*)\n";
    const LOCK: &str = "[[package]]\nname = \"serde\"\nversion = \"1.0.2\"\nchecksum = \"00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa\"\n";

    #[test]
    fn a_bill_of_materials_holds_each_crate_once_with_its_sum_and_what_it_needs() {
        let mut graph = Graph::default();
        graph.crates(TREE, &sums(LOCK).unwrap()).unwrap();
        let needs: Vec<_> = graph.needs["pkg:cargo/palatine-pod@0.1.0"].iter().map(String::as_str).collect();
        assert_eq!(needs, ["pkg:cargo/serde@1.0.2", "pkg:cargo/serde_core@1.0.2"]);
        let sbom = Sbom { version: "0.1.0".to_owned(), epoch: 1_800_000_000, target: String::new() };
        let bom = sbom.bom(graph).unwrap();
        assert!(bom.validate_version(SpecVersion::V1_5).passed());
        let mut json = Vec::new();
        bom.output_as_json_v1_5(&mut json).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["components"].as_array().unwrap().len(), 3);
        assert_eq!(json["components"][1]["hashes"][0]["alg"], "SHA-256");
        assert_eq!(json["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(json["metadata"]["timestamp"], "2027-01-15T08:00:00Z");
    }

    #[test]
    fn npm_packages_are_named_by_their_place() {
        let lock =
            r#"{"packages": {"": {"name": "x"}, "node_modules/@scure/base": {"version": "1.2.6", "license": "MIT"}}}"#;
        let mut graph = Graph::default();
        graph.npm(lock).unwrap();
        let component = graph.components.values().next().unwrap();
        assert_eq!((component.name.to_string().as_str(), graph.components.len()), ("@scure/base", 1));
    }
}

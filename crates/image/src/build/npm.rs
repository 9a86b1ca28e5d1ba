//! `[[npm]]`: the host's npm looks up, fetches and lays out; no script of a package is run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::BuildError;
use super::pins::{PinnedModules, Pins};
use super::root::{Change, FileKind, Tree, changes, tree};
use super::work::Work;
use crate::ImageError;
use crate::recipe::NpmStep;
use crate::tool::HostTool;

const NPM: HostTool = HostTool { name: "npm", package: "npm", deadline: Duration::from_secs(1800) };
/// For which machine, and without what asks for more than the packages.
const OPTIONS: [&str; 9] = [
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--no-update-notifier",
    "--omit-lockfile-registry-resolved",
    "--install-strategy=hoisted",
    "--os=linux",
    "--cpu=x64",
    "--libc=glibc",
];
const LOCK: &str = "package-lock.json";
const MODULES: &str = "node_modules";
/// npm's own note of what it laid out, which names where it came from.
const NOTE: &str = ".package-lock.json";

/// Finds out what a step means: from the lock, else from the registry.
pub(super) fn plan(step: &NpmStep, pins: &mut Pins, work: &Work<'_>) -> Result<PinnedModules, ImageError> {
    let question = PinnedModules { packages: step.packages.clone(), package_lock: String::new() };
    if let Some(pinned) = pins.find(&question) {
        return Ok(pinned);
    }
    work.to.step("look up the npm packages", None);
    let folder = folder(step, work)?;
    NPM.run_told(work.to, |c| c.current_dir(&folder).args(["install", "--package-lock-only"]).args(OPTIONS))?;
    let path = folder.join(LOCK);
    let package_lock = fs::read_to_string(&path).map_err(|source| ImageError::file("read", &path, source))?;
    let pinned = PinnedModules { package_lock: without_addresses(&package_lock)?, ..question };
    pins.keep(pinned.clone())?;
    Ok(pinned)
}

/// Lays them out: the folder, and what is in it, as it is in an image.
pub(super) fn install(
    step: &NpmStep,
    pinned: &PinnedModules,
    work: &Work<'_>,
) -> Result<(PathBuf, BTreeMap<PathBuf, Change>), ImageError> {
    work.to.step("install the npm packages", None);
    let folder = folder(step, work)?;
    let lock = folder.join(LOCK);
    fs::write(&lock, &pinned.package_lock).map_err(|source| ImageError::file("write", &lock, source))?;
    NPM.run_told(work.to, |c| c.current_dir(&folder).arg("ci").args(OPTIONS))?;
    let mut found = tree(&folder, work.bounds.max_entries)?;
    found.retain(|path, _| path.starts_with(MODULES) && path != &Path::new(MODULES).join(NOTE));
    found.values_mut().for_each(|file| {
        // Whatever mask npm was run with.
        let is_open = file.kind == FileKind::Directory || file.mode & 0o100 != 0;
        file.mode = if is_open { 0o755 } else { 0o644 };
    });
    Ok((folder, changes(&Tree::new(), &found)))
}

/// A folder that asks for the step's packages, by their exact versions.
fn folder(step: &NpmStep, work: &Work<'_>) -> Result<PathBuf, ImageError> {
    let folder = work.folder("npm")?;
    let wanted = step.packages.iter().filter_map(|package| package.rsplit_once('@'));
    let wanted: BTreeMap<_, _> = wanted.collect();
    let asked = json!({"name": "image", "version": "0.0.0", "private": true, "dependencies": wanted});
    let path = folder.join("package.json");
    fs::write(&path, asked.to_string()).map_err(|source| ImageError::file("write", &path, source))?;
    Ok(folder)
}

/// A lock file of npm's without the places that it was looked up at, of which each machine has its own, and without
/// whom to thank for it.
fn without_addresses(lock: &str) -> Result<String, BuildError> {
    let odd = |why: String| BuildError::Answer { tool: NPM.name, why };
    let mut lock: serde_json::Value = serde_json::from_str(lock).map_err(|error| odd(error.to_string()))?;
    let packages = lock.get_mut("packages").and_then(serde_json::Value::as_object_mut);
    let packages = packages.ok_or_else(|| odd("its lock file names no packages".to_owned()))?;
    for (path, package) in packages.iter_mut().filter(|(path, _)| !path.is_empty()) {
        let package = package.as_object_mut().ok_or_else(|| odd(format!("{path} is no package")))?;
        package.remove("resolved");
        package.remove("funding");
        // What a package brings along is of its own archive.
        let is_bundled = package.get("inBundle").is_some_and(|bundled| *bundled == true);
        if !is_bundled && !package.contains_key("integrity") {
            return Err(odd(format!("{path} has no integrity")));
        }
    }
    serde_json::to_string_pretty(&lock).map(|text| text + "\n").map_err(|error| odd(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_says_what_a_package_is_and_not_where_it_came_from() {
        let with = |package: serde_json::Value| {
            json!({"packages": {"": {"name": "image"}, "node_modules/a": package}}).to_string()
        };
        let whole = with(json!({"version": "1", "resolved": "https://mirror.example/a.tgz", "integrity": "sha512-x"}));
        let kept = without_addresses(&whole).unwrap();
        assert!(kept.contains("sha512-x") && !kept.contains("mirror.example"), "{kept}");
        let without = without_addresses(&with(json!({"version": "1"}))).unwrap_err().to_string();
        assert!(without.contains("node_modules/a has no integrity"), "{without}");
        assert!(without_addresses(&with(json!({"version": "1", "inBundle": true}))).is_ok());
        assert!(without_addresses("{}").is_err() && without_addresses("no json").is_err());
    }
}

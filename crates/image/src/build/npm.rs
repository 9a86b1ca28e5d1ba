//! `[[npm]]`: the host's npm looks up, fetches and lays out; no script of a package is run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use super::BuildError;
use super::pins::{PinnedModules, Pins, odd_lock};
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
        check(&pinned.package_lock)?;
        return Ok(pinned);
    }
    work.to.step("look up the npm packages", None);
    let folder = folder(step, work)?;
    NPM.run_told(work.to, |c| c.current_dir(&folder).args(["install", "--package-lock-only"]).args(OPTIONS))?;
    let path = folder.join(LOCK);
    let package_lock = fs::read_to_string(&path).map_err(|source| ImageError::file("read", &path, source))?;
    let pinned = PinnedModules { package_lock: without_addresses(&package_lock)?, ..question };
    check(&pinned.package_lock)?;
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
    fs::write(&lock, without_engines(&pinned.package_lock)?)
        .map_err(|source| ImageError::file("write", &lock, source))?;
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
    each_package(lock, |path, package| {
        package.remove("resolved");
        package.remove("funding");
        // What a package brings along is of its own archive.
        let is_bundled = package.get("inBundle").is_some_and(|bundled| *bundled == true);
        if is_bundled || package.contains_key("integrity") { Ok(()) } else { Err(format!("{path} has no integrity")) }
    })
}

/// The same without which Node a package asks for: npm compares that with its own, which is not the image's, and leaves
/// out in silence what may be left out.
fn without_engines(lock: &str) -> Result<String, BuildError> {
    each_package(lock, |_, package| {
        package.remove("engines");
        Ok(())
    })
}

/// A lock file of npm's with something done to each package's entry.
fn each_package(
    lock: &str,
    mut done: impl FnMut(&str, &mut serde_json::Map<String, serde_json::Value>) -> Result<(), String>,
) -> Result<String, BuildError> {
    let odd = |why: String| BuildError::Answer { tool: NPM.name, why };
    let mut lock: serde_json::Value = serde_json::from_str(lock).map_err(|error| odd(error.to_string()))?;
    let packages = lock.get_mut("packages").and_then(serde_json::Value::as_object_mut);
    let packages = packages.ok_or_else(|| odd("its lock file names no packages".to_owned()))?;
    for (path, package) in packages.iter_mut().filter(|(path, _)| !path.is_empty()) {
        let package = package.as_object_mut().ok_or_else(|| odd(format!("{path} is no package")))?;
        done(path, package).map_err(odd)?;
    }
    serde_json::to_string_pretty(&lock).map(|text| text + "\n").map_err(|error| odd(error.to_string()))
}

/// Refuses a lock that names anything but archives of the registry and what lies in them: what
/// else it said (a folder, a link, an address), npm would take from the machine that builds. Whoever
/// wrote the recipe wrote it.
fn check(lock: &str) -> Result<(), BuildError> {
    let odd = |what: &str, why: &str| odd_lock(format!("{what:?} of its npm packages {why}"));
    let lock: serde_json::Value = serde_json::from_str(lock).map_err(|error| odd("the lock", &error.to_string()))?;
    let known = ["name", "version", "lockfileVersion", "requires", "packages"];
    if let Some(other) = lock.as_object().into_iter().flat_map(|lock| lock.keys()).find(|key| !known.contains(&&***key))
    {
        return Err(odd(other, "is nothing that such a lock says"));
    }
    let packages = lock.get("packages").and_then(serde_json::Value::as_object);
    let packages = packages.filter(|_| lock.get("lockfileVersion").is_some_and(|version| *version == 3));
    for (path, package) in packages.ok_or_else(|| odd("the lock", "is not of version 3"))? {
        let package = package.as_object().ok_or_else(|| odd(path, "is no package"))?;
        let is_root = path.is_empty();
        if !is_root && !is_place(path) {
            return Err(odd(path, "is no place of a package"));
        }
        let elsewhere = ["resolved", "link"].iter().any(|key| package.contains_key(*key));
        if elsewhere || is_root && package.contains_key("workspaces") {
            return Err(odd(path, "is said to come from elsewhere than the registry"));
        }
        let text = |key: &str| package.get(key).map(|value| value.as_str().unwrap_or_default());
        if !text("version").is_some_and(is_version) || text("name").is_some_and(|name| !is_module(name)) {
            return Err(odd(path, "has a name or version that is none"));
        }
        let is_bundled = package.get("inBundle").is_some_and(|bundled| *bundled == true);
        if !is_root && !is_bundled && !text("integrity").is_some_and(|sum| sum.starts_with("sha")) {
            return Err(odd(path, "has no integrity"));
        }
        let needs = ["dependencies", "optionalDependencies", "peerDependencies", "devDependencies"];
        let needs = needs.iter().filter_map(|key| package.get(*key)?.as_object()).flatten();
        for (name, wanted) in needs {
            if !is_module(name) || !wanted.as_str().is_some_and(is_of_registry) {
                return Err(odd(path, "needs what is not of the registry"));
            }
        }
    }
    Ok(())
}

/// Whether this is where npm puts packages: each in the modules of another.
fn is_place(path: &str) -> bool {
    let mut modules = path.split("node_modules/");
    modules.next() == Some("") && modules.all(|name| is_module(name.trim_end_matches('/')))
}

/// Whether this is a package's name, of a scope or not.
fn is_module(name: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-._~".contains(c))
    };
    match name.strip_prefix('@') {
        Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| plain(scope) && plain(name)),
        None => plain(name),
    }
}

/// Whether this is a range of versions, or one of a package of another name.
fn is_of_registry(wanted: &str) -> bool {
    let is_range = |range: &str| !range.contains([':', '/']);
    let Some(alias) = wanted.strip_prefix("npm:") else { return is_range(wanted) };
    let (name, range) = alias.rsplit_once('@').filter(|(name, _)| !name.is_empty()).unwrap_or((alias, ""));
    is_module(name) && is_range(range)
}

/// Whether this is one version, and no range, tag, path or address.
fn is_version(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-.+".contains(c))
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

    #[test]
    fn a_lock_from_a_recipe_takes_nothing_from_the_machine_that_builds() {
        let lock = |path: &str, package: serde_json::Value| {
            let root = json!({"name": "image", "version": "0.0.0", "dependencies": {"a": "1.0.0"}});
            json!({"name": "image", "lockfileVersion": 3, "packages": {"": root, path: package}})
        };
        let said = |lock: serde_json::Value| check(&lock.to_string());
        let sum = "sha512-x";
        for (path, package) in [
            ("node_modules/a", json!({"version": "1.0.0-rc.1", "integrity": sum, "dependencies": {"@b/c": "^1 || 2"}})),
            ("node_modules/a/node_modules/@b/c", json!({"version": "1.0.0", "inBundle": true, "workspaces": ["x"]})),
            (
                "node_modules/a",
                json!({"name": "@b/c", "version": "1.0.0", "integrity": sum, "dependencies": {"d": "npm:@e/f@1"}}),
            ),
        ] {
            said(lock(path, package)).unwrap();
        }
        for (path, package) in [
            ("node_modules/a", json!({"version": "1.0.0", "integrity": sum, "resolved": "file:/root"})),
            ("node_modules/a", json!({"version": "1.0.0", "integrity": sum, "link": true})),
            ("node_modules/a", json!({"version": "file:/root", "integrity": sum})),
            ("node_modules/a", json!({"version": "1.0.0", "integrity": sum, "name": "file:/root"})),
            ("node_modules/a", json!({"version": "1.0.0"})),
            ("node_modules/a", json!({"version": "1.0.0", "integrity": sum, "dependencies": {"b": "file:/root"}})),
            (
                "node_modules/a",
                json!({"version": "1.0.0", "integrity": sum, "dependencies": {"b": "user/repository@1"}}),
            ),
            ("node_modules/../../a", json!({"version": "1.0.0", "integrity": sum})),
            ("work/a", json!({"version": "1.0.0", "integrity": sum})),
        ] {
            assert!(said(lock(path, package.clone())).is_err(), "{path} {package}");
        }
        let mut old = lock("node_modules/a", json!({"version": "1.0.0", "integrity": sum}));
        old["dependencies"] = json!({"a": {"version": "file:/root"}});
        assert!(said(old).is_err());
        assert!(said(json!({"lockfileVersion": 2, "packages": {}})).is_err());
    }

    #[test]
    fn the_locks_of_our_images_are_taken() {
        for name in ["base", "agent-nano"] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images").join(name).join("image.toml");
            let mut pins = Pins::read(&path, false).unwrap();
            for modules in pins.all_modules() {
                check(&modules.package_lock).unwrap();
            }
        }
    }

    #[test]
    fn what_is_installed_does_not_depend_on_the_node_of_who_builds() {
        let lock = json!({"packages": {
            "": {"name": "image"},
            "node_modules/a": {"version": "1", "integrity": "sha512-x", "optional": true, "engines": {"node": ">=99"}},
        }});
        let asked = without_engines(&lock.to_string()).unwrap();
        assert!(asked.contains("sha512-x") && !asked.contains("engines"), "{asked}");
    }
}

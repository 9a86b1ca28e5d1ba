//! The folder of assets that the programs and their tests find beside them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::dev::{self, Dev, TRIPLE, aside, mark, say};

/// What says that a folder of packages holds what it should.
const MARK: &str = ".installed";

/// A folder of npm packages.
struct Npm {
    /// Its name among the assets
    name: &'static str,
    what: &'static str,
    /// In the checkout
    folder: &'static str,
    /// What npm is told beside what it is always told
    words: &'static [&'static str],
}

/// What `palatine up` starts.
const CHAINS: [Npm; 2] = [
    Npm { name: "solana", what: "the local Solana", folder: "deploy/dev/solana", words: &[] },
    Npm { name: "evm", what: "the local EVM chain", folder: "deploy/dev/evm", words: &[] },
];
/// What only the tests need: the compiler of the contracts, x402's other sides, others' clients and servers.
const OF_TESTS: [Npm; 3] = [
    Npm { name: "contracts", what: "the contracts' tools", folder: "contracts", words: &[] },
    Npm {
        name: "x402",
        what: "x402's clients and servers",
        folder: "crates/x402/tests/npm",
        words: &["--omit=optional", "--omit=peer"],
    },
    Npm { name: "clients", what: "others' clients for Node", folder: "crates/palatine/tests/npm", words: &[] },
];
const PYTHON: &str = "crates/palatine/tests/python/requirements.txt";

/// Where the guests' programs are built, in the cache.
pub(crate) fn guests_target(dev: &Dev) -> PathBuf {
    dev.cache.join("guest")
}

/// One folder with all that `palatine up` needs beside the binaries.
pub(crate) fn lay(dev: &mut Dev) -> Result<()> {
    let (built, assets) = (guests_target(dev).join(TRIPLE).join("guest"), dev.assets());
    fresh(&built.join("pod"), &assets.join("pod"))?;
    let images = crate::root().join("images");
    for image in fs::read_dir(&images).context("list images")? {
        let name = image.context("list images")?.file_name();
        for file in recipe_files(&images.join(&name))? {
            fresh(&images.join(&name).join(&file), &assets.join("images").join(&name).join(&file))?;
        }
    }
    fresh(&built.join("agent-echo"), &assets.join("images/agent-echo/agent-echo"))?;
    CHAINS.iter().try_for_each(|chain| npm(dev, chain))
}

/// The files of a recipe, from its folder: what builds or tries the programs in it is left out. None, where there is no
/// recipe.
pub(crate) fn recipe_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.join("image.toml").is_file() {
        return Ok(Vec::new());
    }
    let listed = || format!("list {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(listed)? {
        let entry = entry.with_context(listed)?;
        let name = PathBuf::from(entry.file_name());
        let tries = name.to_string_lossy().ends_with(".test.mjs") || name.as_os_str() == "Cargo.toml";
        if entry.path().is_file() && !tries {
            files.push(name);
        }
    }
    files.sort();
    Ok(files)
}

/// What the tests need beside that.
pub(crate) fn of_tests(dev: &mut Dev) -> Result<()> {
    OF_TESTS.iter().try_for_each(|packages| npm(dev, packages))?;
    python(dev, &crate::root().join(PYTHON))
}

/// Installs the npm packages of a folder into one of the same kind among the assets.
fn npm(dev: &mut Dev, packages: &Npm) -> Result<()> {
    let (from, into) = (crate::root().join(packages.folder), dev.assets().join(packages.name));
    dev::make(&into)?;
    for file in own_files(&from)? {
        fresh(&from.join(&file), &into.join(&file))?;
    }
    let (lock, installed) = (into.join("package-lock.json"), into.join("node_modules").join(MARK));
    if same(&lock, &installed) {
        return Ok(());
    }
    say(&format!("Installing {}", packages.what));
    let mut npm = dev.command("npm");
    npm.args(["ci", "--prefix"]).arg(&into);
    npm.args(["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]).args(packages.words).stdout(aside());
    dev.succeed(&mut npm, &format!("npm could not install {}. Is there a network?", packages.what))?;
    copy(&lock, &installed)
}

/// Our own files in a folder of npm packages, from there.
fn own_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = || format!("list {}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(listed)? {
        let name = entry.with_context(listed)?.file_name();
        let text = name.to_string_lossy();
        if text.ends_with(".mjs") || text.starts_with("package") && text.ends_with(".json") {
            files.push(PathBuf::from(&name));
        }
    }
    files.extend(Some(PathBuf::from("absent/package.json")).filter(|file| folder.join(file).exists()));
    Ok(files)
}

/// Installs what a file of pinned hashes names, for the Python that runs the tests.
fn python(dev: &mut Dev, requirements: &Path) -> Result<()> {
    let into = dev.assets().join("python");
    let file = fs::File::open(requirements).with_context(|| format!("open {}", requirements.display()))?;
    let (mut python, mut sum) = (dev.command("python3"), dev.command("sha256sum"));
    let version = dev.output(python.arg("--version"))?;
    let stamp = format!("{version} {}", dev.output(sum.stdin(file))?);
    if mark(&into.join(MARK)) == stamp {
        return Ok(());
    }
    say("Installing OpenAI's and E2B's clients for Python, and Hypercorn");
    dev::remove(&into)?;
    let mut pip = dev.command("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action", "ignore"]);
    pip.arg("--target").arg(&into).args(["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement"]);
    dev.succeed(pip.arg(requirements).stdout(aside()), "pip could not install them. Is there a network?")?;
    dev::write(&into.join(MARK), stamp)
}

/// Copies only what changed, so that what depends on it stays cached.
fn fresh(from: &Path, to: &Path) -> Result<()> {
    if same(from, to) { Ok(()) } else { copy(from, to) }
}

fn same(one: &Path, other: &Path) -> bool {
    matches!((fs::read(one), fs::read(other)), (Ok(one), Ok(other)) if one == other)
}

/// A program may be running: it keeps its file, and the copy is another one.
fn copy(from: &Path, to: &Path) -> Result<()> {
    dev::make(to.parent().context("find a file's folder")?)?;
    if to.exists() {
        fs::remove_file(to).with_context(|| format!("remove {}", to.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dev::fake;

    const SAYS: &str = "echo \"$*\" >> \"$CARGO_TARGET_DIR.said\"";

    fn said(dev: &Dev) -> Vec<String> {
        mark(&dev.cache.join("target.said")).lines().map(str::to_owned).collect()
    }

    #[test]
    fn npm_packages_are_installed_once_and_anew_when_their_lock_file_is_another() {
        let dir = tempfile::tempdir().unwrap();
        fake::script(&dir.path().join("bin/npm"), &format!("{SAYS}; mkdir -p \"$3/node_modules\""));
        let mut dev = fake::dev(dir.path());
        let x402 = &OF_TESTS[1];
        npm(&mut dev, x402).unwrap();
        npm(&mut dev, x402).unwrap();
        let into = dev.assets().join("x402");
        let words = format!(
            "ci --prefix {} --ignore-scripts --no-audit --no-fund --silent --omit=optional --omit=peer",
            into.display()
        );
        assert_eq!(said(&dev), [words]);
        for file in ["fetch-v2.mjs", "package.json", "package-lock.json", "absent/package.json"] {
            assert!(same(&crate::root().join(x402.folder).join(file), &into.join(file)), "{file}");
        }
        fs::write(into.join("node_modules").join(MARK), "of another lock file").unwrap();
        npm(&mut dev, x402).unwrap();
        assert_eq!(said(&dev).len(), 2);
        fake::script(&dir.path().join("bin/npm"), "exit 1");
        fs::write(into.join("node_modules").join(MARK), "of another lock file").unwrap();
        let error = npm(&mut dev, x402).unwrap_err().to_string();
        assert_eq!(error, "npm could not install x402's clients and servers. Is there a network?");
    }

    #[test]
    fn python_packages_are_installed_once_and_anew_for_another_python() {
        let dir = tempfile::tempdir().unwrap();
        let python = dir.path().join("bin/python3");
        let answers =
            |version: &str| format!("[ \"$1\" = --version ] && {{ echo {version}; exit; }}; {SAYS}; mkdir -p \"$9\"");
        fake::script(&python, &answers("Python 3"));
        let mut dev = fake::dev(dir.path());
        let requirements = crate::root().join(PYTHON);
        for (version, installed) in [("Python 3", 1), ("Python 3", 1), ("Python 4", 2)] {
            fake::script(&python, &answers(version));
            super::python(&mut dev, &requirements).unwrap();
            assert_eq!(said(&dev).len(), installed, "{version}");
        }
        assert!(said(&dev)[0].ends_with(&format!("--require-hashes --requirement {}", requirements.display())));
    }

    #[test]
    fn a_recipe_is_laid_whole_without_what_builds_or_tries_it() {
        let names = |folder: &str| recipe_files(&crate::root().join("images").join(folder)).unwrap();
        assert_eq!(names("agent-nano"), ["agent_nano.py", "image.lock", "image.toml"].map(PathBuf::from));
        let chat = ["agent.mjs", "front.mjs", "image.lock", "image.toml", "settings.mjs"];
        assert_eq!(names("agent-chat"), chat.map(PathBuf::from));
        assert_eq!(names("agent-echo"), [PathBuf::from("image.toml")]);
        assert!(recipe_files(&crate::root().join("docs")).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_is_the_same_is_left_and_another_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("deep/to"));
        fake::script(&from, "true");
        fresh(&from, &to).unwrap();
        let (mode, time) = {
            use std::os::unix::fs::MetadataExt;
            let meta = fs::metadata(&to).unwrap();
            (meta.mode() & 0o777, meta.modified().unwrap())
        };
        assert_eq!(mode, 0o755);
        fresh(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), time);
        fake::script(&from, "false");
        fresh(&from, &to).unwrap();
        assert!(same(&from, &to));
    }
}

//! Packs built programs as a tarball and a `.deb`. The same files make the same bytes, whoever packs them, when and
//! where.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::assets::recipe_files;
use crate::declared;

/// Our programs.
const PROGRAMS: [&str; 2] = ["palatine", "hypercore"];
/// The local chains: their name among the assets, and their folder in the checkout.
const CHAINS: [(&str, &str); 2] = [("solana", "deploy/dev/solana"), ("evm", "deploy/dev/evm")];
/// What a chain's own files are, beside the packages that npm has installed for them.
const CHAIN_FILES: [&str; 2] = ["mjs", "json"];
/// The modes of a program and of any other file.
const PROGRAM: u32 = 0o755;
const PLAIN: u32 = 0o644;
const DOCUMENTS: [&str; 4] = ["deploy/systemd/server.md", "docs/configuration.md", "README.md", "LICENSE"];
/// The mark that npm's packages are installed: of no use where they are not installed anew.
const MARK: &str = ".installed";
const DESCRIPTION: &str = "a self-hosted cloud for AI agents in microVMs of their own
 Whoever holds the operator's token signs one request with a Solana wallet and
 gets an agent in a microVM: with its own URL and credential, disk, memory and
 network, metered, and gone without a trace when it is removed.";

/// What is packed, and where to.
#[derive(Debug)]
pub(crate) struct Pack {
    /// The folder of the static programs
    pub(crate) programs: PathBuf,
    /// The folder of what they find beside them
    pub(crate) assets: PathBuf,
    /// The folder for the packages; their bill of materials is there
    pub(crate) into: PathBuf,
    /// The version
    pub(crate) version: String,
    /// The commit's time, in Unix seconds
    pub(crate) epoch: i64,
}

impl Pack {
    pub(crate) fn run(&self) -> Result<()> {
        self.tarball().context("pack the tarball")?;
        self.debian().context("pack the .deb")
    }

    fn tarball(&self) -> Result<()> {
        let name = format!("palatine-{}-x86_64-linux", self.version);
        let work = Work::new(&self.into)?;
        self.lay(&work.0.join(&name))?;
        for unit in units()? {
            install(PLAIN, &unit, &work.0.join(&name).join("share/systemd").join(file_name(&unit)?))?;
        }
        self.even(&work.0)?;
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--format=gnu", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.arg(format!("--mtime=@{}", self.epoch)).arg("-C").arg(&work.0).args(["-cf", "-", &name]);
        let mut tar = tar.env("LC_ALL", "C").stdout(Stdio::piped()).spawn().context("run tar")?;
        let packed = File::create(self.into.join(format!("{name}.tar.gz")))?;
        let input = tar.stdout.take().context("read what tar writes")?;
        let gzip = Command::new("gzip").arg("-6n").stdin(input).stdout(packed).status().context("run gzip")?;
        succeeded("tar", tar.wait()?)?;
        succeeded("gzip", gzip)
    }

    fn debian(&self) -> Result<()> {
        let work = Work::new(&self.into)?;
        self.lay(&work.0.join("usr"))?;
        for unit in units()? {
            let text = fs::read_to_string(&unit)?.replace("/usr/local/", "/usr/");
            write(&work.0.join("lib/systemd/system").join(file_name(&unit)?), &text)?;
        }
        write(&work.0.join("DEBIAN/control"), &self.control()?)?;
        self.even(&work.0)?;
        let mut build = Command::new("dpkg-deb");
        build.args(["--root-owner-group", "-Zgzip", "-z6", "--build"]).arg(&work.0);
        build.arg(self.into.join(format!("palatine_{}_amd64.deb", self.version))).stdout(Stdio::null());
        build.env("LC_ALL", "C").env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        succeeded("dpkg-deb", build.status().context("run dpkg-deb")?)
    }

    fn control(&self) -> Result<String> {
        let depends = declared::dependencies()?.into_iter().collect::<Vec<_>>().join(", ");
        Ok(format!(
            "Package: palatine\nVersion: {}\nArchitecture: amd64\n\
             Maintainer: Palatine <https://github.com/palatine-cloud/palatine>\nSection: admin\nPriority: optional\n\
             Depends: {depends}\nHomepage: https://github.com/palatine-cloud/palatine\nDescription: {DESCRIPTION}\n",
            self.version
        ))
    }

    /// What both packages hold: programs, what they find beside them, documents.
    fn lay(&self, to: &Path) -> Result<()> {
        for program in PROGRAMS {
            install(PROGRAM, &self.programs.join(program), &to.join("bin").join(program))?;
        }
        let library = to.join("lib/palatine");
        for file in ["pod", "images/agent-echo/agent-echo"] {
            install(PROGRAM, &self.assets.join(file), &library.join(file))?;
        }
        for image in entries(&crate::root().join("images"))? {
            for file in recipe_files(&image)? {
                install(PLAIN, &image.join(&file), &library.join("images").join(file_name(&image)?).join(&file))?;
            }
        }
        for (name, folder) in CHAINS {
            self.lay_chain(&crate::root().join(folder), &self.assets.join(name), &library.join(name))?;
        }
        let documents = to.join("share/doc/palatine");
        for document in DOCUMENTS.map(|path| crate::root().join(path)) {
            install(PLAIN, &document, &documents.join(file_name(&document)?))?;
        }
        let bill = format!("palatine-{}.cdx.json", self.version);
        install(PLAIN, &self.into.join(&bill), &documents.join(&bill))
    }

    /// Our files as the checkout has them, and what npm installed for just these: the cache may hold others' as well.
    fn lay_chain(&self, checkout: &Path, assets: &Path, to: &Path) -> Result<()> {
        let is_ours = |file: &PathBuf| {
            let kind = file.extension().and_then(|kind| kind.to_str());
            file.is_file() && kind.is_some_and(|kind| CHAIN_FILES.contains(&kind))
        };
        for file in entries(checkout)?.into_iter().filter(is_ours) {
            install(PLAIN, &file, &to.join(file_name(&file)?))?;
        }
        let mut copy = Command::new("cp");
        copy.arg("-R").arg(assets.join("node_modules")).arg(to);
        succeeded("cp", copy.status().context("run cp")?)
    }

    /// One mode for all files of a kind, and one time: what the builder's umask and clock say is nobody's matter.
    fn even(&self, path: &Path) -> Result<()> {
        let kind = fs::symlink_metadata(path)?;
        if kind.is_dir() {
            for entry in entries(path)? {
                if file_name(&entry)? == MARK { fs::remove_file(&entry)? } else { self.even(&entry)? }
            }
        }
        if !kind.is_symlink() {
            let executable = kind.is_dir() || kind.permissions().mode() & 0o111 != 0;
            fs::set_permissions(path, fs::Permissions::from_mode(if executable { PROGRAM } else { PLAIN }))?;
        }
        let time = Timespec { tv_sec: self.epoch, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).with_context(|| format!("date {}", path.display()))
    }
}

/// The folder in which a package is laid out, removed when dropped.
struct Work(PathBuf);

impl Work {
    fn new(into: &Path) -> Result<Self> {
        let dir = into.join("work");
        fs::create_dir(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

fn units() -> Result<Vec<PathBuf>> {
    let all = entries(&crate::root().join("deploy/systemd"))?;
    Ok(all.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "service")).collect())
}

/// What is in a folder, in the order of names.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths: Vec<PathBuf> = read.with_context(|| format!("read {}", dir.display()))?;
    paths.sort();
    Ok(paths)
}

fn file_name(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).with_context(|| format!("name {}", path.display()))
}

/// Copies a file; whoever built it does not say whether it is a program.
fn install(mode: u32, from: &Path, to: &Path) -> Result<()> {
    make_parent(to)?;
    let copied = fs::copy(from, to).and_then(|_| fs::set_permissions(to, fs::Permissions::from_mode(mode)));
    copied.with_context(|| format!("copy {} to {}", from.display(), to.display()))
}

fn write(to: &Path, text: &str) -> Result<()> {
    make_parent(to)?;
    fs::write(to, text).with_context(|| format!("write {}", to.display()))
}

fn make_parent(path: &Path) -> Result<()> {
    let parent = path.parent().context("find a file's folder")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))
}

fn succeeded(program: &str, status: ExitStatus) -> Result<()> {
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;

    /// What a builder's cache holds of a package.
    const FILES: [&str; 9] = [
        "static/palatine",
        "static/hypercore",
        "assets/pod",
        "assets/images/agent-echo/agent-echo",
        "assets/solana/node_modules/z/index.js",
        "assets/evm/node_modules/a/index.js",
        "assets/evm/node_modules/B/index.js",
        "assets/evm/node_modules/.bin/made",
        "packages/palatine-1.cdx.json",
    ];

    /// A builder: in which order and when the files came, and what modes they have by default.
    struct Builder {
        names: Vec<&'static str>,
        seconds: u64,
        file_mode: u32,
        folder_mode: u32,
    }

    impl Builder {
        /// Packs, and gives the packages' bytes.
        fn pack(&self) -> [Vec<u8>; 2] {
            let dir = tempfile::tempdir().unwrap();
            for name in &self.names {
                self.file(&dir.path().join(name), name);
            }
            symlink("../a/index.js", dir.path().join("assets/evm/node_modules/.bin/a")).unwrap();
            fs::write(dir.path().join("assets/evm/node_modules").join(MARK), self.seconds.to_string()).unwrap();
            let into = dir.path().join("packages");
            fs::set_permissions(&into, fs::Permissions::from_mode(self.folder_mode)).unwrap();
            let pack = Pack {
                programs: dir.path().join("static"),
                assets: dir.path().join("assets"),
                into: into.clone(),
                version: "1".to_owned(),
                epoch: 1_700_000_000,
            };
            pack.run().unwrap();
            assert!(!into.join("work").exists());
            ["palatine-1-x86_64-linux.tar.gz", "palatine_1_amd64.deb"].map(|name| fs::read(into.join(name)).unwrap())
        }

        fn file(&self, path: &Path, name: &str) {
            make_parent(path).unwrap();
            fs::write(path, format!("what {name} holds")).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(self.file_mode)).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(self.seconds);
            File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
        }
    }

    #[test]
    fn fault_3_5_the_same_files_make_the_same_packages_whoever_packs_them() {
        let names = FILES.to_vec();
        let one = Builder { names, seconds: 1_600_000_000, file_mode: 0o644, folder_mode: 0o755 };
        let names = FILES.iter().rev().copied().collect();
        let other = Builder { names, seconds: 1_650_000_000, file_mode: 0o600, folder_mode: 0o2700 };
        for (one, other) in one.pack().iter().zip(other.pack()) {
            assert!(one.len() > 1_000 && *one == other, "{} and {} bytes", one.len(), other.len());
        }
    }

    #[test]
    fn a_package_that_lacks_a_program_is_not_made_and_leaves_no_folder() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let pack = Pack {
            programs: path("static"),
            assets: path("assets"),
            into: dir.path().to_owned(),
            version: "1".to_owned(),
            epoch: 0,
        };
        let said = format!("{:#}", pack.run().unwrap_err());
        assert!(said.contains("static/palatine"), "{said}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

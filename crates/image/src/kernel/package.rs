//! Where the kernel comes from: a directory, packages, or the distribution.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::KernelError;
use crate::Progress;
use crate::tool::HostTool;

/// A download of some 30 to 150 MB over a slow line.
const DOWNLOAD: Duration = Duration::from_secs(1800);
const LOOKUP: Duration = Duration::from_secs(60);
const UNPACK: Duration = Duration::from_secs(300);
/// Packages behind the distribution's name for "a kernel" at most.
const MAX_PACKAGES: usize = 16;

const APT_GET: HostTool = HostTool { name: "apt-get", package: "apt", deadline: DOWNLOAD };
const APT_CACHE: HostTool = HostTool { name: "apt-cache", package: "apt", deadline: LOOKUP };
const DPKG_DEB: HostTool = HostTool { name: "dpkg-deb", package: "dpkg", deadline: UNPACK };

/// One kernel, as its package lays it out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KernelPackage {
    pub(super) version: String,
    pub(super) vmlinuz: PathBuf,
    pub(super) modules: PathBuf,
}

/// The newest kernel below `root` that has its modules.
pub(super) fn find(root: &Path) -> Result<KernelPackage, KernelError> {
    let trees = root.join("lib/modules");
    let Ok(entries) = fs::read_dir(&trees) else { return Err(KernelError::NoKernel(root.to_owned())) };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .map(|version| KernelPackage {
            vmlinuz: root.join(format!("boot/vmlinuz-{version}")),
            modules: trees.join(&version),
            version,
        })
        .filter(|package| package.vmlinuz.is_file() && package.modules.join("modules.builtin").is_file())
        .max_by_key(|package| ordinal(&package.version))
        .ok_or_else(|| KernelError::NoKernel(root.to_owned()))
}

/// The numbers in a version, so that 6.1.0-9 comes before 6.1.0-56.
pub(super) fn ordinal(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// The kernel packages in `dir`, sorted.
pub(super) fn packages_in(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let entries = fs::read_dir(dir).map_err(|source| KernelError::file("list", dir, source))?;
    let mut debs: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension() == Some(OsStr::new("deb")))
        .collect();
    debs.sort();
    Ok(debs)
}

/// Unpacks packages below `root`, without installing them.
pub(super) fn unpack(debs: &[PathBuf], root: &Path, progress: &dyn Progress) -> Result<(), KernelError> {
    for deb in debs {
        progress.step("unpack the kernel package", None);
        DPKG_DEB.run(|c| c.arg("-x").arg(deb).arg(root))?;
    }
    Ok(())
}

/// Downloads the distribution's kernel packages for virtual machines into `dir`.
/// Needs no root; the package manager checks what it downloads.
pub(super) fn download(dir: &Path, progress: &dyn Progress) -> Result<(), KernelError> {
    let release = Path::new("/etc/os-release");
    let text = fs::read_to_string(release).map_err(|source| KernelError::file("read", release, source))?;
    let packages = resolve(kernel_package(&text)?, &|name| show(name))?;
    progress.step("download the kernel package", None);
    let fetched = APT_GET.run(|c| {
        c.current_dir(dir).args(["download", "--quiet", "-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30"]);
        // Without this, root's apt asks to write as another user, who may not.
        c.args(["-o", "APT::Sandbox::User=root"]).args(&packages)
    });
    fetched.map(drop).map_err(|error| KernelError::Download(packages.join(", "), error))
}

/// The package by which a distribution names its newest kernel for guests.
fn kernel_package(os_release: &str) -> Result<&'static str, KernelError> {
    let id = os_release.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or_default().trim_matches('"');
    match id {
        "debian" => Ok("linux-image-cloud-amd64"),
        "ubuntu" => Ok("linux-image-virtual"),
        other => Err(KernelError::Distribution(other.to_owned())),
    }
}

fn show(package: &str) -> Result<String, KernelError> {
    let record = APT_CACHE.run(|c| c.args(["show", "--no-all-versions", package]));
    let record = record.map_err(|_| KernelError::NoPackage(package.to_owned()))?;
    Ok(String::from_utf8_lossy(&record).into_owned())
}

/// The packages that hold files of the kernel `name` stands for: images and
/// modules of one version. (Ubuntu keeps file systems a guest needs in a package
/// of extra modules.)
fn resolve(name: &str, show: &dyn Fn(&str) -> Result<String, KernelError>) -> Result<Vec<String>, KernelError> {
    let mut waiting = vec![name.to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(package) = waiting.pop() {
        if seen.len() >= MAX_PACKAGES || !seen.insert(package.clone()) {
            continue;
        }
        waiting.extend(kernel_parts(&show(&package)?));
        let extra = package.replacen("linux-modules-", "linux-modules-extra-", 1);
        let has_extra = package.starts_with("linux-modules-") && !package.starts_with("linux-modules-extra-");
        if has_extra && show(&extra).is_ok() {
            waiting.push(extra);
        }
    }
    // The distribution's name for "the newest" holds no files; the others name their version.
    let versioned = |package: &String| package.split('-').any(|part| part.starts_with(|c: char| c.is_ascii_digit()));
    let real: Vec<_> = seen.into_iter().filter(versioned).collect();
    if real.is_empty() { Err(KernelError::NoPackage(name.to_owned())) } else { Ok(real) }
}

/// The kernel images and modules in a package's `Depends`.
fn kernel_parts(record: &str) -> Vec<String> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
    depends
        .split(',')
        // Of alternatives, the first is the distribution's own choice.
        .filter_map(|choices| choices.split_whitespace().next())
        .filter(|name| name.starts_with("linux-image-") || name.starts_with("linux-modules-"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(records: &[(&'static str, &'static str)]) -> impl Fn(&str) -> Result<String, KernelError> {
        let records = records.to_vec();
        move |name| {
            let found = records.iter().find(|(package, _)| *package == name);
            found.map(|(_, record)| (*record).to_owned()).ok_or_else(|| KernelError::NoPackage(name.to_owned()))
        }
    }

    #[test]
    fn debians_cloud_kernel_is_one_package() {
        let show = with(&[
            ("linux-image-cloud-amd64", "Package: x\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n"),
            (
                "linux-image-6.1.0-56-cloud-amd64",
                "Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.120+deb8u2)",
            ),
        ]);
        assert_eq!(resolve("linux-image-cloud-amd64", &show).unwrap(), ["linux-image-6.1.0-56-cloud-amd64"]);
    }

    #[test]
    fn ubuntus_kernel_is_an_image_and_its_modules() {
        let show = with(&[
            ("linux-image-virtual", "Depends: linux-image-6.8.0-60-generic"),
            ("linux-image-6.8.0-60-generic", "Depends: kmod, linux-base (>= 4.5), linux-modules-6.8.0-60-generic"),
            ("linux-modules-6.8.0-60-generic", "Package: linux-modules-6.8.0-60-generic"),
            (
                "linux-modules-extra-6.8.0-60-generic",
                "Depends: linux-image-6.8.0-60-generic | linux-image-unsigned-6.8.0-60-generic",
            ),
        ]);
        let packages = resolve("linux-image-virtual", &show).unwrap();
        for part in
            ["linux-image-6.8.0-60-generic", "linux-modules-6.8.0-60-generic", "linux-modules-extra-6.8.0-60-generic"]
        {
            assert!(packages.iter().any(|package| package == part), "{packages:?}");
        }
        assert!(!packages.iter().any(|package| package.contains("virtual") || package.contains("unsigned")));
    }

    #[test]
    fn an_unlisted_package_or_distribution_is_named() {
        assert!(resolve("linux-image-virtual", &with(&[])).unwrap_err().to_string().contains("apt-get update"));
        assert!(kernel_package("ID=\"alpine\"\n").unwrap_err().to_string().contains("alpine"));
        assert_eq!(kernel_package("NAME=x\nID=debian\n").unwrap(), "linux-image-cloud-amd64");
    }

    #[test]
    fn the_newest_kernel_with_modules_is_found() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("boot")).unwrap();
        for version in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "7.0.0-without-modules"] {
            fs::write(root.path().join(format!("boot/vmlinuz-{version}")), "").unwrap();
        }
        for version in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64"] {
            let tree = root.path().join("lib/modules").join(version);
            fs::create_dir_all(&tree).unwrap();
            fs::write(tree.join("modules.builtin"), "").unwrap();
        }
        assert_eq!(find(root.path()).unwrap().version, "6.1.0-56-cloud-amd64");
        assert!(matches!(find(Path::new("/nonexistent")), Err(KernelError::NoKernel(_))));
    }
}

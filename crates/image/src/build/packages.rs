//! `[[packages]]`: the host's apt looks up and fetches; on an empty root `mmdebstrap` installs, on one of Debian's its
//! own apt, shut in.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::BuildError;
use super::cache::sum_of;
use super::confine::Bind;
use super::pins::{PinnedPackages, Pins, words};
use super::root::Below;
use super::work::Work;
use crate::ImageError;
use crate::recipe::{PackagesStep, StepLimits};
use crate::tool::{HostTool, ToolError};

const DOWNLOAD: Duration = Duration::from_secs(1800);
const LOOKUP: Duration = Duration::from_secs(60);
const APT_GET: HostTool = HostTool { name: "apt-get", package: "apt", deadline: DOWNLOAD };
const DPKG_DEB: HostTool = HostTool { name: "dpkg-deb", package: "dpkg", deadline: LOOKUP };
const MMDEBSTRAP: &str = "/usr/bin/mmdebstrap";
/// Where apt's helpers are, whatever the path of who builds.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Who signs Debian, where the machine has it apart from apt's own keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What is in every image: what Debian takes for granted, and what installs more.
const ALWAYS: [&str; 2] = ["?essential", "apt"];
/// What an image without manuals does not get.
const DOCS: [&str; 7] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-include=/usr/share/locale/locale.alias",
];
/// What apt says of a version that its sources have no more.
const VANISHED: [&str; 2] = ["was not found", "Unable to locate package"];
/// Adds packages to an image that has some: the words after the first are options of apt's, then packages. The image's
/// own settings count; where it gets packages from does not. Nothing is started.
const ADD: &str = r#"
mkdir -p /run/lists/partial /run/archives/partial
echo 'deb [trusted=yes] file:/run/packages ./' > /run/sources
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod 0755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt() {
  apt-get --quiet --yes -o Dir::Etc::sourcelist=/run/sources -o Dir::Etc::sourceparts=- \
    -o Dir::State::lists=/run/lists -o Dir::Cache::archives=/run/archives -o Dir::Cache::pkgcache= \
    -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root -o Acquire::Languages=none \
    -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@"
}
apt update
apt --no-install-recommends "$@"
if [ -s /run/lists-of-image/sources ]; then cat /run/lists-of-image/sources > /etc/apt/sources.list; fi
"#;
/// Takes out what is for this installation alone, and says where more comes from.
const FINISH: &str = r#"rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap; cat /lists/sources > "$1"/etc/apt/sources.list"#;

/// What a step means, and its packages where they had to be fetched to know.
pub(super) struct PackagePlan {
    pub(super) pinned: PinnedPackages,
    /// The lines of apt's sources that the image gets.
    pub(super) sources: String,
    fetched: Option<PathBuf>,
}

/// What the lock says that a step means.
pub(super) fn known(step: &PackagesStep, pins: &mut Pins) -> Result<Option<PackagePlan>, ImageError> {
    let Some(pinned) = pins.find(&question(step)) else { return Ok(None) };
    Ok(Some(PackagePlan { pinned, sources: sources(step)?, fetched: None }))
}

/// Asks the distribution what a step means.
pub(super) fn look_up(
    step: &PackagesStep,
    below: &Below,
    pins: &mut Pins,
    work: &Work<'_>,
) -> Result<PackagePlan, ImageError> {
    let question = question(step);
    work.to.step(&format!("look up the packages of {}", step.suite), None);
    let always = ALWAYS.iter().filter(|_| matches!(below, Below::Nothing)).map(|name| (*name).to_owned());
    let folder = fetch(step, always.chain(question.include.clone()).collect(), below, work)?;
    let pinned = PinnedPackages { installed: index(&folder)?, ..question };
    pins.keep(pinned.clone())?;
    Ok(PackagePlan { pinned, sources: sources(step)?, fetched: Some(folder) })
}

fn question(step: &PackagesStep) -> PinnedPackages {
    let (suite, components) = (step.suite.clone(), step.components.clone());
    let mut question = PinnedPackages { suite, components, include: step.include.clone(), installed: Vec::new() };
    question.include.sort();
    question.include.dedup();
    question
}

/// Where the image's apt gets its packages from; nowhere, if the step does not say that it should.
fn sources(step: &PackagesStep) -> Result<String, ImageError> {
    if step.sources { Ok(Mirror::of_machine(step)?.public()) } else { Ok(String::new()) }
}

/// Installs them below `root`, on top of what is there.
pub(super) fn install(
    step: &PackagesStep,
    plan: PackagePlan,
    below: &Below,
    root: &Path,
    work: &Work<'_>,
) -> Result<(), ImageError> {
    let folder = match plan.fetched {
        Some(folder) => folder,
        None => fetch_pinned(step, &plan.pinned, below, work)?,
    };
    let names = plan.pinned.installed.iter().map(|line| Ok(words(line)?.0));
    let names = names.collect::<Result<Vec<_>, BuildError>>()?;
    work.to.step(&format!("install {} packages of {}", names.len(), step.suite), None);
    let lists = work.folder("lists")?;
    fs::write(lists.join("sources"), &plan.sources).map_err(BuildError::io("write apt's sources"))?;
    match below {
        Below::Nothing => begin(step, &names, (&folder, &lists), root, work),
        Below::Debian(_) => add(step, &names, (&folder, &lists), root, work),
    }
}

/// Installs on top of what is there.
fn add(
    step: &PackagesStep,
    names: &[&str],
    (folder, lists): (&Path, &Path),
    root: &Path,
    work: &Work<'_>,
) -> Result<(), ImageError> {
    let docs: Vec<_> = DOCS.iter().map(|line| format!("Dpkg::Options::=--{line}")).collect();
    let mut command = vec!["/bin/sh", "-euc", ADD, "sh"];
    docs.iter().filter(|_| !step.docs).for_each(|line| command.extend(["-o", line]));
    command.push("install");
    command.extend(names);
    let binds = vec![
        Bind { from: folder, at: "/run/packages", writable: false },
        Bind { from: lists, at: "/run/lists-of-image", writable: false },
    ];
    work.in_image(root, binds, StepLimits::default(), &command)
}

/// Installs on an empty root.
fn begin(
    step: &PackagesStep,
    names: &[&str],
    (folder, lists): (&Path, &Path),
    root: &Path,
    work: &Work<'_>,
) -> Result<(), ImageError> {
    if !Path::new(MMDEBSTRAP).exists() {
        let why = "mmdebstrap is missing: install the package mmdebstrap".to_owned();
        return Err(BuildError::Confinement(why).into());
    }
    let names: Vec<_> = names.iter().map(|package| package.split('=').next().unwrap_or(package)).collect();
    let include = format!("--include={}", names.join(","));
    let finish = format!("--customize-hook={FINISH}");
    let docs: Vec<_> = DOCS.iter().map(|line| format!("--dpkgopt={line}")).collect();
    let mut command = vec![MMDEBSTRAP, "--mode=root", "--variant=custom", "--format=directory"];
    command.extend([include.as_str(), finish.as_str(), "--aptopt=APT::Sandbox::User \"root\""]);
    command.extend(docs.iter().map(String::as_str).filter(|_| !step.docs));
    command.extend([step.suite.as_str(), "/work/root", "deb [trusted=yes] copy:///packages ./"]);
    let binds = vec![
        Bind { from: folder, at: "/packages", writable: false },
        Bind { from: lists, at: "/lists", writable: false },
        Bind { from: root, at: "/work/root", writable: true },
    ];
    work.on_root(root, binds, &command)
}

/// Fetches what the lock names, and compares the sums.
fn fetch_pinned(
    step: &PackagesStep,
    pinned: &PinnedPackages,
    below: &Below,
    work: &Work<'_>,
) -> Result<PathBuf, ImageError> {
    work.to.step(&format!("fetch the packages of {}", step.suite), None);
    let wanted = pinned.installed.iter().map(|line| Ok(words(line)?.0.to_owned()));
    let folder = fetch(step, wanted.collect::<Result<_, BuildError>>()?, below, work)?;
    let found = index(&folder)?;
    for line in &pinned.installed {
        let (name, expected) = words(line)?;
        let sum = found.iter().filter_map(|line| words(line).ok()).find(|(found, _)| *found == name);
        match sum {
            None => return Err(BuildError::Vanished(name.to_owned()).into()),
            Some((_, found)) if found != expected => {
                let (name, expected, found) = (name.to_owned(), expected.to_owned(), found.to_owned());
                return Err(BuildError::Changed { name, expected, found }.into());
            }
            Some(_) => {}
        }
    }
    Ok(folder)
}

/// Fetches packages with all that they need beside what is installed: the folder with their files.
fn fetch(step: &PackagesStep, wanted: Vec<String>, below: &Below, work: &Work<'_>) -> Result<PathBuf, ImageError> {
    let folder = work.folder("apt")?;
    for name in ["lists/partial", "archives/partial"] {
        let path = folder.join(name);
        fs::create_dir_all(&path).map_err(|source| ImageError::file("create", &path, source))?;
    }
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map(|()| path.clone()).map_err(|source| ImageError::file("write", &path, source))
    };
    write("status", below.status())?;
    write("sources", &Mirror::of_machine(step)?.lines())?;
    let config = write("apt.conf", &config(&folder))?;
    let apt = |words: &[&str], wanted: &[String]| {
        APT_GET.run_told(work.to, |c| c.env("PATH", PATH).arg("-c").arg(&config).args(words).args(wanted))
    };
    apt(&["--quiet", "update"], &[])?;
    // What the lock names is fetched also where the image below has it by now.
    let words = ["--quiet", "--yes", "--no-install-recommends", "--reinstall", "--download-only", "install"];
    apt(&words, &wanted).map_err(vanished)?;
    Ok(folder.join("archives"))
}

/// What vanished from the sources has a sentence of its own.
fn vanished(error: ToolError) -> ImageError {
    let ToolError::Failed { said, .. } = &error else { return error.into() };
    let lines = said.lines().filter(|line| VANISHED.iter().any(|end| line.contains(end)) && line.contains("Version"));
    let names: Vec<_> = lines.filter_map(|line| line.split('\'').nth(3)).collect();
    if names.is_empty() { error.into() } else { BuildError::Vanished(names.join(", ")).into() }
}

/// Apt's settings for a machine on which nothing is installed; who reaches the sources how
/// is as on this one.
fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear APT::Update::Pre-Invoke;\n\
         #clear DPkg::Pre-Install-Pkgs;\n#clear DPkg::Pre-Invoke;\n#clear DPkg::Post-Invoke;\n\
         Dir::Etc::sourcelist \"{folder}/sources\";\nDir::Etc::sourceparts \"-\";\n\
         Dir::Etc::preferences \"-\";\nDir::Etc::preferencesparts \"-\";\n\
         Dir::State::status \"{folder}/status\";\nDir::State::lists \"{folder}/lists\";\n\
         Dir::State::extended_states \"{folder}/extended_states\";\n\
         Dir::Cache \"{folder}\";\nDir::Cache::archives \"{folder}/archives\";\n\
         Dir::Log \"{folder}\";\nDir::Log::Terminal \"\";\nDir::Log::History \"\";\n\
         APT::Architecture \"amd64\";\nAPT::Architectures {{ \"amd64\"; }};\n\
         APT::Sandbox::User \"root\";\nAPT::Keep-Downloaded-Packages \"true\";\n\
         Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAcquire::http::Timeout \"30\";\n\
         Debug::NoLocking \"true\";\n"
    )
}

/// Writes the index of a folder of packages, which makes it a source, and returns
/// `name=version sha256` of each, sorted.
fn index(folder: &Path) -> Result<Vec<String>, ImageError> {
    let failed = |source| ImageError::file("list", folder, source);
    let files = fs::read_dir(folder).map_err(failed)?.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<Result<Vec<_>, std::io::Error>>().map_err(failed)?;
    files.retain(|path| path.extension().is_some_and(|end| end == "deb"));
    files.sort();
    let (mut text, mut installed) = (String::new(), Vec::new());
    for file in files {
        let control = DPKG_DEB.run(|c| c.arg("--field").arg(&file))?;
        let control = String::from_utf8_lossy(&control).into_owned();
        let field = |name: &str| {
            let found = control.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            let odd = || BuildError::Answer { tool: "dpkg-deb", why: format!("{} has no {name}", file.display()) };
            found.map(str::to_owned).ok_or_else(odd)
        };
        let (name, sum) = (file.file_name().unwrap_or_default().to_string_lossy(), sum_of(&file)?);
        let size = fs::metadata(&file).map_err(|source| ImageError::file("read", &file, source))?.len();
        installed.push(format!("{}={} {sum}", field("Package")?, field("Version")?));
        let control = control.trim_end();
        text.push_str(&format!("{control}\nFilename: ./{name}\nSize: {size}\nSHA256: {sum}\n\n"));
    }
    let path = folder.join("Packages");
    fs::write(&path, text).map_err(|source| ImageError::file("write", &path, source))?;
    installed.sort();
    Ok(installed)
}

/// Where this machine gets Debian from.
#[derive(Debug, PartialEq, Eq)]
struct Mirror {
    /// Each with its suite: the release's own, its updates, its security updates.
    sources: Vec<(String, String)>,
    components: String,
}

impl Mirror {
    fn of_machine(step: &PackagesStep) -> Result<Self, ImageError> {
        let format = "$(REPO_URI) $(RELEASE) $(LABEL) $(CODENAME)";
        let words = ["indextargets", "--format", format, "Created-By: Packages", "Origin: Debian"];
        let targets = APT_GET.run(|c| c.env("PATH", PATH).args(words))?;
        let found = Self::among(&String::from_utf8_lossy(&targets), &step.suite, &step.components.join(" "));
        Ok(found.ok_or_else(|| BuildError::NoSource(step.suite.clone()))?)
    }

    /// The sources of a suite: as the machine names them, or at the same places as those of
    /// the machine's own release.
    fn among(targets: &str, suite: &str, components: &str) -> Option<Self> {
        let place = |label: &str| {
            let rows = targets.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let mut rows = rows.filter(|row| row.len() == 4 && row[2] == label);
            rows.next().map(|row| row[0].to_owned())
        };
        let main = place("Debian")?;
        let mut sources = vec![(main.clone(), suite.to_owned()), (main, format!("{suite}-updates"))];
        sources.extend(place("Debian-Security").map(|place| (place, format!("{suite}-security"))));
        Some(Self { sources, components: components.to_owned() })
    }

    /// As apt reads them.
    fn lines(&self) -> String {
        let signed = if Path::new(KEYRING).exists() { format!(" [signed-by={KEYRING}]") } else { String::new() };
        self.written(&signed, |_| true)
    }

    /// For an image: without what holds a password.
    fn public(&self) -> String {
        self.written("", |place| !place.contains('@'))
    }

    fn written(&self, options: &str, keeps: impl Fn(&str) -> bool) -> String {
        let kept = self.sources.iter().filter(|(place, _)| keeps(place));
        kept.map(|(place, suite)| format!("deb{options} {place} {suite} {}\n", self.components)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: &str = "http://mirror.example/debian/ bookworm Debian bookworm\n\
                           http://mirror.example/debian/ bookworm-updates Debian bookworm-updates\n\
                           http://me:secret@safe.example/debian-security/ bookworm-security Debian-Security bookworm-security\n\
                           odd line\n";

    #[test]
    fn a_suite_comes_from_where_the_machine_gets_debian_and_no_password_gets_into_an_image() {
        let mirror = Mirror::among(TARGETS, "trixie", "main contrib").unwrap();
        let public = mirror.public();
        let expected = "deb http://mirror.example/debian/ trixie main contrib\n\
                        deb http://mirror.example/debian/ trixie-updates main contrib\n";
        assert_eq!(public, expected);
        assert!(mirror.lines().contains("me:secret@safe.example/debian-security/ trixie-security main contrib"));
        assert_eq!(Mirror::among("https://x.example/ stable Other x\n", "trixie", "main"), None);
    }

    #[test]
    fn versions_that_the_sources_have_no_more_are_named() {
        let said = "E: Version '1.2' for 'git' was not found\nE: Version '3' for 'curl' was not found".to_owned();
        let status = std::os::unix::process::ExitStatusExt::from_raw(100 << 8);
        let error = vanished(ToolError::Failed { tool: "apt-get", status, said }).to_string();
        assert!(error.starts_with("git, curl of image.lock cannot be had any more"), "{error}");
        let other = ToolError::Failed { tool: "apt-get", status, said: "E: no network".into() };
        assert!(vanished(other).to_string().contains("no network"));
    }
}

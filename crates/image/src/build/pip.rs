//! `[[pip]]`: the host's pip looks up and fetches wheels, the image's own installs them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::BuildError;
use super::cache::sum_of;
use super::confine::Bind;
use super::pins::{PinnedWheels, Pins, words};
use super::work::Work;
use crate::ImageError;
use crate::contents::target;
use crate::recipe::{PipStep, StepLimits};
use crate::tool::{HostTool, ToolError};

const PIP: HostTool = HostTool { name: "pip3", package: "python3-pip", deadline: Duration::from_secs(1800) };
/// Newest first: the C libraries that a wheel may have been built for, up to that of the
/// oldest release that images are made of.
const GLIBC: [u32; 17] = [36, 35, 34, 33, 32, 31, 30, 29, 28, 27, 26, 25, 24, 17, 12, 5, 1];
/// What pip says of a wheel that its index has no more.
const VANISHED: &str = "No matching distribution found for ";
/// The list of what is installed, beside the wheels.
const LIST: &str = "requirements.txt";
/// Makes the environment, fills it, and compiles it so that nothing in it depends on times.
const INSTALL: &str = r#"
python3 -m venv --without-pip "$1"
python3 -m pip --python "$1/bin/python3" install --no-index --no-deps --require-hashes --no-compile --no-cache-dir \
  --disable-pip-version-check --no-warn-script-location --root-user-action=ignore --quiet \
  --find-links /run/wheels --requirement /run/wheels/requirements.txt
"$1/bin/python3" -m compileall -q -j1 --invalidation-mode unchecked-hash "$1/lib"
"#;

/// What a step means, and its wheels where they had to be fetched to know.
pub(super) struct WheelPlan {
    pub(super) pinned: PinnedWheels,
    fetched: Option<PathBuf>,
}

/// Finds out what a step means: from the lock, else from the index.
pub(super) fn plan(step: &PipStep, pins: &mut Pins, work: &Work<'_>) -> Result<WheelPlan, ImageError> {
    let question =
        PinnedWheels { python: step.python.clone(), requirements: step.requirements.clone(), wheels: Vec::new() };
    if let Some(pinned) = pins.find(&question) {
        return Ok(WheelPlan { pinned, fetched: None });
    }
    work.to.step("look up the wheels", None);
    let folder = work.folder("wheels")?;
    download(step, &folder, work, |c| c.args(&step.requirements))?;
    let pinned = PinnedWheels { wheels: listed(&folder)?, ..question };
    pins.keep(pinned.clone())?;
    Ok(WheelPlan { pinned, fetched: Some(folder) })
}

/// What the layer follows from. The image's own pip and Python have the image's variables.
pub(super) fn inputs(step: &PipStep, pinned: &PinnedWheels, env: &BTreeMap<String, String>) -> Value {
    json!({"pip": step, "wheels": pinned.wheels, "env": env})
}

/// Installs them into the image below `root`.
pub(super) fn install(step: &PipStep, plan: WheelPlan, root: &Path, work: &Work<'_>) -> Result<(), ImageError> {
    let to = format!("/{}", target(&step.to)?.display());
    let folder = match plan.fetched {
        Some(folder) => folder,
        None => fetch_pinned(step, &plan.pinned, work)?,
    };
    requirements(&plan.pinned, &folder)?;
    work.to.step(&format!("install {} wheels", plan.pinned.wheels.len()), None);
    let binds = vec![Bind { from: &folder, at: "/run/wheels", writable: false }];
    let words = ["/bin/sh", "-euc", INSTALL, "sh", &to];
    work.in_image(root, binds, StepLimits::default(), &words)
}

fn fetch_pinned(step: &PipStep, pinned: &PinnedWheels, work: &Work<'_>) -> Result<PathBuf, ImageError> {
    work.to.step("fetch the wheels", None);
    let folder = work.folder("wheels")?;
    requirements(pinned, &folder)?;
    let pinned_alone = ["--no-deps", "--require-hashes", "--requirement"];
    download(step, &folder, work, |c| c.args(pinned_alone).arg(LIST)).map_err(vanished)?;
    let found = listed(&folder)?;
    let lacking = pinned.wheels.iter().find(|line| !found.contains(line));
    lacking.map_or(Ok(()), |line| Err(BuildError::Vanished(words(line)?.0.to_owned())))?;
    Ok(folder)
}

fn download(
    step: &PipStep,
    folder: &Path,
    work: &Work<'_>,
    what: impl FnOnce(&mut std::process::Command) -> &mut std::process::Command,
) -> Result<(), ImageError> {
    let platforms = GLIBC.iter().flat_map(|minor| ["--platform".to_owned(), format!("manylinux_2_{minor}_x86_64")]);
    let old = ["manylinux2014", "manylinux2010", "manylinux1"];
    let old = old.iter().flat_map(|name| ["--platform".to_owned(), format!("{name}_x86_64")]);
    let fetched = PIP.run_told(work.to, |c| {
        // A name that is a file's or a folder's where we are would be taken for that.
        c.current_dir(folder);
        c.args(["download", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]);
        c.args(["--only-binary", ":all:", "--implementation", "cp", "--python-version", &step.python]);
        what(c.args(platforms.chain(old)).args(["--dest", "."]))
    });
    Ok(fetched.map(drop)?)
}

/// What vanished from the index has a sentence of its own.
fn vanished(error: ImageError) -> ImageError {
    let ImageError::Tool(ToolError::Failed { said, .. }) = &error else { return error };
    let names: Vec<_> = said.lines().filter_map(|line| line.split_once(VANISHED)?.1.split(' ').next()).collect();
    if names.is_empty() { error } else { BuildError::Vanished(names.join(", ")).into() }
}

/// `file sha256` of each wheel in a folder, sorted.
fn listed(folder: &Path) -> Result<Vec<String>, ImageError> {
    let failed = |source| ImageError::file("list", folder, source);
    let mut wheels = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|end| end == "whl") {
            wheels.push(format!("{} {}", path.file_name().unwrap_or_default().to_string_lossy(), sum_of(&path)?));
        }
    }
    wheels.sort();
    Ok(wheels)
}

/// Writes what pip is to install, with the hashes: the file.
fn requirements(pinned: &PinnedWheels, folder: &Path) -> Result<PathBuf, ImageError> {
    let lines = pinned.wheels.iter().map(|line| {
        let (file, sum) = words(line)?;
        let (name, version) = name_of(file)?;
        Ok(format!("{name}=={version} --hash=sha256:{sum}\n"))
    });
    let text = lines.collect::<Result<String, BuildError>>()?;
    let path = folder.join(LIST);
    fs::write(&path, text).map(|()| path.clone()).map_err(|source| ImageError::file("write", &path, source))
}

/// Name and version in a wheel's file name (PEP 427).
fn name_of(file: &str) -> Result<(&str, &str), BuildError> {
    let mut parts = file.strip_suffix(".whl").unwrap_or_default().split('-');
    match (parts.next(), parts.next(), parts.count()) {
        (Some(name), Some(version), 3 | 4) if !name.is_empty() => Ok((name, version)),
        _ => Err(BuildError::Answer { tool: PIP.name, why: format!("{file:?} is no wheel's name") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wheels_that_are_installed_with_other_variables_are_another_layer() {
        let step = PipStep { python: "3.11".into(), requirements: vec!["a".into()], to: "/opt/a".into() };
        let pinned = PinnedWheels { python: "3.11".into(), requirements: Vec::new(), wheels: Vec::new() };
        let with = |value: &str| inputs(&step, &pinned, &[("PIP_TARGET".to_owned(), value.to_owned())].into());
        assert_ne!(with("/a"), with("/b"));
        assert_eq!(with("/a"), with("/a"));
    }

    #[test]
    fn a_wheels_name_says_what_it_is() {
        assert_eq!(name_of("nanobot_ai-0.3.5-py3-none-any.whl").unwrap(), ("nanobot_ai", "0.3.5"));
        assert_eq!(name_of("x-1-2-cp311-cp311-manylinux_2_17_x86_64.whl").unwrap(), ("x", "1"));
        for odd in ["x.whl", "x-1.tar.gz", "", "-1-py3-none-any.whl", "x-1-a-b-c-d-e.whl"] {
            assert!(name_of(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn wheels_that_the_index_has_no_more_are_named() {
        let said = "ERROR: No matching distribution found for a==1 (from -r x)".to_owned();
        let status = std::os::unix::process::ExitStatusExt::from_raw(1 << 8);
        let error = vanished(ToolError::Failed { tool: "pip3", status, said }.into()).to_string();
        assert!(error.starts_with("a==1 of image.lock cannot be had any more"), "{error}");
    }

    #[test]
    fn what_is_installed_is_named_with_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a_b-1.0-py3-none-any.whl"), "wheel").unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        let wheels = listed(dir.path()).unwrap();
        let pinned = PinnedWheels { python: "3.11".into(), requirements: Vec::new(), wheels };
        let text = fs::read_to_string(requirements(&pinned, dir.path()).unwrap()).unwrap();
        assert!(text.starts_with("a_b==1.0 --hash=sha256:") && text.trim_end().len() == 87, "{text}");
    }
}

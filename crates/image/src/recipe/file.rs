//! A recipe's file, and its reading.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::error::{MAX_STEPS, RecipeError};
use super::steps::{
    Action, CopyStep, DirectoryStep, NpmStep, PackagesStep, PipStep, RunStep, Step, TarStep, WriteStep,
};
use crate::contract;

/// The recipe's file name.
pub const FILE_NAME: &str = "image.toml";
/// The `from` of an image that builds on nothing.
pub const SCRATCH: &str = "scratch";
/// Bytes of a recipe at most.
const MAX_BYTES: u64 = 1 << 20;

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
        Self::parse(&text, &file)
    }

    /// The recipe that this text is, which stands in this file.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str, file: &Path) -> Result<Self, RecipeError> {
        let read: Result<RecipeFile, _> = toml::from_str(text);
        let read = read.map_err(|source| RecipeError::Parse { path: file.to_owned(), source: Box::new(source) })?;
        read.ordered(text)
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
}

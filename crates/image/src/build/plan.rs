//! What is done with a holder's context, as a shell's commands: pure. They are run behind the walls
//! (`containerfile`), or in a machine of their own (`apart`). Of what stands in a recipe each word comes to the
//! shell between quotes, so that it is a word and nothing else.
//!
//! A recipe's steps are done by `buildah` as a Containerfile's lines are, without a network: what would have
//! to be fetched is refused before anything is begun.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use crate::contents::target;
use crate::recipe::{
    Action, CopyStep, DirectoryStep, FILE_NAME, FileMode, Ownership, Recipe, RecipeError, RunSettings, RunStep,
    SCRATCH, Step, TarStep, WriteStep,
};

/// What recipes and Containerfiles are called, in the order in which they are looked for.
pub(crate) const NAMES: [&str; 3] = ["Containerfile", "Dockerfile", FILE_NAME];
/// Bytes of one at most.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// Takes in what is built on. Pairs of words: a layout's folder, and its image's name.
const BASES: &str = r#"
while [ $# -gt 0 ]; do
  buildah tag "$(buildah pull --quiet "oci:$BASES/$1:base")" "$2"
  shift 2
done
"#;
/// What every recipe begins with: files have the modes that a recipe gives where it says nothing.
const BEGIN: &str = r#"
fail() { echo "$1" >&2; exit 65; }
there() { [ -e "$1" ] || [ -L "$1" ] || fail "$2 is not in the build's context"; }
find "$CONTEXT" -type d -exec chmod 0755 {} +
find "$CONTEXT" -type f -perm /111 -exec chmod 0755 {} +
find "$CONTEXT" -type f ! -perm /111 -exec chmod 0644 {} +
stage=$WORK/stage
mkdir "$stage"
"#;
const END: &str = r#"
echo "write the image"
buildah commit --quiet --timestamp "$SOURCE_DATE_EPOCH" --format oci --disable-compression "$c" \
  "oci-archive:$WORK/result.tar"
"#;

/// What is done with a context.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What it names: images to build on, or its own stages.
    pub(crate) names: BTreeSet<String>,
    /// Whether all that it names are images: then one that is not there is none of its stages.
    pub(crate) images_alone: bool,
    /// For `sh -eu`, with pairs of words for what it builds on. It finds `$CONTEXT`, `$RECIPE`, `$BASES`,
    /// `$WORK` and `$SOURCE_DATE_EPOCH`, and leaves `$WORK/result.tar`.
    pub(crate) script: String,
}

impl Plan {
    /// What the file with this name and text means: a recipe, if it is called so, or a Containerfile.
    pub(crate) fn of(file: &str, text: &str) -> Result<Self, RecipeError> {
        if Path::new(file).extension().is_some_and(|kind| kind == "toml") {
            Self::of_recipe(&Recipe::parse(text, Path::new(file))?)
        } else {
            Ok(Self::of_containerfile(file, text))
        }
    }

    pub(crate) fn of_containerfile(file: &str, text: &str) -> Self {
        let script = format!(
            "{BASES}buildah build --pull=never --network none --layers=false --format oci \
             --timestamp \"$SOURCE_DATE_EPOCH\" --tag result --file \"$RECIPE\"/{} \"$CONTEXT\"\n\
             buildah push --quiet --disable-compression result \"oci-archive:$WORK/result.tar\"\n",
            quoted(file)
        );
        let names = named(text).map(str::to_owned).collect();
        Self { names, images_alone: false, script }
    }

    fn of_recipe(recipe: &Recipe) -> Result<Self, RecipeError> {
        check(&recipe.run)?;
        let mut script = format!("{BASES}{BEGIN}c=$(buildah from --quiet --pull=never {})\n", quoted(&recipe.from));
        for (name, value) in &recipe.run.env {
            script += &format!("buildah config --env {} \"$c\"\n", quoted(&format!("{name}={value}")));
        }
        for (at, step) in recipe.steps.iter().enumerate() {
            let shown = format!("{} (line {})", step.action.name(), step.line);
            script += &format!("echo {}\n{}", quoted(&shown), commands(step, at)?);
        }
        script += &settings(&recipe.run);
        script += END;
        // No command could be given it.
        if script.contains('\0') {
            return Err(RecipeError::Setting { what: "a text of it".to_owned(), why: "holds a NUL" });
        }
        let names = Some(recipe.from.clone()).filter(|from| from != SCRATCH).into_iter().collect();
        Ok(Self { names, images_alone: true, script })
    }
}

/// What the lines of a Containerfile name as images, or as stages.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.lines().flat_map(|line| {
        let mut words = line.split_whitespace();
        let from = words.next().is_some_and(|word| word.eq_ignore_ascii_case("from"));
        let base = from.then(|| words.clone().find(|word| !word.starts_with("--"))).flatten();
        base.into_iter().chain(words.filter_map(|word| word.strip_prefix("--from=")))
    })
}

/// Refuses what an image's settings cannot be told to `buildah` as they are.
fn check(run: &RunSettings) -> Result<(), RecipeError> {
    let wrong = |what: String, why| Err(RecipeError::Setting { what, why });
    for (table, values) in [("[env]", &run.env), ("[labels]", &run.labels)] {
        for (name, value) in values {
            if name.is_empty() || name.contains('=') {
                return wrong(format!("{table} {name:?}"), "is no name");
            }
            if table == "[env]" && value.contains('$') {
                let why = "holds a $, which would be replaced in a build for a holder: set it where the program starts";
                return wrong(format!("{table} {name}"), why);
            }
        }
    }
    Ok(())
}

/// The commands of the step with this number.
fn commands(step: &Step, at: usize) -> Result<String, RecipeError> {
    let refused = |why| RecipeError::NotForHolders { line: step.line, step: step.action.name(), why };
    match &step.action {
        Action::Packages(_) => Err(refused(
            "fetches packages, and a holder's build has no network: build on an operator's image that has them \
             (from = \"base\"; palatine image ls shows which there are), or bring a root that has them as an archive \
             with [[tar]]",
        )),
        Action::Pip(_) => Err(refused(
            "fetches wheels, and a holder's build has no network: put them into the context, and have [[copy]] and \
             [[run]] install them (pip install --no-index --find-links <folder>)",
        )),
        Action::Npm(_) => Err(refused(
            "fetches packages, and a holder's build has no network: put a node_modules folder into the context, and \
             bring it with [[copy]]",
        )),
        Action::Run(step) => run(step).ok_or_else(|| {
            refused(
                "has limits of its own, and a holder's build has one for all of it, which its node sets: leave \
                 timeout_s, memory_mib, processes and disk_mib away",
            )
        }),
        Action::Tar(step) => tar(step),
        Action::Copy(step) => copy(step, at),
        Action::Write(step) => write(step, at),
        Action::Directory(step) => directory(step, at, &refused),
    }
}

fn run(step: &RunStep) -> Option<String> {
    let RunStep { command, timeout_s, memory_mib, processes, disk_mib } = step;
    let own = [timeout_s, memory_mib, processes, disk_mib];
    let command = quoted(command);
    own.iter()
        .all(|limit| limit.is_none())
        .then(|| format!("buildah run --user 0:0 --workingdir / --network none \"$c\" -- /bin/sh -ec {command}\n"))
}

fn tar(step: &TarStep) -> Result<String, RecipeError> {
    let (from, shown) = (below(&step.from)?, quoted(&format!("[[tar]] from = {:?}", step.from)));
    Ok(format!(
        "there {from} {shown}\ntar --list --file {from} > /dev/null || fail {shown}\" is no archive\"\n\
         buildah add --quiet \"$c\" {from} /\n"
    ))
}

fn copy(step: &CopyStep, at: usize) -> Result<String, RecipeError> {
    let (from, to) = (below(&step.from)?, in_image(&step.to)?);
    let shown = quoted(&format!("[[copy]] from = {:?}", step.from));
    let mut lines = format!("there {from} {shown}\n");
    let from = match step.mode {
        None => from,
        Some(FileMode(mode)) => {
            let staged = format!("\"$stage\"/{at}");
            lines += &format!("cp -a {from} {staged}\nfind {staged} -type f -exec chmod {mode:04o} {{}} +\n");
            staged
        }
    };
    lines += &format!("buildah copy --quiet --chown {} \"$c\" {from} {to}\n", owner(&step.owner));
    Ok(lines)
}

fn write(step: &WriteStep, at: usize) -> Result<String, RecipeError> {
    let FileMode(mode) = step.mode.unwrap_or(FileMode(0o644));
    let (text, to, owner) = (quoted(&step.text), in_image(&step.to)?, owner(&step.owner));
    Ok(format!(
        "printf %s {text} > \"$stage\"/{at}\nchmod {mode:04o} \"$stage\"/{at}\n\
         buildah copy --quiet --chown {owner} \"$c\" \"$stage\"/{at} {to}\n"
    ))
}

/// A folder of a mode of its own comes as an archive of it alone: above it nothing changes.
fn directory(
    step: &DirectoryStep,
    at: usize,
    refused: &dyn Fn(&'static str) -> RecipeError,
) -> Result<String, RecipeError> {
    let FileMode(mode) = step.mode.unwrap_or(FileMode(0o755));
    let path = target(&step.path)?;
    let at = format!("\"$stage\"/{at}");
    match &step.owner {
        Ownership::Ids { uid, gid } => Ok(format!(
            "mkdir -p {at}/{path}\ntar --create --file {at}.tar --directory {at} --no-recursion --mode={mode:04o} \
             --owner=:{uid} --group=:{gid} -- {path}\nbuildah add --quiet \"$c\" {at}.tar /\n",
            path = quoted(&path.to_string_lossy()),
        )),
        Ownership::Names { .. } if mode == 0o755 => Ok(format!(
            "mkdir -p {at}\nbuildah copy --quiet --chown {} \"$c\" {at} {}\n",
            owner(&step.owner),
            in_image(&step.path)?
        )),
        Ownership::Names { .. } => Err(refused(
            "has a mode and an owner by name, which a holder's build cannot give at once: give the owner as numbers",
        )),
    }
}

/// How the image is run, over what is below.
fn settings(run: &RunSettings) -> String {
    let json = |words: &[String]| quoted(&serde_json::Value::from(words).to_string());
    let mut options = Vec::new();
    if let Some(entrypoint) = &run.entrypoint {
        options.push(format!("--entrypoint {}", json(entrypoint)));
        // What the image below passed to its own program.
        options.push("--cmd ''".to_owned());
    }
    if let Some(cmd) = &run.cmd {
        let words: Vec<_> = cmd.iter().map(|word| quoted(word)).collect();
        options.push(format!("--cmd {}", quoted(&words.join(" "))));
    }
    let label = |(name, value): (&String, &String)| format!("--label {}", quoted(&format!("{name}={value}")));
    options.extend(run.labels.iter().map(label));
    for (option, value) in [("--workingdir", &run.workdir), ("--user", &run.user), ("--stop-signal", &run.stop_signal)]
    {
        options.extend(value.iter().map(|value| format!("{option} {}", quoted(value))));
    }
    // One by one, as the last of an option would hide those before it.
    options.iter().map(|option| format!("buildah config {option} \"$c\"\n")).collect()
}

/// A path of the context, for the shell.
fn below(from: &Path) -> Result<String, RecipeError> {
    let plain = from.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if plain && !from.as_os_str().is_empty() {
        Ok(format!("\"$CONTEXT\"/{}", quoted(&from.to_string_lossy())))
    } else {
        Err(RecipeError::Outside { from: from.to_owned(), context: ".".into() })
    }
}

/// A path in the image, for the shell.
fn in_image(path: &str) -> Result<String, RecipeError> {
    target(path)?;
    Ok(quoted(path))
}

fn owner(owner: &Ownership) -> String {
    match owner {
        Ownership::Ids { uid, gid } => format!("{uid}:{gid}"),
        Ownership::Names { user, group } => quoted(&format!("{user}:{group}")),
    }
}

/// A word of the shell's that is this text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn images_are_named_by_from_and_by_whoever_copies_from_them() {
        let text = "# FROM nothing\nARG A=1\nfrom --platform=linux/amd64 base AS one\nCOPY --from=tools /a /b\n\
                    RUN --mount=type=bind x\nFROM\n  FROM scratch\n";
        assert_eq!(named(text).collect::<Vec<_>>(), ["base", "tools", "scratch"]);
        let plan = Plan::of("it's a file", "FROM base\n").unwrap();
        assert!(plan.script.contains(r#"--file "$RECIPE"/'it'\''s a file' "$CONTEXT""#), "{}", plan.script);
        assert!(plan.names.contains("base") && !plan.images_alone);
    }

    fn refused(text: &str) -> String {
        Plan::of(FILE_NAME, &format!("from = \"base\"\n{text}\n")).unwrap_err().to_string()
    }

    #[test]
    fn what_would_need_a_network_is_refused_with_its_line_and_with_what_works() {
        for (text, said) in [
            ("\n[[packages]]\nsuite = \"bookworm\"\ninclude = [\"git\"]", ["line 3: [[packages]]", "from = \"base\""]),
            ("[[pip]]\npython = \"3.11\"\nrequirements = [\"a\"]\nto = \"/o\"", ["line 2: [[pip]]", "--no-index"]),
            ("[[npm]]\npackages = [\"a@1\"]\nto = \"/o\"", ["line 2: [[npm]]", "node_modules"]),
            ("[[run]]\ncommand = \"x\"\ntimeout_s = 5", ["line 2: [[run]]", "timeout_s"]),
            (
                "[[directory]]\npath = \"/d\"\nmode = \"0700\"\nowner = \"user:user\"",
                ["line 2: [[directory]]", "as numbers"],
            ),
            ("[[copy]]\nfrom = \"../up\"\nto = \"/d\"", ["../up", "is not in the context"]),
            ("[[tar]]\nfrom = \"/etc/x\"", ["/etc/x", "is not in the context"]),
            ("[[copy]]\nfrom = \"a\"\nto = \"d\"", ["\"d\"", "begin it with '/'"]),
            ("[env]\nA = \"$HOME\"", ["[env] A", "holds a $"]),
            ("[labels]\n\"a=b\" = \"x\"", ["[labels] \"a=b\"", "is no name"]),
            ("[[run]]\ncommand = \"a\\u0000b\"", ["a text of it", "holds a NUL"]),
        ] {
            let error = refused(text);
            assert!(said.iter().all(|part| error.contains(part)), "{text}: {error}");
        }
    }

    /// What `buildah` would be told, by a shell that has one which only says so.
    fn told(text: &str, context: &[(&str, &str)]) -> (Vec<String>, std::process::Output) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["bin", "context", "work"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        for (name, text) in context {
            std::fs::write(at("context").join(name), text).unwrap();
        }
        let says = format!(
            "#!/bin/sh\nfor word; do printf '<%s>' \"$word\" >> {0}; done; echo >> {0}; echo name\n",
            at("said").display()
        );
        std::fs::write(at("bin/buildah"), says).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(at("bin/buildah"), mode).unwrap();
        std::fs::write(at("plan"), Plan::of(FILE_NAME, text).unwrap().script).unwrap();
        let ran = Command::new("/bin/sh")
            .arg("-eu")
            .arg(at("plan"))
            .args(["0", "base"])
            .env("PATH", format!("{}:/usr/bin:/bin", at("bin").display()))
            .env("CONTEXT", at("context"))
            .env("WORK", at("work"))
            .env("BASES", "/bases")
            .env("SOURCE_DATE_EPOCH", "7")
            .output()
            .unwrap();
        let work = at("work").display().to_string();
        let context = at("context").display().to_string();
        let said = std::fs::read_to_string(at("said")).unwrap_or_default();
        (said.lines().map(|line| line.replace(&work, "WORK").replace(&context, "CONTEXT")).collect(), ran)
    }

    #[test]
    fn a_recipes_steps_are_told_word_by_word_whatever_stands_in_them() {
        let text = r#"
            from = "base"
            entrypoint = ["/a", "it's $(b)"]
            cmd = ["x y", "`z`"]
            user = "user:user"
            port = 8080
            [env]
            A = "one 'two' \"three\""
            [[write]]
            to = "/w"
            text = "a\nb'; touch /tmp/never; '"
            [[copy]]
            from = "it's a file"
            to = "/c"
            mode = "4755"
            owner = "7:8"
            [[directory]]
            path = "/d/e"
            mode = "1777"
            [[run]]
            command = "echo '$A' && false"
        "#;
        let (said, ran) = told(text, &[("it's a file", "x")]);
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let expected = [
            "<pull><--quiet><oci:/bases/0:base>",
            "<tag><name><base>",
            "<from><--quiet><--pull=never><base>",
            "<config><--env><A=one 'two' \"three\"><name>",
            "<copy><--quiet><--chown><0:0><name><WORK/stage/0></w>",
            "<copy><--quiet><--chown><7:8><name><WORK/stage/1></c>",
            "<add><--quiet><name><WORK/stage/2.tar></>",
            "<run><--user><0:0><--workingdir></><--network><none><name><--></bin/sh><-ec><echo '$A' && false>",
            "<config><--entrypoint><[\"/a\",\"it's $(b)\"]><name>",
            "<config><--cmd><><name>",
            "<config><--cmd><'x y' '`z`'><name>",
            "<config><--label><ai.palatine.port=8080><name>",
            "<config><--user><user:user><name>",
            "<commit><--quiet><--timestamp><7><--format><oci><--disable-compression><name><oci-archive:WORK/result.tar>",
        ];
        assert_eq!(said, expected);
        let shown = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(shown.contains("[[copy]] (line 12)") && shown.contains("[[run]] (line 20)"), "{shown}");
    }

    #[test]
    fn what_a_recipe_copies_and_the_context_has_not_is_told_by_its_name() {
        let (_, ran) = told("from = 'scratch'\n[[copy]]\nfrom = 'gone'\nto = '/x'\n", &[]);
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.code() == Some(65) && said.contains("\"gone\" is not in the build's context"), "{said}");
        let (_, ran) = told("from = 'scratch'\n[[tar]]\nfrom = 'a'\n", &[("a", "no archive at all, and no header")]);
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.code() == Some(65) && said.contains("\"a\" is no archive"), "{said}");
    }
}

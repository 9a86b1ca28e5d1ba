//! `dev.d/needs`: which programs must be on a machine, from which packages, and what for.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

/// What no Debian is without: a package of ours need not name it.
const ESSENTIAL: [&str; 3] = ["apt", "dpkg", "tar"];

/// Debian's packages that the product itself needs where it runs.
pub(crate) fn dependencies() -> Result<BTreeSet<String>> {
    let rows = rows()?;
    let needed = rows.iter().filter(|row| row.level == "run" && !ESSENTIAL.contains(&row.package.as_str()));
    Ok(needed.map(|row| row.package.clone()).collect())
}

/// The programs that the product itself starts.
pub(crate) fn started_by_us() -> Result<Vec<String>> {
    Ok(rows()?.into_iter().filter(|row| row.level == "run").map(|row| row.program).collect())
}

/// A row of the table.
struct Row {
    program: String,
    package: String,
    level: String,
}

fn rows() -> Result<Vec<Row>> {
    let table = fs::read_to_string(crate::root().join("dev.d/needs")).context("read dev.d/needs")?;
    let lines = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut fields = line.split_whitespace().map(str::to_owned);
            let mut field = || fields.next().with_context(|| format!("dev.d/needs: {line}"));
            Ok(Row { program: field()?, package: field()?, level: field()? })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    /// How a program is named where one is started.
    const STARTS: [&str; 6] = [
        "Command::new(\"",
        "dev.command(\"",
        "command::run(\"",
        "Tool { name: \"",
        "const QEMU: &str = \"",
        "first_line(\"",
    ];

    fn declared() -> BTreeSet<String> {
        rows().unwrap().into_iter().map(|row| row.program).collect()
    }

    fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            match (path.is_dir(), path.extension().is_some_and(|it| it == "rs")) {
                (true, _) => sources(&path, into),
                (false, true) => into.push(path),
                (false, false) => {}
            }
        }
    }

    /// The programs that a source names as such, found in `$PATH` when they are started.
    fn started(text: &str) -> impl Iterator<Item = &str> {
        STARTS.iter().flat_map(|start| text.split(start).skip(1)).filter_map(|rest| rest.split('"').next())
    }

    #[test]
    fn fault_3_3_every_program_that_is_started_is_declared() {
        // Rust's own are linked beside the declared ones.
        let mut known = declared();
        known.extend(["cargo", "rustc", "no-such-program", "no-such-tool"].map(str::to_owned));
        let mut files = Vec::new();
        for dir in ["crates", "devtool", "images", "xtask"] {
            sources(&crate::root().join(dir), &mut files);
        }
        files.retain(|file| !file.ends_with("devtool/src/declared.rs"));
        let mut seen = 0;
        for file in files {
            let text = std::fs::read_to_string(&file).unwrap();
            for program in started(&text).filter(|program| !program.contains('/')) {
                seen += 1;
                assert!(known.contains(program), "{}: {program:?} is not in dev.d/needs", file.display());
            }
        }
        assert!(seen > 20, "only {seen} programs were found: how are they started now?");
    }

    #[test]
    fn a_program_is_declared_once_with_its_package_its_level_and_why() {
        let table = std::fs::read_to_string(crate::root().join("dev.d/needs")).unwrap();
        let mut seen = BTreeSet::new();
        for row in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let fields: Vec<&str> = row.split_whitespace().collect();
            assert!(fields.len() > 3 && ["run", "build", "test"].contains(&fields[2]), "{row}");
            assert!(seen.insert(fields[0]), "{} is declared twice", fields[0]);
        }
    }

    #[test]
    fn a_package_depends_on_what_runs_guests_and_on_nothing_that_only_builds_them() {
        let packages = dependencies().unwrap();
        assert!(packages.contains("qemu-system-x86") && packages.contains("nodejs"));
        assert!(["gcc", "npm", "tar", "dpkg"].iter().all(|other| !packages.contains(*other)), "{packages:?}");
    }
}

//! README's table of what the images of packages take, from what `./dev bench --images` wrote.

use anyhow::Result;
use serde::Deserialize;

use crate::readme::{Machine, results, write_table};

/// Its name in README.
const TABLE: &str = "images";
/// What the seed says that its images weigh.
const CLAIMS: [(&str, &str); 3] = [("chat", "150 MB"), ("coding", "400 MB"), ("browser", "1.2 GB")];
const HEAD: &str = "| type | disk, as gzip | the seed's claim | in | ready in, after a stop | memory when ready, after its work \
                    | first turn with a tool, later ones |\n|---|---|---|---|---|---|---|\n";

#[derive(Debug, Deserialize)]
struct Results {
    machine: Machine,
    images: Vec<Image>,
}

#[derive(Debug, Deserialize)]
struct Image {
    name: String,
    disk_mib: u64,
    gzip_mib: u64,
    runs: Vec<Run>,
}

#[derive(Debug, Deserialize)]
struct Run {
    runtime: String,
    ready_s: f64,
    again_s: f64,
    ready_mib: u64,
    after_mib: u64,
    first_s: f64,
    later_s: f64,
}

/// Writes it anew.
pub(crate) fn write() -> Result<()> {
    write_table(TABLE, &table(&latest()?))
}

fn latest() -> Result<Results> {
    results(&crate::root().join("bench/results/images.json"))
}

fn table(results: &Results) -> String {
    let rows = results.images.iter().flat_map(|image| image.runs.iter().map(move |run| row(image, run)));
    HEAD.to_owned() + &rows.collect::<String>() + &results.machine.line()
}

fn row(image: &Image, run: &Run) -> String {
    let Image { name, disk_mib, gzip_mib, .. } = image;
    let Run { runtime, ready_mib, after_mib, .. } = run;
    let claim = CLAIMS.iter().find(|(of, _)| of == name).map_or("–", |(_, claim)| *claim);
    let [ready, again, first, later] = [run.ready_s, run.again_s, run.first_s, run.later_s].map(seconds);
    format!(
        "| `{name}` | {disk_mib}, {gzip_mib} MiB | {claim} | `{runtime}` | {ready}, {again} | {ready_mib}, {after_mib} MiB \
         | {first}, {later} |\n"
    )
}

fn seconds(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0} s") } else { format!("{value:.1} s") }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::readme::with_table;

    #[test]
    fn readme_shows_what_was_measured_of_the_images_last() {
        let readme = fs::read_to_string(crate::root().join("README.md")).unwrap();
        let written = with_table(&readme, TABLE, &table(&latest().unwrap())).unwrap();
        assert!(written == readme, "run ./dev pictures after ./dev bench --images");
    }

    #[test]
    fn an_image_has_a_row_for_each_runtime_in_which_it_was_measured_beside_the_seeds_claim() {
        let results = r#"{
            "machine": {"processor": "a processor", "processors": 2, "commit": "abc", "date": "2026-01-02T03:04:05Z"},
            "images": [
                {"name": "chat", "disk_mib": 787, "gzip_mib": 173, "runs": [{"runtime": "container-runc", "ready_s": 20.4,
                    "again_s": 3.04, "ready_mib": 100, "after_mib": 120, "first_s": 6.25, "later_s": 1.01}]},
                {"name": "base", "disk_mib": 5, "gzip_mib": 2, "runs": [
                    {"runtime": "container-runc", "ready_s": 0.5, "again_s": 0.4, "ready_mib": 1, "after_mib": 2,
                        "first_s": 0.3, "later_s": 0.2},
                    {"runtime": "qemu-tcg", "ready_s": 0.5, "again_s": 0.4, "ready_mib": 1, "after_mib": 2,
                        "first_s": 0.3, "later_s": 0.2}]}
            ]
        }"#;
        let table = table(&serde_json::from_str(results).unwrap());
        let rows: Vec<&str> = table.lines().skip(2).collect();
        let chat = "| `chat` | 787, 173 MiB | 150 MB | `container-runc` | 20 s, 3.0 s | 100, 120 MiB | 6.2 s, 1.0 s |";
        let base = "| `base` | 5, 2 MiB | – | `qemu-tcg` | 0.5 s, 0.4 s | 1, 2 MiB | 0.3 s, 0.2 s |";
        assert_eq!((rows[0], rows[2]), (chat, base));
        assert!(rows[1].contains("container-runc"), "{table}");
        assert_eq!(rows[4], "Measured on 2026-01-02 at `abc`, on 2 cores (a processor).");
    }
}

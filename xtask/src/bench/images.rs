//! `./dev bench --images`: what each image of packages takes, in containers and, where an emulated machine is fast enough
//! for it, in one: an agent of a stack of `palatine up` works with a scripted model, and is held to what it has done.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fixtures::{BASIC, LocalStack, ScriptedModel, Starter, Worker, workplace};
use serde::Serialize;
use tempfile::TempDir;

use super::figures::percentile;
use super::machine::Machine;
use super::scratch;

/// What an emulated machine keeps of translated code, in MiB: a browser wants it.
const TRANSLATION_CACHE_MIB: u64 = 256;
/// Turns after an agent's first, in which a tool is used too.
const LATER: usize = 4;
const MIB: u64 = 1024 * 1024;

/// An image, and where it is measured.
struct Case {
    image: Starter,
    /// What is asked for, and what the answer must say of it.
    runtimes: &'static [(&'static [&'static str], &'static str)],
    /// What is asked of the tier; all of it where nothing stands here.
    share: &'static [&'static str],
}

const MACHINE: (&[&str], &str) = (&["--runtime", "qemu"], "qemu-tcg");
const CONTAINER: (&[&str], &str) = (&["--runtime", "container"], "container-runc");

const CASES: [Case; 5] = [
    Case { image: Starter::Nano, runtimes: &[CONTAINER, MACHINE], share: &BASIC },
    Case { image: Starter::Browser, runtimes: &[CONTAINER, MACHINE], share: &BASIC },
    // Emulated machines are too slow for OpenClaw.
    Case { image: Starter::Chat, runtimes: &[CONTAINER], share: &[] },
    Case { image: Starter::Coding, runtimes: &[CONTAINER], share: &[] },
    Case { image: Starter::Base, runtimes: &[CONTAINER, MACHINE], share: &BASIC },
];

#[derive(Serialize)]
struct Report {
    machine: Machine,
    translation_cache_mib: u64,
    images: Vec<ImageFigures>,
}

/// What was measured of an image.
#[derive(Serialize)]
struct ImageFigures {
    name: &'static str,
    /// The disk that machines and containers stand on.
    disk_mib: u64,
    /// The image as an OCI archive, packed by gzip.
    gzip_mib: u64,
    runs: Vec<RunFigures>,
}

/// What was measured of it in one runtime.
#[derive(Serialize)]
struct RunFigures {
    runtime: String,
    /// From the command to the answer that it is ready.
    ready_s: f64,
    /// The same for its start after a stop.
    again_s: f64,
    /// Memory of all its processes when it is ready (proportional set size); of a machine that is its VMM.
    ready_mib: u64,
    /// The same after its turns.
    after_mib: u64,
    /// The first turn, in which a tool is used; of an image without an agent, its holder's own commands.
    first_s: f64,
    /// Later ones, the median.
    later_s: f64,
}

/// Measures all of them, and writes the figures down.
pub(super) fn run() -> Result<()> {
    let machine = Machine::read()?;
    let images = CASES.each_ref().map(|case| case.image);
    let (model, stack) = workplace(&images, &format!("[node]\ntranslation_cache_mib = {TRANSLATION_CACHE_MIB}\n"));
    let measured: Result<Vec<ImageFigures>> = CASES.iter().map(|case| measure(case, &stack, &model)).collect();
    let report = Report { machine, translation_cache_mib: TRANSLATION_CACHE_MIB, images: measured? };
    super::write_down("images", &report)?;
    let errors = stack.errors();
    ensure!(errors.is_empty(), "gateway or node have logged errors: {}", errors.join("\n"));
    Ok(())
}

fn measure(case: &Case, stack: &LocalStack, model: &ScriptedModel) -> Result<ImageFigures> {
    let name = case.image.name();
    let mut runs = Vec::new();
    for (asked, runtime) in case.runtimes {
        eprintln!("measuring: {name} in {runtime}");
        let spawn = || Worker::spawn(stack, model, case.image, &[*asked, case.share].concat());
        if *runtime == CONTAINER.1 {
            // For its first container on a node an image is unpacked, once.
            spawn().remove();
        }
        let worker = spawn();
        ensure!(worker.runtime == *runtime, "{name} runs in {}, and not in {runtime}", worker.runtime);
        let figures = work(worker);
        println!("{name:<8} {}", serde_json::to_string(&figures)?);
        runs.push(figures);
    }
    Ok(ImageFigures { name, disk_mib: disk_mib(stack, name)?, gzip_mib: gzip_mib(stack, name)?, runs })
}

/// A whole life of an agent.
fn work(worker: Worker<'_>) -> RunFigures {
    let ready_mib = worker.memory_kib() / 1024;
    let made = worker.make();
    let later: Vec<Duration> = (0..LATER).map(|_| worker.again(&made)).collect();
    let after_mib = worker.memory_kib() / 1024;
    let again = worker.stop_and_start();
    worker.has_work(&made);
    worker.again(&made);
    let figures = RunFigures {
        runtime: worker.runtime.clone(),
        ready_s: worker.ready_in.as_secs_f64(),
        again_s: again.as_secs_f64(),
        ready_mib,
        after_mib,
        first_s: made.took.as_secs_f64(),
        later_s: percentile(&later, 0.5).as_secs_f64(),
    };
    worker.remove();
    figures
}

fn disk_mib(stack: &LocalStack, name: &str) -> Result<u64> {
    let config = image::Config { store: stack.state().join("images"), ..image::Config::default() };
    let store = image::ImageStore::open(&config)?;
    Ok(store.get(&store.resolve(name)?)?.disk_bytes / MIB)
}

fn gzip_mib(stack: &LocalStack, name: &str) -> Result<u64> {
    let folder = TempDir::with_prefix_in("palatine-bench-", scratch())?;
    let file = folder.path().join("image.oci.tar.gz");
    stack.run(&["image", "export", name, &file.display().to_string(), "--node"]);
    Ok(fs::metadata(&file).context("look at the archive")?.len() / MIB)
}

//! Prepares the guest's kernel and initramfs, and prints where they are.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use palatine_image::{Config, NoProgress, kernel};

#[derive(Parser)]
struct Arguments {
    /// The program that becomes `/init`.
    #[arg(long)]
    pod: PathBuf,
    /// Where kernels are kept.
    #[arg(long)]
    out: PathBuf,
    /// A kernel's tree or its packages; else the distribution's is downloaded.
    #[arg(long)]
    kernel: Option<PathBuf>,
}

fn main() -> Result<(), kernel::KernelError> {
    let arguments = Arguments::parse();
    let config = Config { store: arguments.out, kernel: arguments.kernel, ..Config::default() };
    let start = Instant::now();
    let kernel = kernel::prepare(&config, &arguments.pod, &NoProgress)?;
    println!("vmlinux   {}", kernel.vmlinux.display());
    println!("initramfs {}", kernel.initramfs.display());
    println!("version   {} ({} ms)", kernel.version, start.elapsed().as_millis());
    Ok(())
}

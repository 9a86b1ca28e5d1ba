//! The real `pod`, as an ordinary process and as PID 1 of a real guest: QEMU, the
//! distribution's kernel, real disks.
//!
//! The guest needs `qemu-system-x86_64`, `mkfs.erofs`, `mke2fs`, `e2fsck`, and what `./dev`
//! puts together (`PALATINE_ASSETS/pod`). No root: the guest's link is QEMU's own.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test says what broke by breaking"
)]

mod client;
mod compile;
mod container;
mod exec;
mod files;
mod guest;
mod machine;

use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

/// What later calls carry.
const TOKEN: &str = "the-token-of-this-guest-0123456789";
/// A secret of the holder's that may be nowhere but in the agent's environment.
const CANARY: &str = "canary-4f1d";

/// The trace of the spawn.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// An identity that runs the test's agent with these arguments.
fn identity(arguments: &[&str]) -> Value {
    let argv: Vec<&str> = std::iter::once("/bin/agent").chain(arguments.iter().copied()).collect();
    json!({
        "pod_id": "agent-123",
        "run_id": "a1b2c3d4-e5f6-7890",
        "token": TOKEN,
        "clock_unix_ns": u64::try_from(now_ms() * 1_000_000).unwrap(),
        "entropy": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw==",
        "resolvers": ["10.200.0.1"],
        "env": {"HOLDERS_KEY": CANARY},
        "traceparent": format!("00-{TRACE}-b7ad6b7169203331-01"),
        "run": {
            "argv": argv, "env": {"FROM_IMAGE": "yes"}, "cwd": "/work", "user": "", "port": 8080,
            "ready_path": "/ready", "health_path": "/health", "state_dir": "/state", "stop_signal": "SIGTERM",
        },
    })
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

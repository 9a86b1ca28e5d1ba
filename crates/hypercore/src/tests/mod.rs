//! The node on fakes.

use wire::pod::Run;

/// An image's word on how it is run.
pub(crate) fn run() -> Run {
    Run {
        argv: vec!["/agent".to_owned()],
        env: std::collections::BTreeMap::new(),
        cwd: "/".to_owned(),
        user: String::new(),
        port: 8080,
        ready_path: "/ready".to_owned(),
        health_path: "/health".to_owned(),
        state_dir: "/data".to_owned(),
        stop_signal: "SIGTERM".to_owned(),
    }
}

//! The agent's process: started, watched, started again, ended; and what is known of it.

mod health;
mod logs;
mod loopback;
mod plan;
mod probe;
mod restarts;
mod run;
mod state;
mod supervisor;

pub(crate) use logs::{Logs, log_events};
pub(crate) use loopback::connect as connect_loopback;
pub(crate) use plan::{Plan, environment, home_of, user_environment};
pub(crate) use state::Pod;
pub(crate) use supervisor::supervise;

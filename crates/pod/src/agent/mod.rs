//! The agent's process: started, watched, started again, ended.

mod backoff;
mod health;
mod life;
mod plan;
mod probe;
mod supervisor;

pub(crate) use plan::{Plan, environment, user_environment};
pub(crate) use supervisor::supervise;

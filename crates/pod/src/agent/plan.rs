//! What it takes to start the agent's processes, and nothing more of the identity.

use std::collections::BTreeMap;

use domain::{PodId, RunId};
use rustix::process::Signal;
use wire::v1::pod::{GuestVolume, ImageRunConfig};
use wire::{Environment, Secret};

use crate::process::{OomScore, ProcessSpec, User};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// How the agent runs. Its environment stays in memory as long as this program
/// runs: the agent may have to be started again, and commands of its holder run
/// with it. No other process can read this one's memory.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The agent.
    pub(crate) agent: PodId,
    /// The image contract.
    pub(crate) run: ImageRunConfig,
    /// The trace of the spawn, to find its lines among others.
    pub(crate) trace_id: String,
    /// The signal that asks the agent to end.
    pub(crate) stop_signal: Signal,
    /// Who runs it.
    pub(crate) user: User,
    /// Everything its processes find in their environment.
    pub(crate) env: BTreeMap<String, Secret>,
    /// Why the agent is not started at all, in a sentence for its owner.
    pub(crate) refused: Option<String>,
    /// The volumes that are mounted.
    pub(crate) volumes: Vec<GuestVolume>,
}

impl Plan {
    /// The agent's own process.
    pub(crate) fn process(&self) -> ProcessSpec<'_> {
        let (program, args) = self.run.argv.split_first().map_or(("", &[][..]), |(program, args)| (program, args));
        let (env, cwd, user) = (&self.env, &self.run.cwd, &self.user);
        ProcessSpec { program, args, env, cwd, user, oom_score: OomScore::Agent }
    }
}

/// The environment: what every program expects, the image's, the holder's, ours;
/// each over the ones before.
pub(crate) fn environment(
    pod: PodId,
    run_id: RunId,
    run: &ImageRunConfig,
    user: &User,
    holder: Environment,
    traceparent: Option<String>,
) -> BTreeMap<String, Secret> {
    let mut env = user_environment(user, &run.state_dir);
    env.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
    env.extend(run.env.clone());
    let mut ours = vec![
        ("POD_ID", pod.to_string()),
        ("PALATINE_AGENT_ID", pod.to_string()),
        ("PALATINE_RUN_ID", run_id.to_string()),
        ("PALATINE_PORT", run.port.to_string()),
        ("PALATINE_STATE_DIR", run.state_dir.clone()),
    ];
    ours.extend(traceparent.map(|parent| ("TRACEPARENT", parent)));
    let mut env: BTreeMap<String, Secret> = env.into_iter().map(|(name, value)| (name, value.into())).collect();
    env.extend(holder.0);
    env.extend(ours.into_iter().map(|(name, value)| (name.to_owned(), value.into())));
    env
}

/// Where a user is at home: where its state is, if the image says nothing.
pub(crate) fn home_of<'a>(user: &'a User, state_dir: &'a str) -> &'a str {
    user.home.as_deref().unwrap_or(state_dir)
}

/// What a user's programs expect to know of the user.
pub(crate) fn user_environment(user: &User, state_dir: &str) -> BTreeMap<String, String> {
    let name = user.name.clone().unwrap_or_else(|| user.uid.to_string());
    let home = home_of(user, state_dir).to_owned();
    [("HOME", home), ("USER", name.clone()), ("LOGNAME", name)].map(|(name, value)| (name.to_owned(), value)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Accounts;

    #[test]
    fn the_holder_overrides_the_image_and_nobody_overrides_ours() {
        let pairs = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let run = ImageRunConfig {
            argv: vec!["/agent".to_owned()],
            env: pairs(&[("A", "image"), ("B", "image"), ("PALATINE_PORT", "1")]),
            cwd: "/".to_owned(),
            user: String::new(),
            port: 8080,
            ready_path: "/".to_owned(),
            health_path: "/".to_owned(),
            state_dir: "/data".to_owned(),
            stop_signal: "SIGTERM".to_owned(),
        };
        let user = Accounts::default().resolve("").unwrap();
        let holder = Environment([("B".to_owned(), Secret::from("holder".to_owned()))].into());
        let pod = "agent-123".parse().unwrap();
        let env = environment(pod, RunId::from_bits(1), &run, &user, holder, None);
        let value = |name: &str| env[name].expose().to_owned();
        assert_eq!((value("A"), value("B")), ("image".to_owned(), "holder".to_owned()));
        assert_eq!((value("PALATINE_PORT"), value("HOME")), ("8080".to_owned(), "/data".to_owned()));
        assert_eq!((value("POD_ID"), value("PALATINE_AGENT_ID")), ("agent-123".to_owned(), "agent-123".to_owned()));
        assert_eq!(value("PALATINE_RUN_ID"), RunId::from_bits(1).to_string());
        assert_eq!((value("PATH"), value("USER")), (DEFAULT_PATH.to_owned(), "1000".to_owned()));
    }
}

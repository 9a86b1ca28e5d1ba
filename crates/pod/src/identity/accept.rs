//! Taking an identity: what is left of it is how the agent runs.

use wire::Secret;
use wire::v1::pod::GuestConfig;

use super::platform::Platform;
use super::validate::{IdentityError, ValidGuestConfig, validate};
use crate::agent::{Plan, environment};
use crate::process::Accounts;
use crate::step::{StepError, make_dir};

/// Why an identity was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityRefused {
    /// It is wrong.
    #[error(transparent)]
    Invalid(#[from] IdentityError),
    /// The kernel refused a step.
    #[error("the identity cannot be made true")]
    Apply(#[from] StepError),
}

/// Validates an identity and makes it true; gives the token and the plan of the
/// agent. What else was secret in it is wiped when this returns.
///
/// # Errors
/// It is wrong, or a step failed; the pod waits on then.
pub(crate) fn accept(identity: GuestConfig, platform: &dyn Platform) -> Result<(Secret, Plan), IdentityRefused> {
    let valid = validate(&identity, &Accounts::read(platform.privileges()))?;
    platform.apply(&identity, &valid)?;
    let refused = platform.mount_volumes(&identity, &valid).err();
    make_dir(&identity.run.cwd)?;
    let GuestConfig { pod_id, run_id, token, run, env, traceparent, volumes, .. } = identity;
    // Where one could not be mounted there is something else at its path.
    let volumes = if refused.is_some() { Vec::new() } else { volumes };
    let ValidGuestConfig { user, stop_signal, .. } = valid;
    let trace_id = trace_id(traceparent.as_deref()).to_owned();
    let env = environment(pod_id, run_id, &run, &user, env, traceparent);
    Ok((token, Plan { agent: pod_id, run, trace_id, stop_signal, user, env, refused, volumes }))
}

/// The trace id of a W3C `traceparent`: `version-trace-parent-flags`.
fn trace_id(traceparent: Option<&str>) -> &str {
    let id = traceparent.and_then(|text| text.split('-').nth(1)).unwrap_or_default();
    if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) { id } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_id_is_taken_from_a_traceparent_and_from_nothing_else() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(trace_id(Some(good)), "0af7651916cd43dd8448eb211c80319c");
        for other in [None, Some(""), Some("00-short-x-01"), Some("nonsense")] {
            assert_eq!(trace_id(other), "");
        }
    }
}

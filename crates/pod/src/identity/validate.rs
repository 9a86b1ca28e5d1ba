//! An identity that cannot be used is refused before anything of it is done.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use wire::EnvironmentError;
use wire::v1::pod::{GuestConfig, ImageRunConfig};
use zeroize::Zeroizing;

use crate::process::{Accounts, User, UserError};

/// The least a token may be.
const MIN_TOKEN: usize = 16;
/// The least and the most entropy that is taken.
const ENTROPY: std::ops::RangeInclusive<usize> = 32..=512;
/// Name servers the resolver library reads.
const MAX_RESOLVERS: usize = 3;

/// What is wrong with an identity. Names the field, never shows a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// A field has no usable value.
    #[error("{field} {what}")]
    Field {
        /// Which.
        field: &'static str,
        /// What about it.
        what: String,
    },
    /// The environment is out of bounds.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// The image has no such user, or it may not be that one here.
    #[error("run.user: {0}")]
    User(#[from] UserError),
}

impl IdentityError {
    /// The offending field.
    pub(crate) const fn field(&self) -> &'static str {
        match self {
            Self::Field { field, .. } => field,
            Self::Environment(_) => "env",
            Self::User(_) => "run.user",
        }
    }
}

/// An identity in the types it is used in.
pub(crate) struct ValidGuestConfig {
    /// Name servers.
    pub(crate) resolvers: Vec<IpAddr>,
    /// Seed of a machine's random number generator.
    pub(crate) entropy: Zeroizing<Vec<u8>>,
    /// Who runs the agent.
    pub(crate) user: User,
    /// What asks it to end.
    pub(crate) stop_signal: Signal,
}

/// Checks everything that can be known to be wrong.
///
/// # Errors
/// Names the field; never shows a secret.
pub(super) fn validate(identity: &GuestConfig, accounts: &Accounts) -> Result<ValidGuestConfig, IdentityError> {
    if identity.token.expose().len() < MIN_TOKEN {
        return Err(wrong("token", format!("is shorter than {MIN_TOKEN} bytes")));
    }
    identity.env.check()?;
    validate_run(&identity.run)?;
    Ok(ValidGuestConfig {
        resolvers: resolvers(&identity.resolvers)?,
        entropy: entropy(identity.entropy.expose())?,
        user: accounts.resolve(&identity.run.user)?,
        stop_signal: signal(&identity.run.stop_signal)
            .ok_or_else(|| wrong("run.stop_signal", "is not a signal such as SIGTERM"))?,
    })
}

fn validate_run(run: &ImageRunConfig) -> Result<(), IdentityError> {
    if run.argv.first().is_none_or(String::is_empty) {
        return Err(wrong("run.argv", "names no program"));
    }
    if run.port == 0 {
        return Err(wrong("run.port", "is 0"));
    }
    let paths = [("run.cwd", &run.cwd), ("run.ready_path", &run.ready_path), ("run.health_path", &run.health_path)];
    for (field, path) in paths.into_iter().chain([("run.state_dir", &run.state_dir)]) {
        if !path.starts_with('/') || path.contains('\0') {
            return Err(wrong(field, "is not a path that begins with /"));
        }
    }
    for path in [&run.ready_path, &run.health_path] {
        path.parse::<http::uri::PathAndQuery>().map_err(|error| wrong("run.ready_path", error))?;
    }
    if run.state_dir.split('/').all(|part| matches!(part, "" | "."))
        || run.state_dir.split('/').any(|part| part == "..")
    {
        return Err(wrong("run.state_dir", "is the root, or climbs"));
    }
    Ok(())
}

fn resolvers(texts: &[String]) -> Result<Vec<IpAddr>, IdentityError> {
    if texts.len() > MAX_RESOLVERS {
        return Err(wrong("resolvers", format!("are more than {MAX_RESOLVERS}")));
    }
    let parse = |text: &String| text.parse().map_err(|_| wrong("resolvers", "are not all addresses"));
    texts.iter().map(parse).collect()
}

fn entropy(text: &str) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let bytes = STANDARD.decode(text).map(Zeroizing::new).map_err(|_| wrong("entropy", "is not base64"))?;
    if !ENTROPY.contains(&bytes.len()) {
        return Err(wrong("entropy", format!("has not {} to {} bytes", ENTROPY.start(), ENTROPY.end())));
    }
    Ok(bytes)
}

/// The signals an image may name, with or without `SIG`.
fn signal(name: &str) -> Option<Signal> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(above) = name.strip_prefix("RTMIN+") {
        return real_time(above.parse().ok()?);
    }
    Some(match name {
        "TERM" | "15" => Signal::TERM,
        "INT" | "2" => Signal::INT,
        "QUIT" | "3" => Signal::QUIT,
        "HUP" | "1" => Signal::HUP,
        "USR1" | "10" => Signal::USR1,
        "USR2" | "12" => Signal::USR2,
        "WINCH" | "28" => Signal::WINCH,
        "KILL" | "9" => Signal::KILL,
        _ => return None,
    })
}

/// The signal of real time that is so far above the lowest.
#[expect(unsafe_code, reason = "rustix names no signal of real time")]
fn real_time(above: u8) -> Option<Signal> {
    let number = wire::v1::pod::SIGRTMIN.checked_add(above).filter(|number| *number <= wire::v1::pod::SIGRTMAX)?;
    // SAFETY: it is one of the kernel's, and none of those that libc keeps to itself.
    Some(unsafe { Signal::from_raw_unchecked(number.into()) })
}

fn wrong(field: &'static str, what: impl std::fmt::Display) -> IdentityError {
    IdentityError::Field { field, what: what.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn identity(change: impl FnOnce(&mut Value)) -> GuestConfig {
        let mut value = json!({
            "pod_id": "agent-123", "run_id": "a1b2c3d4-e5f6-7890", "token": "hush-hush-hush-hush", "clock_unix_ns": 1,
            "entropy": STANDARD.encode([7; 64]), "resolvers": ["10.200.0.1"], "env": {"KEY": "hush"},
            "run": {"argv": ["/agent"], "env": {}, "cwd": "/", "user": "", "port": 8080, "ready_path": "/ready?x=1",
                    "health_path": "/", "state_dir": "/data", "stop_signal": "SIGTERM"},
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    fn refused(change: impl FnOnce(&mut Value)) -> Option<String> {
        let error = validate(&identity(change), &Accounts::default()).err()?;
        assert!(!error.to_string().contains("hush"), "{error}");
        Some(error.field().to_owned())
    }

    #[test]
    fn case_image_stopsignal_rtmin_is_the_kernels_number() {
        let number = |name| signal(name).map(Signal::as_raw);
        assert_eq!((number("SIGRTMIN+0"), number("SIGRTMIN+3"), number("SIGRTMIN+30")), (Some(34), Some(37), Some(64)));
        assert_eq!((number("SIGRTMIN+31"), number("SIGRTMIN+255"), number("RTMIN+")), (None, None, None));
    }

    #[test]
    fn a_good_identity_passes() {
        assert_eq!(refused(|_| ()), None);
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_field_without_its_value() {
        let set = |path: &'static str, value: Value| refused(move |all| *all.pointer_mut(path).unwrap() = value);
        let cases = [
            ("/token", json!("hush"), "token"),
            ("/entropy", json!("hush!"), "entropy"),
            ("/entropy", json!("AAAA"), "entropy"),
            ("/resolvers", json!(["dns.example"]), "resolvers"),
            ("/resolvers", json!(["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]), "resolvers"),
            ("/env", json!({"PALATINE_X": "hush"}), "env"),
            ("/run/argv", json!([]), "run.argv"),
            ("/run/port", json!(0), "run.port"),
            ("/run/user", json!("root"), "run.user"),
            ("/run/cwd", json!("relative"), "run.cwd"),
            ("/run/state_dir", json!("/"), "run.state_dir"),
            ("/run/state_dir", json!("/data/../etc"), "run.state_dir"),
            ("/run/stop_signal", json!("SIGSTOP"), "run.stop_signal"),
            ("/run/stop_signal", json!("SIGRTMIN+31"), "run.stop_signal"),
        ];
        for (path, value, field) in cases {
            assert_eq!(set(path, value.clone()).as_deref(), Some(field), "{path} {value}");
        }
    }
}

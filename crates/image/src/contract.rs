//! The image contract: what an image says about how it is run.
//!
//! Entrypoint, environment, directory, user and stop signal are the OCI config's
//! own; the rest are labels:
//!
//! | label | means | default |
//! |---|---|---|
//! | `ai.palatine.port` | the TCP port it serves | the lowest exposed one, else 8080 |
//! | `ai.palatine.health` | the path that answers 2xx while it is alive | `/health` |
//! | `ai.palatine.ready` | the path that answers 2xx when it is usable | the health path |
//! | `ai.palatine.state-dir` | where it keeps state | `/data` |
//! | `ai.palatine.min-memory` | the least memory it works with, in MiB | any |
//! | `ai.palatine.min-tier` | the lowest tier that it works in | any |
//! | `ai.palatine.runtimes` | the runtimes that it works in, such as `qemu-kvm,container` | any |
//!
//! The user is looked up here, in the image's own files, so that what is wrong
//! with it is found on import and not at a boot. One that names nobody runs as root, as OCI
//! has it: whether that may be is for the runtime to say, and in a machine it may.

use std::collections::{BTreeMap, HashMap};

use domain::TierName;
use oci_spec::image::Config as OciConfig;
use wire::v1::node::ImageNeeds;
use wire::v1::pod::ImageRunConfig;

use crate::layer::ImageRoot;

/// The port's label.
pub const PORT: &str = "ai.palatine.port";
/// The ready path's label.
pub const READY: &str = "ai.palatine.ready";
/// The health path's label.
pub const HEALTH: &str = "ai.palatine.health";
/// The state directory's label.
pub const STATE_DIR: &str = "ai.palatine.state-dir";

/// The label of the least memory.
pub const MIN_MEMORY: &str = "ai.palatine.min-memory";
/// The label of the lowest tier.
pub const MIN_TIER: &str = "ai.palatine.min-tier";
/// The label of the runtimes.
pub const RUNTIMES: &str = "ai.palatine.runtimes";

const DEFAULT_PORT: u16 = 8080;
const DEFAULT_HEALTH: &str = "/health";
const DEFAULT_STATE_DIR: &str = "/data";
const DEFAULT_SIGNAL: &str = "SIGTERM";
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of arguments and environment together at most.
const MAX_BYTES: usize = 64 << 10;
/// Bytes of a path at most.
const MAX_PATH: usize = 1024;
/// Bytes of a runtime's name at most, and how many there may be.
const MAX_RUNTIME: usize = 32;
const MAX_RUNTIMES: usize = 16;
/// Bytes of `/etc/passwd` and `/etc/group` that are read.
const MAX_ACCOUNTS: u64 = 1 << 20;

/// Signals an image may ask to be stopped by, with their numbers; those of real time
/// beside.
const SIGNALS: [(&str, u8); 8] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
    ("SIGTERM", 15),
    ("SIGWINCH", 28),
];

/// What an image says wrongly, or does not say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContractError {
    /// Nothing to run.
    #[error("the image has no entrypoint: set ENTRYPOINT or CMD in it")]
    NoEntrypoint,
    /// A port that is none.
    #[error("{label} is {value:?}, which is no TCP port", label = PORT)]
    Port {
        /// What it says.
        value: String,
    },
    /// Memory, a tier or runtimes that are none.
    #[error("{label} is {value:?}, which is not {expected}")]
    Needs {
        /// The label.
        label: &'static str,
        /// What it says.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A path that is not absolute, or too long.
    #[error("{what} is {value:?}, which is no absolute path of printable characters")]
    Path {
        /// The label or field.
        what: &'static str,
        /// What it says.
        value: String,
    },
    /// A signal that is not known.
    #[error("the stop signal {0:?} is not known")]
    Signal(String),
    /// A variable that is none.
    #[error("the environment holds {0:?}, which is not NAME=value")]
    Env(String),
    /// A user or group that the image does not have.
    #[error("the image runs as {0:?}, which its /etc/passwd and /etc/group do not have")]
    User(String),
    /// Too much of it.
    #[error("the image's arguments and environment are larger than {MAX_BYTES} bytes")]
    TooLarge,
}

/// The accounts of an image: `/etc/passwd` and `/etc/group`.
#[derive(Debug, Default)]
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads them; an image without them has no names.
    pub(crate) fn of(root: &ImageRoot) -> std::io::Result<Self> {
        let text = |path| -> std::io::Result<String> {
            let bytes = root.read(path, MAX_ACCOUNTS)?.unwrap_or_default();
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        Ok(Self { passwd: text("etc/passwd")?, group: text("etc/group")? })
    }

    /// The fields of the line of a user, by name or number.
    fn user(&self, name: &str) -> Option<(u32, u32)> {
        let lines = self.passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let fields = lines.filter_map(|f| Some((*f.first()?, f.get(2)?.parse().ok()?, f.get(3)?.parse().ok()?)));
        let by_name: Vec<(&str, u32, u32)> = fields.collect();
        let number = name.parse().ok();
        let found = by_name.iter().find(|(n, uid, _)| *n == name || Some(*uid) == number);
        found.map(|(_, uid, gid)| (*uid, *gid))
    }

    fn group(&self, name: &str) -> Option<u32> {
        let lines = self.group.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let mut fields = lines.filter_map(|f| Some((*f.first()?, f.get(2)?.parse::<u32>().ok()?)));
        fields.find(|(n, _)| *n == name).map(|(_, gid)| gid)
    }

    /// The numbers of a user and a group, both by name.
    pub(crate) fn ids(&self, user: &str, group: &str) -> Option<(u32, u32)> {
        Some((self.user(user)?.0, self.group(group)?))
    }

    /// `uid:gid` of who runs the image.
    fn resolve(&self, user: &str) -> Result<String, ContractError> {
        let unknown = || ContractError::User(user.chars().take(100).collect());
        let (name, group) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
        let (uid, own_gid) = match (self.user(name), name.parse::<u32>()) {
            (Some(found), _) => found,
            // A number needs no account. It gets the group of the same number,
            // not root's, as it would in Docker.
            (None, Ok(uid)) => (uid, uid),
            (None, Err(_)) if matches!(name, "" | "root") => (0, 0),
            (None, Err(_)) => return Err(unknown()),
        };
        let gid = match group.filter(|group| !group.is_empty()) {
            None => own_gid,
            Some(group) => self.group(group).or_else(|| group.parse().ok()).ok_or_else(unknown)?,
        };
        Ok(format!("{uid}:{gid}"))
    }
}

/// How an image is run.
pub(crate) fn run(config: Option<&OciConfig>, accounts: &Accounts) -> Result<ImageRunConfig, ContractError> {
    let empty = OciConfig::default();
    let config = config.unwrap_or(&empty);
    let labels = config.labels().clone().unwrap_or_default();
    let health_path = label(&labels, HEALTH)?.unwrap_or_else(|| DEFAULT_HEALTH.into());
    let cwd = config.working_dir().clone().filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/".into());
    let run = ImageRunConfig {
        argv: argv(config)?,
        env: environment(config.env().as_deref().unwrap_or_default())?,
        cwd: path("the working directory", cwd)?,
        user: accounts.resolve(config.user().as_deref().unwrap_or_default())?,
        port: port(&labels, config.exposed_ports().as_deref().unwrap_or_default())?,
        ready_path: label(&labels, READY)?.unwrap_or_else(|| health_path.clone()),
        health_path,
        state_dir: label(&labels, STATE_DIR)?.unwrap_or_else(|| DEFAULT_STATE_DIR.into()),
        stop_signal: signal(config.stop_signal().as_deref().unwrap_or(DEFAULT_SIGNAL))?,
    };
    let bytes = run.argv.iter().map(String::len).sum::<usize>()
        + run.env.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
    if bytes > MAX_BYTES { Err(ContractError::TooLarge) } else { Ok(run) }
}

/// What an image needs.
pub(crate) fn needs(config: Option<&OciConfig>) -> Result<ImageNeeds, ContractError> {
    let labels = config.and_then(|config| config.labels().clone()).unwrap_or_default();
    let wrong = |label, value: &str, expected| {
        let value = value.chars().take(100).collect();
        ContractError::Needs { label, value, expected }
    };
    let memory = labels.get(MIN_MEMORY).map(|value| {
        let mib = value.parse().ok().filter(|mib| *mib > 0);
        mib.ok_or_else(|| wrong(MIN_MEMORY, value, "a number of MiB"))
    });
    let tier = labels
        .get(MIN_TIER)
        .map(|value| TierName::try_from(value.clone()).map_err(|_| wrong(MIN_TIER, value, "the name of a tier")));
    let runtimes = labels.get(RUNTIMES).map(|value| {
        let names: Vec<&str> = value.split(',').map(str::trim).collect();
        let plain = |name: &&str| {
            (1..=MAX_RUNTIME).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let fine = names.len() <= MAX_RUNTIMES && names.iter().all(plain);
        let names = fine.then(|| names.into_iter().map(str::to_owned).collect());
        names.ok_or_else(|| wrong(RUNTIMES, value, "names of runtimes such as qemu-kvm, with commas between them"))
    });
    Ok(ImageNeeds {
        min_memory_mib: memory.transpose()?,
        min_tier: tier.transpose()?,
        runtimes: runtimes.transpose()?.unwrap_or_default(),
    })
}

fn argv(config: &OciConfig) -> Result<Vec<String>, ContractError> {
    let words = |words: &Option<Vec<String>>| words.clone().unwrap_or_default();
    let argv = [words(config.entrypoint()), words(config.cmd())].concat();
    let runs = argv.first().is_some_and(|program| !program.is_empty());
    if runs && !argv.iter().any(|word| word.contains('\0')) { Ok(argv) } else { Err(ContractError::NoEntrypoint) }
}

fn environment(variables: &[String]) -> Result<BTreeMap<String, String>, ContractError> {
    let mut environment = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
    for variable in variables {
        match variable.split_once('=') {
            Some((name, value)) if !name.is_empty() && !variable.contains('\0') => {
                environment.insert(name.to_owned(), value.to_owned());
            }
            _ => return Err(ContractError::Env(variable.chars().take(100).collect())),
        }
    }
    Ok(environment)
}

fn port(labels: &HashMap<String, String>, exposed: &[String]) -> Result<u16, ContractError> {
    let parse = |value: &str| {
        let port = value.parse().ok().filter(|port| *port != 0);
        port.ok_or_else(|| ContractError::Port { value: value.chars().take(100).collect() })
    };
    if let Some(value) = labels.get(PORT) {
        return parse(value);
    }
    let tcp = exposed.iter().filter_map(|port| match port.split_once('/') {
        None => Some(port.as_str()),
        Some((port, "tcp")) => Some(port),
        Some(_) => None,
    });
    let ports = tcp.map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok(ports.into_iter().min().unwrap_or(DEFAULT_PORT))
}

fn label(labels: &HashMap<String, String>, name: &'static str) -> Result<Option<String>, ContractError> {
    labels.get(name).map(|value| path(name, value.clone())).transpose()
}

fn path(what: &'static str, value: String) -> Result<String, ContractError> {
    let sound = value.starts_with('/') && value.len() <= MAX_PATH && value.bytes().all(|b| b.is_ascii_graphic());
    if sound { Ok(value) } else { Err(ContractError::Path { what, value: value.chars().take(100).collect() }) }
}

/// The signal's full name, whichever way the image writes it.
fn signal(text: &str) -> Result<String, ContractError> {
    let short = text.strip_prefix("SIG").unwrap_or(text);
    let number = text.parse::<u8>().ok().or_else(|| real_time(short));
    if let Some(above) = number.and_then(|number| number.checked_sub(wire::v1::pod::SIGRTMIN))
        && above <= wire::v1::pod::SIGRTMAX - wire::v1::pod::SIGRTMIN
    {
        return Ok(format!("SIGRTMIN+{above}"));
    }
    let found = SIGNALS.iter().find(|(name, n)| name[3..] == *short || Some(*n) == number);
    found.map(|(name, _)| (*name).to_owned()).ok_or_else(|| ContractError::Signal(text.chars().take(100).collect()))
}

/// The number of `RTMIN`, `RTMIN+n`, `RTMAX` or `RTMAX-n`.
fn real_time(short: &str) -> Option<u8> {
    let offset = |text: &str, sign| if text.is_empty() { Some(0) } else { text.strip_prefix(sign)?.parse::<u8>().ok() };
    if let Some(above) = short.strip_prefix("RTMIN") {
        return wire::v1::pod::SIGRTMIN.checked_add(offset(above, '+')?);
    }
    wire::v1::pod::SIGRTMAX.checked_sub(offset(short.strip_prefix("RTMAX")?, '-')?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(value: serde_json::Value) -> OciConfig {
        serde_json::from_value(value).unwrap()
    }

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nnode:x:1001:1002::/home/node:/bin/sh\ntoor:x:0:0:::\nbroken\n".into(),
            group: "root:x:0:\nagents:x:77:node\n".into(),
        }
    }

    fn running(value: serde_json::Value) -> Result<ImageRunConfig, ContractError> {
        run(Some(&config(value)), &accounts())
    }

    #[test]
    fn an_image_that_says_only_what_to_run_gets_sane_defaults() {
        let run = running(json!({"Entrypoint": ["/agent"], "Cmd": ["--loud"]})).unwrap();
        assert_eq!(run.argv, ["/agent", "--loud"]);
        assert_eq!((run.port, run.cwd.as_str(), run.user.as_str()), (8080, "/", "0:0"));
        assert_eq!((run.ready_path.as_str(), run.health_path.as_str()), ("/health", "/health"));
        assert_eq!((run.state_dir.as_str(), run.stop_signal.as_str()), ("/data", "SIGTERM"));
        assert_eq!(run.env["PATH"], DEFAULT_PATH);
    }

    #[test]
    fn labels_say_more_than_exposed_ports() {
        let run = running(json!({
            "Cmd": ["/agent"], "ExposedPorts": {"9000/tcp": {}, "53/udp": {}, "8081": {}}, "StopSignal": "2",
            "Labels": {READY: "/readyz", STATE_DIR: "/state"}, "Env": ["A=b=c", "PATH=/bin"]
        }))
        .unwrap();
        assert_eq!((run.port, run.ready_path.as_str(), run.state_dir.as_str()), (8081, "/readyz", "/state"));
        assert_eq!((run.env["A"].as_str(), run.env["PATH"].as_str()), ("b=c", "/bin"));
        assert_eq!(run.stop_signal, "SIGINT");
        let labelled =
            running(json!({"Cmd": ["/a"], "ExposedPorts": {"9000/tcp": {}}, "Labels": {PORT: "7"}})).unwrap();
        assert_eq!(labelled.port, 7);
    }

    #[test]
    fn an_image_that_names_root_or_nobody_runs_as_root() {
        for (user, ids) in [
            ("", "0:0"),
            ("0", "0:0"),
            ("root", "0:0"),
            ("0:0", "0:0"),
            ("toor", "0:0"),
            ("root:agents", "0:77"),
            ("0:77", "0:77"),
        ] {
            assert_eq!(running(json!({"Cmd": ["/a"], "User": user})).unwrap().user, ids, "{user:?}");
        }
        let bare = run(Some(&config(json!({"Cmd": ["/a"]}))), &Accounts::default()).unwrap();
        assert_eq!(bare.user, "0:0", "an image without accounts has a root all the same");
    }

    #[test]
    fn users_and_groups_are_looked_up_in_the_image() {
        for (user, expected) in [
            ("node", "1001:1002"),
            ("1001", "1001:1002"),
            ("500", "500:500"),
            ("node:agents", "1001:77"),
            ("500:9", "500:9"),
        ] {
            assert_eq!(running(json!({"Cmd": ["/a"], "User": user})).unwrap().user, expected);
        }
        for user in ["nobody", "node:wheel"] {
            assert_eq!(running(json!({"Cmd": ["/a"], "User": user})), Err(ContractError::User(user.into())));
        }
    }

    #[test]
    fn what_an_image_needs_is_read_from_its_labels() {
        let labelled = |labels: serde_json::Value| needs(Some(&config(json!({"Cmd": ["/a"], "Labels": labels}))));
        assert!(labelled(json!({})).unwrap().is_empty() && needs(None).unwrap().is_empty());
        let found =
            labelled(json!({MIN_MEMORY: "1536", MIN_TIER: "standard", RUNTIMES: "qemu-kvm, container"})).unwrap();
        assert_eq!(
            (found.min_memory_mib, found.min_tier.as_ref().map(ToString::to_string)),
            (Some(1_536), Some("standard".to_owned()))
        );
        assert!(["qemu-kvm", "container", "container-runc"].iter().all(|runtime| found.allow(runtime)));
        assert!(["qemu-tcg", "qemu", "containers", "con"].iter().all(|runtime| !found.allow(runtime)));
        for (label, value) in [
            (MIN_MEMORY, "2 GiB"),
            (MIN_MEMORY, "0"),
            (MIN_TIER, "Big One"),
            (RUNTIMES, ""),
            (RUNTIMES, "qemu-kvm,,"),
            (RUNTIMES, "QEMU"),
        ] {
            let said = labelled(json!({label: value}));
            assert!(
                matches!(&said, Err(ContractError::Needs { label: named, .. }) if *named == label),
                "{label} {value}"
            );
        }
    }

    #[test]
    fn what_an_image_says_wrongly_is_named() {
        assert_eq!(run(None, &Accounts::default()), Err(ContractError::NoEntrypoint));
        assert_eq!(running(json!({"Cmd": [""]})), Err(ContractError::NoEntrypoint));
        assert!(matches!(running(json!({"Cmd": ["a"], "Labels": {PORT: "0"}})), Err(ContractError::Port { .. })));
        assert!(matches!(running(json!({"Cmd": ["a"], "Labels": {READY: "ready"}})), Err(ContractError::Path { .. })));
        assert!(matches!(
            running(json!({"Cmd": ["a"], "Labels": {READY: "/a\r\nb"}})),
            Err(ContractError::Path { .. })
        ));
        for signal in ["SIGFOO", "", "SIG", "SIGRTMIN+31", "SIGRTMIN-1", "RTMAX+1", "33", "65", "0", "SIGRTMIN+x"] {
            let said = running(json!({"Cmd": ["a"], "StopSignal": signal}));
            assert!(matches!(said, Err(ContractError::Signal(_))), "{signal}");
        }
        assert!(matches!(running(json!({"Cmd": ["a"], "Env": ["novalue"]})), Err(ContractError::Env(_))));
        let long = "x".repeat(MAX_BYTES);
        assert_eq!(running(json!({"Cmd": ["a", long]})), Err(ContractError::TooLarge));
    }
}

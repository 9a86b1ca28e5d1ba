//! What an OCI runtime is told of a container. Pure.

use serde_json::{Value, json};
use wire::v1::pod::{GATEWAY_ADDRESS, GUEST_ADDRESS, PORT};

use super::ContainerSettings;
use super::filter::seccomp;

const NAMESPACES: [&str; 7] = ["user", "pid", "mount", "network", "ipc", "uts", "cgroup"];
/// Where `pod` lies in a container: on the container's own `/run`.
const POD: &str = "/run/palatine/pod";
/// What `pod` itself may do, within the users of its own namespace: give files and processes to
/// the agent's user, and end them. Whatever it starts has none of it, and cannot gain any.
const POD_CAPABILITIES: [&str; 6] =
    ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"];
/// Of `/proc` and `/sys`, what says or changes more than a container has to know.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
/// What lives in memory, and counts for the container's: `/run` and `/dev/shm`.
const RUN_ROOM: &str = "size=16m";

/// A container that is wanted.
pub(super) struct Wanted<'a> {
    pub(super) hostname: &'a str,
    /// Its cgroup, from the root of each hierarchy.
    pub(super) cgroup: &'a str,
    /// Where the host has put its mounts together.
    pub(super) place: &'a str,
    /// The user of the host who is its root.
    pub(super) first_uid: u32,
    /// Where its data is wanted besides `/data`.
    pub(super) state_dir: &'a str,
    pub(super) memory_mib: u64,
    /// The namespaces that it joins, by kind and path. It is made in new ones of all other kinds.
    pub(super) joins: &'a [(&'static str, String)],
    /// Files it may have open, where what makes it has to say so.
    pub(super) open_files: Option<u64>,
}

impl Wanted<'_> {
    pub(super) fn spec(&self) -> Value {
        let ids = json!([{"containerID": 0, "hostID": self.first_uid, "size": ContainerSettings::USERS}]);
        let namespaces = NAMESPACES.map(|kind| match self.joins.iter().find(|(joined, _)| *joined == kind) {
            Some((_, path)) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        });
        json!({
            "ociVersion": "1.0.2",
            "hostname": self.hostname,
            "root": {"path": format!("{}/root", self.place), "readonly": false},
            "process": {
                "terminal": false,
                "user": {"uid": 0, "gid": 0},
                "args": [
                    POD, "run", "--listen", format!("{GUEST_ADDRESS}:{PORT}"), "--node", GATEWAY_ADDRESS.to_string(),
                ],
                "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": POD_CAPABILITIES,
                    "effective": POD_CAPABILITIES,
                    "permitted": POD_CAPABILITIES,
                    "inheritable": [],
                    "ambient": [],
                },
                "rlimits": self.limits(),
                "noNewPrivileges": true,
            },
            "mounts": self.mounts(),
            "linux": {
                "uidMappings": ids,
                "gidMappings": ids,
                "namespaces": namespaces,
                "cgroupsPath": self.cgroup,
                // Its other limits stand in its cgroup before it is made.
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
                "seccomp": seccomp(),
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
            },
        })
    }

    /// Of each process. Others inherit them from containerd: over one in users of its own only who may go over every limit
    /// of the node could set them.
    fn limits(&self) -> Vec<Value> {
        let limit = |kind: &str, most: u64| json!({"type": kind, "hard": most, "soft": most});
        let files = self.open_files.map(|most| [limit("RLIMIT_CORE", 0), limit("RLIMIT_NOFILE", most)]);
        files.into_iter().flatten().collect()
    }

    fn mounts(&self) -> Vec<Value> {
        let mount = |at: &str, kind: &str, options: &[&str]| json!({"destination": at, "type": kind, "source": kind, "options": options});
        let bind = |from: &str, at: &str, options: &[&str]| {
            let from = format!("{}/{from}", self.place);
            let options: Vec<&str> = ["bind", "nosuid", "nodev"].iter().chain(options).copied().collect();
            json!({"destination": at, "type": "bind", "source": from, "options": options})
        };
        let shared = format!("size={}k", self.memory_mib * 1024 / 2);
        // Where its data is the image says: by a name, or by a link of its own. Neither the devices
        // nor `pod` are hidden by it.
        let mut mounts =
            vec![mount("/run", "tmpfs", &["nosuid", "nodev", "mode=755", RUN_ROOM]), bind("data", "/data", &["rw"])];
        if self.state_dir != "/data" {
            mounts.push(bind("data", self.state_dir, &["rw"]));
        }
        mounts.extend([
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=64k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &shared]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            bind("resolv.conf", "/etc/resolv.conf", &["ro"]),
            bind("hosts", "/etc/hosts", &["ro"]),
            bind("hostname", "/etc/hostname", &["ro"]),
            bind("pod", POD, &["ro"]),
        ]);
        mounts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(state_dir: &str) -> Value {
        let joins = [("user", "/proc/7/fd/8".to_owned()), ("network", "/proc/7/fd/9".to_owned())];
        let wanted = Wanted {
            hostname: "agent-123",
            cgroup: "/node/id",
            place: "/run/place",
            first_uid: 70_000,
            state_dir,
            memory_mib: 256,
            joins: &joins,
            open_files: None,
        };
        wanted.spec()
    }

    #[test]
    fn its_root_is_a_plain_user_outside_and_nothing_it_starts_gains_a_right() {
        let spec = spec("/data");
        assert_eq!(spec["linux"]["uidMappings"], json!([{"containerID": 0, "hostID": 70_000, "size": 65_536}]));
        assert_eq!(spec["linux"]["uidMappings"], spec["linux"]["gidMappings"]);
        assert_eq!(spec["process"]["noNewPrivileges"], true);
        let capabilities = &spec["process"]["capabilities"];
        assert_eq!((&capabilities["ambient"], &capabilities["inheritable"]), (&json!([]), &json!([])));
        for reaching_out in ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_PTRACE", "CAP_MKNOD"] {
            assert!(!POD_CAPABILITIES.contains(&reaching_out), "{reaching_out}");
        }
        let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
        let joined: Vec<_> = namespaces.iter().filter_map(|it| Some((&it["type"], it.get("path")?))).collect();
        assert_eq!(joined, [(&json!("user"), &json!("/proc/7/fd/8")), (&json!("network"), &json!("/proc/7/fd/9"))]);
        assert_eq!((namespaces.len(), &spec["process"]["rlimits"]), (7, &json!([])));
    }

    #[test]
    fn its_first_process_is_the_hosts_pod_and_cannot_be_replaced() {
        let spec = spec("/data");
        assert_eq!(spec["process"]["args"][0], POD);
        let mounts = spec["mounts"].as_array().unwrap();
        let at = |path: &str| mounts.iter().position(|mount| mount["destination"] == path).unwrap();
        assert!(at("/run") < at(POD), "it lies on the container's own /run");
        // A link of the image's may have any of the others land anywhere.
        assert_eq!(at(POD), mounts.len() - 1, "nothing is mounted over it");
        assert!(at("/data") < at("/dev") && at("/data") < at("/proc"), "the image's data is not its devices");
        let options = mounts[at(POD)]["options"].as_array().unwrap();
        assert!(options.contains(&json!("ro")), "{options:?}");
    }

    #[test]
    fn data_is_where_the_image_wants_it_too() {
        let count = |spec: &Value| {
            spec["mounts"].as_array().unwrap().iter().filter(|mount| mount["source"] == "/run/place/data").count()
        };
        assert_eq!((count(&spec("/data")), count(&spec("/workspace"))), (1, 2));
    }
}

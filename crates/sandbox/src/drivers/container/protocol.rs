//! The part of containerd's gRPC API that is used (`api/services` of containerd 1.6), by hand:
//! generated code would need a compiler of its own in every build for these few messages. What
//! is not named here is skipped by the decoder.

use std::collections::HashMap;

use prost::Message;

/// `google.protobuf.Empty`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Empty {}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// `containerd.services.version.v1.VersionResponse`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct VersionResponse {
    #[prost(string, tag = "1")]
    pub(super) version: String,
}

/// `containerd.services.containers.v1.Container`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ContainerRecord {
    #[prost(string, tag = "1")]
    pub(super) id: String,
    #[prost(map = "string, string", tag = "2")]
    pub(super) labels: HashMap<String, String>,
    #[prost(message, optional, tag = "4")]
    pub(super) runtime: Option<RuntimeChoice>,
    #[prost(message, optional, tag = "5")]
    pub(super) spec: Option<Any>,
}

/// `containerd.services.containers.v1.Container.Runtime`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RuntimeChoice {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "2")]
    pub(super) options: Option<Any>,
}

/// `containerd.runc.v1.Options`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RuncOptions {
    #[prost(string, tag = "3")]
    pub(super) shim_cgroup: String,
    #[prost(uint32, tag = "4")]
    pub(super) io_uid: u32,
    #[prost(uint32, tag = "5")]
    pub(super) io_gid: u32,
    #[prost(string, tag = "6")]
    pub(super) binary_name: String,
    #[prost(string, tag = "7")]
    pub(super) root: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateContainerRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) container: Option<ContainerRecord>,
}

/// Requests that name a container and nothing else: `DeleteContainerRequest`,
/// `DeleteTaskRequest`, `StartRequest`, `GetRequest` of a task.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OfContainer {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListContainersRequest {}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) containers: Vec<ContainerRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateTaskRequest {
    #[prost(string, tag = "1")]
    pub(super) container_id: String,
    #[prost(string, tag = "5")]
    pub(super) stdout: String,
    #[prost(string, tag = "6")]
    pub(super) stderr: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CreateTaskResponse {
    #[prost(uint32, tag = "2")]
    pub(super) pid: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct GetTaskResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) process: Option<TaskProcess>,
}

/// `containerd.v1.types.Process`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TaskProcess {
    #[prost(uint32, tag = "3")]
    pub(super) pid: u32,
    #[prost(uint32, tag = "9")]
    pub(super) exit_status: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct StartTaskResponse {
    #[prost(uint32, tag = "1")]
    pub(super) pid: u32,
}

impl Any {
    pub(super) fn json(type_url: &str, value: &serde_json::Value) -> Self {
        Self { type_url: type_url.to_owned(), value: value.to_string().into_bytes() }
    }

    pub(super) fn message(type_url: &str, value: &impl Message) -> Self {
        Self { type_url: type_url.to_owned(), value: value.encode_to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_fields_of_containerds_own() {
        let (shim_cgroup, binary_name, root) = ("/s".into(), "crun".into(), "/r".into());
        let options = RuncOptions { shim_cgroup, io_uid: 7, io_gid: 8, binary_name, root };
        assert_eq!(options.encode_to_vec(), b"\x1a\x02/s\x20\x07\x28\x08\x32\x04crun\x3a\x02/r");
        let request =
            CreateTaskRequest { container_id: "a".into(), stdout: "file:///o".into(), stderr: "file:///o".into() };
        assert_eq!(request.encode_to_vec(), b"\x0a\x01a\x2a\x09file:///o\x32\x09file:///o");
    }

    #[test]
    fn what_a_later_containerd_says_besides_is_skipped() {
        // container_id, pid, and a field that is not known here.
        let said = b"\x0a\x01a\x10\x2a\x9a\x06\x03new";
        assert_eq!(CreateTaskResponse::decode(&said[..]).unwrap().pid, 42);
    }
}

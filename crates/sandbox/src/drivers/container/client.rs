//! What is asked of containerd, each call with a deadline.

use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::protocol::{
    ContainerRecord, CreateContainerRequest, CreateTaskRequest, CreateTaskResponse, Empty, GetTaskResponse,
    ListContainersRequest, ListContainersResponse, OfContainer, StartTaskResponse, TaskProcess, VersionResponse,
};
use crate::DriverFailure;

/// How long one call may take. Making a container starts two programs.
const DEADLINE: Duration = Duration::from_secs(20);
/// Bytes of an answer at most, for containerd too: the list of containers has the whole spec of
/// each, some 16 KiB, and there are [`super::ContainerSettings::SLOTS`] at most.
pub(super) const MAX_ANSWER: usize = 128 * 1024 * 1024;
/// The namespace of all our containers; the instance is ours alone.
pub(super) const NAMESPACE: &str = "palatine";

/// A connection to containerd, made anew when it was lost.
#[derive(Clone)]
pub(super) struct Containerd(Channel);

impl Containerd {
    /// To the instance with this socket, which need not be there yet.
    pub(super) fn at(socket: PathBuf) -> Self {
        let connect = tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        });
        // The name is sent and looked at by nobody.
        Self(Endpoint::from_static("http://containerd").connect_with_connector_lazy(connect))
    }

    pub(super) async fn version(&self) -> Result<String, DriverFailure> {
        let said: VersionResponse = self.call("version.v1.Version/Version", Empty {}).await?;
        Ok(said.version)
    }

    pub(super) async fn create_container(&self, record: ContainerRecord) -> Result<(), DriverFailure> {
        let request = CreateContainerRequest { container: Some(record) };
        let _: Empty = self.call("containers.v1.Containers/Create", request).await?;
        Ok(())
    }

    /// The ids of the containers there are.
    pub(super) async fn containers(&self) -> Result<Vec<String>, DriverFailure> {
        let listed: ListContainersResponse =
            self.call("containers.v1.Containers/List", ListContainersRequest {}).await?;
        Ok(listed.containers.into_iter().map(|container| container.id).collect())
    }

    /// Makes the container's first process, which waits for its start; its id on the node.
    pub(super) async fn create_task(&self, request: CreateTaskRequest) -> Result<u32, DriverFailure> {
        let made: CreateTaskResponse = self.call("tasks.v1.Tasks/Create", request).await?;
        Ok(made.pid)
    }

    pub(super) async fn start_task(&self, id: &str) -> Result<(), DriverFailure> {
        let _: StartTaskResponse = self.call("tasks.v1.Tasks/Start", OfContainer { id: id.to_owned() }).await?;
        Ok(())
    }

    /// The container's first process; `None` where there is none.
    pub(super) async fn task(&self, id: &str) -> Result<Option<TaskProcess>, DriverFailure> {
        let said = self.ask("tasks.v1.Tasks/Get", OfContainer { id: id.to_owned() }).await;
        absent(said).map(|said: Option<GetTaskResponse>| said.and_then(|said| said.process))
    }

    /// Removes a task whose process has ended, and its shim. One that is not there is removed.
    pub(super) async fn delete_task(&self, id: &str) -> Result<(), DriverFailure> {
        absent(self.ask::<_, Empty>("tasks.v1.Tasks/Delete", OfContainer { id: id.to_owned() }).await).map(drop)
    }

    /// Removes a container without a task. One that is not there is removed.
    pub(super) async fn delete_container(&self, id: &str) -> Result<(), DriverFailure> {
        let request = OfContainer { id: id.to_owned() };
        absent(self.ask::<_, Empty>("containers.v1.Containers/Delete", request).await).map(drop)
    }

    async fn call<A, B>(&self, method: &str, request: A) -> Result<B, DriverFailure>
    where
        A: Message + Send + Sync + 'static,
        B: Message + Default + Send + Sync + 'static,
    {
        self.ask(method, request).await.map_err(said)
    }

    async fn ask<A, B>(&self, method: &str, request: A) -> Result<B, Status>
    where
        A: Message + Send + Sync + 'static,
        B: Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::try_from(format!("/containerd.services.{method}"))
            .map_err(|error| Status::internal(error.to_string()))?;
        let mut request = Request::new(request);
        request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
        let mut grpc = Grpc::new(self.0.clone()).max_decoding_message_size(MAX_ANSWER);
        let answered = timeout(DEADLINE, async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            grpc.unary(request, path, ProstCodec::<A, B>::default()).await
        });
        let late = |_| Status::deadline_exceeded(format!("no answer within {DEADLINE:?}"));
        Ok(answered.await.map_err(late)??.into_inner())
    }
}

fn absent<T>(answer: Result<T, Status>) -> Result<Option<T>, DriverFailure> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(said(status)),
    }
}

fn said(status: Status) -> DriverFailure {
    match status.code() {
        Code::DeadlineExceeded => DriverFailure::Deadline(DEADLINE),
        _ => DriverFailure::Answer(format!("{} ({:?})", status.message(), status.code())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use needs::needs;
    use serde_json::json;

    use super::super::daemon::{Daemon, Place};
    use super::super::protocol::{Any, RuntimeChoice};
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn as_many_containers_as_a_node_may_have_are_listed() {
        needs!(root, cgroups);
        let state = tempfile::tempdir().unwrap();
        let place = Place::under(state.path()).unwrap();
        let daemon = Daemon::keep(&place, Path::new("containerd").to_owned()).unwrap();
        let containerd = Containerd::at(place.socket());
        let until = tokio::time::Instant::now() + DEADLINE;
        while let Err(error) = containerd.version().await {
            assert!(tokio::time::Instant::now() < until, "{error}");
        }
        // Each has its whole spec: so many are more than gRPC takes where nobody says more, either way.
        let spec = Any::json("types.containerd.io/opencontainers/runtime-spec/1/Spec", &json!("x".repeat(128 * 1024)));
        for number in 0..150 {
            let runtime = Some(RuntimeChoice { name: "io.containerd.runc.v2".to_owned(), options: None });
            let (id, labels, spec) = (format!("c{number}"), [].into(), Some(spec.clone()));
            containerd.create_container(ContainerRecord { id, labels, runtime, spec }).await.unwrap();
        }
        assert_eq!(containerd.containers().await.unwrap().len(), 150);
        tokio::task::spawn_blocking(|| drop(daemon)).await.unwrap();
    }
}

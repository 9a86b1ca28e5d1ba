//! How the node says no.

use axum::response::{IntoResponse, Response};
use domain::RunId;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use wire::fault::{Code, Fault};

use crate::guest::PodError;
use crate::node::{CreateError, VolumeError};
use crate::task::DeleteError;

/// A fault on its way out.
#[derive(Debug)]
pub(crate) struct ApiError(Box<Fault>);

impl ApiError {
    pub(crate) fn new(code: Code, error: impl Into<String>) -> Self {
        Self(Box::new(Fault::new(code, error)))
    }

    /// The sandbox is not there.
    pub(crate) fn unknown(id: RunId) -> Self {
        Self::new(Code::NotFound, format!("this node has no sandbox {id}"))
    }

    /// The agent is there, and answers nobody yet.
    pub(crate) fn not_ready() -> Self {
        Self::new(Code::AgentNotReady, "the agent is not ready")
    }

    /// The guest gave no answer.
    pub(crate) fn unreachable(error: &PodError) -> Self {
        tracing::debug!(error = error as &dyn std::error::Error, "pod is not reached");
        Self::new(Code::AgentUnreachable, "the guest does not answer")
    }

    /// Our fault: logged in full, told in brief.
    pub(crate) fn internal(error: &(dyn std::error::Error + 'static), said: &str) -> Self {
        tracing::error!(error, "{said}");
        Self::new(Code::Internal, format!("{said}; the node's log says why"))
    }

    /// What is said, for an API with a form of its own.
    pub(crate) fn into_fault(self) -> Fault {
        *self.0
    }

    fn field(code: Code, error: &CreateError, field: &str) -> Self {
        Self(Box::new(Fault::new(code, error.to_string()).field(field)))
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        metrics::counter!("hypercore_refusals_total", "code" => self.0.code.as_str()).increment(1);
        json(status, &*self.0)
    }
}

impl From<CreateError> for ApiError {
    fn from(error: CreateError) -> Self {
        let plain = |code| Self::new(code, error.to_string());
        match &error {
            CreateError::Cores => Self::field(Code::InvalidRequest, &error, "cores"),
            CreateError::Memory => Self::field(Code::InvalidRequest, &error, "memory_mib"),
            CreateError::Runtime { .. } | CreateError::DataOfMachine(_) => {
                Self::field(Code::InvalidRequest, &error, "runtime")
            }
            CreateError::NoImage(_) => Self::field(Code::NoImage, &error, "image"),
            CreateError::Environment(_) => plain(Code::InvalidEnvironment),
            CreateError::NoRoom(_) | CreateError::DiskFull { .. } | CreateError::MarksFull => plain(Code::NoCapacity),
            CreateError::Stale => plain(Code::StaleGeneration),
            CreateError::PodRunning { .. } => plain(Code::PodRunning),
            CreateError::NoData(_) => plain(Code::NoData),
            CreateError::Volumes(_) | CreateError::VolumesNeedMachine => {
                Self::field(Code::InvalidRequest, &error, "volumes")
            }
            CreateError::NoVolume { .. } => Self::field(Code::NoVolume, &error, "volumes"),
            CreateError::VolumeAttached { .. } | CreateError::VolumeCopied(_) => {
                Self::field(Code::VolumeAttached, &error, "volumes")
            }
            CreateError::Stopping | CreateError::Quarantined(_) => plain(Code::WrongState),
            CreateError::Ledger(error) if error.is_of_a_full_disk() => {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    "a sandbox cannot be recorded and is not made"
                );
                Self::new(Code::NoCapacity, "this node's disk is full")
            }
            CreateError::Closing => plain(Code::ShuttingDown),
            CreateError::Ledger(_) | CreateError::Images(_) | CreateError::Disk(_) | CreateError::Driver(_) => {
                Self::internal(&error, "the sandbox could not be made")
            }
        }
    }
}

impl From<VolumeError> for ApiError {
    fn from(error: VolumeError) -> Self {
        let plain = |code| Self::new(code, error.to_string());
        match &error {
            VolumeError::Size(_) | VolumeError::Shrinks { .. } => {
                Self(Box::new(Fault::new(Code::InvalidRequest, error.to_string()).field("size_mib")))
            }
            VolumeError::Unknown(_) => plain(Code::NoVolume),
            VolumeError::Attached { .. } | VolumeError::Taken(_) => plain(Code::VolumeAttached),
            VolumeError::Copying(_) | VolumeError::SnapshotInUse(_) => plain(Code::WrongState),
            VolumeError::NoSnapshot(_) => plain(Code::NotFound),
            VolumeError::NoRoom(_) => plain(Code::NoCapacity),
            VolumeError::QueueFull(_) => plain(Code::RateLimited),
            VolumeError::TooLarge(_) => plain(Code::ExceedsCapacity),
            VolumeError::Disk(_) | VolumeError::Look(_) => Self::internal(&error, "the volume could not be worked on"),
        }
    }
}

impl From<DeleteError> for ApiError {
    fn from(error: DeleteError) -> Self {
        match &error {
            DeleteError::PodRunning { .. } => Self::new(Code::PodRunning, error.to_string()),
            DeleteError::Closing | DeleteError::StillThere(_) => {
                Self::internal(&error, "the sandbox is not gone yet and is tried again")
            }
        }
    }
}

/// An answer in JSON.
pub(crate) fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let kind = HeaderValue::from_static("application/json");
            (status, [(CONTENT_TYPE, kind)], body).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

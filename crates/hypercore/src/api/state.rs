//! What the handlers share, and how they read a path and a query.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query};
use domain::RunId;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use wire::fault::Code;

use super::fault::ApiError;
use crate::node::Node;
use crate::task::SandboxHandle;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) node: Arc<Node>,
    pub(crate) metrics: PrometheusHandle,
    /// Ends what would otherwise stream for ever.
    pub(crate) closing: CancellationToken,
}

impl Api {
    /// A sandbox of the ledger.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    pub(crate) fn sandbox(&self, id: RunId) -> Result<Arc<SandboxHandle>, ApiError> {
        let registry = &self.node.shared.registry;
        registry.get(id).ok_or_else(|| match registry.quarantine.get(id) {
            Some(held) => ApiError::new(Code::WrongState, format!("the sandbox is quarantined: {}", held.cause)),
            None => ApiError::unknown(id),
        })
    }
}

/// The id in a path.
pub(crate) fn id(path: Result<Path<RunId>, PathRejection>) -> Result<RunId, ApiError> {
    path.map(|Path(id)| id).map_err(|_| ApiError::new(Code::InvalidRequest, domain::IdError::Run.to_string()))
}

/// The parameters of a path.
pub(crate) fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, ApiError> {
    query.map(|Query(query)| query).map_err(|error| ApiError::new(Code::InvalidRequest, error.body_text()))
}

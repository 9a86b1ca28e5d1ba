//! What is kept of agents has the calls of volumes: their handlers, and their descriptions in its words.

use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::{Ref, RefOr};
use utoipa_axum::router::UtoipaMethodRouter;

/// How the paths of volumes' files begin, and those of what is kept of an agent.
const VOLUMES: &str = "/volumecontent/{id}";
pub(crate) const KEPT: &str = "/agents/{id}/data";

/// The same calls at the paths of what is kept of an agent.
pub(crate) fn kept<S>((schemas, mut paths, methods): UtoipaMethodRouter<S>) -> UtoipaMethodRouter<S> {
    let described = std::mem::take(&mut paths.paths).into_iter();
    paths.paths = described.map(|(path, item)| (path.replacen(VOLUMES, KEPT, 1), item_of(item))).collect();
    (schemas, paths, methods)
}

fn item_of(mut item: PathItem) -> PathItem {
    let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
    for operation in operations.into_iter().flatten() {
        reword(operation);
    }
    item
}

fn reword(operation: &mut Operation) {
    operation.tags = Some(vec!["agents".to_owned()]);
    operation.operation_id = operation.operation_id.take().map(|id| id.replacen("volume", "data", 1));
    operation.summary = operation.summary.take().map(|said| format!("Of what is kept of an agent: {}", lower(&said)));
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter
            && parameter.name == "id"
        {
            parameter.description = Some("The agent".to_owned());
            parameter.schema = Some(Ref::from_schema_name("PodId").into());
        }
    }
}

fn lower(said: &str) -> String {
    let mut rest = said.chars();
    rest.next().map(|first| first.to_lowercase().chain(rest).collect()).unwrap_or_default()
}

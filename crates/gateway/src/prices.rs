//! What requests to an agent cost: read and set by its holder.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::AgentId;
use http::{Response, StatusCode};
use wire::fault::{Code, Fault};
use wire::vault::Prices;

use crate::caller::{Owner, Reader};
use crate::refusal::Refusal;
use crate::shape::{Id, json, parse_json};
use crate::state::Gateway;
use crate::toll::{MAX_PATH, MAX_PRICES, is_plain};

/// What requests to an agent cost.
#[utoipa::path(
    get,
    operation_id = "prices",
    tag = "payments",
    path = "/agents/{id}/prices",
    params(("id" = AgentId, Path, description = "The agent")),
    responses((status = 200, description = "Its prices", body = Prices), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = [])
    )
)]
pub(crate) async fn prices(
    State(gateway): State<Arc<Gateway>>,
    Id(id): Id,
    Reader(owner): Reader,
) -> Result<Response<Body>, Refusal> {
    gateway.owned(id, owner.wallet).await?;
    json(StatusCode::OK, &Prices { prices: gateway.parts.store.prices_of(id).await? })
}

/// Sets what requests to an agent cost, in place of all its old prices.
#[utoipa::path(
    put,
    operation_id = "setPrices",
    tag = "payments",
    path = "/agents/{id}/prices",
    params(("id" = AgentId, Path, description = "The agent")),
    request_body = Prices,
    responses((status = 200, description = "Its prices", body = Prices), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn set_prices(
    State(gateway): State<Arc<Gateway>>,
    Id(id): Id,
    owner: Owner,
) -> Result<Response<Body>, Refusal> {
    gateway.owned(id, owner.wallet).await?;
    let wish: Prices = parse_json(&owner.body)?;
    check(&wish)?;
    if !wish.prices.is_empty() {
        // Somebody must be there to be paid.
        gateway.treasury()?.payee(owner.wallet).await?;
    }
    gateway.change_prices(id, wish.prices.clone()).await?;
    json(StatusCode::OK, &wish)
}

impl Gateway {
    /// Changes prices. A caller who hangs up meanwhile stops nothing: whoever asks
    /// after the change must not be told the old ones.
    async fn change_prices(self: &Arc<Self>, id: AgentId, prices: store::Prices) -> Result<(), Refusal> {
        let gateway = Arc::clone(self);
        let change = self.tasks.spawn(async move {
            let changed = gateway.parts.store.set_prices(id, prices).await;
            // Also when it is not known whether they did.
            gateway.tariff.changed(id);
            changed
        });
        Ok(change.await.map_err(|_| Refusal::new(Code::Internal, "the prices' change broke off; set them again"))??)
    }
}

fn check(wish: &Prices) -> Result<(), Refusal> {
    let refused = |said: String| Refusal::from(Fault::new(Code::InvalidRequest, said).field("prices"));
    if wish.prices.len() > MAX_PRICES {
        return Err(refused(format!("an agent has at most {MAX_PRICES} prices")));
    }
    for path in wish.prices.keys() {
        if !is_plain(path) || path.len() > MAX_PATH || path.contains(['?', '#', '%']) {
            return Err(refused(format!("{path:?} is not the beginning of a path, such as /v1/chat/completions")));
        }
    }
    Ok(())
}

//! What requests to an agent cost: read and set by its holder.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use domain::{PodId, Usdc};
use http::{Response, StatusCode};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use wire::fault::{Code, Fault};
use wire::v1::vault::Prices;

use crate::api::extract::{PodPath, json, parse_json, shortened};
use crate::auth::caller::{Holder, ReadOnlyHolder};
use crate::error::ApiError;
use crate::ingress::pricing::{MAX_PRICES, can_be_priced};
use crate::state::Gateway;

/// What requests to an agent cost.
#[utoipa::path(
    get,
    operation_id = "prices",
    tag = "payments",
    path = "/agents/{id}/prices",
    params(("id" = PodId, Path, description = "The agent")),
    responses((status = 200, description = "Its prices", body = Prices), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(
        ("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []),
        ("wallet" = [], "signature" = [], "timestamp" = []),
        ("bearer" = []),
        ("api_key" = [])
    )
)]
pub(crate) async fn prices(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    ReadOnlyHolder(holder): ReadOnlyHolder,
) -> Result<Response<Body>, ApiError> {
    gateway.owned(id, holder.wallet).await?;
    json(StatusCode::OK, &Prices { prices: gateway.parts.store.prices_of(id).await? })
}

/// Sets what requests to an agent cost, in place of all its old prices.
#[utoipa::path(
    put,
    operation_id = "setPrices",
    tag = "payments",
    path = "/agents/{id}/prices",
    params(("id" = PodId, Path, description = "The agent")),
    request_body = Prices,
    responses((status = 200, description = "Its prices", body = Prices), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn set_prices(
    State(gateway): State<Arc<Gateway>>,
    PodPath(id): PodPath,
    holder: Holder,
) -> Result<Response<Body>, ApiError> {
    gateway.owned(id, holder.wallet).await?;
    let request = read(&holder.body)?;
    if !request.prices.is_empty() {
        // Somebody must be there to be paid.
        gateway.treasury()?.payee(holder.wallet).await?;
    }
    gateway.change_prices(id, request.prices.clone()).await?;
    json(StatusCode::OK, &request)
}

impl Gateway {
    /// Changes prices, in a task that a client who hangs up does not end: whoever asks
    /// after the change must not be told the old ones.
    async fn change_prices(self: &Arc<Self>, id: PodId, prices: store::Prices) -> Result<(), ApiError> {
        let gateway = Arc::clone(self);
        let change = self.tasks.spawn(async move {
            let changed = gateway.parts.store.set_prices(id, prices).await;
            // Also where the outcome is not known.
            gateway.price_cache.changed(id);
            changed
        });
        Ok(change
            .await
            .map_err(|_| ApiError::new(Code::Internal, "the change of prices broke off; set them again"))??)
    }
}

/// [`Prices`], as they were sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPrices {
    prices: Entries,
}

/// Each path with its amount. A path may stand there twice.
struct Entries(Vec<(String, serde_json::Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("amounts by path")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(All)
    }
}

/// Reads prices, each of which can hold.
fn read(body: &[u8]) -> Result<Prices, ApiError> {
    let SetPrices { prices: Entries(entries) } = parse_json(body)?;
    if entries.len() > MAX_PRICES {
        let said = format!("an agent has at most {MAX_PRICES} prices");
        return Err(Fault::new(Code::InvalidRequest, said).field("prices").into());
    }
    let (mut prices, mut seen) = (store::Prices::new(), BTreeSet::new());
    for (path, amount) in entries {
        let price = read_one(&path, &amount, &mut seen);
        let price = price.map_err(|said| Fault::new(Code::InvalidRequest, said).field(field(&path)))?;
        prices.insert(path, price);
    }
    Ok(Prices { prices })
}

/// `seen` are the paths before, in lower case: requests are told apart no further.
fn read_one(path: &str, amount: &serde_json::Value, seen: &mut BTreeSet<String>) -> Result<Usdc, String> {
    if !can_be_priced(path) {
        return Err("this is not the beginning of a path that needs no encoding, such as /v1/chat/completions".into());
    }
    if !seen.insert(path.to_ascii_lowercase()) {
        return Err("this path has two prices; letters count as equal in both cases".into());
    }
    let amount = amount.as_str().and_then(|text| Usdc::from_micros(text).ok());
    let amount = amount.filter(|amount| i64::try_from(amount.0).is_ok());
    amount.ok_or_else(|| format!("a price is a text of whole micro-USDC, from 0 to {}", i64::MAX))
}

fn field(path: &str) -> String {
    format!("prices.{}", shortened(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_2_1_a_price_that_could_not_hold_is_refused_by_its_name() {
        let refused = |body: &str| {
            let fault = Fault::from(read(body.as_bytes()).unwrap_err());
            assert_eq!(fault.code, Code::InvalidRequest, "{fault}");
            fault.field
        };
        for (body, field) in [
            (r#"{"prices": {"/echo/résumé": "1"}}"#, "prices./echo/résumé"),
            (r#"{"prices": {"/a b": "1"}}"#, "prices./a b"),
            (r#"{"prices": {"/v1": "1", "/V1": "2"}}"#, "prices./V1"),
            (r#"{"prices": {"/v1": "1", "/v1": "1"}}"#, "prices./v1"),
            (r#"{"prices": {"/v1": "9223372036854775808"}}"#, "prices./v1"),
            (r#"{"prices": {"/ok": "1", "/v1": "-1"}}"#, "prices./v1"),
            (r#"{"prices": {"/v1": 1}}"#, "prices./v1"),
            (r#"{"prices": {"/v1": "0.5"}}"#, "prices./v1"),
            (r#"{"price": {}}"#, "price"),
        ] {
            assert_eq!(refused(body).as_deref(), Some(field), "{body}");
        }
        let most = read(br#"{"prices": {"/v1": "9223372036854775807", "/free": "0"}}"#).unwrap();
        assert_eq!(most.prices["/v1"], Usdc(u64::try_from(i64::MAX).unwrap()));
        let many: Vec<String> = (0..=MAX_PRICES).map(|count| format!(r#""/{count}": "1""#)).collect();
        assert_eq!(refused(&format!(r#"{{"prices": {{{}}}}}"#, many.join(", "))).as_deref(), Some("prices"));
    }
}

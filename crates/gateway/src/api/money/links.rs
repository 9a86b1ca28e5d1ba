//! Which owner a holder belongs to: said by both, over the same text.

use std::sync::Arc;

use auth::{EvmSignature, HolderSignature, Link as Signed, LinkRequirements, LinkTerms};
use axum::body::Body;
use axum::extract::State;
use http::{Response, StatusCode};
use store::{AccountLink, ReplayKey};
use wire::fault::{Code, Fault};
use wire::v1::vault::{LinkRequest, LinkResponse};

use crate::api::extract::{json, parse_json};
use crate::auth::caller::Holder;
use crate::error::ApiError;
use crate::state::Gateway;

/// Links the caller's wallet to an owner: the EVM address that its agents' vaults
/// belong to. The newest text counts.
#[utoipa::path(
    post,
    operation_id = "link",
    tag = "payments",
    path = "/links",
    request_body = LinkRequest,
    responses((status = 200, description = "They are linked", body = LinkResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn link(State(gateway): State<Arc<Gateway>>, holder: Holder) -> Result<Response<Body>, ApiError> {
    let chain_id = gateway.treasury()?.chain_id();
    let request: LinkRequest = parse_json(&holder.body)?;
    let link = signed(&request)?;
    let asked = LinkRequirements { gateways: &gateway.audiences, chain_id, holder: holder.wallet };
    link.verify(&asked, holder.now).map_err(|error| refused(&error.to_string()))?;
    // Each text is good once, like every signed message.
    gateway.spend(ReplayKey { key: link.terms.replay_key(), expires_at: link.terms.expires_at }).await?;
    let link = AccountLink {
        holder: holder.wallet,
        owner: link.terms.owner,
        text: request.text,
        holder_signature: request.holder_signature,
        owner_signature: request.owner_signature,
        signed_at: link.terms.issued_at,
    };
    if !gateway.parts.store.keep_link(link.clone()).await? {
        return Err(refused("a newer text links this wallet already; sign a new one"));
    }
    json(StatusCode::OK, &response_of(link))
}

/// Whom the caller's wallet is linked to.
#[utoipa::path(
    get,
    operation_id = "myLink",
    tag = "payments",
    path = "/links",
    responses((status = 200, description = "The link, with both signatures", body = LinkResponse), (status = "default", description = "What is wrong, by `code`", body = Fault)),
    security(("wallet" = [], "signature" = [], "timestamp" = [], "audience" = []))
)]
pub(crate) async fn own_link(State(gateway): State<Arc<Gateway>>, holder: Holder) -> Result<Response<Body>, ApiError> {
    let link = gateway.parts.store.link_of(holder.wallet).await?;
    json(StatusCode::OK, &response_of(link.ok_or_else(ApiError::not_linked)?))
}

fn signed(request: &LinkRequest) -> Result<Signed, ApiError> {
    let field = |name: &'static str, said: String| ApiError::from(Fault::new(Code::InvalidRequest, said).field(name));
    let terms = LinkTerms::parse(&request.text).map_err(|error| field("text", error.to_string()))?;
    let holder_signature: HolderSignature = request
        .holder_signature
        .parse()
        .map_err(|error: auth::LinkError| field("holder_signature", error.to_string()))?;
    let owner_signature: EvmSignature = request
        .owner_signature
        .parse()
        .map_err(|error: auth::EvmSignatureError| field("owner_signature", error.to_string()))?;
    Ok(Signed { terms, holder_signature, owner_signature })
}

fn refused(said: &str) -> ApiError {
    ApiError::new(Code::InvalidEvmSignature, said)
}

fn response_of(link: AccountLink) -> LinkResponse {
    LinkResponse {
        holder: link.holder,
        owner: link.owner,
        text: link.text,
        holder_signature: link.holder_signature,
        owner_signature: link.owner_signature,
    }
}

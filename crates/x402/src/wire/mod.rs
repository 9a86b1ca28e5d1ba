//! The dialects: each is parsed, whole and strictly, into one internal type, and
//! written from it.

mod cronos;
mod facilitator;
mod header;
mod headers;
mod number;
mod payload;
mod rca;
mod settled;
mod stated;
mod terms;
mod v1;
mod v2;

pub(crate) use cronos::{CronosRequest, CronosSettleResult, settled_by_cronos};
pub(crate) use facilitator::{FacilitatorRequest, parse_request};
pub(crate) use header::{to_base64, to_json};
pub(crate) use settled::{SettleResponse, read_receipt};
pub(crate) use stated::{PaymentHeader, StatedOffer};
pub(crate) use terms::read_terms;
pub(crate) use v1::{v1_header, v1_required};
pub(crate) use v2::{v2_extra, v2_header, v2_required};

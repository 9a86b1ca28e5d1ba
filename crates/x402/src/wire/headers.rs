//! The payment among a request's headers, whichever dialect it is in.

use http::{HeaderMap, HeaderName};

use super::header::MAX_HEADER;
use super::v1::v1_payment;
use super::v2::v2_payment;
use crate::unverified::{PAYMENT_SIGNATURE, UnverifiedPayment, X_PAYMENT};
use crate::{Dialect, InvalidReason, Tokens};

impl UnverifiedPayment {
    /// The payment among a request's headers; none if there is none. Two of
    /// them, even of the same text, are refused: a proxy might see the one and
    /// we the other.
    ///
    /// # Errors
    /// The dialect it was meant in, and what is wrong with it.
    pub fn from_headers(headers: &HeaderMap, tokens: &Tokens) -> Result<Option<Self>, (Dialect, InvalidReason)> {
        let values = |name: &HeaderName| headers.get_all(name).iter().collect::<Vec<_>>();
        let (v2, v1) = (values(&PAYMENT_SIGNATURE), values(&X_PAYMENT));
        match (v2.as_slice(), v1.as_slice()) {
            ([], []) => Ok(None),
            ([value], []) => v2_payment(value.as_bytes(), tokens).map(Some).map_err(|reason| (Dialect::V2, reason)),
            ([], [value]) => v1_payment(value.as_bytes(), tokens).map(Some).map_err(|reason| (Dialect::V1, reason)),
            ([], _) => Err((Dialect::V1, InvalidReason::Payload)),
            _ => Err((Dialect::V2, InvalidReason::Payload)),
        }
    }

    /// Bytes of a payment's header at most.
    pub const MAX_HEADER: usize = MAX_HEADER;
}

//! In which of Connect's two forms the messages of a call are.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::Serialize;
use wire::process::{PROTO_STREAM_TYPE, PROTO_UNARY_TYPE, STREAM_TYPE, UNARY_TYPE};
use wire::proto::ToProto;

/// The form of a call's messages. What ends a stream, and a failure, is JSON in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Json,
    /// Protobuf's binary form.
    Proto,
}

impl Codec {
    /// That of a call which has one message and one answer.
    pub(crate) fn of_unary(headers: &HeaderMap) -> Option<Self> {
        Self::of(headers, Self::unary_type)
    }

    /// That of a call whose messages come in envelopes.
    pub(crate) fn of_stream(headers: &HeaderMap) -> Option<Self> {
        Self::of(headers, Self::stream_type)
    }

    fn of(headers: &HeaderMap, name: fn(Self) -> &'static str) -> Option<Self> {
        let given = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim();
        [Self::Json, Self::Proto].into_iter().find(|codec| given.eq_ignore_ascii_case(name(*codec)))
    }

    /// The content type of unary calls.
    pub(crate) const fn unary_type(self) -> &'static str {
        match self {
            Self::Json => UNARY_TYPE,
            Self::Proto => PROTO_UNARY_TYPE,
        }
    }

    /// The content type of stream calls.
    pub(crate) const fn stream_type(self) -> &'static str {
        match self {
            Self::Json => STREAM_TYPE,
            Self::Proto => PROTO_STREAM_TYPE,
        }
    }

    /// A message in this form.
    pub(crate) fn encode(self, message: &(impl Serialize + ToProto)) -> Bytes {
        match self {
            // None of these messages has a map with keys that are no text: they always serialise.
            Self::Json => serde_json::to_vec(message).unwrap_or_default().into(),
            Self::Proto => message.to_proto().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_known_by_its_content_type_and_by_nothing_else() {
        let of = |kind: &'static str| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap())]);
            (Codec::of_unary(&headers), Codec::of_stream(&headers))
        };
        assert_eq!(of("application/json; charset=utf-8"), (Some(Codec::Json), None));
        assert_eq!(of("Application/Proto"), (Some(Codec::Proto), None));
        assert_eq!(of("application/connect+json"), (None, Some(Codec::Json)));
        assert_eq!(of("application/connect+proto"), (None, Some(Codec::Proto)));
        assert_eq!(of("application/grpc+proto"), (None, None));
        assert_eq!(Codec::of_unary(&HeaderMap::new()), None);
    }
}

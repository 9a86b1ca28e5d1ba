//! One trace id for each request (W3C Trace Context, level 1).

use std::fmt::Write;

use http::HeaderMap;
use http::header::HeaderName;
use wire::TRACEPARENT;

/// The trace's id, so that a caller can name it to the operator.
pub(crate) const X_TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// Where a request stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    id: [u8; 16],
    span: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// The caller's trace, or a new one; in either case with a span of our own,
    /// made of these random bytes.
    pub(crate) fn of(headers: &HeaderMap, random: [u8; 24]) -> Self {
        let mut fresh = Self { id: [0; 16], span: [0; 8], flags: 1 };
        fresh.id.copy_from_slice(&random[..16]);
        fresh.span.copy_from_slice(&random[16..]);
        // Zeros mean "none" in either place.
        fresh.id[0] |= u8::from(fresh.id == [0; 16]);
        fresh.span[0] |= u8::from(fresh.span == [0; 8]);
        let caller = headers.get(TRACEPARENT).and_then(|value| parse(value.as_bytes()));
        caller.map_or(fresh, |(id, flags)| Self { id, flags, ..fresh })
    }

    /// The trace's id, as logs and answers carry it.
    pub(crate) fn id(&self) -> String {
        hex::encode(self.id)
    }

    /// What is passed on.
    pub(crate) fn traceparent(&self) -> String {
        let mut text = String::with_capacity(55);
        // Writing to a string cannot fail.
        let _ = write!(text, "00-{}-{}-{:02x}", hex::encode(self.id), hex::encode(self.span), self.flags);
        text
    }
}

/// The trace id and flags of a `traceparent`; `None` for what is none.
fn parse(text: &[u8]) -> Option<([u8; 16], u8)> {
    let shaped = text.len() == 55
        && text.starts_with(b"00-")
        && text[35] == b'-'
        && text[52] == b'-'
        && !text.iter().any(u8::is_ascii_uppercase);
    if !shaped {
        return None;
    }
    let (mut id, mut parent, mut flags) = ([0; 16], [0; 8], [0; 1]);
    hex::decode_to_slice(&text[3..35], &mut id).ok()?;
    hex::decode_to_slice(&text[36..52], &mut parent).ok()?;
    hex::decode_to_slice(&text[53..], &mut flags).ok()?;
    (id != [0; 16] && parent != [0; 8]).then_some((id, flags[0]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

    fn of(text: &str) -> TraceContext {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, text.parse().unwrap());
        TraceContext::of(&headers, [9; 24])
    }

    #[test]
    fn a_callers_trace_goes_on_under_a_span_of_ours() {
        assert_eq!(of(GIVEN).id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(of(GIVEN).traceparent(), "00-4bf92f3577b34da6a3ce929d0e0e4736-0909090909090909-00");
    }

    #[test]
    fn what_is_no_traceparent_begins_a_new_trace() {
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let upper = GIVEN.to_uppercase();
        for text in ["", "x", zero, &upper, &GIVEN[..54], "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"] {
            assert_eq!(of(text).id(), "09".repeat(16), "{text}");
        }
        assert_ne!(TraceContext::of(&HeaderMap::new(), [0; 24]).id(), "0".repeat(32));
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(text: Vec<u8>) {
            let _ = parse(&text);
        }

        #[test]
        fn what_we_pass_on_we_accept(random: [u8; 24]) {
            let trace = TraceContext::of(&HeaderMap::new(), random);
            prop_assert_eq!(parse(trace.traceparent().as_bytes()), Some((trace.id, trace.flags)));
        }
    }
}

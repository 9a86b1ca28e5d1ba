//! What flows between gateway, node and guest.

use bytes::BytesMut;
use serde_json::from_slice;
use wire::connect::Envelope;
use wire::fault::Fault;
use wire::filesystem::{EntryInfo, WatchFrame, WatchRequest};
use wire::process::{RpcError, SendInputRequest, SendSignalRequest, StartRequest, StreamInputRequest, UpdateRequest};
use wire::proto::FromProto as _;
use wire::v1::node::{MarksPage, Sandbox, SandboxSpec};
use wire::v1::public::SpawnRequest;

/// Connect's envelopes, as they arrive: whole, and byte by byte.
pub(crate) fn envelopes(bytes: &[u8]) {
    let whole = all(&mut BytesMut::from(bytes));
    let (mut arrived, mut slowly) = (BytesMut::new(), Vec::new());
    for byte in bytes {
        arrived.extend_from_slice(&[*byte]);
        match all(&mut arrived) {
            Ok(more) => slowly.extend(more),
            Err(()) => break,
        }
    }
    if let Ok(whole) = whole {
        assert_eq!(whole, slowly, "how the bytes arrive changes nothing");
        let mut again = BytesMut::new();
        whole.iter().for_each(|envelope| envelope.encode(&mut again));
        assert!(bytes.starts_with(&again), "what was read is what was sent");
    }
}

fn all(from: &mut BytesMut) -> Result<Vec<Envelope>, ()> {
    let mut read = Vec::new();
    while let Some(envelope) = Envelope::decode(from).map_err(drop)? {
        read.push(envelope);
    }
    Ok(read)
}

/// The JSON that programs take from each other: what is read and written is read again.
pub(crate) fn documents(bytes: &[u8]) {
    macro_rules! same {
        ($($kind:ty),*) => {$(
            if let Ok(read) = from_slice::<$kind>(bytes) {
                let written = serde_json::to_vec(&read).unwrap_or_default();
                let again = from_slice::<$kind>(&written).map(|again| serde_json::to_vec(&again).unwrap_or_default());
                assert!(again.is_ok_and(|again| again == written), stringify!($kind));
            }
        )*};
    }
    same!(Fault, SpawnRequest, SandboxSpec, Sandbox, MarksPage, StartRequest, RpcError, EntryInfo, WatchFrame);
    protobuf(bytes);
}

/// The same calls' messages in protobuf: read, or refused.
fn protobuf(bytes: &[u8]) {
    macro_rules! read {
        ($($kind:ty),*) => {$( let _ = <$kind>::from_proto(bytes); )*};
    }
    read!(StartRequest, StreamInputRequest, SendInputRequest, SendSignalRequest, UpdateRequest, WatchRequest);
}

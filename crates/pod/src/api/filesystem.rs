//! The calls of `wire::filesystem`: in, and their answers out.

use std::convert::Infallible;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, Stream, StreamExt as _};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use wire::filesystem::{
    EntryInfo, EntryResponse, ListDirRequest, ListDirResponse, MoveRequest, PathRequest, SetModeRequest, WatchFrame,
    WatchRequest, WatchStarted, Watcher, WatcherEvents,
};
use wire::process::{Keepalive, RpcCode, RpcError};
use wire::proto::{Empty, ToProto};

use super::rpc::{RpcCall, RpcResult, failure, fault, path_base};
use crate::agent::Pod;
use crate::codec::Codec;
use crate::exec::{StreamOptions, end_of_stream, envelope, until};
use crate::files::{self, FileError, FileMode, PathError, Watch, WatchSpec};
use crate::process::User;

/// `POST /filesystem.Filesystem/{call}`.
pub(super) async fn filesystem(
    State(pod): State<Pod>,
    Path(call): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let is_stream = call == "WatchDir";
    let rpc = if is_stream { RpcCall::of_stream(pod, headers) } else { RpcCall::of_unary(pod, headers) };
    match rpc {
        Ok(rpc) if is_stream => watch_dir(&rpc, &body).await,
        Ok(rpc) => unary(&rpc, &call, &body).await,
        Err(refused) => refused.into_response(),
    }
}

async fn unary(rpc: &RpcCall, call: &str, body: &Bytes) -> Response {
    let answered = match rpc.timeout() {
        Ok(None) => answer(rpc, call, body).await,
        Ok(Some(left)) => timeout(left, answer(rpc, call, body))
            .await
            .unwrap_or_else(|_| Err(fault(RpcCode::DeadlineExceeded, "the call's time is over"))),
        Err(error) => Err(error),
    };
    answered.unwrap_or_else(|error| failure(&error))
}

async fn answer(rpc: &RpcCall, call: &str, body: &Bytes) -> RpcResult<Response> {
    match call {
        "Stat" => {
            let request: PathRequest = rpc.parse(body)?;
            entry(rpc, [&request.path], |[path]| files::stat(path)).await
        }
        "MakeDir" => {
            let request: PathRequest = rpc.parse(body)?;
            entry(rpc, [&request.path], |[path]| files::make_dir(path)).await
        }
        "SetMode" => {
            let request: SetModeRequest = rpc.parse(body)?;
            let mode: FileMode = request.mode.parse().map_err(RpcError::from)?;
            let (user, [path]) = resolve(rpc, [&request.path])?;
            let entry = rpc.pod.files().run(&user, move || files::set_mode(&path, mode)).await?;
            Ok(rpc.answered(&EntryResponse { entry }))
        }
        "Move" => {
            let request: MoveRequest = rpc.parse(body)?;
            entry(rpc, [&request.source, &request.destination], |[from, to]| files::move_to(from, to)).await
        }
        "Remove" => {
            let request: PathRequest = rpc.parse(body)?;
            let (user, [path]) = resolve(rpc, [&request.path])?;
            rpc.pod.files().run(&user, move || files::remove(&path)).await?;
            Ok(rpc.answered(&Empty {}))
        }
        "ListDir" => list_dir(rpc, rpc.parse(body)?).await,
        "CreateWatcher" => {
            let watcher_id = rpc.pod.watchers().keep(watch(rpc, rpc.parse(body)?).await?)?;
            Ok(rpc.answered(&Watcher { watcher_id }))
        }
        "GetWatcherEvents" => {
            let watch = rpc.pod.watchers().find(&rpc.parse::<Watcher>(body)?.watcher_id)?;
            Ok(rpc.answered(&WatcherEvents { events: watch.take().await? }))
        }
        "RemoveWatcher" => {
            rpc.pod.watchers().remove(&rpc.parse::<Watcher>(body)?.watcher_id)?;
            Ok(rpc.answered(&Empty {}))
        }
        _ => Err(fault(RpcCode::Unimplemented, format!("there is no call {call}"))),
    }
}

/// The call's user, and the absolute paths that it names.
fn resolve<const N: usize>(rpc: &RpcCall, named: [&str; N]) -> RpcResult<(User, [String; N])> {
    let plan = rpc.plan()?;
    let (user, _) = rpc.user(&plan)?;
    let base = path_base(&plan, &user);
    let mut paths = [const { String::new() }; N];
    for (path, name) in paths.iter_mut().zip(named) {
        *path = base.resolve(name).map_err(|error: PathError| RpcError::from(FileError::from(error)))?;
    }
    Ok((user, paths))
}

async fn entry<const N: usize>(
    rpc: &RpcCall,
    named: [&str; N],
    work: fn(&[String; N]) -> Result<EntryInfo, FileError>,
) -> RpcResult<Response> {
    let (user, paths) = resolve(rpc, named)?;
    let entry = rpc.pod.files().run(&user, move || work(&paths)).await?;
    Ok(rpc.answered(&EntryResponse { entry }))
}

/// The answer is written as the folder is read, so that its entries are held once.
async fn list_dir(rpc: &RpcCall, request: ListDirRequest) -> RpcResult<Response> {
    let (user, [path]) = resolve(rpc, [&request.path])?;
    if rpc.codec == Codec::Proto {
        let listed = rpc.pod.files().run(&user, move || {
            let mut bytes = Vec::new();
            // Messages behind each other are one with the entries of all.
            files::list(&path, request.depth, |entry| {
                bytes.extend_from_slice(&ListDirResponse { entries: vec![entry] }.to_proto());
            })?;
            Ok(bytes)
        });
        return Ok(([(CONTENT_TYPE, rpc.codec.unary_type())], listed.await?).into_response());
    }
    let listed = rpc.pod.files().run(&user, move || {
        let mut json = br#"{"entries":["#.to_vec();
        files::list(&path, request.depth, |entry| {
            if !json.ends_with(b"[") {
                json.push(b',');
            }
            // An entry is texts and numbers: it always serialises.
            let _ = serde_json::to_writer(&mut json, &entry);
        })?;
        json.extend_from_slice(b"]}");
        Ok(json)
    });
    Ok(([(CONTENT_TYPE, rpc.codec.unary_type())], listed.await?).into_response())
}

async fn watch(rpc: &RpcCall, request: WatchRequest) -> RpcResult<Watch> {
    let (user, [path]) = resolve(rpc, [&request.path])?;
    let slot = rpc.pod.watchers().slot()?;
    let spec = WatchSpec {
        path,
        recursive: request.recursive,
        include_entry: request.include_entry,
        allow_network: request.allow_network_mounts,
    };
    Ok(Watch::start(spec, &user, slot).await?)
}

async fn watch_dir(rpc: &RpcCall, body: &Bytes) -> Response {
    let begun = async {
        let permit = rpc.pod.stream_permit();
        let permit = permit.ok_or_else(|| fault(RpcCode::ResourceExhausted, "too many streams are open"))?;
        let options = rpc.options()?;
        let watch = watch(rpc, rpc.unwrap(body)?).await?;
        Ok(frames(watch, options, permit))
    };
    let bytes = match begun.await {
        Ok(frames) => frames.left_stream(),
        Err(error) => stream::iter([end_of_stream(Some(error))]).right_stream(),
    };
    ([(CONTENT_TYPE, rpc.codec.stream_type())], Body::from_stream(bytes.map(Ok::<_, Infallible>))).into_response()
}

/// The stream of what happens: a start, events, and at its deadline or failure its end.
fn frames(watch: Watch, options: StreamOptions, permit: OwnedSemaphorePermit) -> impl Stream<Item = Bytes> + Send {
    let start = envelope(options.codec, &WatchFrame::Start(WatchStarted {}));
    let rest = stream::unfold(Some((watch, permit)), move |open| async move {
        let (watch, permit) = open?;
        let event = tokio::select! {
            biased;
            event = watch.next() => event.map(WatchFrame::Filesystem),
            () = until(options.deadline) => Err(fault(RpcCode::DeadlineExceeded, "the call's time is over")),
            () = tokio::time::sleep(options.keepalive) => Ok(WatchFrame::Keepalive(Keepalive {})),
        };
        Some(match event {
            Ok(frame) => (envelope(options.codec, &frame), Some((watch, permit))),
            Err(error) => (end_of_stream(Some(error)), None),
        })
    });
    stream::iter([start]).chain(rest)
}

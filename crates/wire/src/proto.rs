//! The messages of [`process`](crate::process) and [`filesystem`](crate::filesystem) in protobuf's binary form, as E2B's
//! `spec/envd/{process/process,filesystem/filesystem}.proto` number their fields.
//!
//! The types are those of the JSON form: here is only how each is written and read, by private messages of `prost`'s. A
//! failure, and what ends a stream, is JSON in both forms: so Connect has it.

use std::collections::BTreeMap;

use prost::{Message, Oneof};
use prost_types::Timestamp;

use crate::filesystem::{
    EntryInfo, EntryResponse, EventType, FileType, FilesystemEvent, ListDirRequest, ListDirResponse, MoveRequest,
    PathRequest, SetModeRequest, WatchFrame, WatchRequest, Watcher, WatcherEvents,
};
use crate::process::{
    Base64, Ended, InputPiece, ListResponse, Output, ProcessConfig, ProcessEvent, ProcessEventFrame, ProcessInput, Pty,
    PtySize, SelectRequest, Selector, SendInputRequest, SendSignalRequest, Signal, StartRequest, StreamInputRequest,
    UpdateRequest,
};

/// Why bytes are not the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// They are no protobuf, or have other types. What they hold is not told: it may be secret.
    #[error("the body is not this call's message in protobuf")]
    Malformed,
    /// A field that must be there is absent, or holds what it may not.
    #[error("{0}")]
    Field(&'static str),
}

/// A message that is read.
pub trait FromProto: Sized {
    /// Reads it.
    ///
    /// # Errors
    /// See [`ProtoError`].
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError>;
}

/// A message that is written.
pub trait ToProto {
    /// Writes it.
    fn to_proto(&self) -> Vec<u8>;
}

fn read<M: Message + Default>(bytes: &[u8]) -> Result<M, ProtoError> {
    M::decode(bytes).map_err(|_| ProtoError::Malformed)
}

/// The answer of calls that say nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Empty {}

impl ToProto for Empty {
    fn to_proto(&self) -> Vec<u8> {
        Vec::new()
    }
}

#[derive(Clone, PartialEq, Message)]
struct PtyMessage {
    #[prost(message, optional, tag = "1")]
    size: Option<SizeMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct SizeMessage {
    #[prost(uint32, tag = "1")]
    cols: u32,
    #[prost(uint32, tag = "2")]
    rows: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ConfigMessage {
    #[prost(string, tag = "1")]
    cmd: String,
    #[prost(string, repeated, tag = "2")]
    args: Vec<String>,
    #[prost(btree_map = "string, string", tag = "3")]
    envs: BTreeMap<String, String>,
    #[prost(string, optional, tag = "4")]
    cwd: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct StartMessage {
    #[prost(message, optional, tag = "1")]
    process: Option<ConfigMessage>,
    #[prost(message, optional, tag = "2")]
    pty: Option<PtyMessage>,
    #[prost(string, optional, tag = "3")]
    tag: Option<String>,
    #[prost(bool, optional, tag = "4")]
    stdin: Option<bool>,
}

#[derive(Clone, PartialEq, Message)]
struct SelectorMessage {
    #[prost(oneof = "SelectorKind", tags = "1, 2")]
    selector: Option<SelectorKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum SelectorKind {
    #[prost(uint32, tag = "1")]
    Pid(u32),
    #[prost(string, tag = "2")]
    Tag(String),
}

#[derive(Clone, PartialEq, Message)]
struct SelectMessage {
    #[prost(message, optional, tag = "1")]
    process: Option<SelectorMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct InputMessage {
    #[prost(oneof = "InputKind", tags = "1, 2")]
    input: Option<InputKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum InputKind {
    #[prost(bytes = "vec", tag = "1")]
    Stdin(Vec<u8>),
    #[prost(bytes = "vec", tag = "2")]
    Pty(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
struct SendInputMessage {
    #[prost(message, optional, tag = "1")]
    process: Option<SelectorMessage>,
    #[prost(message, optional, tag = "2")]
    input: Option<InputMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct StreamInputMessage {
    #[prost(oneof = "StreamInputKind", tags = "1, 2, 3")]
    event: Option<StreamInputKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum StreamInputKind {
    #[prost(message, tag = "1")]
    Start(SelectMessage),
    #[prost(message, tag = "2")]
    Data(PieceMessage),
    #[prost(message, tag = "3")]
    Keepalive(EmptyMessage),
}

#[derive(Clone, PartialEq, Message)]
struct PieceMessage {
    #[prost(message, optional, tag = "2")]
    input: Option<InputMessage>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct EmptyMessage {}

#[derive(Clone, PartialEq, Message)]
struct SignalMessage {
    #[prost(message, optional, tag = "1")]
    process: Option<SelectorMessage>,
    #[prost(int32, tag = "2")]
    signal: i32,
}

#[derive(Clone, PartialEq, Message)]
struct UpdateMessage {
    #[prost(message, optional, tag = "1")]
    process: Option<SelectorMessage>,
    #[prost(message, optional, tag = "2")]
    pty: Option<PtyMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct ProcessMessage {
    #[prost(message, optional, tag = "1")]
    config: Option<ConfigMessage>,
    #[prost(uint32, tag = "2")]
    pid: u32,
    #[prost(string, optional, tag = "3")]
    tag: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ProcessesMessage {
    #[prost(message, repeated, tag = "1")]
    processes: Vec<ProcessMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct FrameMessage {
    #[prost(message, optional, tag = "1")]
    event: Option<EventMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct EventMessage {
    #[prost(oneof = "EventKind", tags = "1, 2, 3, 4")]
    event: Option<EventKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum EventKind {
    #[prost(message, tag = "1")]
    Start(StartedMessage),
    #[prost(message, tag = "2")]
    Data(DataMessage),
    #[prost(message, tag = "3")]
    End(EndedMessage),
    #[prost(message, tag = "4")]
    Keepalive(EmptyMessage),
}

#[derive(Clone, Copy, PartialEq, Message)]
struct StartedMessage {
    #[prost(uint32, tag = "1")]
    pid: u32,
}

#[derive(Clone, PartialEq, Message)]
struct DataMessage {
    #[prost(oneof = "DataKind", tags = "1, 2, 3")]
    output: Option<DataKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum DataKind {
    #[prost(bytes = "vec", tag = "1")]
    Stdout(Vec<u8>),
    #[prost(bytes = "vec", tag = "2")]
    Stderr(Vec<u8>),
    #[prost(bytes = "vec", tag = "3")]
    Pty(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
struct EndedMessage {
    #[prost(sint32, tag = "1")]
    exit_code: i32,
    #[prost(bool, tag = "2")]
    exited: bool,
    #[prost(string, tag = "3")]
    status: String,
    #[prost(string, optional, tag = "4")]
    error: Option<String>,
}

/// What names one path; `SetMode`, which is ours, has its permissions behind it.
#[derive(Clone, PartialEq, Message)]
struct PathMessage {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(string, tag = "2")]
    mode: String,
}

#[derive(Clone, PartialEq, Message)]
struct MoveMessage {
    #[prost(string, tag = "1")]
    source: String,
    #[prost(string, tag = "2")]
    destination: String,
}

#[derive(Clone, PartialEq, Message)]
struct ListDirMessage {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(uint32, tag = "2")]
    depth: u32,
}

#[derive(Clone, PartialEq, Message)]
struct WatchMessage {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(bool, tag = "2")]
    recursive: bool,
    #[prost(bool, tag = "3")]
    include_entry: bool,
    #[prost(bool, tag = "4")]
    allow_network_mounts: bool,
}

#[derive(Clone, PartialEq, Message)]
struct WatcherMessage {
    #[prost(string, tag = "1")]
    watcher_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct EntryMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(string, tag = "3")]
    path: String,
    #[prost(int64, tag = "4")]
    size: i64,
    #[prost(uint32, tag = "5")]
    mode: u32,
    #[prost(string, tag = "6")]
    permissions: String,
    #[prost(string, tag = "7")]
    owner: String,
    #[prost(string, tag = "8")]
    group: String,
    #[prost(message, optional, tag = "9")]
    modified_time: Option<Timestamp>,
    #[prost(string, optional, tag = "10")]
    symlink_target: Option<String>,
    #[prost(btree_map = "string, string", tag = "11")]
    metadata: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryOf {
    #[prost(message, optional, tag = "1")]
    entry: Option<EntryMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct Entries {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<EntryMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct FileEventMessage {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(message, optional, tag = "3")]
    entry: Option<EntryMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct FileEvents {
    #[prost(message, repeated, tag = "1")]
    events: Vec<FileEventMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct WatchFrameMessage {
    #[prost(oneof = "WatchKind", tags = "1, 2, 3")]
    event: Option<WatchKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum WatchKind {
    #[prost(message, tag = "1")]
    Start(EmptyMessage),
    #[prost(message, boxed, tag = "2")]
    Filesystem(Box<FileEventMessage>),
    #[prost(message, tag = "3")]
    Keepalive(EmptyMessage),
}

impl From<ConfigMessage> for ProcessConfig {
    fn from(ConfigMessage { cmd, args, envs, cwd }: ConfigMessage) -> Self {
        Self { cmd, args, envs, cwd }
    }
}

impl From<&ProcessConfig> for ConfigMessage {
    fn from(config: &ProcessConfig) -> Self {
        let ProcessConfig { cmd, args, envs, cwd } = config.clone();
        Self { cmd, args, envs, cwd }
    }
}

impl TryFrom<PtyMessage> for Pty {
    type Error = ProtoError;

    fn try_from(message: PtyMessage) -> Result<Self, ProtoError> {
        let SizeMessage { cols, rows } = message.size.unwrap_or_default();
        let number = |number: u32| u16::try_from(number).map_err(|_| ProtoError::Field("pty.size is beyond 65535"));
        Ok(Self { size: PtySize { cols: number(cols)?, rows: number(rows)? } })
    }
}

fn selected(message: Option<SelectorMessage>) -> Result<Selector, ProtoError> {
    match message.and_then(|message| message.selector) {
        Some(SelectorKind::Pid(pid)) => Ok(Selector::Pid(pid)),
        Some(SelectorKind::Tag(tag)) => Ok(Selector::Tag(tag)),
        None => Err(ProtoError::Field("process names neither pid nor tag")),
    }
}

fn input(message: Option<InputMessage>) -> Result<ProcessInput, ProtoError> {
    match message.and_then(|message| message.input) {
        Some(InputKind::Stdin(bytes)) => Ok(ProcessInput::Stdin(Base64(bytes))),
        Some(InputKind::Pty(bytes)) => Ok(ProcessInput::Pty(Base64(bytes))),
        None => Err(ProtoError::Field("input has neither stdin nor pty")),
    }
}

impl FromProto for StartRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let StartMessage { process, pty, tag, stdin } = read(bytes)?;
        let process = process.map(ProcessConfig::from).unwrap_or_default();
        Ok(Self { process, pty: pty.map(Pty::try_from).transpose()?, tag, stdin })
    }
}

impl FromProto for SelectRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let SelectMessage { process } = read(bytes)?;
        Ok(Self { process: selected(process)? })
    }
}

impl FromProto for SendInputRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let message: SendInputMessage = read(bytes)?;
        Ok(Self { process: selected(message.process)?, input: input(message.input)? })
    }
}

impl FromProto for StreamInputRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let StreamInputMessage { event } = read(bytes)?;
        match event {
            Some(StreamInputKind::Start(select)) => {
                Ok(Self::Start(SelectRequest { process: selected(select.process)? }))
            }
            Some(StreamInputKind::Data(piece)) => Ok(Self::Data(InputPiece { input: input(piece.input)? })),
            Some(StreamInputKind::Keepalive(_)) => Ok(Self::Keepalive(crate::process::Keepalive {})),
            None => Err(ProtoError::Field("event is none of start, data and keepalive")),
        }
    }
}

impl FromProto for SendSignalRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let message: SignalMessage = read(bytes)?;
        let signal = match message.signal {
            15 => Signal::Term,
            9 => Signal::Kill,
            _ => return Err(ProtoError::Field("signal is neither SIGNAL_SIGTERM nor SIGNAL_SIGKILL")),
        };
        Ok(Self { process: selected(message.process)?, signal })
    }
}

impl FromProto for UpdateRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let message: UpdateMessage = read(bytes)?;
        Ok(Self { process: selected(message.process)?, pty: message.pty.map(Pty::try_from).transpose()? })
    }
}

impl FromProto for PathRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let PathMessage { path, .. } = read(bytes)?;
        Ok(Self { path })
    }
}

impl FromProto for SetModeRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let PathMessage { path, mode } = read(bytes)?;
        Ok(Self { path, mode })
    }
}

impl FromProto for MoveRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let MoveMessage { source, destination } = read(bytes)?;
        Ok(Self { source, destination })
    }
}

impl FromProto for ListDirRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let ListDirMessage { path, depth } = read(bytes)?;
        Ok(Self { path, depth })
    }
}

impl FromProto for WatchRequest {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let WatchMessage { path, recursive, include_entry, allow_network_mounts } = read(bytes)?;
        Ok(Self { path, recursive, include_entry, allow_network_mounts })
    }
}

impl FromProto for Watcher {
    fn from_proto(bytes: &[u8]) -> Result<Self, ProtoError> {
        let WatcherMessage { watcher_id } = read(bytes)?;
        Ok(Self { watcher_id })
    }
}

impl ToProto for Watcher {
    fn to_proto(&self) -> Vec<u8> {
        WatcherMessage { watcher_id: self.watcher_id.clone() }.encode_to_vec()
    }
}

impl ToProto for ListResponse {
    fn to_proto(&self) -> Vec<u8> {
        let processes = self.processes.iter().map(|process| ProcessMessage {
            config: Some((&process.config).into()),
            pid: process.pid,
            tag: process.tag.clone(),
        });
        ProcessesMessage { processes: processes.collect() }.encode_to_vec()
    }
}

impl From<&ProcessEvent> for EventKind {
    fn from(event: &ProcessEvent) -> Self {
        match event {
            ProcessEvent::Start(started) => Self::Start(StartedMessage { pid: started.pid }),
            ProcessEvent::Data(output) => Self::Data(DataMessage {
                output: Some(match output {
                    Output::Stdout(Base64(bytes)) => DataKind::Stdout(bytes.clone()),
                    Output::Stderr(Base64(bytes)) => DataKind::Stderr(bytes.clone()),
                    Output::Pty(Base64(bytes)) => DataKind::Pty(bytes.clone()),
                }),
            }),
            ProcessEvent::End(ended) => {
                let Ended { exit_code, exited, status, error } = ended.clone();
                Self::End(EndedMessage { exit_code, exited, status, error })
            }
            ProcessEvent::Keepalive(_) => Self::Keepalive(EmptyMessage {}),
        }
    }
}

impl ToProto for ProcessEventFrame {
    fn to_proto(&self) -> Vec<u8> {
        FrameMessage { event: Some(EventMessage { event: Some((&self.event).into()) }) }.encode_to_vec()
    }
}

const fn file_type(kind: FileType) -> i32 {
    match kind {
        FileType::Unspecified => 0,
        FileType::File => 1,
        FileType::Directory => 2,
        FileType::Symlink => 3,
    }
}

const fn event_type(kind: EventType) -> i32 {
    match kind {
        EventType::Unspecified => 0,
        EventType::Create => 1,
        EventType::Write => 2,
        EventType::Remove => 3,
        EventType::Rename => 4,
        EventType::Chmod => 5,
    }
}

impl From<&EntryInfo> for EntryMessage {
    fn from(entry: &EntryInfo) -> Self {
        let entry = entry.clone();
        Self {
            name: entry.name,
            kind: file_type(entry.kind),
            path: entry.path,
            size: entry.size,
            mode: entry.mode,
            permissions: entry.permissions,
            owner: entry.owner,
            group: entry.group,
            // What is no time in the one form is none in the other.
            modified_time: entry.modified_time.and_then(|time| time.parse().ok()),
            symlink_target: entry.symlink_target,
            metadata: entry.metadata,
        }
    }
}

impl ToProto for EntryResponse {
    fn to_proto(&self) -> Vec<u8> {
        EntryOf { entry: Some((&self.entry).into()) }.encode_to_vec()
    }
}

impl ToProto for ListDirResponse {
    fn to_proto(&self) -> Vec<u8> {
        Entries { entries: self.entries.iter().map(Into::into).collect() }.encode_to_vec()
    }
}

impl From<&FilesystemEvent> for FileEventMessage {
    fn from(event: &FilesystemEvent) -> Self {
        let entry = event.entry.as_deref().map(Into::into);
        Self { name: event.name.clone(), kind: event_type(event.kind), entry }
    }
}

impl ToProto for WatcherEvents {
    fn to_proto(&self) -> Vec<u8> {
        FileEvents { events: self.events.iter().map(Into::into).collect() }.encode_to_vec()
    }
}

impl ToProto for WatchFrame {
    fn to_proto(&self) -> Vec<u8> {
        let event = match self {
            Self::Start(_) => WatchKind::Start(EmptyMessage {}),
            Self::Filesystem(event) => WatchKind::Filesystem(Box::new(event.into())),
            Self::Keepalive(_) => WatchKind::Keepalive(EmptyMessage {}),
        };
        WatchFrameMessage { event: Some(event) }.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Write as _};

    use proptest::prelude::*;
    use serde::de::DeserializeOwned;

    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// Both forms of a request are the same message.
    fn reads<T: FromProto + DeserializeOwned + PartialEq + Debug>(json: &str, hex: &str) {
        let expected: T = serde_json::from_str(json).unwrap();
        assert_eq!(T::from_proto(&bytes(hex)).unwrap(), expected, "{json}");
    }

    /// An answer is written in the bytes of E2B's own classes.
    fn writes<T: ToProto + DeserializeOwned>(json: &str, hex: &str) {
        let message: T = serde_json::from_str(json).unwrap();
        let mut written = String::new();
        message.to_proto().iter().for_each(|byte| write!(written, "{byte:02x}").unwrap());
        assert_eq!(written, hex, "{json}");
    }

    /// Made by the classes that E2B's SDK has generated: the JSON is theirs too.
    #[test]
    fn requests_are_read_as_e2bs_own_classes_write_them() {
        reads::<StartRequest>(
            r#"{"process":{"cmd":"/bin/bash","args":["-l","-c","echo hi"],"envs":{"A":"1","B":"2"},"cwd":"/tmp"},"pty":{"size":{"cols":80,"rows":24}},"tag":"t","stdin":false}"#,
            "0a320a092f62696e2f6261736812022d6c12022d6312076563686f2068691a060a01421201321a060a014112013122042f746d7012060a04085010181a01742000",
        );
        reads::<StartRequest>(r#"{"process":{"cmd":"ls"}}"#, "0a040a026c73");
        reads::<SelectRequest>(r#"{"process":{"pid":300}}"#, "0a0308ac02");
        reads::<SelectRequest>(r#"{"process":{"tag":"shell"}}"#, "0a0712057368656c6c");
        reads::<SendInputRequest>(r#"{"process":{"pid":7},"input":{"stdin":"aGkK"}}"#, "0a02080712050a0368690a");
        reads::<SendInputRequest>(r#"{"process":{"pid":7},"input":{"pty":""}}"#, "0a02080712021200");
        reads::<StreamInputRequest>(r#"{"start":{"process":{"pid":7}}}"#, "0a040a020807");
        reads::<StreamInputRequest>(r#"{"data":{"input":{"stdin":"aGk="}}}"#, "120612040a026869");
        reads::<StreamInputRequest>(r#"{"keepalive":{}}"#, "1a00");
        reads::<SendSignalRequest>(r#"{"process":{"pid":7},"signal":"SIGNAL_SIGKILL"}"#, "0a0208071009");
        reads::<SendSignalRequest>(r#"{"process":{"pid":7},"signal":"SIGNAL_SIGTERM"}"#, "0a020807100f");
        reads::<UpdateRequest>(
            r#"{"process":{"pid":7},"pty":{"size":{"cols":100,"rows":30}}}"#,
            "0a02080712060a040864101e",
        );
        reads::<UpdateRequest>(r#"{"process":{"pid":7}}"#, "0a020807");
        reads::<PathRequest>(r#"{"path":"a/b"}"#, "0a03612f62");
        reads::<PathRequest>("{}", "");
        reads::<MoveRequest>(r#"{"source":"a","destination":"b"}"#, "0a0161120162");
        reads::<ListDirRequest>(r#"{"path":"a","depth":3}"#, "0a01611003");
        reads::<WatchRequest>(
            r#"{"path":"a","recursive":true,"includeEntry":true,"allowNetworkMounts":true}"#,
            "0a0161100118012001",
        );
        reads::<Watcher>(r#"{"watcherId":"w1"}"#, "0a027731");
    }

    #[test]
    fn answers_are_written_as_e2bs_own_classes_write_them() {
        writes::<ListResponse>(
            r#"{"processes":[{"config":{"cmd":"sleep","args":["10"],"cwd":"/"},"pid":9,"tag":"t"},{"config":{"cmd":"cat"},"pid":70000}]}"#,
            "0a150a0e0a05736c6565701202313022012f10091a01740a0b0a050a0363617410f0a204",
        );
        writes::<ProcessEventFrame>(r#"{"event":{"start":{"pid":7}}}"#, "0a040a020807");
        writes::<ProcessEventFrame>(r#"{"event":{"data":{"stdout":"aGkK"}}}"#, "0a0712050a0368690a");
        writes::<ProcessEventFrame>(r#"{"event":{"data":{"stderr":"/w=="}}}"#, "0a0512031201ff");
        writes::<ProcessEventFrame>(r#"{"event":{"data":{"pty":""}}}"#, "0a0412021a00");
        writes::<ProcessEventFrame>(
            r#"{"event":{"end":{"exitCode":-1,"status":"signal: killed","error":"signal: killed"}}}"#,
            "0a241a2208011a0e7369676e616c3a206b696c6c6564220e7369676e616c3a206b696c6c6564",
        );
        writes::<ProcessEventFrame>(
            r#"{"event":{"end":{"exitCode":3,"exited":true,"status":"exit status 3","error":"exit status 3"}}}"#,
            "0a241a22080610011a0d65786974207374617475732033220d65786974207374617475732033",
        );
        writes::<ProcessEventFrame>(
            r#"{"event":{"end":{"exited":true,"status":"exit status 0"}}}"#,
            "0a131a1110011a0d65786974207374617475732030",
        );
        writes::<ProcessEventFrame>(r#"{"event":{"keepalive":{}}}"#, "0a022200");
        writes::<EntryResponse>(
            r#"{"entry":{"name":"b","type":"FILE_TYPE_FILE","path":"/a/b","size":"5","mode":420,"permissions":"-rw-r--r--","owner":"user","group":"user","modifiedTime":"2026-01-02T03:04:05.000000006Z","symlinkTarget":"/c","metadata":{"author":"mish"}}}"#,
            "0a460a016210011a042f612f62200528a403320a2d72772d722d2d722d2d3a04757365724204757365724a0808a5ebdcca06100652022f635a0e0a06617574686f7212046d697368",
        );
        writes::<EntryResponse>(
            r#"{"entry":{"name":"d","type":"FILE_TYPE_DIRECTORY","path":"/d","size":"4096","mode":493,"permissions":"drwxr-xr-x","owner":"0","group":"0","modifiedTime":"1969-12-31T23:59:59.5Z"}}"#,
            "0a340a016410021a022f6420802028ed03320a64727778722d78722d783a01304201304a1108ffffffffffffffffff011080cab5ee01",
        );
        writes::<ListDirResponse>(
            r#"{"entries":[{"name":"x","type":"FILE_TYPE_SYMLINK","path":"/x"},{"name":"y","path":"/y"}]}"#,
            "0a090a017810031a022f780a070a01791a022f79",
        );
        writes::<ListDirResponse>("{}", "");
        writes::<Watcher>(r#"{"watcherId":"w1"}"#, "0a027731");
        writes::<WatcherEvents>(
            r#"{"events":[{"name":"a","type":"EVENT_TYPE_CREATE"},{"name":"b","type":"EVENT_TYPE_CHMOD","entry":{"name":"b","path":"/b"}}]}"#,
            "0a050a016110010a0e0a016210051a070a01621a022f62",
        );
        writes::<WatchFrame>(r#"{"start":{}}"#, "0a00");
        writes::<WatchFrame>(r#"{"filesystem":{"name":"a","type":"EVENT_TYPE_WRITE"}}"#, "12050a01611002");
        writes::<WatchFrame>(r#"{"keepalive":{}}"#, "1a00");
        writes::<Empty>("{}", "");
    }

    #[test]
    fn what_is_absent_or_has_no_meaning_is_told_by_its_field() {
        let said = |error: ProtoError| error.to_string();
        assert!(said(SelectRequest::from_proto(b"").unwrap_err()).contains("neither pid nor tag"));
        assert!(said(SendInputRequest::from_proto(&bytes("0a020807")).unwrap_err()).contains("neither stdin nor pty"));
        assert!(said(SendSignalRequest::from_proto(&bytes("0a0208071001")).unwrap_err()).contains("signal is neither"));
        assert!(said(StreamInputRequest::from_proto(b"").unwrap_err()).contains("none of start"));
        let wide = bytes("0a02080712060a0408808004");
        assert!(said(UpdateRequest::from_proto(&wide).unwrap_err()).contains("beyond 65535"));
        assert_eq!(PathRequest::from_proto(&[0x0a, 5, b'a']), Err(ProtoError::Malformed), "cut off");
        // A field of a later protocol says nothing here.
        assert_eq!(PathRequest::from_proto(&bytes("0a0161c23e0178")).unwrap().path, "a");
    }

    proptest! {
        #[test]
        fn strangers_bytes_break_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = StartRequest::from_proto(&bytes);
            let _ = StreamInputRequest::from_proto(&bytes);
            let _ = WatchRequest::from_proto(&bytes);
        }
    }
}

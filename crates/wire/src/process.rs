//! E2B's process protocol (`process.Process`) over the Connect protocol, as JSON, or as protobuf ([`proto`](crate::proto)).
//!
//! | call | kind | request | answer |
//! |---|---|---|---|
//! | `Start` | stream | [`StartRequest`] | [`ProcessEventFrame`]s: `start`, `data`…, `end` |
//! | `Connect` | stream | [`SelectRequest`] | the same, from the backlog on |
//! | `List` | unary | `{}` | [`ListResponse`] |
//! | `SendInput` | unary | [`SendInputRequest`] | `{}` |
//! | `StreamInput` | client stream | [`StreamInputRequest`]s: `start`, `data`… | `{}`, when all is written |
//! | `CloseStdin` | unary | [`SelectRequest`] | `{}` |
//! | `SendSignal` | unary | [`SendSignalRequest`] | `{}` |
//! | `Update` | unary | [`UpdateRequest`] | `{}` |
//!
//! Unary calls are plain `application/json`, or `application/proto`; a failure is an HTTP status with an
//! [`RpcError`] as its body. Stream calls are `application/connect+json`, or `+proto`: the
//! request is one [`envelope`](crate::connect), the answer is always HTTP 200
//! and a row of envelopes, the last of which carries the end-of-stream flag and
//! an [`EndOfStream`]. These two are JSON in any case. `StreamInput` is one too, but its request goes on: the answer
//! begins at once and ends when the process has taken all of it. One that breaks off
//! takes its process with it, which would otherwise believe that its input was whole.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The content type of stream calls.
pub const STREAM_TYPE: &str = "application/connect+json";
/// The content type of unary calls.
pub const UNARY_TYPE: &str = "application/json";
/// The same for messages in protobuf's binary form.
pub const PROTO_STREAM_TYPE: &str = "application/connect+proto";
/// The same for messages in protobuf's binary form.
pub const PROTO_UNARY_TYPE: &str = "application/proto";
/// Milliseconds the call may take, as a decimal. On `Start` the process is
/// killed when they are over.
pub const TIMEOUT_HEADER: &str = "connect-timeout-ms";
/// Seconds between `keepalive` events on a silent stream, as a decimal.
pub const KEEPALIVE_HEADER: &str = "keepalive-ping-interval";
/// In the answers of `Start` and `Connect`, and ours: bytes of output that the process had
/// written before the first one that follows. Who attaches again knows by it what it has seen.
pub const OFFSET_HEADER: &str = "palatine-output-offset";

/// Bytes on the wire: base64 in JSON, as protobuf's JSON mapping has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        STANDARD.decode(text.as_bytes()).map(Self).map_err(de::Error::custom)
    }
}

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProcessConfig {
    /// The program: a path, or a name looked up in `PATH`.
    pub cmd: String,
    /// Its arguments, without the program itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Variables on top of the agent's own environment.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub envs: BTreeMap<String, String>,
    /// Working directory; the agent's own where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// A terminal for the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pty {
    /// Its size.
    pub size: PtySize,
}

/// A terminal's size in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PtySize {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// `Start`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StartRequest {
    /// What to run.
    pub process: ProcessConfig,
    /// A terminal, if one is wanted: output then comes as `pty` data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
    /// A name to select it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Whether standard input is kept open for `SendInput`; `true` where absent,
    /// as older SDKs expect. `/dev/null` otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<bool>,
}

/// Which process: by number or by tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Selector {
    /// By its process id.
    Pid(u32),
    /// By its tag.
    Tag(String),
}

/// `Connect` and `CloseStdin`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectRequest {
    /// Which process.
    pub process: Selector,
}

/// Input for a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessInput {
    /// For standard input.
    Stdin(Base64),
    /// For the terminal.
    Pty(Base64),
}

/// `SendInput`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendInputRequest {
    /// Which process.
    pub process: Selector,
    /// What it reads.
    pub input: ProcessInput,
}

/// One message of `StreamInput`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StreamInputRequest {
    /// Always the first: which process.
    Start(SelectRequest),
    /// What it reads next.
    Data(InputPiece),
    /// Nothing; the stream is alive.
    Keepalive(Keepalive),
}

/// A piece of a process's input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputPiece {
    /// The bytes, and where they go.
    pub input: ProcessInput,
}

/// A signal of the protocol; by name, or by number as protobuf's JSON allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "SignalForm")]
pub enum Signal {
    /// Asks it to end.
    #[serde(rename = "SIGNAL_SIGTERM")]
    Term,
    /// Ends it.
    #[serde(rename = "SIGNAL_SIGKILL")]
    Kill,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SignalForm {
    Name(String),
    Number(i32),
}

impl TryFrom<SignalForm> for Signal {
    type Error = &'static str;

    fn try_from(form: SignalForm) -> Result<Self, Self::Error> {
        match form {
            SignalForm::Number(15) => Ok(Self::Term),
            SignalForm::Number(9) => Ok(Self::Kill),
            SignalForm::Name(name) if name == "SIGNAL_SIGTERM" => Ok(Self::Term),
            SignalForm::Name(name) if name == "SIGNAL_SIGKILL" => Ok(Self::Kill),
            SignalForm::Name(_) | SignalForm::Number(_) => Err("it is neither SIGNAL_SIGTERM nor SIGNAL_SIGKILL"),
        }
    }
}

/// `SendSignal`: to the process and all of its group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendSignalRequest {
    /// Which process.
    pub process: Selector,
    /// Which signal.
    pub signal: Signal,
}

/// `Update`: the terminal's new size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRequest {
    /// Which process.
    pub process: Selector,
    /// The new terminal; nothing changes where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
}

/// One process of a [`ListResponse`]. Its variables are not shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// What it runs.
    pub config: ProcessConfig,
    /// Its process id.
    pub pid: u32,
    /// Its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// The answer of `List`: what runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ListResponse {
    /// In the order of their process ids.
    pub processes: Vec<ProcessInfo>,
}

/// One message of `Start` and `Connect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEventFrame {
    /// What happened.
    pub event: ProcessEvent,
}

/// What happened to a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessEvent {
    /// Always the first.
    Start(Started),
    /// Output.
    Data(Output),
    /// Always the last.
    End(Ended),
    /// Nothing; the stream is alive.
    Keepalive(Keepalive),
}

/// The process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its process id.
    pub pid: u32,
}

/// Output of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Output {
    /// From standard output.
    Stdout(Base64),
    /// From standard error.
    Stderr(Base64),
    /// From the terminal.
    Pty(Base64),
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ended {
    /// Its exit code; -1 where a signal ended it.
    pub exit_code: i32,
    /// Whether it exited by itself.
    pub exited: bool,
    /// In words: `exit status 3`, `signal: killed`.
    pub status: String,
    /// The same words, where it did not end with 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a status says of a process that a signal ended.
const BY_SIGNAL: &str = "signal: ";

/// Signals that have words, by their numbers.
const SIGNALS: [(i32, &str); 15] = [
    (1, "hangup"),
    (2, "interrupt"),
    (3, "quit"),
    (4, "illegal instruction"),
    (5, "trace/breakpoint trap"),
    (6, "aborted"),
    (7, "bus error"),
    (8, "floating point exception"),
    (9, "killed"),
    (10, "user defined signal 1"),
    (11, "segmentation fault"),
    (12, "user defined signal 2"),
    (13, "broken pipe"),
    (14, "alarm clock"),
    (15, "terminated"),
];

impl Ended {
    /// An exit with this code.
    #[must_use]
    pub fn by_itself(code: i32) -> Self {
        let status = format!("exit status {code}");
        let error = (code != 0).then(|| status.clone());
        Self { exit_code: code, exited: true, status, error }
    }

    /// An end by this signal.
    #[must_use]
    pub fn by_signal(number: i32) -> Self {
        let words = SIGNALS.iter().find(|(known, _)| *known == number);
        let words = words.map_or_else(|| format!("signal {number}"), |(_, words)| (*words).to_owned());
        let status = format!("{BY_SIGNAL}{words}");
        Self { exit_code: -1, exited: false, error: Some(status.clone()), status }
    }

    /// The signal that ended it, if one did.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        let words = self.status.strip_prefix(BY_SIGNAL).filter(|_| !self.exited)?;
        // A core dump changes nothing.
        let words = words.strip_suffix(" (core dumped)").unwrap_or(words);
        let known = SIGNALS.iter().find(|(_, known)| *known == words).map(|(number, _)| *number);
        known.or_else(|| words.strip_prefix("signal ")?.parse().ok())
    }
}

/// An empty message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keepalive {}

/// The last envelope of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndOfStream {
    /// Why the call failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<RpcError>,
}

/// A failure, as Connect writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({})", code.as_str())]
pub struct RpcError {
    /// For programs.
    pub code: RpcCode,
    /// For people.
    #[serde(default)]
    pub message: String,
}

macro_rules! rpc_codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $status:literal;)*) => {
        /// Connect's codes, as far as the protocol uses them, with the HTTP
        /// status of a unary failure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum RpcCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl RpcCode {
            /// The code as it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The HTTP status of a unary failure.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

rpc_codes! {
    /// The caller went away.
    Canceled = "canceled", 499;
    /// The request makes no sense: no such program, directory or user.
    InvalidArgument = "invalid_argument", 400;
    /// The call's time is over.
    DeadlineExceeded = "deadline_exceeded", 504;
    /// No such process, file or folder.
    NotFound = "not_found", 404;
    /// What is to be made is there.
    AlreadyExists = "already_exists", 409;
    /// Refused: root, for instance.
    PermissionDenied = "permission_denied", 403;
    /// Too many processes, or a reader that is too slow.
    ResourceExhausted = "resource_exhausted", 429;
    /// The process is not in a state that allows this (stdin closed, no terminal).
    FailedPrecondition = "failed_precondition", 400;
    /// No such call.
    Unimplemented = "unimplemented", 501;
    /// Our fault.
    Internal = "internal", 500;
    /// The guest is going down, or has no identity yet.
    Unavailable = "unavailable", 503;
    /// The token is absent or wrong.
    Unauthenticated = "unauthenticated", 401;
    /// Something else, or a code we do not know.
    #[serde(other)]
    Unknown = "unknown", 500;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(message: impl Serialize, text: &str) {
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
    }

    #[test]
    fn events_look_as_the_sdks_expect_them() {
        let frame = |event| ProcessEventFrame { event };
        same(frame(ProcessEvent::Start(Started { pid: 7 })), r#"{"event":{"start":{"pid":7}}}"#);
        let hi = Output::Stdout(Base64(b"hi\n".to_vec()));
        same(frame(ProcessEvent::Data(hi)), r#"{"event":{"data":{"stdout":"aGkK"}}}"#);
        let end = Ended { exit_code: 0, exited: true, status: "exit status 0".to_owned(), error: None };
        same(
            frame(ProcessEvent::End(end)),
            r#"{"event":{"end":{"exitCode":0,"exited":true,"status":"exit status 0"}}}"#,
        );
        same(frame(ProcessEvent::Keepalive(Keepalive {})), r#"{"event":{"keepalive":{}}}"#);
        same(EndOfStream::default(), "{}");
    }

    #[test]
    fn a_request_of_an_old_or_a_newer_sdk_is_understood() {
        let text = r#"{"process":{"cmd":"/bin/bash","args":["-l","-c","echo hi"],"new":1},"stdin":false,"later":{}}"#;
        let start: StartRequest = serde_json::from_str(text).unwrap();
        assert_eq!(start.process.args, ["-l", "-c", "echo hi"]);
        assert_eq!(start.stdin, Some(false));
        let input: SendInputRequest =
            serde_json::from_str(r#"{"process":{"pid":7},"input":{"stdin":"aGk="}}"#).unwrap();
        assert_eq!(input.input, ProcessInput::Stdin(Base64(b"hi".to_vec())));
        for signal in [r#""SIGNAL_SIGKILL""#, "9"] {
            let text = format!(r#"{{"process":{{"pid":7}},"signal":{signal}}}"#);
            assert_eq!(serde_json::from_str::<SendSignalRequest>(&text).unwrap().signal, Signal::Kill);
        }
        assert!(serde_json::from_str::<SendSignalRequest>(r#"{"process":{"pid":7},"signal":0}"#).is_err());
        let select: SelectRequest = serde_json::from_str(r#"{"process":{"tag":"a"}}"#).unwrap();
        assert_eq!(select.process, Selector::Tag("a".to_owned()));
    }

    #[test]
    fn case_exit_code_the_signal_is_read_back_from_the_words() {
        for number in 1..=64 {
            assert_eq!(Ended::by_signal(number).signal(), Some(number));
        }
        assert_eq!(Ended::by_itself(3).signal(), None);
        let dumped = Ended { status: "signal: segmentation fault (core dumped)".to_owned(), ..Ended::default() };
        assert_eq!(dumped.signal(), Some(11));
        assert_eq!(Ended { status: "signal: unheard of".to_owned(), ..Ended::default() }.signal(), None);
    }

    #[test]
    fn streamed_input_looks_as_the_protocol_has_it() {
        let start = StreamInputRequest::Start(SelectRequest { process: Selector::Pid(7) });
        same(start, r#"{"start":{"process":{"pid":7}}}"#);
        let data = InputPiece { input: ProcessInput::Stdin(Base64(b"hi".to_vec())) };
        same(StreamInputRequest::Data(data), r#"{"data":{"input":{"stdin":"aGk="}}}"#);
        same(StreamInputRequest::Keepalive(Keepalive {}), r#"{"keepalive":{}}"#);
    }

    #[test]
    fn an_error_of_a_code_we_do_not_know_is_still_an_error() {
        let error: RpcError = serde_json::from_str(r#"{"code":"data_loss","message":"x"}"#).unwrap();
        assert_eq!(error.code, RpcCode::Unknown);
    }
}

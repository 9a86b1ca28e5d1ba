//! How a command ends badly: one sentence, what to do next, an exit code.

use std::io;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wire::fault::{Code, Fault, KeptAgent, LiveAgent, TierUse};
use wire::filesystem::FilesError;
use wire::printable;
use wire::v1::public::STARTER_IMAGES;

use crate::commands::starting::Interrupted;
use crate::commands::task::TaskInterrupted;
use crate::commands::volume::VolumeInterrupted;
use crate::output;

/// What a shell says of a program whose reader has left, as of any other program in a pipe.
const ENDED_BY_SIGPIPE: u8 = 141;

/// Exit codes, stable for scripts. `exec` returns the command's own instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Something else.
    Other = 1,
    /// The request is wrong (clap uses the same).
    Usage = 2,
    /// The wallet or the token may not do this.
    Denied = 3,
    /// No such agent or image.
    NotFound = 4,
    /// It conflicts with what is there.
    Conflict = 5,
    /// It may work later.
    Unavailable = 6,
    /// We were asked to end; what a shell says of SIGINT.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Which exit code a fault of the gateway becomes.
pub(crate) const fn exit_of(code: Code) -> Exit {
    match code {
        Code::InvalidRequest
        | Code::UnknownAgentType
        | Code::InvalidEnvironment
        | Code::MethodNotAllowed
        | Code::BodyTooLarge
        | Code::UnsupportedMediaType
        | Code::UnknownHost
        | Code::ExceedsCapacity
        | Code::ImageNeeds
        | Code::InvalidImage
        | Code::HeadersTooLarge => Exit::Usage,
        Code::MissingSignature
        | Code::MalformedSignature
        | Code::ExpiredSignature
        | Code::InvalidSignature
        | Code::ReplayedSignature
        | Code::UnboundSignature
        | Code::OtherGateway
        | Code::InvalidToken
        | Code::InvalidKey
        | Code::ExpiredKey
        | Code::KeyScope
        | Code::TooManyKeys
        | Code::InsufficientBalance
        | Code::PaymentRequired
        | Code::InvalidPayment
        | Code::MalformedPayment
        | Code::NotLinked
        | Code::InvalidEvmSignature
        | Code::CallRefused
        | Code::DiskQuota
        | Code::ImageQuota
        | Code::ImageRefused => Exit::Denied,
        Code::NotFound | Code::NoWebSocket => Exit::NotFound,
        Code::AgentExists
        | Code::TierFull
        | Code::IdTaken
        | Code::PodRunning
        | Code::NoData
        | Code::VolumeExists
        | Code::VolumeAttached
        | Code::NoVolume
        | Code::PaymentInFlight
        | Code::StaleGeneration
        | Code::UploadOffset
        | Code::WrongState
        | Code::WouldRevert
        | Code::KeyMissing
        | Code::IdempotencyMismatch => Exit::Conflict,
        Code::RateLimited
        | Code::AgentUnreachable
        | Code::BalanceUnknown
        | Code::SettlementPending
        | Code::PaymentsUnavailable
        | Code::NoCapacity
        | Code::NodeUnavailable
        | Code::NoImage
        | Code::StoreUnavailable
        | Code::AgentBusy
        | Code::AgentNotReady
        | Code::ShuttingDown
        | Code::SpawnTimeout
        | Code::SpawnFailed
        | Code::NoChain
        | Code::VaultDeploying
        | Code::ChainUnavailable => Exit::Unavailable,
        Code::Internal => Exit::Other,
    }
}

/// The types that there are, and those that could be.
fn known_types(known: &[String]) -> String {
    let missing: Vec<_> = STARTER_IMAGES.into_iter().filter(|name| !known.iter().any(|known| known == name)).collect();
    let known = known.join(", ");
    match &missing[..] {
        [] => format!("try one of: {known}"),
        missing => format!("try one of: {known}; with ./dev images the operator builds {}", missing.join(", ")),
    }
}

/// What a person can do about a fault, where the fault's own words do not say.
pub(crate) fn advice(fault: &Fault) -> Option<String> {
    let words = match fault.code {
        Code::UnknownAgentType => known_types(fault.known.as_deref().unwrap_or_default()),
        Code::TierFull => share(fault.in_use.as_ref()),
        Code::AgentExists => {
            let id = fault.agent_id.map(|id| id.to_string()).unwrap_or_default();
            format!("stop it first: palatine stop {id}")
        }
        Code::DiskQuota => make_room(fault.kept.as_deref().unwrap_or_default()),
        Code::ImageNeeds => one_that_works(fault.known.as_deref().unwrap_or_default()),
        code => match known_advice(code) {
            KnownAdvice::Words(words) => words.to_owned(),
            KnownAdvice::Later => format!("try again in {} s", fault.retry_after.unwrap_or(LATER_SECONDS)),
            KnownAdvice::Nothing => return None,
        },
    };
    Some(words)
}

/// How long to wait where the gateway does not say.
const LATER_SECONDS: u64 = 5;

/// What can be said of a code without its fault.
enum KnownAdvice {
    Words(&'static str),
    /// To try again.
    Later,
    Nothing,
}

const fn known_advice(code: Code) -> KnownAdvice {
    KnownAdvice::Words(match code {
        Code::ExpiredSignature => "check this machine's clock: it must be within 5 minutes of the gateway's",
        Code::InvalidSignature => "check that --keypair is the wallet you mean",
        Code::OtherGateway => "check that --gateway is the URL its operator gave you",
        Code::InvalidToken => "pass --token: the agent's last start showed it; exec, shell, cp ask for it themselves",
        Code::InvalidKey | Code::ExpiredKey => {
            "see which are good: palatine key ls; make another: palatine key create --scope run"
        }
        Code::KeyScope => "leave out --key (PALATINE_KEY), and sign with the wallet's --keypair",
        Code::TooManyKeys => "see which can go: palatine key ls, palatine key rm <id>",
        Code::ImageQuota => "see what yours take: palatine image ls; make room: palatine image rm <name>",
        Code::InsufficientBalance => "see what the tiers need: palatine tiers",
        Code::NotFound => "list yours: palatine ls",
        Code::PodRunning => "it runs: see palatine ls, or stop it first",
        Code::IdTaken => "choose another --name; one of your own is started again with: palatine start <id>",
        Code::VolumeExists | Code::VolumeAttached | Code::NoVolume => {
            "see which there are, and who has them: palatine volume ls"
        }
        Code::NoData => "wait for its node, or give its data up for good: palatine rm <id>",
        Code::AgentNotReady => "wait for it, or see what it says: palatine wait <id>, palatine logs <id>",
        Code::AgentUnreachable | Code::SpawnFailed => "see its state and output: palatine ls, palatine logs <id>",
        Code::BalanceUnknown
        | Code::PaymentInFlight
        | Code::PaymentsUnavailable
        | Code::ChainUnavailable
        | Code::VaultDeploying
        | Code::RateLimited
        | Code::NoCapacity
        | Code::NodeUnavailable
        | Code::StoreUnavailable
        | Code::AgentBusy
        | Code::ShuttingDown => return KnownAdvice::Later,
        Code::ExceedsCapacity => "ask for less: palatine spawn --cores N --memory MIB",
        Code::PaymentRequired => "say what you would pay at most: --pay-up-to 0.50",
        Code::NotLinked => "link it to an owner: palatine wallet link",
        Code::NoChain => "everything but vaults and payments works; the operator sets [evm] to have a chain",
        Code::KeyMissing => "the gateway's operator imports its key file; who has none spawns under another --name",
        Code::SpawnTimeout => "its slot is free again: try once more, or look at the node's log",
        Code::Internal => "the gateway's log says more",
        Code::UnknownHost => "ask it by its address, or by a name in its [gateway] hosts",
        Code::UnknownAgentType
        | Code::TierFull
        | Code::AgentExists
        | Code::DiskQuota
        | Code::ImageNeeds
        | Code::InvalidRequest
        | Code::InvalidEnvironment
        | Code::MissingSignature
        | Code::MalformedSignature
        | Code::ReplayedSignature
        | Code::UnboundSignature
        | Code::ImageRefused
        | Code::NoImage
        | Code::InvalidPayment
        | Code::MalformedPayment
        | Code::SettlementPending
        | Code::InvalidEvmSignature
        | Code::CallRefused
        | Code::WouldRevert
        | Code::MethodNotAllowed
        | Code::StaleGeneration
        | Code::UploadOffset
        | Code::InvalidImage
        | Code::WrongState
        | Code::BodyTooLarge
        | Code::UnsupportedMediaType
        | Code::IdempotencyMismatch
        | Code::NoWebSocket
        | Code::HeadersTooLarge => return KnownAdvice::Nothing,
    })
}

/// What to spawn in the place of an image that cannot work.
fn one_that_works(known: &[String]) -> String {
    known.first().map_or_else(
        || "see what the tiers give: palatine tiers".to_owned(),
        |first| format!("spawn one that works: palatine spawn --type {first}"),
    )
}

/// What could be stopped, and what there is room for.
fn share(in_use: Option<&TierUse>) -> String {
    let Some(used) = in_use else { return "stop one: palatine ls, palatine stop <id>".to_owned() };
    let row =
        |agent: &LiveAgent| format!("palatine stop {} frees {} cores and {} MiB", agent.id, agent.cores, agent.memory);
    let mut words: Vec<_> = used.agents.iter().map(row).collect();
    let cores = used.cores_allowed.saturating_sub(used.cores);
    let memory = used.memory_allowed.saturating_sub(used.memory);
    let has_slot = u32::try_from(used.agents.len()).is_ok_and(|count| count < used.agents_allowed);
    if has_slot && cores > 0 && memory > 0 {
        words.insert(0, format!("there is room for --cores {cores} --memory {memory}"));
    }
    words.join(", ")
}

/// What could go, and what each frees.
fn make_room(kept: &[KeptAgent]) -> String {
    if kept.is_empty() {
        return "see what is kept, and remove some of it: palatine ls, palatine rm <id>".to_owned();
    }
    let row = |kept: &KeptAgent| format!("palatine rm {} frees {} MiB", kept.id, kept.bytes / (1024 * 1024));
    kept.iter().map(row).collect::<Vec<_>>().join(", ")
}

/// Says what went wrong and what to do, and returns the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if reader_has_left(error) {
        return ExitCode::from(ENDED_BY_SIGPIPE);
    }
    let fault = error.chain().find_map(|cause| cause.downcast_ref::<Fault>());
    eprintln!("error: {}", shown(&format!("{error:#}")));
    if let Some(Interrupted { id }) = error.downcast_ref() {
        eprintln!("  wait for it: palatine wait {id}, or stop it: palatine stop {id}; its token is kept");
        return Exit::Interrupted.into();
    }
    if let Some(interrupted) = error.downcast_ref::<TaskInterrupted>() {
        if let Some(advice) = interrupted.advice() {
            eprintln!("  {advice}");
        }
        return Exit::Interrupted.into();
    }
    if error.is::<VolumeInterrupted>() {
        return Exit::Interrupted.into();
    }
    match fault {
        Some(fault) => {
            if let Some(guest) = &fault.guest {
                eprintln!("{}", output::guest(guest));
            }
            if let Some(advice) = advice(fault) {
                eprintln!("  {advice}");
            }
            exit_of(fault.code).into()
        }
        None => error.chain().find_map(|cause| cause.downcast_ref()).map_or(Exit::Other, exit_of_file).into(),
    }
}

/// Which exit code a file becomes that was not read or written.
const fn exit_of_file(error: &FilesError) -> Exit {
    match error.code {
        400 => Exit::Usage,
        401 | 403 => Exit::Denied,
        404 => Exit::NotFound,
        409 => Exit::Conflict,
        408 | 429 | 502..=504 => Exit::Unavailable,
        _ => Exit::Other,
    }
}

/// An error's words, some of which may be a guest's: a terminal shows them and does not obey.
fn shown(words: &str) -> String {
    words.lines().map(|line| printable(line, usize::MAX)).collect::<Vec<_>>().join("\n")
}

/// Whether what reads our standard output (`head`, a pager that was closed) has enough: nothing is the matter then.
fn reader_has_left(error: &anyhow::Error) -> bool {
    let broken = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
    let stdout = io::stdout();
    let mut outputs = [PollFd::new(&stdout, PollFlags::empty())];
    broken && poll(&mut outputs, Some(&Timespec::default())).is_ok() && outputs[0].revents().contains(PollFlags::ERR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_is_not_there_is_answered_with_those_that_are_and_those_that_could_be_built() {
        let known = |names: &[&str]| known_types(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        let some = "try one of: echo, nano; with ./dev images the operator builds base, browser, chat, coding";
        assert_eq!(known(&["echo", "nano"]), some);
        assert_eq!(known(&STARTER_IMAGES), "try one of: nano, base, browser, chat, coding");
    }

    #[test]
    fn a_full_tier_is_told_with_what_there_is_room_for_and_what_could_be_stopped() {
        let mut fault = Fault::new(Code::TierFull, "full");
        assert!(advice(&fault).unwrap().contains("palatine ls"));
        let agents = vec![LiveAgent { id: "agent-1".parse().unwrap(), cores: 3, memory: 1024 }];
        let used =
            TierUse { agents, agents_allowed: 2, cores: 3, cores_allowed: 4, memory: 1024, memory_allowed: 4096 };
        fault.in_use = Some(used.clone());
        assert_eq!(
            advice(&fault).unwrap(),
            "there is room for --cores 1 --memory 3072, palatine stop agent-1 frees 3 cores and 1024 MiB"
        );
        fault.in_use = Some(TierUse { agents_allowed: 1, ..used });
        assert_eq!(advice(&fault).unwrap(), "palatine stop agent-1 frees 3 cores and 1024 MiB");
        assert_eq!(exit_of(fault.code), Exit::Conflict);
    }

    #[test]
    fn a_guests_words_in_an_error_are_shown_and_not_obeyed() {
        assert_eq!(shown("/x: \u{1b}]0;title\u{7}no\u{1b}[2J\nsecond line"), "/x: ]0;titleno\nsecond line");
    }

    #[test]
    fn a_file_that_may_not_be_read_or_is_not_there_is_told_apart_by_the_exit_code() {
        let exit = |code| exit_of_file(&FilesError { code, message: String::new() });
        assert_eq!([401, 403, 404, 503].map(exit), [Exit::Denied, Exit::Denied, Exit::NotFound, Exit::Unavailable]);
        assert_eq!(exit(500), Exit::Other);
    }

    #[test]
    fn a_full_quota_is_told_with_what_could_go() {
        let mut fault = Fault::new(Code::DiskQuota, "full");
        assert!(advice(&fault).unwrap().contains("palatine ls"));
        let kept = |id: &str, mib: u64| KeptAgent { id: id.parse().unwrap(), bytes: mib << 20, until: None };
        fault.kept = Some(vec![kept("agent-1", 900), kept("agent-2", 5)]);
        let told = advice(&fault).unwrap();
        assert_eq!(told, "palatine rm agent-1 frees 900 MiB, palatine rm agent-2 frees 5 MiB");
        assert_eq!(exit_of(fault.code), Exit::Denied);
    }
}

//! How a fake node is built, and how it misbehaves.

use std::time::Duration;

/// How a fake node misbehaves. Chances are out of 1000.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chaos {
    /// The question never arrives.
    pub lose_question: u64,
    /// The answer never arrives.
    pub lose_answer: u64,
    /// The caller is told that nothing arrived, and it arrives `late` after.
    pub arrive_late: u64,
    /// How late.
    pub late: Duration,
    /// How long every call takes.
    pub slow: Duration,
}

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// It is done and answered.
    Good,
    /// There is no connection: its caller knows that it never arrives.
    NotConnected,
    /// It never arrives, and its caller cannot know that.
    QuestionLost,
    /// It is done, and its answer never arrives.
    AnswerLost,
    /// It is done and answered, but only after this long.
    Slow(Duration),
    /// Its caller is told that nothing arrived, and it is done this much later.
    Late(Duration),
}

/// What a fake node can hold and how its guests are.
#[derive(Clone, Copy, Debug)]
pub struct FakeNodeSpec {
    /// Virtual processors.
    pub cores: u32,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// How long a guest boots; zero is ready at once, `None` never.
    pub boot: Option<Duration>,
    /// Marks in one answer at most.
    pub page: usize,
}

impl Default for FakeNodeSpec {
    fn default() -> Self {
        Self { cores: u32::MAX, memory_mib: u64::MAX, boot: Some(Duration::ZERO), page: 1000 }
    }
}

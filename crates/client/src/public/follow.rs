//! An agent's changes to their end, over connections that come and go.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use domain::PodId;
use futures_util::stream::{StreamExt, unfold};
use wire::v1::public::StateChange;

use super::stream::EventStream;
use super::{ClientError, GatewayClient};

const OPERATION: &str = "follow the agent's changes";
/// Connections in a row that may end without a change.
const MAX_EMPTY_CONNECTIONS: u32 = 20;
/// Attempts to open one connection.
const ATTEMPTS: usize = 8;
/// The pause before a new connection, and the longest one.
const PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A reader that comes back.
struct Follower {
    client: GatewayClient,
    agent: PodId,
    after: u64,
    flow: Option<EventStream<StateChange>>,
    empty_connections: u32,
    over: bool,
}

impl GatewayClient {
    /// Every change of an agent's state after number `after`, until its end.
    /// Where the gateway goes away or comes back, the stream goes on where it
    /// was; it ends with an error when the gateway stays away.
    #[must_use]
    pub fn follow(&self, agent: PodId, after: u64) -> EventStream<StateChange> {
        let client = self.clone();
        let follower = Follower { client, agent, after, flow: None, empty_connections: 0, over: false };
        unfold(follower, |mut follower| async move { follower.next().await.map(|change| (change, follower)) }).boxed()
    }
}

impl Follower {
    async fn next(&mut self) -> Option<Result<StateChange, ClientError>> {
        if self.over {
            return None;
        }
        let change = self.change().await;
        self.over = change.as_ref().map_or(true, |change| !change.state.is_live());
        Some(change)
    }

    async fn change(&mut self) -> Result<StateChange, ClientError> {
        loop {
            match self.heard().await {
                Ok(Some(change)) => {
                    self.after = change.seq;
                    self.empty_connections = 0;
                    return Ok(change);
                }
                Ok(None) => self.empty_connections += 1,
                Err(error) if error.may_pass() => self.empty_connections += 1,
                Err(error) => return Err(error),
            }
            self.flow = None;
            if self.empty_connections > MAX_EMPTY_CONNECTIONS {
                return Err(ClientError::BrokenOff(OPERATION));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The next change of this connection; `None` at its end.
    async fn heard(&mut self) -> Result<Option<StateChange>, ClientError> {
        if self.flow.is_none() {
            self.flow = Some(connect(&self.client, self.agent, self.after).await?);
        }
        match &mut self.flow {
            Some(flow) => flow.next().await.transpose(),
            None => Ok(None),
        }
    }
}

async fn connect(client: &GatewayClient, agent: PodId, after: u64) -> Result<EventStream<StateChange>, ClientError> {
    let patience = ExponentialBuilder::default()
        .with_min_delay(PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .with_max_times(ATTEMPTS)
        .with_jitter();
    (|| client.events(agent, after)).retry(patience).when(ClientError::may_pass).await
}

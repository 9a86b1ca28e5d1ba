//! The section `[limits]`.

use std::ops::RangeInclusive;

use domain::{BoundedSetting, OutOfBounds, check_bounds};
use serde::Deserialize;

/// `[limits]`: what one client may take.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at once. Default `10000`.
    pub connections: u32,
    /// Connections at once from one address (IPv6: one /64; one /48 has four times as
    /// many). Default `512`.
    pub connections_per_address: u32,
    /// Bytes of a request's headers. Default `16384`.
    pub header_bytes: u32,
    /// Time for the headers of a request to arrive, and for an idle connection
    /// to stay open. Default `15000`.
    pub header_ms: u64,
    /// Bytes of an API request's body. Agents' bodies are streamed and not
    /// limited. Default `262144`.
    pub body_bytes: u32,
    /// Bytes of the body of a request that is paid for: it is read whole before it
    /// goes on. Default `4194304`.
    pub paid_body_bytes: u32,
    /// Bytes of the bodies of such requests that are held at once. Default `134217728`.
    pub paid_bodies_bytes: u32,
    /// Of these, those from one address, and those of one payer. Default `16777216`.
    pub paid_bodies_per_address_bytes: u32,
    /// Time for an API request's body to arrive. Default `15000`.
    pub body_ms: u64,
    /// Age at which a connection is asked to end after its requests under way.
    /// Default `3600000`.
    pub connection_age_ms: u64,
    /// API requests of one wallet per minute; as many at once. Stopping is not
    /// counted. Default `120`.
    pub wallet_per_minute: u32,
    /// API keys of one wallet that are good at once; 0: none are made. Default `100`.
    pub keys_per_wallet: u32,
    /// Images that one wallet has brought, tags and uploads included; 0: none may be
    /// brought. Default `100`.
    pub images_per_wallet: u32,
    /// Uploads of images that one wallet has under way at once. Default `4`.
    pub image_uploads_per_wallet: u32,
    /// Seconds in which an upload must be whole and become an image. Default `86400`.
    pub image_upload_s: u64,
    /// API requests of one address (IPv6: one /64) per second; twice as many at
    /// once. Default `50`.
    pub address_per_second: u32,
    /// Requests of one address to agents per second; twice as many at once.
    /// Default `500`.
    pub ingress_per_second: u32,
    /// Wallets and addresses that are told apart (beyond them, new ones share),
    /// and spent signatures held in memory.
    /// Default `100000`.
    pub tracked: u32,
    /// Time for an agent to take a connection. Default `2000`.
    pub agent_connect_ms: u64,
    /// Time for an agent to begin its answer. Default `300000`.
    pub agent_answer_ms: u64,
    /// Connections to one agent at once; they are kept and used again. Default `64`.
    pub agent_connections: u32,
    /// Of these, those of one address without the agent's token, and those of one payer.
    /// Default `8`.
    pub agent_connections_per_address: u32,
    /// Requests that wait for a connection to one agent: its token's holders, those who
    /// pay and all others have so many each. Default `512`.
    pub agent_waiting: u32,
    /// Of these, those of one address without the agent's token, and those of one payer.
    /// Default `64`.
    pub agent_waiting_per_address: u32,
    /// How long they wait. Default `10000`.
    pub agent_wait_ms: u64,
    /// How long a connection to an agent is kept that nobody uses: less than agents
    /// keep theirs. Default `1500`.
    pub agent_idle_ms: u64,
    /// Followed logs, event streams, commands and upgraded connections at once.
    /// Default `2000`.
    pub streams: u32,
    /// Upgraded connections to one agent at once. Default `128`.
    pub streams_per_agent: u32,
    /// Upgraded connections of one address at once, without the agents' tokens, and of
    /// one payer. Default `64`.
    pub streams_per_address: u32,
    /// Followed logs, event streams and commands of one wallet at once. Default `64`.
    pub streams_per_wallet: u32,
    /// How long an upgraded connection, or an answer, may be silent. Default `900000`.
    pub stream_idle_ms: u64,
    /// Percent of the streams, and of each agent's connections, that are left to
    /// holders: who comes without the agent's token cannot take them. Default `25`.
    pub owner_percent: u32,
    /// Percent of the streams, and of the connections to each agent that has prices, that
    /// are left to who pays, beside the holders': who pays nothing cannot take them. Of
    /// both together 90 count at most. Default `25`.
    pub payer_percent: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 512,
            header_bytes: 16 * 1024,
            header_ms: 15_000,
            body_bytes: 256 * 1024,
            paid_body_bytes: 4 * 1024 * 1024,
            paid_bodies_bytes: 128 * 1024 * 1024,
            paid_bodies_per_address_bytes: 16 * 1024 * 1024,
            body_ms: 15_000,
            connection_age_ms: 3_600_000,
            wallet_per_minute: 120,
            keys_per_wallet: 100,
            images_per_wallet: 100,
            image_uploads_per_wallet: 4,
            image_upload_s: 86_400,
            address_per_second: 50,
            ingress_per_second: 500,
            tracked: 100_000,
            agent_connect_ms: 2_000,
            agent_answer_ms: 300_000,
            agent_connections: 64,
            agent_connections_per_address: 8,
            agent_waiting: 512,
            agent_waiting_per_address: 64,
            agent_wait_ms: 10_000,
            agent_idle_ms: 1_500,
            streams: 2_000,
            streams_per_agent: 128,
            streams_per_address: 64,
            streams_per_wallet: 64,
            stream_idle_ms: 900_000,
            owner_percent: 25,
            payer_percent: 25,
        }
    }
}

impl Limits {
    /// Headers below this would refuse ordinary clients.
    const MIN_HEADER_BYTES: u32 = 4096;
    /// Above this, who comes without a token and pays nothing finds no place.
    const MAX_KEPT_PERCENT: u32 = 90;

    /// What visitors may take of so many places, payers with them: never all, unless
    /// there is one alone.
    pub(crate) fn for_visitors(&self, places: u32) -> u32 {
        without(places, self.owner_percent)
    }

    /// What those may take of so many places who pay nothing.
    pub(crate) fn for_unpaid(&self, places: u32) -> u32 {
        without(places, self.owner_percent.saturating_add(self.payer_percent).min(Self::MAX_KEPT_PERCENT))
    }

    pub(crate) fn check(&self) -> Result<(), OutOfBounds> {
        check_bounds("limits", self.counts().into_iter().chain(self.bodies()).chain(self.times()))
    }

    fn counts(&self) -> [BoundedSetting; 20] {
        [
            ("connections", self.connections.into(), AT_LEAST_ONE),
            ("connections_per_address", self.connections_per_address.into(), AT_LEAST_ONE),
            ("wallet_per_minute", self.wallet_per_minute.into(), AT_LEAST_ONE),
            // All of a wallet's are listed at once.
            ("keys_per_wallet", self.keys_per_wallet.into(), 0..=1000),
            // These too; and an upload that is over must not be older than its node keeps it.
            ("images_per_wallet", self.images_per_wallet.into(), 0..=1000),
            ("image_uploads_per_wallet", self.image_uploads_per_wallet.into(), AT_LEAST_ONE),
            ("image_upload_s", self.image_upload_s, 60..=7 * 86_400),
            ("address_per_second", self.address_per_second.into(), AT_LEAST_ONE),
            ("ingress_per_second", self.ingress_per_second.into(), AT_LEAST_ONE),
            ("tracked", self.tracked.into(), AT_LEAST_ONE),
            ("agent_connections", self.agent_connections.into(), AT_LEAST_ONE),
            ("agent_connections_per_address", self.agent_connections_per_address.into(), AT_LEAST_ONE),
            ("agent_waiting", self.agent_waiting.into(), AT_LEAST_ONE),
            ("agent_waiting_per_address", self.agent_waiting_per_address.into(), AT_LEAST_ONE),
            ("streams", self.streams.into(), AT_LEAST_ONE),
            ("streams_per_agent", self.streams_per_agent.into(), AT_LEAST_ONE),
            ("streams_per_address", self.streams_per_address.into(), AT_LEAST_ONE),
            ("streams_per_wallet", self.streams_per_wallet.into(), AT_LEAST_ONE),
            ("owner_percent", self.owner_percent.into(), 0..=Self::MAX_KEPT_PERCENT.into()),
            ("payer_percent", self.payer_percent.into(), 0..=Self::MAX_KEPT_PERCENT.into()),
        ]
    }

    fn bodies(&self) -> [BoundedSetting; 5] {
        // The largest that may come must find room.
        let largest = self.paid_body_bytes.into();
        [
            ("header_bytes", self.header_bytes.into(), Self::MIN_HEADER_BYTES.into()..=u64::MAX),
            ("body_bytes", self.body_bytes.into(), AT_LEAST_ONE),
            ("paid_body_bytes", self.paid_body_bytes.into(), AT_LEAST_ONE),
            ("paid_bodies_bytes", self.paid_bodies_bytes.into(), largest..=u64::MAX),
            ("paid_bodies_per_address_bytes", self.paid_bodies_per_address_bytes.into(), largest..=u64::MAX),
        ]
    }

    fn times(&self) -> [BoundedSetting; 8] {
        [
            ("header_ms", self.header_ms, AT_LEAST_ONE),
            ("body_ms", self.body_ms, AT_LEAST_ONE),
            ("connection_age_ms", self.connection_age_ms, AT_LEAST_ONE),
            ("agent_connect_ms", self.agent_connect_ms, AT_LEAST_ONE),
            ("agent_answer_ms", self.agent_answer_ms, AT_LEAST_ONE),
            ("agent_wait_ms", self.agent_wait_ms, AT_LEAST_ONE),
            ("agent_idle_ms", self.agent_idle_ms, AT_LEAST_ONE),
            ("stream_idle_ms", self.stream_idle_ms, AT_LEAST_ONE),
        ]
    }
}

/// None would let nothing through.
const AT_LEAST_ONE: RangeInclusive<u64> = 1..=u64::MAX;

/// So many places without so many percent of them: one at least.
fn without(places: u32, percent: u32) -> u32 {
    let kept = (u64::from(places) * u64::from(percent)).div_ceil(100);
    places.saturating_sub(u32::try_from(kept).unwrap_or(u32::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_refused() {
        let said = serde_json::from_str::<Limits>(r#"{"conections": 1}"#).unwrap_err().to_string();
        assert!(said.contains("conections"), "{said}");
    }
}

//! The columns of a run, in either database, and the record that they make.

use domain::{Generation, ImageDigest, RuntimeKinds, Tier, TierName, Wallet};

use crate::codec::{ended, id_of, meter, millis, natural, state_of};
use crate::error::StoreError;
use crate::pod::id_from;
use crate::record::{BelowTier, GatewayEpoch, KeptData, PodRowId, RunExpiry, RunRecord};

/// A row of `runs` with its POD's, as it lies in the columns.
pub(crate) struct RunRow {
    pub(crate) id: i64,
    pub(crate) wallet: [u8; 32],
    pub(crate) generation: i64,
    pub(crate) state: (String, Option<String>),
    pub(crate) agent_type: String,
    pub(crate) image: [u8; 32],
    pub(crate) tier: (String, i64, u32, u32),
    pub(crate) public: bool,
    pub(crate) spawned_at: i64,
    pub(crate) ended_at: Option<i64>,
    pub(crate) epoch: i64,
    pub(crate) changes: i64,
    pub(crate) placed: (Option<String>, Option<String>, u32, bool),
    pub(crate) meter: (i64, Option<i64>, i64),
    pub(crate) below: (u32, Option<i64>),
    pub(crate) disk_mib: u32,
    /// The slot, and how many the tier allows.
    pub(crate) slot: (u32, u32),
    pub(crate) pod: (i64, Option<String>, i64, bool, bool),
    pub(crate) data: (Option<String>, Option<i64>, Option<i64>),
    pub(crate) expiry: (Option<i64>, Option<i64>),
}

impl RunRow {
    pub(crate) fn record(self) -> Result<RunRecord, StoreError> {
        let (tier, min, cores, memory) = self.tier;
        let (node, runtime, restarts, was_ready) = self.placed;
        let ended_at = self.ended_at.map(millis);
        let (key, name, created_at, ephemeral, brought) = self.pod;
        let (data_node, until, bytes) = self.data;
        let pod_key = PodRowId(key.cast_unsigned());
        let kept = KeptData { until: until.map(millis), bytes: natural(bytes.unwrap_or_default()) };
        Ok(RunRecord {
            id: id_of(self.id),
            pod: id_from(pod_key, name)?,
            pod_key,
            created_at: millis(created_at),
            ephemeral,
            brought,
            wallet: Wallet(self.wallet),
            slot: self.slot.0,
            generation: Generation(natural(self.generation)),
            state: state_of(&self.state.0, self.state.1.as_deref())?,
            agent_type: self.agent_type,
            image: ImageDigest(self.image),
            tier: TierName::try_from(tier).map_err(|_| StoreError::Value("a tier's name"))?,
            tier_config: Tier {
                min: natural(min),
                cores,
                memory,
                disk: self.disk_mib,
                agents: self.slot.1,
                images: None,
                // What was allowed decided where it was placed; what it runs in is in `runtime`.
                runtimes: RuntimeKinds::MACHINES,
            },
            public: self.public,
            spawned_at: millis(self.spawned_at),
            ended_at,
            expiry: expiry(self.expiry),
            node,
            runtime,
            restarts,
            epoch: GatewayEpoch(self.epoch.cast_unsigned()),
            meter: ended(meter(self.meter), ended_at),
            was_ready,
            below: BelowTier { readings: self.below.0, since: self.below.1.map(millis) },
            changes: natural(self.changes),
            data: data_node.is_some().then_some(kept),
            data_node,
        })
    }
}

fn expiry((at, counted_ms): (Option<i64>, Option<i64>)) -> Option<RunExpiry> {
    Some(RunExpiry { at: millis(at?), counted_ms: natural(counted_ms?) })
}

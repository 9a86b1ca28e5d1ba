//! What lasts of a POD: its id, whose it is, what its node keeps of its data.

use domain::{PodId, RunId, UnixMillis};

use crate::error::StoreError;
use crate::record::{KeptData, PodRowId};

/// PODs of one wallet that do not run, at most.
pub const MAX_STOPPED_PODS: u32 = 1000;
/// PODs named in the answer to a full quota at most.
const MAX_NAMED: usize = 20;
const MIB: u64 = 1024 * 1024;

/// A POD of which a node keeps data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptPod {
    /// Which.
    pub pod: PodId,
    /// What is kept of it.
    pub data: KeptData,
}

/// The id of this key and name.
pub(crate) fn id_from(key: PodRowId, name: Option<String>) -> Result<PodId, StoreError> {
    match name {
        None => Ok(PodId::minted(RunId::from_bits(key.0))),
        Some(name) => name.parse().map_err(|_| StoreError::Value("the name of a POD")),
    }
}

/// What stands between a holder and a POD of this id.
pub(crate) enum PodIdStatus {
    /// Nobody has or had it.
    Free,
    /// The holder removed it, and may take it again.
    Removed(PodRowId),
    /// It is there, or another holder's for ever.
    Taken,
}

/// Why a wallet may have no further POD.
pub(crate) enum QuotaCheck {
    /// It may.
    Free,
    /// What is kept of these fills its quota.
    Full(Vec<KeptPod>),
    /// It has too many.
    TooMany,
}

impl QuotaCheck {
    /// What a wallet with this disk quota may have, given all its PODs that do not run.
    pub(crate) fn of(stopped: Vec<(PodId, Option<KeptData>)>, disk_mib: u32, now: UnixMillis) -> Self {
        if stopped.len() >= usize::try_from(MAX_STOPPED_PODS).unwrap_or(usize::MAX) {
            return Self::TooMany;
        }
        let kept = stopped.into_iter().filter_map(|(pod, data)| Some(KeptPod { pod, data: data? }));
        let mut kept: Vec<_> = kept.filter(|pod| !pod.data.is_over(now)).collect();
        let bytes: u64 = kept.iter().map(|pod| pod.data.bytes).sum();
        if bytes == 0 || bytes < u64::from(disk_mib) * MIB {
            return Self::Free;
        }
        kept.sort_by_key(|pod| std::cmp::Reverse(pod.data.bytes));
        kept.truncate(MAX_NAMED);
        Self::Full(kept)
    }
}

//! What a holder's images may be, and how they are shown.

use std::collections::BTreeMap;

use control::AdmitError;
use domain::{HeldImageName, ImageDigest, ImageId, ImageRef, Wallet};
use store::{HeldImageRecord, HeldImageState, ImageQuota, OverQuota, ReadyImage};
use wire::fault::{Code, Fault};
use wire::v1::images::{BuildRuntime, HolderImage};
use wire::v1::node::ImageNeeds;

use crate::error::ApiError;
use crate::state::Gateway;

const MIB: u64 = 1 << 20;

impl Gateway {
    /// What the wallet's images may be, by the tier that its balance reaches.
    pub(crate) async fn image_quota(&self, wallet: &Wallet) -> Result<ImageQuota, AdmitError> {
        let (_, tier) = self.parts.control.tier_of(wallet).await?;
        Ok(ImageQuota {
            bytes: u64::from(tier.images_mib()) * MIB,
            images: self.limits.images_per_wallet,
            uploads: self.limits.image_uploads_per_wallet,
        })
    }

    /// Refuses a name that an `agent_type` would not find, for it is the operator's.
    pub(crate) fn refuse_operators(&self, image: &ImageRef) -> Result<(), ApiError> {
        let taken = self.parts.control.fleet().images().is_some_and(|table| table.contains_key(image.name()));
        if !taken {
            return Ok(());
        }
        let said = format!("the operator has an image {}; choose another name", image.name());
        Err(Fault::new(Code::IdTaken, said).field("image").into())
    }

    /// The image that an `agent_type` means which is none of the operator's: one's own, or one
    /// that was published.
    pub(crate) async fn held_image(
        &self,
        wallet: Wallet,
        agent_type: &str,
    ) -> Result<Option<(ImageDigest, ImageNeeds)>, ApiError> {
        if self.parts.control.fleet().images().is_some_and(|table| table.contains_key(agent_type)) {
            return Ok(None);
        }
        let Ok(HeldImageName { of, image }) = agent_type.parse() else { return Ok(None) };
        let of = of.unwrap_or(wallet);
        let found = self.parts.store.held_image_named(of, image).await?;
        let found = found.filter(|record| record.wallet == wallet || record.published);
        Ok(found.and_then(|record| match record.state {
            HeldImageState::Ready(ready) => Some((ready.digest, needs(&ready))),
            HeldImageState::Open | HeldImageState::Failed { .. } | HeldImageState::Gone => None,
        }))
    }
}

/// An image that is there, as it is shown.
pub(crate) fn shown(record: &HeldImageRecord) -> Option<HolderImage> {
    let HeldImageState::Ready(ready) = &record.state else { return None };
    Some(HolderImage {
        image: record.image.clone(),
        agent_type: format!("{}/{}", record.wallet, record.image),
        wallet: record.wallet,
        digest: ready.digest,
        bytes: ready.bytes,
        published: record.published,
        created_at: record.created_at,
        needs: needs(ready),
        built_in: ready.built_in.as_deref().and_then(BuildRuntime::named),
    })
}

fn needs(ready: &ReadyImage) -> ImageNeeds {
    serde_json::from_str(&ready.needs).unwrap_or_else(|error| {
        tracing::error!(digest = %ready.digest, %error, "what an image needs cannot be read; it is taken to need nothing");
        ImageNeeds::default()
    })
}

/// What these take together, but for one: what shares an upload counts once.
pub(crate) fn used(records: &[HeldImageRecord], but: Option<ImageId>) -> u64 {
    let counted = records.iter().filter(|record| Some(record.id) != but).filter_map(|record| match &record.state {
        HeldImageState::Open => Some((record.pin, record.size)),
        HeldImageState::Ready(ready) => Some((record.pin, ready.bytes)),
        HeldImageState::Failed { .. } | HeldImageState::Gone => None,
    });
    counted.collect::<BTreeMap<_, _>>().values().sum()
}

/// Why an image does not fit.
pub(crate) fn over_quota(over: OverQuota, quota: &ImageQuota, size: u64) -> ApiError {
    let said = match over {
        OverQuota::Bytes { used } => return too_large(used, quota.bytes, size),
        OverQuota::Images => {
            format!("your wallet has {} images, tags and uploads, as many as it may; remove one of them", quota.images)
        }
        OverQuota::Uploads => {
            format!("your wallet has {} uploads under way, as many as it may; end one of them", quota.uploads)
        }
    };
    Fault::new(Code::ImageQuota, said).into()
}

/// An image of so many bytes does not fit beside the others.
pub(crate) fn too_large(used: u64, quota: u64, size: u64) -> ApiError {
    let mib = |bytes: u64| bytes.div_ceil(MIB);
    let said = format!(
        "it takes {} MiB, and your images take {} of the {} MiB that your tier gives them; remove one of them",
        mib(size),
        mib(used),
        quota / MIB
    );
    Fault::new(Code::ImageQuota, said).into()
}

/// No such image, or not the caller's: nobody is told which.
pub(crate) fn no_image() -> ApiError {
    ApiError::new(Code::NotFound, "there is no such image, or it is not yours")
}

#[cfg(test)]
mod tests {
    use domain::{ArchiveSum, UnixMillis};

    use super::*;

    fn record(id: u64, pin: u64, state: HeldImageState) -> HeldImageRecord {
        HeldImageRecord {
            id: ImageId::from_bits(id),
            pin: ImageId::from_bits(pin),
            wallet: Wallet([1; 32]),
            image: "work".parse().unwrap(),
            node: "one".to_owned(),
            size: 10,
            archive: ArchiveSum([2; 32]),
            state,
            published: false,
            created_at: UnixMillis(1),
            expires_at: UnixMillis(2),
        }
    }

    #[test]
    fn tags_of_one_upload_count_once_and_what_failed_not_at_all() {
        let ready = || {
            HeldImageState::Ready(ReadyImage {
                digest: ImageDigest([3; 32]),
                bytes: 7,
                needs: "{}".into(),
                built_in: None,
            })
        };
        let failed = HeldImageState::Failed { code: "invalid_image".into(), error: "no".into() };
        let all =
            [record(1, 1, ready()), record(2, 1, ready()), record(3, 3, HeldImageState::Open), record(4, 4, failed)];
        assert_eq!(used(&all, None), 17);
        assert_eq!(used(&all, Some(ImageId::from_bits(3))), 7);
    }
}

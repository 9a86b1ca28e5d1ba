use domain::{ArchiveSum, ImageDigest, ImageId, ImageRef};
use palatine_store::{
    FinishOutcome, HeldImageRecord, HeldImageState, ImageOutcome, ImageQuota, NewImageUpload, OverImage, OverQuota,
    ReadyImage, Store,
};

use crate::help::{DAY_MS, NOW, Place, bytes, leave, open, wallet};

const QUOTA: ImageQuota = ImageQuota { bytes: 1_000, images: 5, uploads: 3 };

fn id(n: u64) -> ImageId {
    ImageId::from_bits(u64::MAX - n)
}

fn named(text: &str) -> ImageRef {
    text.parse().unwrap()
}

/// Upload `n` of wallet `holder`, of 100 bytes.
fn upload(holder: u64, n: u64, image: &str) -> NewImageUpload {
    NewImageUpload {
        id: id(n),
        wallet: wallet(holder),
        image: named(image),
        node: "one".to_owned(),
        size: 100,
        archive: ArchiveSum(bytes(n)),
        quota: QUOTA,
        now: NOW.plus(n),
        expires_at: NOW.plus(DAY_MS),
    }
}

fn ready(n: u64, bytes_of: u64) -> ReadyImage {
    ReadyImage {
        digest: ImageDigest(bytes(n)),
        bytes: bytes_of,
        needs: r#"{"min_memory_mib":7}"#.to_owned(),
        built_in: Some("qemu-tcg".to_owned()),
    }
}

/// Begins it, and must get it.
async fn begun(store: &Store, upload: NewImageUpload) -> HeldImageRecord {
    match store.begin_image(upload).await.unwrap() {
        ImageOutcome::New(record) => record,
        other => panic!("{other:?}"),
    }
}

/// Has it there, and must get it.
async fn there(store: &Store, holder: u64, n: u64, image: &str, bytes_of: u64) -> HeldImageRecord {
    begun(store, upload(holder, n, image)).await;
    match store.finish_image(id(n), ready(n, bytes_of), QUOTA.bytes, NOW.plus(n)).await.unwrap() {
        FinishOutcome::Ready(record) => *record,
        other => panic!("{other:?}"),
    }
}

/// One that is there and published, one on its way, and one that failed.
pub(crate) async fn fill(store: &Store) {
    there(store, 1, 1, "work:v2", 300).await;
    store.publish_image(wallet(1), named("work:v2"), true).await.unwrap();
    begun(store, upload(1, 2, "other")).await;
    begun(store, upload(1, 3, "bad")).await;
    store.fail_image(id(3), "invalid_image".to_owned(), "no image".to_owned(), NOW).await.unwrap();
}

async fn names(store: &Store, holder: u64) -> Vec<String> {
    store.held_images_of(wallet(holder)).await.unwrap().iter().map(|record| record.image.to_string()).collect()
}

pub(crate) async fn an_upload_becomes_an_image_and_both_are_read_as_they_were_written(place: &Place) {
    let store = open(place).await;
    let record = begun(&store, upload(1, 1, "work:v2")).await;
    assert_eq!((record.pin, &record.state, record.published), (id(1), &HeldImageState::Open, false));
    leave(place, store).await;
    let store = open(place).await;
    assert_eq!(store.held_image(id(1)).await.unwrap(), Some(record.clone()));
    assert_eq!(store.held_image_named(wallet(1), named("work:v2")).await.unwrap(), None, "it is not there yet");
    let FinishOutcome::Ready(finished) =
        store.finish_image(id(1), ready(1, 300), QUOTA.bytes, NOW.plus(9)).await.unwrap()
    else {
        panic!("it is there")
    };
    let state = HeldImageState::Ready(ready(1, 300));
    assert_eq!(*finished, HeldImageRecord { state, created_at: NOW.plus(9), ..record });
    assert_eq!(store.held_image_named(wallet(1), named("work:v2")).await.unwrap(), Some((*finished).clone()));
    assert_eq!(store.held_image_named(wallet(1), named("work")).await.unwrap(), None);
    assert_eq!(store.held_image_named(wallet(2), named("work:v2")).await.unwrap(), None, "another wallet's");
    let again = store.finish_image(id(1), ready(1, 300), QUOTA.bytes, NOW).await.unwrap();
    assert_eq!(again, FinishOutcome::Ready(finished), "a retry changes nothing");
    assert_eq!(store.finish_image(id(9), ready(9, 1), QUOTA.bytes, NOW).await.unwrap(), FinishOutcome::Unknown);
}

pub(crate) async fn the_same_archive_goes_on_with_its_upload_and_is_not_uploaded_twice(place: &Place) {
    let store = open(place).await;
    let first = begun(&store, upload(1, 1, "work")).await;
    let same = NewImageUpload { id: id(2), ..upload(1, 1, "work") };
    assert_eq!(store.begin_image(same.clone()).await.unwrap(), ImageOutcome::Existing(first));
    let late = NewImageUpload { now: NOW.plus(DAY_MS), expires_at: NOW.plus(2 * DAY_MS), ..same.clone() };
    begun(&store, late).await;
    store.finish_image(id(2), ready(1, 9), QUOTA.bytes, NOW).await.unwrap();
    let ImageOutcome::Existing(there) = store.begin_image(NewImageUpload { id: id(3), ..same }).await.unwrap() else {
        panic!("it is there")
    };
    assert_eq!(there.id, id(2), "what is there goes before what is on its way");
    begun(&store, NewImageUpload { id: id(4), ..upload(2, 1, "work") }).await;
}

pub(crate) async fn a_new_image_takes_the_name_of_the_old_one_which_goes(place: &Place) {
    let store = open(place).await;
    there(&store, 1, 1, "work", 100).await;
    there(&store, 1, 2, "work", 100).await;
    let found = store.held_image_named(wallet(1), named("work")).await.unwrap().unwrap();
    assert_eq!((found.id, names(&store, 1).await), (id(2), vec!["work".to_owned()]));
    let over = store.images_over(NOW).await.unwrap();
    assert_eq!(over, [OverImage { id: id(1), pin: id(1), node: "one".to_owned(), shared: false }]);
    store.forget_image(id(1)).await.unwrap();
    assert_eq!(store.images_over(NOW).await.unwrap(), []);
    store.forget_image(id(2)).await.unwrap();
    assert!(store.held_image(id(2)).await.unwrap().is_some(), "what is there is not forgotten");
}

pub(crate) async fn a_wallets_images_take_no_more_than_it_may_and_another_ones_nothing_of_that(place: &Place) {
    let store = open(place).await;
    there(&store, 1, 1, "a", 850).await;
    let over = store.begin_image(NewImageUpload { size: 151, ..upload(1, 2, "b") }).await.unwrap();
    assert_eq!(over, ImageOutcome::OverQuota(OverQuota::Bytes { used: 850 }));
    begun(&store, NewImageUpload { size: 150, ..upload(1, 2, "b") }).await;
    begun(&store, NewImageUpload { size: 1_000, ..upload(2, 3, "b") }).await;
    let endless = NewImageUpload { size: u64::MAX, ..upload(1, 4, "c") };
    assert!(matches!(store.begin_image(endless).await.unwrap(), ImageOutcome::OverQuota(OverQuota::Bytes { .. })));
    let grown = store.finish_image(id(2), ready(2, 151), QUOTA.bytes, NOW).await.unwrap();
    assert_eq!(grown, FinishOutcome::OverQuota { used: 850 }, "an image may be larger than its archive");
    assert!(store.fail_image(id(2), "image_quota".to_owned(), "too large".to_owned(), NOW).await.unwrap());
    let failed = store.held_image(id(2)).await.unwrap().unwrap();
    assert_eq!(failed.state, HeldImageState::Failed { code: "image_quota".into(), error: "too large".into() });
    begun(&store, NewImageUpload { size: 150, ..upload(1, 5, "b") }).await;
    assert!(!store.fail_image(id(1), String::new(), String::new(), NOW).await.unwrap(), "it is there");
}

pub(crate) async fn uploads_that_failed_are_counted_as_images_until_they_are_brought_again(place: &Place) {
    let store = open(place).await;
    for n in 1..=5 {
        begun(&store, upload(1, n, &format!("bad{n}"))).await;
        assert!(store.fail_image(id(n), "invalid_image".into(), "it is none".into(), NOW).await.unwrap());
    }
    let more = store.begin_image(upload(1, 6, "more")).await.unwrap();
    assert_eq!(more, ImageOutcome::OverQuota(OverQuota::Images));
    begun(&store, NewImageUpload { size: 1_000, ..upload(1, 7, "bad1") }).await;
    assert_eq!(names(&store, 1).await.len(), 5, "what failed under this name is told no more");
    let over = store.images_over(NOW).await.unwrap();
    assert_eq!(over, [OverImage { id: id(1), pin: id(1), node: "one".to_owned(), shared: false }]);
}

pub(crate) async fn of_fifty_uploads_begun_at_once_as_many_are_as_may_be(place: &Place) {
    let store = open(place).await;
    let asked: Vec<_> = (0..50)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.begin_image(upload(1, n, &format!("image{n}"))).await.unwrap() })
        })
        .collect();
    let mut begun = 0;
    for outcome in asked {
        match outcome.await.unwrap() {
            ImageOutcome::New(_) => begun += 1,
            ImageOutcome::OverQuota(OverQuota::Uploads) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((begun, names(&store, 1).await.len()), (3, 3));
}

pub(crate) async fn of_uploads_that_end_at_once_under_one_name_one_is_there_and_the_others_go(place: &Place) {
    let store = open(place).await;
    for n in 0..3 {
        begun(&store, upload(1, n, "work")).await;
    }
    let ends: Vec<_> = (0..3)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.finish_image(id(n), ready(n, 100), QUOTA.bytes, NOW).await.unwrap() })
        })
        .collect();
    for end in ends {
        assert!(matches!(end.await.unwrap(), FinishOutcome::Ready(_)));
    }
    assert_eq!(names(&store, 1).await, ["work"]);
    assert_eq!(store.images_over(NOW).await.unwrap().len(), 2);
}

pub(crate) async fn tags_share_what_their_node_has_until_the_last_of_them_goes(place: &Place) {
    let store = open(place).await;
    there(&store, 1, 1, "work", 900).await;
    let tag = |holder, from: &str, to: &str, n| {
        store.tag_image(wallet(holder), named(from), named(to), id(n), QUOTA, NOW.plus(n))
    };
    let ImageOutcome::New(tagged) = tag(1, "work", "work:v1", 2).await.unwrap() else { panic!("it fits") };
    assert_eq!((tagged.pin, tagged.published, &tagged.state), (id(1), false, &HeldImageState::Ready(ready(1, 900))));
    assert_eq!(tag(1, "work", "work:v1", 3).await.unwrap(), ImageOutcome::Existing(tagged));
    assert_eq!(tag(2, "work", "mine", 4).await.unwrap(), ImageOutcome::Unknown, "it is another wallet's");
    assert_eq!(tag(1, "nothing", "mine", 4).await.unwrap(), ImageOutcome::Unknown);
    begun(&store, upload(1, 5, "other")).await;
    assert!(store.remove_image(wallet(1), named("work")).await.unwrap());
    assert!(!store.remove_image(wallet(1), named("work")).await.unwrap());
    assert_eq!(names(&store, 1).await, ["other", "work:v1"]);
    let over = store.images_over(NOW).await.unwrap();
    assert_eq!(over, [OverImage { id: id(1), pin: id(1), node: "one".to_owned(), shared: true }]);
    store.forget_image(id(1)).await.unwrap();
    assert!(store.remove_image(wallet(1), named("work:v1")).await.unwrap());
    let over = store.images_over(NOW).await.unwrap();
    assert_eq!(over, [OverImage { id: id(2), pin: id(1), node: "one".to_owned(), shared: false }]);
}

pub(crate) async fn tags_are_counted(place: &Place) {
    let store = open(place).await;
    there(&store, 1, 1, "work", 900).await;
    for n in 2..=5 {
        let tag = store.tag_image(wallet(1), named("work"), named(&format!("work:v{n}")), id(n), QUOTA, NOW);
        assert!(matches!(tag.await.unwrap(), ImageOutcome::New(_)));
    }
    let more = store.tag_image(wallet(1), named("work"), named("more"), id(6), QUOTA, NOW).await.unwrap();
    assert_eq!(more, ImageOutcome::OverQuota(OverQuota::Images));
    there(&store, 2, 7, "other", 1).await;
}

pub(crate) async fn what_is_published_is_everybodys_until_it_is_taken_back_or_replaced(place: &Place) {
    let store = open(place).await;
    there(&store, 1, 1, "work", 1).await;
    there(&store, 2, 2, "work", 1).await;
    let publish = |holder, image, published| store.publish_image(wallet(holder), named(image), published);
    let published = publish(1, "work", true).await.unwrap().unwrap();
    assert!(published.published);
    assert_eq!(publish(1, "other", true).await.unwrap(), None);
    let all = async || store.published_images(9).await.unwrap();
    assert_eq!(all().await, [published]);
    publish(2, "work", true).await.unwrap();
    assert_eq!(store.published_images(1).await.unwrap().len(), 1);
    publish(2, "work", false).await.unwrap();
    assert_eq!(all().await.len(), 1);
    // Who publishes much hides nobody else's.
    let many = [(11, "many:1"), (12, "many:2"), (13, "many:3"), (14, "many:4")];
    for (n, image) in many {
        there(&store, 3, n, image, 1).await;
        publish(3, image, true).await.unwrap();
    }
    let shown = store.published_images(3).await.unwrap();
    assert_eq!(shown.iter().map(|image| image.wallet).collect::<Vec<_>>(), [3, 3, 1].map(wallet));
    for (_, image) in many {
        publish(3, image, false).await.unwrap();
    }
    there(&store, 1, 3, "work", 1).await;
    assert_eq!(all().await, [], "what has come in its place was published by nobody");
}

pub(crate) async fn what_is_over_on_a_node_that_is_away_holds_up_no_other_nodes(place: &Place) {
    let store = open(place).await;
    let gone = async |n, node: &str| {
        let upload = NewImageUpload { node: node.to_owned(), ..upload(n, n, "a") };
        begun(&store, upload).await;
        assert!(store.give_up_image(id(n)).await.unwrap());
    };
    for n in 1..=150 {
        gone(n, "away").await;
    }
    gone(200, "one").await;
    let over = store.images_over(NOW).await.unwrap();
    assert!(over.len() < 150 && over.iter().any(|over| over.node == "one"), "{}", over.len());
}

pub(crate) async fn an_upload_whose_time_is_over_or_that_is_given_up_goes_and_is_no_image_any_more(place: &Place) {
    let store = open(place).await;
    begun(&store, upload(1, 1, "a")).await;
    begun(&store, upload(1, 2, "b")).await;
    there(&store, 1, 3, "c", 1).await;
    assert!(store.give_up_image(id(1)).await.unwrap());
    assert!(!store.give_up_image(id(1)).await.unwrap() && !store.give_up_image(id(3)).await.unwrap());
    assert_eq!(store.images_over(NOW.plus(DAY_MS - 1)).await.unwrap().len(), 1);
    assert_eq!(store.images_over(NOW.plus(DAY_MS)).await.unwrap().len(), 2);
    for n in [1, 2] {
        assert_eq!(store.finish_image(id(n), ready(n, 1), QUOTA.bytes, NOW).await.unwrap(), FinishOutcome::Unknown);
        assert_eq!(store.held_image(id(n)).await.unwrap(), None);
    }
    assert_eq!(names(&store, 1).await, ["c"]);
}

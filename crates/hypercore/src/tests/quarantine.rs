//! Records that cannot be read.

use std::path::PathBuf;
use std::time::Duration;

use domain::MarkKind;
use wire::v1::node::DataPolicy;

use super::node::{Daemon, TestNode, id, spec};
use super::pod::PodBehavior;
use crate::node::CreateError;

fn file(host: &TestNode, name: &str) -> PathBuf {
    host.state().join("sandboxes").join(id(1).to_string()).join(name)
}

/// A guest that runs, and the daemon after the one that made it.
async fn after(host: &TestNode, harm: impl FnOnce(&TestNode)) -> Daemon {
    let daemon = host.daemon().await;
    for bits in [1, 2] {
        daemon.create(id(bits)).await;
        daemon.ready(id(bits)).await;
    }
    daemon.kill().await;
    harm(host);
    host.daemon().await
}

fn cut(host: &TestNode) {
    let path = file(host, "record.json");
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() / 2]).unwrap();
}

/// What is done to a host's files while no daemon runs.
type Harm = fn(&TestNode);

#[tokio::test]
async fn fault_1_2_a_live_guest_whose_record_cannot_be_read_lives_on_with_its_disks() {
    let harms: [(&str, Harm); 4] = [
        ("cut off", cut),
        ("noise in its secrets", |host| std::fs::write(file(host, "secrets"), "noise").unwrap()),
        ("lost", |host| std::fs::remove_file(file(host, "record.json")).unwrap()),
        ("of a later program", |host| std::fs::write(file(host, "record.json"), "{\"version\":99}").unwrap()),
    ];
    for (harm, act) in harms {
        let host = TestNode::new(PodBehavior::Good);
        let next = after(&host, act).await;
        let running: Vec<_> = host.machine.running().iter().map(|slot| slot.run).collect();
        assert_eq!(running, [id(1), id(2)], "{harm}");
        assert_eq!(host.machine.disks().len(), 2, "{harm}");
        let listed = next.node.shared.registry.quarantine.list();
        assert_eq!(listed.len(), 1, "{harm}");
        assert!(listed[0].id == id(1) && listed[0].runs, "{harm}");
        assert!(listed[0].cause.contains("backup"), "{harm}: {}", listed[0].cause);
        assert_eq!(next.kinds(id(1)).await.last(), Some(&MarkKind::Unready), "{harm}: nobody is billed");
        assert!(matches!(next.offer(id(1), &spec()).await, Err(CreateError::Quarantined(_))), "{harm}");
        // Its slot is not given to another.
        next.create(id(3)).await;
        let slots: std::collections::BTreeSet<_> = host.machine.running().iter().map(|slot| slot.number).collect();
        assert_eq!(slots.len(), host.machine.running().len(), "{harm}");
        next.ready(id(2)).await;
    }
}

#[tokio::test]
async fn fault_1_5_a_node_that_ends_its_guests_ends_those_whose_records_it_cannot_read() {
    let host = TestNode::new(PodBehavior::Good);
    let next = after(&host, cut).await;
    assert_eq!(host.machine.running().len(), 2);
    next.node.halt().await;
    assert!(host.machine.running().is_empty());
    assert_eq!(host.machine.disks().len(), 2, "what is on their disks is for whoever repairs them");
    assert!(file(&host, "record.json").exists());
}

#[tokio::test]
async fn what_is_in_no_ledger_and_cannot_be_removed_keeps_its_pods_data_from_being_taken_for_gone() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    daemon.ready(id(1)).await;
    daemon.kill().await;
    host.machine.write_data(id(1), "what the agent wrote");
    host.machine.stick(id(1));
    std::fs::remove_dir_all(file(&host, "")).unwrap();
    let next = host.daemon().await;
    let [held] = next.node.shared.registry.quarantine.list().try_into().unwrap();
    assert!(held.id == id(1) && held.cause.contains("could not be removed"), "{}", held.cause);
    assert!(matches!(next.offer_run(id(2), &spec()).await, Err(CreateError::Quarantined(_))));
    let gone = next.node.delete(id(1), None, Duration::ZERO, DataPolicy::Keep).await.unwrap();
    assert!(gone.kept.is_some());
    assert!(next.offer_run(id(2), &spec()).await.is_ok());
    next.ready(id(2)).await;
    assert_eq!(host.machine.data(id(2)).as_deref(), Some("what the agent wrote"));
}

#[tokio::test]
async fn fault_1_2_a_record_that_was_repaired_gives_the_same_guest_back() {
    let host = TestNode::new(PodBehavior::Good);
    let daemon = host.daemon().await;
    daemon.create(id(1)).await;
    let before = daemon.ready(id(1)).await;
    daemon.kill().await;
    let good = std::fs::read(file(&host, "record.json")).unwrap();
    cut(&host);
    let next = host.daemon().await;
    assert!(next.sandbox(id(1)).is_none());
    next.kill().await;
    std::fs::write(file(&host, "record.json"), good).unwrap();
    let again = host.daemon().await.ready(id(1)).await;
    assert_eq!((again.pid, again.restarts), (before.pid, 0));
}

#[tokio::test]
async fn fault_1_2_a_quarantined_sandbox_can_be_given_up_and_its_disks_are_set_aside() {
    for (data, kept) in [(DataPolicy::Keep, 1), (DataPolicy::Erase, 0)] {
        let host = TestNode::new(PodBehavior::Good);
        let next = after(&host, cut).await;
        let gone = next.node.delete(id(1), None, Duration::ZERO, data).await.unwrap();
        assert_eq!((host.machine.kept().len(), usize::from(gone.kept.is_some())), (kept, kept));
        assert!(next.node.shared.registry.quarantine.list().is_empty());
        assert!(!file(&host, "").exists());
        assert_eq!(next.kinds(id(1)).await.last(), Some(&MarkKind::Gone));
        assert_eq!(host.machine.running().len(), 1);
    }
}

//! The daemon dies by `kill -9` with three guests running, and comes back.

use std::time::Duration;

use client::LogSource;
use domain::MarkKind;
use wire::v1::node::SandboxPhase;

use crate::machine::Residue;
use crate::node::{NodeProcess, id};

#[tokio::test]
async fn three_guests_outlive_the_daemon_and_a_dead_one_is_started_again() {
    let before = Residue::of("pltb");
    let mut node = NodeProcess::new("pltb", 1, "").await;
    let mut guests = Vec::new();
    for bits in 1..=3 {
        node.create(id(bits)).await;
    }
    for bits in 1..=3 {
        guests.push(node.ready(id(bits)).await);
    }
    let said = node.said(id(1), LogSource::Agent).await;

    node.kill();
    node.start().await;
    for (bits, guest) in (1..).zip(&guests) {
        assert_eq!(&node.ready(id(bits)).await, guest);
        assert_eq!(node.run(id(bits), &["/usr/bin/agent-echo", "tell", "cores"]).await.trim(), "1");
    }
    assert_eq!(node.said(id(1), LogSource::Agent).await, said);

    // One dies while nobody looks, one while the daemon does.
    node.kill();
    end(guests[1].pid);
    node.start().await;
    end(guests[2].pid);
    for guest in &guests[1..] {
        let again = node.until(guest.id, |sandbox| sandbox.restarts == 1 && sandbox.phase == SandboxPhase::Ready).await;
        assert_ne!(again.pid, guest.pid);
    }
    assert_eq!(node.ready(id(1)).await, guests[0]);
    let marks = node.client().marks(0, Duration::ZERO).await.unwrap().marks;
    let numbers: Vec<u64> = marks.iter().map(|mark| mark.mark.seq).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let ready = |bits| marks.iter().filter(|mark| mark.agent == id(bits) && mark.mark.kind == MarkKind::Ready).count();
    assert_eq!([ready(1), ready(2), ready(3)], [1, 2, 2]);

    for bits in 1..=3 {
        node.delete(id(bits)).await;
    }
    node.end(&before);
}

fn end(pid: Option<u32>) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::KILL).expect("it lives");
}

//! Volumes at the public API, over nodes in memory.

use auth::Keypair;
use domain::{RuntimeKind, Tier, TierName, Tiers};
use reqwest::Method;
use serde_json::{Value, json};
use wire::v1::node::RuntimeName;

use crate::edge::{Answer, Edge, Setup, holder};

/// A gateway of one tier with two agents at once and a disk quota, over a node with a disk, in MiB.
async fn edge(quota: u32, disk: u64) -> Edge {
    edge_of(domain::RuntimeKinds::MACHINES, quota, disk).await
}

/// The same, whose tier allows these runtimes.
async fn edge_of(runtimes: domain::RuntimeKinds, quota: u32, disk: u64) -> Edge {
    let tier = Tier { min: 1, cores: 4, memory: 4096, disk: quota, agents: 2, images: None, runtimes };
    let tiers = Tiers::new(vec![(TierName::try_from("team".to_owned()).unwrap(), tier)]).unwrap();
    let setup = Setup { tiers, ..Setup::default() };
    setup.node.set_disk(disk);
    setup.start().await
}

async fn make(edge: &Edge, holder: &Keypair, name: &str, size_mib: u64) -> Answer {
    edge.post(holder, "/volumes", &json!({"name": name, "size_mib": size_mib})).await
}

async fn ask(edge: &Edge, holder: &Keypair, method: Method, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Answer::of(edge.signed(holder, method, path, body.as_bytes())).await
}

fn path(volume: &Answer) -> String {
    format!("/volumes/{}", volume.body["volumeID"].as_str().unwrap())
}

async fn spawn(edge: &Edge, holder: &Keypair, volumes: Value) -> Answer {
    let body = json!({"agent_type": "echo", "cores": 1, "memory": 512, "volumes": volumes});
    edge.post(holder, "/spawn", &body).await
}

#[tokio::test]
async fn a_volume_outlives_the_agent_that_has_it_and_has_one_at_a_time() {
    let (edge, holder) = (edge(10_000, 20_000).await, holder());
    let made = make(&edge, &holder, "work", 512).await;
    assert_eq!(
        (made.status, &made.body["name"], &made.body["state"]),
        (201, &json!("work"), &json!("ready")),
        "{made:?}"
    );
    let mounts = json!([{"name": "work", "path": "/workspace"}]);
    let first = spawn(&edge, &holder, mounts.clone()).await;
    assert_eq!(first.status, 200, "{first:?}");
    let id = first.body["agent"]["id"].clone();
    let shown = edge.get(&holder, &path(&made)).await;
    assert_eq!(shown.body["attached"], json!({"agent_id": id, "path": "/workspace"}));
    assert_eq!(shown.body["bytes"], 4096);
    let second = spawn(&edge, &holder, mounts.clone()).await;
    assert_eq!((second.status, second.code(), &second.body["agent_id"]), (409, "volume_attached", &id), "{second:?}");
    for (method, body) in [(Method::DELETE, Value::Null), (Method::PUT, json!({"size_mib": 1024}))] {
        let answer = ask(&edge, &holder, method, &path(&made), &body).await;
        assert_eq!((answer.status, answer.code(), &answer.body["agent_id"]), (409, "volume_attached", &id));
    }
    // A stop frees it, a start takes it again, and it is settled which.
    let stop = format!("/stop/{}", id.as_str().unwrap());
    assert_eq!(edge.post(&holder, &stop, &Value::Null).await.status, 200);
    let other = spawn(&edge, &holder, mounts.clone()).await;
    assert_eq!(other.status, 200, "{other:?}");
    let again = edge.post(&holder, "/spawn", &json!({"pod": id, "cores": 1, "memory": 512})).await;
    assert_eq!((again.status, again.code()), (409, "volume_attached"), "{again:?}");
    let others = edge.post(&holder, "/spawn", &json!({"pod": id, "volumes": mounts})).await;
    assert_eq!((others.status, &others.body["field"]), (400, &json!("volumes")));
    let agent = format!("/agents/{}", other.body["agent"]["id"].as_str().unwrap());
    assert_eq!(ask(&edge, &holder, Method::DELETE, &agent, &Value::Null).await.status, 200);
    let again = edge.post(&holder, "/spawn", &json!({"pod": id, "cores": 1, "memory": 512})).await;
    assert_eq!(again.status, 200, "{again:?}");
    assert_eq!(edge.get(&holder, &path(&made)).await.body["attached"]["agent_id"], id);
    assert_eq!(edge.setup.node.volumes().len(), 1);
    assert_eq!(edge.post(&holder, &stop, &Value::Null).await.status, 200);
    assert_eq!(ask(&edge, &holder, Method::DELETE, &path(&made), &Value::Null).await.status, 204);
    assert_eq!((edge.setup.node.volumes(), edge.get(&holder, "/volumes").await.body), (Vec::new(), json!([])));
    // The agent that had it says so, rather than to start without.
    let without = edge.post(&holder, "/spawn", &json!({"pod": id, "cores": 1, "memory": 512})).await;
    assert_eq!((without.status, without.code()), (409, "no_volume"), "{without:?}");
}

#[tokio::test]
async fn what_is_more_than_the_disk_or_the_quota_holds_is_refused_and_nothing_is_left_of_it() {
    let (edge, holder) = (edge(1_000_000, 10_240).await, holder());
    let hundred = make(&edge, &holder, "work", 102_400).await;
    assert_eq!((hundred.status, hundred.code(), &hundred.body["field"]), (422, "exceeds_capacity", &json!("size_mib")));
    let nine = make(&edge, &holder, "work", 9_216).await;
    assert_eq!(nine.status, 201, "{nine:?}");
    assert_eq!(make(&edge, &holder, "more", 2_048).await.code(), "no_capacity");
    let grown = ask(&edge, &holder, Method::PUT, &path(&nine), &json!({"size_mib": 11_000})).await;
    assert_eq!((grown.status, grown.code()), (503, "no_capacity"), "{grown:?}");
    assert_eq!(edge.get(&holder, &path(&nine)).await.body["size_mib"], 9_216);
    let grown = ask(&edge, &holder, Method::PUT, &path(&nine), &json!({"size_mib": 10_000})).await;
    assert_eq!((grown.status, &grown.body["size_mib"]), (200, &json!(10_000)), "{grown:?}");
    let shrunk = ask(&edge, &holder, Method::PUT, &path(&nine), &json!({"size_mib": 64})).await;
    assert_eq!((shrunk.status, shrunk.code()), (400, "invalid_request"));
    assert_eq!(edge.get(&holder, "/volumes").await.body.as_array().unwrap().len(), 1);

    let poor = crate::volumes::edge(1_000, 10_240).await;
    assert_eq!(make(&poor, &holder, "work", 900).await.status, 201);
    let over = make(&poor, &holder, "more", 101).await;
    assert_eq!((over.status, over.code()), (403, "disk_quota"), "{over:?}");
    assert_eq!(
        over.body["error"],
        "the disk quota of 1000 MiB has no room: 900 MiB are in use, of your volumes, their snapshots and agents that do not run; ask \
         for less, or remove some"
    );
}

#[tokio::test]
async fn a_volume_of_a_wrong_shape_or_somebody_elses_is_refused_by_field() {
    let (edge, stranger, holder) = (edge(10_000, 20_000).await, holder(), holder());
    let made = make(&edge, &holder, "work", 64).await;
    for (body, field) in [
        (json!({"name": "a b"}), json!("name")),
        (json!({"name": "work", "size_mib": 1}), json!("size_mib")),
        (json!({"size_mib": 64}), json!("name")),
        (json!({"name": "work", "sized": 64}), json!("sized")),
    ] {
        let answer = edge.post(&holder, "/volumes", &body).await;
        assert_eq!((answer.status, answer.code()), (400, "invalid_request"), "{body}");
        assert_eq!(answer.body["field"], field, "{answer:?}");
    }
    let same = make(&edge, &holder, "work", 64).await;
    assert_eq!((same.status, same.code()), (409, "volume_exists"));
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(ask(&edge, &stranger, method, &path(&made), &Value::Null).await.code(), "not_found");
    }
    let put = ask(&edge, &stranger, Method::PUT, &path(&made), &json!({"size_mib": 128})).await;
    assert_eq!(put.code(), "not_found");
    assert_eq!(ask(&edge, &holder, Method::GET, "/volumes/x", &Value::Null).await.code(), "not_found");
    let theirs = spawn(&edge, &stranger, json!([{"name": "work", "path": "/workspace"}])).await;
    assert_eq!((theirs.status, theirs.code(), &theirs.body["field"]), (409, "no_volume", &json!("volumes")));
    let twice = spawn(&edge, &holder, json!([{"name": "work", "path": "/a"}, {"name": "work", "path": "/b"}])).await;
    assert_eq!((twice.status, &twice.body["field"]), (400, &json!("volumes")));
    for path in ["/etc", "/", "a", "/a/../b", "/data"] {
        let answer = spawn(&edge, &holder, json!([{"name": "work", "path": path}])).await;
        assert_eq!(
            (answer.status, answer.code(), &answer.body["field"]),
            (400, "invalid_request", &json!("volumes.path")),
            "{path}"
        );
    }
    assert_eq!(edge.setup.node.running(), []);
    // Each of these spawns was signed, and the name is another wallet's to take.
    assert_eq!(make(&edge, &stranger, "work", 64).await.status, 201);
}

#[tokio::test]
async fn a_volume_whose_node_is_away_is_not_made_and_one_that_is_removed_goes_when_it_is_back() {
    let (edge, holder) = (edge(10_000, 20_000).await, holder());
    let made = make(&edge, &holder, "work", 64).await;
    edge.setup.node.set_down(true);
    let away = make(&edge, &holder, "more", 64).await;
    assert_eq!((away.status, away.code()), (503, "node_unavailable"));
    let gone = ask(&edge, &holder, Method::DELETE, &path(&made), &Value::Null).await;
    assert_eq!((gone.status, gone.code()), (503, "node_unavailable"));
    let left = edge.get(&holder, "/volumes").await.body;
    assert_eq!((left.as_array().unwrap().len(), &left[0]["state"]), (1, &json!("removing")));
    edge.setup.node.set_down(false);
    let refused = spawn(&edge, &holder, json!([{"name": "work", "path": "/workspace"}])).await;
    assert_eq!(refused.code(), "no_volume");
    assert_eq!(ask(&edge, &holder, Method::DELETE, &path(&made), &Value::Null).await.status, 204);
    assert_eq!(edge.setup.node.volumes(), []);
}

#[tokio::test]
async fn an_agent_with_volumes_is_no_container_when_it_is_spawned_and_when_it_is_started_again() {
    let allowed = [RuntimeKind::Qemu, RuntimeKind::ContainerRunc].into_iter().collect();
    let (edge, holder) = (edge_of(allowed, 10_000, 20_000).await, holder());
    edge.setup.node.set_runtimes(&[RuntimeName::QemuTcg, RuntimeName::ContainerRunc]);
    assert_eq!(make(&edge, &holder, "work", 512).await.status, 201);
    let mounts = json!([{"name": "work", "path": "/workspace"}]);
    let refused = |answer: &Answer| {
        let told = (answer.status, answer.code(), &answer.body["field"]);
        assert_eq!(told, (400, "invalid_request", &json!("volumes")), "{answer:?}");
        assert!(answer.body["error"].as_str().unwrap().contains("needs a machine"), "{answer:?}");
    };
    let small = json!({"agent_type": "echo", "cores": 1, "memory": 512});
    let with = |body: &Value, more: Value| {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for runtime in ["container", "container-runc"] {
        refused(&edge.post(&holder, "/spawn", &with(&small, json!({"runtime": runtime, "volumes": mounts}))).await);
    }
    assert_eq!(edge.setup.node.running(), []);
    let spawned = spawn(&edge, &holder, mounts).await;
    assert_eq!((spawned.status, &spawned.body["agent"]["runtime"]), (200, &json!("qemu-tcg")), "{spawned:?}");
    let id = &spawned.body["agent"]["id"];
    let stop = format!("/stop/{}", id.as_str().unwrap());
    assert_eq!(edge.post(&holder, &stop, &Value::Null).await.status, 200);
    let again = json!({"pod": id, "cores": 1, "memory": 512});
    // Its volumes are its next start's too.
    refused(&edge.post(&holder, "/spawn", &with(&again, json!({"runtime": "container"}))).await);
    let again = edge.post(&holder, "/spawn", &again).await;
    assert_eq!((again.status, &again.body["agent"]["runtime"]), (200, &json!("qemu-tcg")), "{again:?}");
    // What has no volumes may be one.
    let other = edge.post(&holder, "/spawn", &with(&small, json!({"runtime": "container"}))).await;
    assert_eq!((other.status, &other.body["agent"]["runtime"]), (200, &json!("container-runc")), "{other:?}");
}

#[tokio::test]
async fn an_agent_stays_in_what_it_ran_in_until_another_is_asked_for_and_hears_where_it_cannot() {
    let allowed = [RuntimeKind::Qemu, RuntimeKind::ContainerRunc].into_iter().collect();
    let (edge, holder) = (edge_of(allowed, 10_000, 20_000).await, holder());
    edge.setup.node.set_runtimes(&[RuntimeName::QemuTcg, RuntimeName::ContainerRunc]);
    let ran_in = |answer: &Answer| {
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["agent"]["runtime"].as_str().unwrap().to_owned()
    };
    let first = json!({"agent_type": "echo", "cores": 1, "memory": 512, "runtime": "container"});
    let spawned = edge.post(&holder, "/spawn", &first).await;
    assert_eq!(ran_in(&spawned), "container-runc");
    let id = spawned.body["agent"]["id"].clone();
    let stop = format!("/stop/{}", id.as_str().unwrap());
    let start = async |more: Value| {
        let mut body = json!({"pod": id, "cores": 1, "memory": 512});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(edge.post(&holder, &stop, &Value::Null).await.status, 200);
        edge.post(&holder, "/spawn", &body).await
    };
    assert_eq!(ran_in(&start(json!({})).await), "container-runc");

    // Its node offers none any more.
    edge.setup.node.set_runtimes(&[RuntimeName::QemuTcg]);
    let until = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let refused = loop {
        let answer = start(json!({})).await;
        if answer.status != 200 {
            break answer;
        }
        assert!(tokio::time::Instant::now() < until, "{answer:?}");
    };
    assert_eq!((refused.status, refused.code(), &refused.body["field"]), (400, "invalid_request", &json!("runtime")));
    let said = refused.body["error"].as_str().unwrap();
    assert!(
        said.starts_with("the agent ran in container-runc and stays there unless `runtime` names another"),
        "{said}"
    );
    assert!(said.contains("they offer qemu-tcg"), "{said}");
    assert_eq!(ran_in(&edge.post(&holder, "/spawn", &json!({"pod": id, "runtime": "qemu"})).await), "qemu-tcg");

    // A machine is what it stays in from then on, and what whoever gives it a volume asks for.
    edge.setup.node.set_runtimes(&[RuntimeName::QemuTcg, RuntimeName::ContainerRunc]);
    assert_eq!(ran_in(&start(json!({})).await), "qemu-tcg");
}

#[tokio::test]
async fn a_stopped_agent_is_given_a_volume_for_its_next_start_and_does_without_it_again() {
    let (edge, holder, stranger) = (edge(10_000, 20_000).await, holder(), holder());
    assert_eq!(make(&edge, &holder, "work", 64).await.status, 201);
    let spawned = spawn(&edge, &holder, json!([])).await;
    let id = spawned.body["agent"]["id"].as_str().unwrap().to_owned();
    let at = format!("/agents/{id}/volumes/work");
    let to = json!({"path": "/workspace"});
    let live = ask(&edge, &holder, Method::PUT, &at, &to).await;
    assert_eq!((live.status, live.code()), (409, "wrong_state"), "{live:?}");
    assert_eq!(edge.post(&holder, &format!("/stop/{id}"), &Value::Null).await.status, 200);
    for (path, body, code, field) in [
        (at.clone(), json!({"path": "/etc"}), "invalid_request", json!("path")),
        (at.clone(), json!({"at": "/w"}), "invalid_request", json!("at")),
        (format!("/agents/{id}/volumes/a%20b"), to.clone(), "invalid_request", json!("name")),
        (format!("/agents/{id}/volumes/none"), to.clone(), "no_volume", Value::Null),
        ("/agents/nobody/volumes/work".to_owned(), to.clone(), "not_found", Value::Null),
    ] {
        let answer = ask(&edge, &holder, Method::PUT, &path, &body).await;
        assert_eq!((answer.code(), &answer.body["field"]), (code, &field), "{path} {body}: {answer:?}");
    }
    let theirs = ask(&edge, &stranger, Method::PUT, &at, &to).await;
    assert_eq!(theirs.code(), "not_found");
    let attached = ask(&edge, &holder, Method::PUT, &at, &to).await;
    assert_eq!((attached.status, &attached.body[0]["path"]), (200, &json!("/workspace")), "{attached:?}");
    let again = json!({"pod": id, "cores": 1, "memory": 512});
    assert_eq!(edge.post(&holder, "/spawn", &again).await.status, 200);
    let listed = edge.get(&holder, &format!("/agents/{id}/volumes")).await;
    assert_eq!(listed.body[0]["attached_to"], json!(id), "{listed:?}");
    assert_eq!(edge.setup.node.volumes()[0].sandbox, Some(edge.setup.node.running()[0]));
    assert_eq!(edge.post(&holder, &format!("/stop/{id}"), &Value::Null).await.status, 200);
    let detached = ask(&edge, &holder, Method::DELETE, &at, &Value::Null).await;
    assert_eq!((detached.status, &detached.body), (200, &json!([])), "{detached:?}");
    assert_eq!(ask(&edge, &holder, Method::DELETE, &at, &Value::Null).await.code(), "no_volume");
}

#[tokio::test]
async fn a_volume_is_copied_and_put_back_while_no_agent_has_it() {
    let (edge, holder, stranger) = (edge(2_000, 20_000).await, holder(), holder());
    let made = make(&edge, &holder, "work", 512).await;
    let (volume, snapshots) = (path(&made), format!("{}/snapshots", path(&made)));
    let first = edge.post(&holder, &snapshots, &Value::Null).await;
    assert_eq!((first.status, &first.body["state"], &first.body["bytes"]), (201, &json!("ready"), &json!(4096)));
    let to = json!({"snapshotID": first.body["snapshotID"]});
    assert_eq!(edge.get(&holder, &snapshots).await.body, json!([first.body]));
    for (method, path, body) in [
        (Method::GET, snapshots.clone(), Value::Null),
        (Method::POST, snapshots.clone(), Value::Null),
        (Method::POST, format!("{volume}/restore"), to.clone()),
        (Method::DELETE, format!("{snapshots}/{}", first.body["snapshotID"].as_str().unwrap()), Value::Null),
    ] {
        let theirs = ask(&edge, &stranger, method, &path, &body).await;
        assert_eq!((theirs.status, theirs.code()), (404, "not_found"), "{path}: {theirs:?}");
    }
    for (body, field) in [(json!({"snapshotID": "x"}), "snapshotID"), (json!({"snapshot": "x"}), "snapshot")] {
        let answer = edge.post(&holder, &format!("{volume}/restore"), &body).await;
        assert_eq!((answer.code(), &answer.body["field"]), ("invalid_request", &json!(field)), "{answer:?}");
    }
    let unknown = json!({"snapshotID": "00000000000000ff"});
    assert_eq!(edge.post(&holder, &format!("{volume}/restore"), &unknown).await.code(), "not_found");
    // While an agent has it, neither.
    let spawned = spawn(&edge, &holder, json!([{"name": "work", "path": "/workspace"}])).await;
    let id = spawned.body["agent"]["id"].clone();
    for (path, body) in [(snapshots.clone(), Value::Null), (format!("{volume}/restore"), to.clone())] {
        let busy = edge.post(&holder, &path, &body).await;
        assert_eq!((busy.status, busy.code(), &busy.body["agent_id"]), (409, "volume_attached", &id), "{busy:?}");
    }
    assert_eq!(edge.post(&holder, &format!("/stop/{}", id.as_str().unwrap()), &Value::Null).await.status, 200);
    let restored = edge.post(&holder, &format!("{volume}/restore"), &to).await;
    assert_eq!((restored.status, &restored.body["state"]), (200, &json!("ready")), "{restored:?}");
    // One that takes long is told so.
    edge.setup.node.set_slow_copies(1);
    let slow = edge.post(&holder, &snapshots, &Value::Null).await;
    assert_eq!((slow.status, &slow.body["state"], &slow.body["bytes"]), (202, &json!("creating"), &Value::Null));
    assert_eq!(edge.get(&holder, &volume).await.body["state"], "copying");
    let removed = ask(&edge, &holder, Method::DELETE, &volume, &Value::Null).await;
    assert_eq!((removed.status, removed.code()), (409, "wrong_state"), "{removed:?}");
    fixtures::until("it is made", async || {
        let all = edge.get(&holder, &snapshots).await.body;
        (all[1]["state"] == "ready").then_some(())
    })
    .await;
    let removed = ask(&edge, &holder, Method::DELETE, &volume, &Value::Null).await;
    assert!(removed.body["error"].as_str().unwrap().contains("2 snapshots"), "{removed:?}");
    for one in [&first, &slow] {
        let at = format!("{snapshots}/{}", one.body["snapshotID"].as_str().unwrap());
        assert_eq!(ask(&edge, &holder, Method::DELETE, &at, &Value::Null).await.status, 204);
    }
    assert_eq!(ask(&edge, &holder, Method::DELETE, &volume, &Value::Null).await.status, 204);
}

//! Two nodes on one machine.

use crate::machine::Residue;
use crate::network::Internet;
use crate::node::{NodeProcess, id};

#[tokio::test]
async fn fault_1_3_a_second_node_of_the_same_name_is_refused_and_touches_no_guest() {
    let before = Residue::of("pltg");
    let mut node = NodeProcess::new("pltg", 6, "").await;
    node.create(id(1)).await;
    let guest = node.ready(id(1)).await;

    let mut second = NodeProcess::plan("pltg", 7, "", "uplinks = [\"lo\"]");
    let said = second.refused().await;
    let state = node.dir.path().join("node").display().to_string();
    assert!(said.contains("network.name: pltg is in use") && said.contains(&state), "{said}");
    assert_eq!(node.ready(id(1)).await, guest);

    // Its guest alone holds the name, while no daemon does.
    node.kill();
    assert!(second.refused().await.contains("left guests running"));
    let mut near = NodeProcess::plan("plth", 6, "", "uplinks = [\"lo\"]");
    let said = near.refused().await;
    assert!(said.contains("network.range: 10.226.0.0/24 meets 10.226.0.0/24"), "{said}");
    node.start().await;
    assert_eq!(node.ready(id(1)).await, guest);
    assert_eq!(node.run(id(1), &["/usr/bin/agent-echo", "tell", "cores"]).await.trim(), "1");

    node.delete(id(1)).await;
    node.end(&before);
    // Nothing of it is left: the name is free.
    second.start().await;
    second.end(&before);
}

#[tokio::test]
async fn fault_1_3_two_nodes_share_a_way_out_and_the_last_one_closes_it() {
    let internet = Internet::new("pltiweb", 34);
    let before = (Residue::of("plti"), Residue::of("pltj"));
    let mut one = NodeProcess::plan("plti", 8, "", &internet.uplink());
    let mut other = NodeProcess::plan("pltj", 9, "", &internet.uplink());
    one.start().await;
    other.start().await;
    for node in [&one, &other] {
        node.create(id(1)).await;
    }
    // Nobody listens there: the site's own kernel says so.
    let site = format!("{}:81", internet.site());
    let words = ["/usr/bin/agent-echo", "probe", "tcp", &site];
    for node in [&one, &other] {
        node.ready(id(1)).await;
        let said = node.run(id(1), &words).await;
        assert!(said.contains("refused"), "{}: {said}", node.name);
    }
    one.delete(id(1)).await;
    one.end(&before.0);
    assert!(internet.forwarding());
    let said = other.run(id(1), &words).await;
    assert!(said.contains("refused"), "{said}");
    other.delete(id(1)).await;
    other.end(&before.1);
    assert!(!internet.forwarding());
}

//! Two nodes on one machine.

use crate::house::{House, id};
use crate::machine::Residue;
use crate::network::Internet;

#[tokio::test]
async fn fault_1_3_a_second_node_of_the_same_name_is_refused_and_touches_no_guest() {
    let before = Residue::of("pltg");
    let mut house = House::new("pltg", 6, "").await;
    house.create(id(1)).await;
    let guest = house.ready(id(1)).await;

    let mut second = House::plan("pltg", 7, "", "uplinks = [\"lo\"]");
    let said = second.refused().await;
    let state = house.dir.path().join("node").display().to_string();
    assert!(said.contains("network.name: pltg is in use") && said.contains(&state), "{said}");
    assert_eq!(house.ready(id(1)).await, guest);

    // Its guest alone holds the name, while no daemon does.
    house.kill();
    assert!(second.refused().await.contains("left guests running"));
    let mut near = House::plan("plth", 6, "", "uplinks = [\"lo\"]");
    let said = near.refused().await;
    assert!(said.contains("network.range: 10.226.0.0/24 meets 10.226.0.0/24"), "{said}");
    house.start().await;
    assert_eq!(house.ready(id(1)).await, guest);
    assert_eq!(house.run(id(1), &["/usr/bin/agent-echo", "tell", "cores"]).await.trim(), "1");

    house.delete(id(1)).await;
    house.end(&before);
    // Nothing of it is left: the name is free.
    second.start().await;
    second.end(&before);
}

#[tokio::test]
async fn fault_1_3_two_nodes_share_a_way_out_and_the_last_one_closes_it() {
    let internet = Internet::new("pltiweb", 34);
    let before = (Residue::of("plti"), Residue::of("pltj"));
    let mut one = House::plan("plti", 8, "", &internet.uplink());
    let mut other = House::plan("pltj", 9, "", &internet.uplink());
    one.start().await;
    other.start().await;
    for house in [&one, &other] {
        house.create(id(1)).await;
    }
    // Nobody listens there: the site's own kernel says so.
    let site = format!("{}:81", internet.site());
    let words = ["/usr/bin/agent-echo", "probe", "tcp", &site];
    for house in [&one, &other] {
        house.ready(id(1)).await;
        let said = house.run(id(1), &words).await;
        assert!(said.contains("refused"), "{}: {said}", house.name);
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

//! Made and deleted again, at every stage of a boot.

use std::time::Duration;

use tokio::time::sleep;

use crate::house::{House, id};
use crate::machine::Residue;

#[tokio::test]
async fn five_cycles_leave_the_machine_as_it_was() {
    let before = Residue::of("pltc");
    let mut house = House::new("pltc", 2, "").await;
    let idle = Residue::of("pltc");
    for bits in 1..=5 {
        house.create(id(bits)).await;
        if bits == 1 {
            house.ready(id(bits)).await;
        } else {
            // Somewhere in its boot.
            sleep(Duration::from_millis(150 * (bits - 2))).await;
        }
        house.delete(id(bits)).await;
        assert_eq!(Residue::of("pltc"), idle, "after cycle {bits}");
    }
    for folder in ["guests", "sandboxes"] {
        assert_eq!(std::fs::read_dir(house.dir.path().join("node").join(folder)).unwrap().count(), 0);
    }
    // The same when the daemon is killed in the middle of a start.
    house.create(id(6)).await;
    sleep(Duration::from_millis(20)).await;
    house.kill();
    house.start().await;
    house.delete(id(6)).await;
    assert_eq!(Residue::of("pltc"), idle);
    house.end(&before);
}

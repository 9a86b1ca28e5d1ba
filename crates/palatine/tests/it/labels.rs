//! What an image needs by its labels: refused before anything boots, with the name of what would work.

use fixtures::{LARGE, PLAIN, SMALL, Stack, stderr_of, stdout_of};
use reqwest::Method;
use serde_json::{Value, json};

/// The last of the reference agent's labels.
const LAST: &str = "\"org.opencontainers.image.licenses\" = \"Apache-2.0\"";

/// Offers the reference agent by a name, with one label more.
fn offer(stack: &Stack, name: &str, label: &str, value: &str) {
    stack.offer_with(name, LAST, &format!("{LAST}\n\"ai.palatine.{label}\" = {value:?}"));
}

fn names(known: &Value) -> Vec<&str> {
    known.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_image_that_cannot_work_for_its_holder_is_refused_with_the_names_of_those_that_would() {
    let mut stack = Stack::start(PLAIN).await;
    offer(&stack, "heavy", "min-memory", "200");
    offer(&stack, "noble", "min-tier", "large");
    offer(&stack, "caged", "runtimes", "container-gvisor");
    let (small, large) = (stack.holder(SMALL), stack.holder(LARGE));
    for (image, why) in [
        ("heavy", "it needs 200 MiB of memory, and would get 192"),
        ("noble", "it needs the tier large, and yours is small"),
        ("caged", "it works in container-gvisor, and the nodes have qemu-tcg"),
    ] {
        let request = json!({"agent_type": image});
        let refused = stack.ask(&small, Method::POST, "/spawn", request).await.expect(422);
        assert_eq!((&refused["code"], &refused["field"]), (&json!("image_needs"), &json!("agent_type")));
        let said = refused["error"].as_str().unwrap_or_default();
        assert!(said.contains(why) && said.contains("echo"), "{refused}");
        let known = names(&refused["known"]);
        assert!(known.contains(&"echo"), "{refused}");
        assert!(["heavy", "noble", "caged"].iter().all(|other| !known.contains(other)), "{refused}");
        let told = stack.cli(&small, &["spawn", "--type", image]).output().unwrap();
        assert_eq!(told.status.code(), Some(2), "{}", stderr_of(&told));
        let advice = format!("palatine spawn --type {}", known[0]);
        assert!(stderr_of(&told).contains(&advice), "{}", stderr_of(&told));
    }
    // Nothing was begun, and no slot is taken.
    assert!(stack.agents(&small).await.is_empty());
    assert!(stack.node_client().list().await.unwrap().sandboxes.is_empty());
    assert!(stdout_of(&stack.cli(&small, &["spawn", "--type", "echo"]).output().unwrap()).contains("is ready"));

    // A higher tier gives it; who asks for less of it than the image needs hears that.
    let less = json!({"agent_type": "heavy", "memory": 192});
    let refused = stack.ask(&large, Method::POST, "/spawn", less).await.expect(422);
    assert_eq!((&refused["code"], &refused["field"]), (&json!("image_needs"), &json!("memory")));
    for image in ["heavy", "noble"] {
        let given = stdout_of(&stack.cli(&large, &["spawn", "--type", image, "--name", image]).output().unwrap());
        assert!(given.contains("is ready"), "{given}");
        stack.remove(&large, image).await.expect(200);
    }
    stack.end();
}

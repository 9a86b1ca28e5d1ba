//! Images of packages on a stack of `palatine up`: built before it starts, or when one is first wanted. The recipes here
//! bear the names of the project's own, and have the reference agent in them: what those take is for `./dev soak agents`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fixtures::{LocalStack, assets, nonce, stderr_of, stdout_of};
use serde_json::json;

use crate::containers::read;

/// Assets as the stack's own, with recipes by these names: `nano`, `chat`, and `coding` on it, with this word in a file.
fn own_assets(stack: &LocalStack, word: &str) -> PathBuf {
    let (from, own) = (assets(), stack.path("assets"));
    let (echo, images) = (from.join("images/agent-echo"), own.join("images"));
    fs::create_dir_all(&images).unwrap();
    for name in ["pod", "solana", "evm"] {
        symlink(from.join(name), own.join(name)).unwrap();
    }
    symlink(&echo, images.join("agent-echo")).unwrap();
    for folder in ["agent-nano", "agent-chat"] {
        fs::create_dir(images.join(folder)).unwrap();
        for file in ["agent-echo", "image.toml"] {
            fs::copy(echo.join(file), images.join(folder).join(file)).unwrap();
        }
    }
    fs::create_dir(images.join("agent-coding")).unwrap();
    let recipe = format!("from = \"chat\"\n\n[[write]]\nto = \"/word\"\ntext = \"{word}\"\n");
    fs::write(images.join("agent-coding/image.toml"), recipe).unwrap();
    own
}

fn known(stack: &LocalStack) -> Vec<String> {
    let types = stack.json(&["tiers"])["agent_types"].clone();
    serde_json::from_value(types).unwrap()
}

#[tokio::test]
async fn an_image_of_packages_is_built_before_the_stack_starts_or_when_it_is_first_wanted() {
    let (stack, word) = (LocalStack::new(), nonce());
    let own = own_assets(&stack, &word);
    let up = |more: &[&str]| {
        let assets = own.display().to_string();
        stack.up(&[&["--no-agent", "--assets", &assets], more].concat())
    };
    let said = stderr_of(&up(&["--images", "nano"]));
    assert!(said.contains("Building the image nano") && said.contains("✓ Building the image"), "{said}");
    assert_eq!(known(&stack), ["echo", "nano"]);

    // A program that knows nothing of recipes hears who builds it.
    let (url, body) = (format!("http://{}/spawn", stack.listen), json!({"agent_type": "coding"}).to_string());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.post(&url).header("Content-Type", "application/json").body(body.clone());
    let headers = stdout_of(&stack.run(&["sign", "POST", &url, &body]));
    for (name, value) in headers.lines().filter_map(|line| line.split_once(": ")) {
        request = request.header(name, value);
    }
    let refused: serde_json::Value =
        serde_json::from_slice(&request.send().await.unwrap().bytes().await.unwrap()).unwrap();
    assert_eq!(refused["code"], "unknown_agent_type", "{refused}");
    assert!(refused["error"].as_str().unwrap().contains("palatine up --images coding"), "{refused}");

    // The command line builds it, and what it builds on, and says so.
    let spawned = stack.run(&["spawn", "--type", "coding"]);
    let said = stderr_of(&spawned);
    let (chat, coding) =
        (said.find("Building the image chat").unwrap(), said.find("Building the image coding").unwrap());
    assert!(chat < coding && said.matches("✓ Building the image").count() == 2, "{said}");
    assert!(stdout_of(&spawned).contains("is ready"), "{}", stdout_of(&spawned));
    let id = stack.json(&["ls"])["agents"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(read(&stack, &id, "/word"), word);
    stack.run(&["rm", &id]);
    assert_eq!(known(&stack), ["chat", "coding", "echo", "nano"]);

    // What is there is not built again, by whomever.
    let again = stack.run(&["spawn", "--type", "coding", "--rm"]);
    assert!(!stderr_of(&again).contains("Building"), "{}", stderr_of(&again));
    let said = stderr_of(&up(&["--images", "nano,chat"]));
    assert!(said.contains("running already") && !said.contains("Building"), "{said}");
    // The recipes among the assets are as they were, and a name that has none is refused.
    assert!(!own.join("images/agent-chat/image.lock").exists());
    let odd = stack.output(&["spawn", "--type", "base"]);
    assert!(stderr_of(&odd).contains("unknown_agent_type"), "{}", stderr_of(&odd));
    let unknown = stack.output(&["up", "--images", "nanno"]);
    assert!(stderr_of(&unknown).contains("nanno") && stderr_of(&unknown).contains("coding"), "{}", stderr_of(&unknown));
    assert!(Path::new(&own).join("images/agent-nano/image.toml").is_file());
}

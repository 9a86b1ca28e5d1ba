//! Docker in `agent-coding`, in a machine of its own and in a container: `./dev soak hands` runs it. OpenClaw does not
//! live in an emulated machine, so the image's own start has a program that does in its place.

#![expect(clippy::print_stdout, reason = "what a daemon takes of time and memory, for who runs the soak")]

use std::fs;
use std::time::Instant;

use fixtures::{LocalStack, assets, backwards, exec, nonce, starter_image, starters, stderr_of, stdout_of, until};

/// `agent-coding`, but for OpenClaw.
const RECIPE: &str = r#"
from = "coding"
entrypoint = ["/usr/local/sbin/with-docker", "/usr/bin/python3", "-IS", "/usr/local/lib/alive.py"]
port = 49900
ready = "/ready"
health = "/health"

[labels]
"ai.palatine.runtimes" = "qemu,container"

[[copy]]
from = "alive.py"
to = "/usr/local/lib/alive.py"
"#;

/// A program without a library: says its word backwards, with what it was compiled with, once or to whoever calls it at
/// port 80.
const PROGRAM: &str = r#"
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
static void say(int to, const char *word) {
  dprintf(to, "made %s ", MADE);
  for (size_t at = strlen(word); at--;) dprintf(to, "%c", word[at]);
  dprintf(to, "\n");
}
int main(int count, char **words) {
  if (count == 2) return say(1, words[1]), 0;
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(80)};
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 8)) return perror("listen"), 1;
  for (;;) {
    char asked[4096];
    int to = accept(listener, 0, 0);
    if (read(to, asked, sizeof asked) > 0) dprintf(to, "HTTP/1.0 200 OK\r\n\r\n"), say(to, words[2]);
    close(to);
  }
}
"#;

/// A stack that has the image.
fn stack() -> LocalStack {
    starter_image("agent-chat", "chat");
    starter_image("agent-coding", "coding");
    let stack = LocalStack::with_images(&starters(), "");
    stack.up(&["--no-agent"]);
    let folder = stack.path("docked");
    fs::create_dir(&folder).unwrap();
    fs::copy(assets().join("images/base/alive.py"), folder.join("alive.py")).unwrap();
    fs::write(folder.join("image.toml"), RECIPE).unwrap();
    stack.run(&["image", "build", &folder.display().to_string(), "docked", "--node"]);
    stack
}

/// Spawns it in this kind of runtime.
fn spawn(stack: &LocalStack, runtime: &str) -> String {
    let began = Instant::now();
    let words = ["spawn", "--type", "docked", "--cores", "1", "--memory", "2048", "--runtime", runtime];
    let spawned = stack.json(&words);
    println!(
        "{}: {} in {:.1} s",
        spawned["agent"]["runtime"],
        spawned["agent"]["state"],
        began.elapsed().as_secs_f32()
    );
    assert_eq!(spawned["agent"]["state"], "ready", "{spawned}");
    spawned["agent"]["id"].as_str().unwrap().to_owned()
}

/// What a command in the agent prints, and how long it took.
fn told(stack: &LocalStack, id: &str, command: &str) -> String {
    let began = Instant::now();
    let said = exec(stack, id, command).trim().to_owned();
    println!("  {:.1} s: {command}", began.elapsed().as_secs_f32());
    said
}

/// The processes of a Docker daemon.
const DAEMON: &str = "sudo ps -eo comm= | grep -xE 'dockerd|containerd' | wc -l";

#[tokio::test]
async fn soak_hands_coding_builds_and_runs_containers_in_a_machine_and_has_them_after_a_stop() {
    let (stack, made, word) = (stack(), nonce(), nonce());
    let id = spawn(&stack, "qemu");
    let inside = |command: &str| told(&stack, &id, command);
    assert_eq!(inside("id -nG"), "agent sudo docker");
    assert_eq!(inside(DAEMON), "0", "nobody has called it");

    // An image from nothing, and its containers: one for a word, one that stays.
    let (from, to) = (stack.path("say.c"), format!("{id}:/data/workspace/say.c"));
    fs::write(&from, PROGRAM).unwrap();
    inside("mkdir -p /data/workspace");
    stack.run(&["cp", &from.display().to_string(), &to]);
    inside(&format!(
        "cd /workspace && gcc -static -O1 -DMADE='\"{made}\"' -o say say.c && \
         printf 'FROM scratch\\nCOPY say /say\\nENTRYPOINT [\"/say\"]\\n' > Dockerfile"
    ));
    let built = inside("cd /workspace && docker build --quiet --tag said .");
    assert!(built.starts_with("sha256:"), "{built}");
    assert_eq!(inside(&format!("docker run --rm said {word}")), format!("made {made} {}", backwards(&word)));
    let stays = "docker run --detach --restart always --memory 64m --publish 8081:80 --name stays said serve";
    inside(&format!("{stays} {word}"));
    let answer = format!("made {made} {}", backwards(&word));
    let served = || inside("curl --silent --retry 20 --retry-connrefused --retry-delay 1 127.0.0.1:8081");
    assert_eq!(served(), answer);
    let limit = "cat /sys/fs/cgroup/docker/$(docker inspect --format '{{.Id}}' stays)/memory.max";
    assert_eq!(inside(limit), (64 << 20).to_string());
    assert_eq!(inside("docker info --format '{{.DockerRootDir}} {{.Driver}}'"), "/data/docker overlay2");
    println!(
        "{}",
        inside("sudo ps -eo rss=,args= | grep -E 'docker|containerd' | cut -c1-100; grep MemAvail /proc/meminfo")
    );

    // Its end is nobody's but its own: the next call has another.
    inside("sudo pkill -KILL -x dockerd; sleep 0.1");
    let again = until("another daemon answers", async || {
        let output = stack.output(&["exec", &id, "--", "docker", "images", "--no-trunc", "--quiet"]);
        output.status.success().then(|| stdout_of(&output))
    });
    assert_eq!(again.await.trim(), built);

    // What it made is there after a stop; what is to run always runs before anybody calls.
    stack.run(&["stop", &id]);
    let began = Instant::now();
    let started = stack.json(&["start", &id, "--cores", "1", "--memory", "2048", "--runtime", "qemu"]);
    println!("again: {} in {:.1} s", started["agent"]["state"], began.elapsed().as_secs_f32());
    until("the container that is to run always", async || {
        let output = stack.output(&["exec", &id, "--", "curl", "--silent", "127.0.0.1:8081"]);
        (stdout_of(&output).trim() == answer).then_some(())
    })
    .await;
    assert_eq!(inside("docker images --no-trunc --quiet"), built);
    assert_eq!(inside(&format!("docker run --rm said {made}")), format!("made {made} {}", backwards(&made)));
    stack.run(&["rm", &id]);

    // Nobody gains privileges in a container.
    let id = spawn(&stack, "container");
    let refused = stack.output(&["exec", &id, "--", "docker", "ps"]);
    let said = stderr_of(&refused);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.starts_with("docker: this agent runs in a container, where nobody gains privileges"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    assert!(told(&stack, &id, "docker --version").starts_with("Docker version"));
    assert_eq!(told(&stack, &id, "pgrep -f '[d]ocker-on-demand' | wc -l"), "0");
    stack.run(&["rm", &id]);
    assert_eq!(stack.errors(), Vec::<String>::new());
}

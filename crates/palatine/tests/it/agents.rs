//! Agents that do work, each in a microVM of a stack of `palatine up`: `./dev soak agents` runs them. How long one is left
//! alone is `PALATINE_SOAK_MINUTES`.

#![expect(clippy::print_stdout, reason = "what an agent takes of time and memory, for who runs the soak")]

use std::time::{Duration, Instant};

use fixtures::{BASIC, Starter, Worker, backwards, nonce, stderr_of, workplace};

/// How long an agent that is left alone is left between two looks at it.
const LOOK: Duration = Duration::from_secs(5);
/// What makes a browser in an emulated machine fast.
const CACHE: &str = "[node]\ntranslation_cache_mib = 256\n";

fn left_alone() -> Duration {
    let minutes = std::env::var("PALATINE_SOAK_MINUTES").map_or(1, |minutes| minutes.parse().unwrap());
    Duration::from_secs(60 * minutes)
}

/// Leaves it alone for so long; it must stay ready, under one start.
async fn stays_ready(agent: &Worker<'_>) {
    let until = Instant::now() + left_alone();
    let run = agent.status()["run"].clone();
    while Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        let now = agent.status();
        assert_eq!((&now["state"], &now["run"], &now["restarts"]), (&"ready".into(), &run, &0.into()));
    }
}

/// Tells what it takes.
pub(crate) fn tell(agent: &Worker<'_>, what: &str, took: Duration) {
    let (runtime, memory) = (&agent.runtime, agent.memory_kib() / 1024);
    println!("{runtime}: {what} in {:.1} s; {memory} MiB on the host", took.as_secs_f32());
}

#[tokio::test]
async fn soak_agents_nano_writes_runs_and_commits_a_program_and_has_it_after_a_stop_and_after_a_while() {
    let (model, stack) = workplace(&[Starter::Nano], "");
    let nano = Worker::spawn(&stack, &model, Starter::Nano, &BASIC);
    tell(&nano, "agent-nano ready", nano.ready_in);
    let made = nano.make();
    tell(&nano, "written, run and committed", made.took);
    tell(&nano, "started again", nano.stop_and_start());
    nano.has_work(&made);
    nano.again(&made);
    stays_ready(&nano).await;

    // All of it once more: what was made is there, more is made, and both survive a stop.
    nano.again(&made);
    let more = nano.make();
    tell(&nano, "written, run and committed, after a while", more.took);
    nano.stop_and_start();
    nano.has_work(&made);
    tell(&nano, "an answer", nano.again(&more));
    assert_eq!(stack.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn soak_agents_base_is_worked_in_by_its_user_with_sudo_git_python_and_node() {
    let (model, stack) = workplace(&[Starter::Base], "");
    let base = Worker::spawn(&stack, &model, Starter::Base, &BASIC);
    tell(&base, "base ready", base.ready_in);
    let inside = |command: &str| base.exec(command).trim().to_owned();

    assert_eq!(inside("id -un; pwd; echo $HOME"), "user\n/home/user\n/home/user");
    let word = nonce();
    assert_eq!(
        inside(&format!("sudo -n bash -c 'id -un; echo {word} > /etc/written'; cat /etc/written")),
        format!("root\n{word}")
    );
    assert_eq!(inside("sudo -n -u nobody id -un"), "nobody");
    assert_eq!(
        inside(&format!("cat <(echo {word}) - < /dev/stdin <<< end; echo {word} > /dev/stderr")),
        format!("{word}\nend")
    );
    assert_eq!(inside(&format!("python3 -c 'print(\"{word}\"[::-1])'")), backwards(&word));
    let node = format!("node -e 'console.log(\"{word}\".split(\"\").reverse().join(\"\"))'");
    assert_eq!(inside(&node), backwards(&word));
    assert!(inside("npm --version && pip --version && make --version && rg --version").contains("ripgrep"));
    let made = base.make();
    assert_eq!(
        inside(&format!("mkdir /code/{word} && rmdir /code/{word} && touch /usr/local/bin/{word} && echo written")),
        "written"
    );
    let odd = stack.output(&["exec", &base.id, "--", "bash", "-c", "exit 7"]);
    assert_eq!(odd.status.code(), Some(7), "{}", stderr_of(&odd));
    base.stop_and_start();
    tell(&base, "its program run again", base.again(&made));
    base.remove();
    assert_eq!(stack.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn soak_agents_browser_reads_what_a_pages_script_has_written() {
    let (model, stack) = workplace(&[Starter::Browser], CACHE);
    let browser = Worker::spawn(&stack, &model, Starter::Browser, &BASIC);
    tell(&browser, "agent-browser ready", browser.ready_in);
    let made = browser.make();
    tell(&browser, "a page", made.took);
    tell(&browser, "the same page", browser.again(&made));
    assert_eq!(stack.errors(), Vec::<String>::new());
}

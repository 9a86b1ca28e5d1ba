//! `palatine ask`: whom, what and which model, where the command line leaves it open.

use std::io::Write;
use std::process::{Output, Stdio};

use fixtures::{Holder, LARGE, Reply, SMALL, ScriptedModel, SpawnedAgent, Stack, Turn, nonce, stderr_of, stdout_of};
use reqwest::Method;
use serde_json::json;

fn give_back(turn: &Turn, nonce: &str) -> Reply {
    Reply::Say(format!("{nonce} {}", turn.question))
}

/// A command that is given this on its standard input.
fn given(stack: &Stack, holder: &Holder, words: &[&str], input: &str) -> Output {
    let mut command = stack.cli(holder, words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn ask_asks_ones_only_agent_what_is_said_or_given_to_it_by_the_first_model_that_it_lists() {
    let model = ScriptedModel::start(give_back);
    let mut stack = Stack::start(&model.reachable()).await;
    let holder = stack.holder(SMALL);
    let env = model.env();
    let spawn: Vec<&str> =
        ["spawn", "--type", "echo", "--json"].into_iter().chain(env.iter().map(String::as_str)).collect();
    let spawned = serde_json::from_str(&stdout_of(&stack.cli(&holder, &spawn).output().unwrap())).unwrap();
    let id = SpawnedAgent::of(&spawned).id;
    let [first, second] = model.models();
    let question = nonce();
    let ways: [(&[&str], &str, &str); 5] = [
        (&["ask", &question], "", first),
        (&["ask"], &question, first),
        (&["ask", "-"], &question, first),
        (&["ask", &id, "-"], &question, first),
        (&["ask", "--model", second, &id, &question], "", second),
    ];
    for (at, (words, input, named)) in ways.into_iter().enumerate() {
        let answer = stdout_of(&given(&stack, &holder, words, input));
        let asked = model.exchanges();
        assert_eq!(asked.len(), at + 1, "{words:?}");
        assert_eq!(asked[at].request["model"], named, "{words:?}");
        assert!(answer.contains(&asked[at].nonce) && answer.contains(&question), "{words:?}: {answer}");
    }
    let nothing = given(&stack, &holder, &["ask"], " \n");
    assert_eq!(nothing.status.code(), Some(1));
    assert!(stderr_of(&nothing).contains("holds no question"), "{}", stderr_of(&nothing));
    assert_eq!(model.exchanges().len(), 5, "nobody is asked nothing");
    stack.end();
}

#[tokio::test]
async fn ask_lists_ones_agents_where_several_run_and_says_what_to_do_where_none_does() {
    let tier = format!("[tiers.large]\nmin = {LARGE}\ncores = 2\nmemory = 400\nagents = 2\n");
    let mut stack = Stack::start(&tier).await;
    let holder = stack.holder(LARGE);
    let run = |words: &[&str]| stack.cli(&holder, words).output().unwrap();
    let refused = |words: &[&str]| {
        let output = run(words);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        stderr_of(&output)
    };
    assert!(refused(&["ask", "hello"]).contains("palatine spawn --type"));
    let part = ["--type", "echo", "--cores", "1", "--memory", "200"];
    for name in ["one-of-two", "two-of-two"] {
        assert!(run(&[&["spawn", "--name", name], &part[..]].concat()).status.success());
    }
    let several = refused(&["ask", "hello"]);
    assert!(
        several.contains("2 agents") && several.contains("one-of-two") && several.contains("two-of-two"),
        "{several}"
    );
    assert!(stdout_of(&run(&["ask", "two-of-two", "who are you?"])).contains("who are you?"));
    stack.stop(&holder, "one-of-two").await.expect(200);
    assert!(stdout_of(&run(&["ask", "the other one?"])).contains("the other one?"));
    stack.stop(&holder, "two-of-two").await.expect(200);
    let none = refused(&["ask", "hello"]);
    assert!(none.contains("palatine start "), "{none}");
    stack.end();
}

#[tokio::test]
async fn an_agent_that_answers_no_list_of_models_is_asked_by_the_one_that_is_named() {
    let model = ScriptedModel::start(give_back);
    let mut stack = Stack::start(&model.reachable()).await;
    let holder = stack.holder(SMALL);
    // A key that its model's server refuses: nothing is listed, and nothing answered.
    let env = model.env();
    let url = env.iter().find_map(|word| word.strip_prefix("OPENAI_BASE_URL=")).unwrap();
    let request = json!({"agent_type": "echo", "env": {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "another"}});
    let agent = SpawnedAgent::of(&stack.ask(&holder, Method::POST, "/spawn", request).await.expect(200));
    let asked = |words: &[&str]| {
        let token = ["--token", agent.text("token")];
        stderr_of(&stack.cli(&holder, &[&["ask"], &token[..], words].concat()).output().unwrap())
    };
    let unlisted = asked(&["hello"]);
    assert!(unlisted.contains("--model names one") && unlisted.contains("refuses this agent's key"), "{unlisted}");
    let refused = asked(&["--model", &model.models()[0], "hello"]);
    assert!(!refused.contains("--model names one") && refused.contains("refuses this agent's key"), "{refused}");
    assert!(model.exchanges().is_empty());
    stack.end();
}

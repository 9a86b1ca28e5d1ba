//! The main job, once, as a user would do it: a second funded wallet spawns an
//! agent, asks it something at the URL it was told, and stops it.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::{AgentEndpoint, ChatPrompt, GatewayClient, SpawnOptions};
use futures_util::StreamExt;
use tokio::time::timeout;
use wire::v1::public::SpawnRequest;

use super::progress::Step;
use super::stack::LocalStackInfo;
use crate::commands::asked::first_model;
use crate::keypair;

/// What the agent is asked.
const QUESTION: &str = "are you there?";
/// How long the answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long clearing up after an interruption may take.
pub(super) const CLEAR_LIMIT: Duration = Duration::from_secs(15);

/// Does it. What it spawned is stopped, whatever else happens.
pub(super) async fn run(stack: &LocalStackInfo) -> Result<()> {
    let client = client(stack)?;
    clear_all(&client).await.context("stop what an interrupted trial has left")?;
    let done = job(&client).await;
    let cleared = clear_all(&client).await.context("stop the agent");
    done.and(cleared)
}

/// Stops what an interrupted trial has left running.
pub(super) async fn clear(stack: &LocalStackInfo) -> Result<()> {
    let client = client(stack)?;
    timeout(CLEAR_LIMIT, clear_all(&client)).await.context("stop the agent of the trial")?
}

fn client(stack: &LocalStackInfo) -> Result<GatewayClient> {
    Ok(GatewayClient::new(&stack.gateway)?.signed_by(keypair::read(&stack.visitor_keypair)?))
}

async fn job(client: &GatewayClient) -> Result<()> {
    let step = Step::start("Trying it: a second wallet spawns an agent");
    let request =
        SpawnRequest { agent_type: Some("echo".to_owned()), ephemeral: Some(true), ..SpawnRequest::default() };
    let agent = client.spawn(&request, &SpawnOptions::default()).await.context("spawn an agent")?.agent;
    step.done();
    eprintln!("  {}", agent.url);
    eprintln!("  > {QUESTION}");
    let endpoint = AgentEndpoint { url: agent.url, token: agent.token };
    let ask = async {
        let model = first_model(client, &endpoint).await?;
        let question = ChatPrompt::of(model, QUESTION.to_owned());
        let mut words = client.ask(&endpoint, &question, None).await?;
        let mut answer = String::new();
        while let Some(word) = words.next().await {
            answer.push_str(&word?);
        }
        anyhow::Ok(answer)
    };
    let answer = timeout(ANSWER_LIMIT, ask).await.context("ask the agent")?.context("ask the agent")?;
    if answer.trim().is_empty() {
        bail!("the agent answered nothing");
    }
    writeln!(std::io::stderr(), "  < {}", answer.trim())?;
    Ok(())
}

async fn clear_all(client: &GatewayClient) -> Result<()> {
    for agent in client.agents().await? {
        if agent.state.is_live() {
            client.stop(agent.id).await?;
            eprintln!("✓ The agent is stopped");
        }
    }
    Ok(())
}

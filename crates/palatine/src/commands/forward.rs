//! `palatine port-forward`: an agent's ports, reached from here.
//!
//! Each connection here has one of its own through the gateway. What breaks there is reset
//! here, so that no part of an answer is taken for all of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use client::{AgentAccess, AgentPorts, CarryError, ClientError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use wire::fault::Code;

use crate::answers::{Forward, Forwards};
use crate::cli::PortPair;
use crate::output::{self, show};

/// Connections at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;
/// Reasons to give up that wait to be heard: one is enough.
const REASONS: usize = 1;

/// Forwards ports until `interrupted` comes, or nothing opens the agent any more.
pub(crate) async fn run(
    access: &AgentAccess,
    pairs: &[PortPair],
    addresses: &[IpAddr],
    json: bool,
    interrupted: impl Future<Output = ()>,
) -> Result<()> {
    let ports = access.ports()?;
    let listeners = listen(pairs, addresses).await?;
    let forwards = listeners.iter().map(|(_, forward)| *forward).collect();
    show(json, &Forwards { forwards }, output::forwards)?;
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (give_up, mut reasons) = mpsc::channel(REASONS);
    // All of it ends when this is dropped.
    let mut accepting = JoinSet::new();
    for (listener, forward) in listeners {
        let forwarder = Forwarder { ports: ports.clone(), port: forward.port, give_up: give_up.clone() };
        accepting.spawn(accept(listener, forwarder, Arc::clone(&room)));
    }
    tokio::select! {
        () = interrupted => Ok(()),
        Some(reason) = reasons.recv() => Err(reason),
        Some(ended) = accepting.join_next() => Err(ended.context("accept connections")?.into()),
    }
}

/// All listeners, or none.
async fn listen(pairs: &[PortPair], addresses: &[IpAddr]) -> Result<Vec<(TcpListener, Forward)>> {
    let mut listeners = Vec::new();
    for pair in pairs {
        for address in addresses {
            let wanted = SocketAddr::new(*address, pair.local);
            let listening = async {
                let listener = TcpListener::bind(wanted).await?;
                let address = listener.local_addr()?;
                Ok::<_, io::Error>((listener, Forward { address, port: pair.remote }))
            };
            let other =
                || format!("listen at {wanted}; another port here: palatine port-forward <id> 0:{}", pair.remote);
            listeners.push(listening.await.with_context(other)?);
        }
    }
    Ok(listeners)
}

/// What leads to one port of the agent.
#[derive(Clone)]
struct Forwarder {
    ports: AgentPorts,
    port: u16,
    give_up: mpsc::Sender<anyhow::Error>,
}

/// Accepts connections for as long as that can be done; returns why it no more can.
async fn accept(listener: TcpListener, forwarder: Forwarder, room: Arc<Semaphore>) -> io::Error {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return io::Error::other("closed") };
        match listener.accept().await {
            Ok((stream, from)) => {
                let forwarder = forwarder.clone();
                connections.spawn(async move {
                    forwarder.forward(stream, from).await;
                    drop(place);
                });
            }
            // Who asked has gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return error,
        }
    }
}

impl Forwarder {
    async fn forward(self, mut stream: TcpStream, from: SocketAddr) {
        let carried = match self.ports.connect(self.port).await {
            Ok(connection) => connection.carry(&mut stream).await.map_err(Failure::Broken),
            Err(error) => Err(Failure::Refused(error)),
        };
        let Err(failure) = carried else { return };
        // Whoever reads here must not take it for the end of what was said.
        let _ = stream.set_zero_linger();
        drop(stream);
        match failure {
            // One end hung up, as it may.
            Failure::Broken(CarryError::Stream(_) | CarryError::Closed) => {}
            Failure::Broken(error) => eprintln!("warning: {from}: {:#}", anyhow::Error::from(error)),
            Failure::Refused(error) if is_final(&error) => {
                // Another connection may have said the same before.
                let _ = self.give_up.try_send(anyhow::Error::from(error));
            }
            Failure::Refused(error) => eprintln!("warning: {from}: {:#}", anyhow::Error::from(error)),
        }
    }
}

/// Why a connection came to no good end.
enum Failure {
    Refused(ClientError),
    Broken(CarryError),
}

/// Whether no later connection can fare better.
fn is_final(error: &ClientError) -> bool {
    let key = matches!(error.code(), Some(Code::InvalidToken | Code::InvalidKey | Code::ExpiredKey | Code::KeyScope));
    key || matches!(error.guest_status(), Some(401 | 403))
}

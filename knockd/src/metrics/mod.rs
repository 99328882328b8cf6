//! The metrics endpoint: figures for Prometheus and whatever else reads OpenMetrics, off unless `[metrics]` says
//! where. [`server`] speaks HTTP, on a thread of its own; `page` writes down what the event loop tells it.
//!
//! # Security considerations
//! - There is no password before figures: they are told to this host alone ([`crate::config::metrics`]). They have
//!   names of clients in them, and no address and no key.
//! - The event loop tells its figures once a second at most, whoever asks how often; everything else, running nft
//!   and writing the page included, is done by the other thread. A slow or greedy reader costs other readers time,
//!   and no knock.
//! - At most [`server::CONNECTIONS`] connections are served at once, each for [`server::PATIENCE`] at most and with
//!   a header of [`server::HEADER_MAX`] bytes at most; further ones wait in the socket's backlog.
//! - How many lines there are follows from the configuration and the code: nothing that a packet says makes a line
//!   but a client's name, and those are bounded by `metrics.per-client`.

mod page;
pub mod server;

use std::{future::pending, io};

use common::Timestamp;
use tokio::sync::{mpsc, oneshot};

use crate::{
    client_counts::{AllClients, ClientCounts},
    config,
    control::Status,
    gate::{Gate, denials::Denial},
};

/// What the event loop tells of itself.
#[derive(Debug)]
pub struct Figures {
    /// How the daemon is.
    pub status: Status,
    /// When it started, by the clock as it is now.
    pub started: Timestamp,
    /// The clients that have figures of their own.
    pub clients: Vec<ClientFigures>,
    /// All others together; `None` if no client has figures of its own.
    pub others: Option<ClientFigures>,
}

/// The figures of a client, or of many.
#[derive(Debug)]
pub struct ClientFigures {
    /// Its name, or [`OTHERS`].
    pub name: String,
    /// What was decided.
    pub counts: ClientCounts,
    /// How often it asked for what it may not have, copies not counted.
    pub denials: u64,
}

/// What stands for a name where many clients are told together: no client can be called that.
pub const OTHERS: &str = "(other)";

impl Figures {
    /// What is to be told of a daemon in this state.
    pub fn new(status: Status, started: Timestamp, counts: &mut AllClients, gate: &Gate) -> Self {
        counts.forget_who_is_gone(gate.directory());
        let denied = |denial: Option<Denial>| denial.map_or(0, |denial| denial.count);
        let clients: Vec<ClientFigures> = counts
            .own()
            .map(|(client, name, counts)| ClientFigures {
                name: name.to_owned(),
                counts,
                denials: denied(gate.denials().of(client)),
            })
            .collect();
        let all: u64 = gate.denials().iter().map(|(_, denial)| denial.count).sum();
        let others = ClientFigures {
            name: OTHERS.to_owned(),
            counts: counts.others(),
            denials: all - clients.iter().map(|client| client.denials).sum::<u64>(),
        };
        Self { status, started, clients, others: (counts.limit() > 0).then_some(others) }
    }
}

/// Whoever asks the event loop for its figures.
pub type Asked = oneshot::Sender<Figures>;

/// The endpoint, as the event loop sees it.
#[derive(Debug)]
pub struct Metrics {
    asked: Option<mpsc::Receiver<Asked>>,
}

impl Metrics {
    /// Tells figures where the configuration says, from here on until it is dropped.
    ///
    /// # Errors
    /// What stands in the way of listening there.
    pub fn start(config: &config::Metrics) -> io::Result<Self> {
        let asked = config.listen.as_ref().map(server::start).transpose()?;
        Ok(Self { asked })
    }

    /// Waits until figures are asked for; for ever where they are told nowhere. Nothing is lost if it is dropped.
    pub async fn asked(&mut self) -> Asked {
        let Some(asked) = &mut self.asked else { return pending().await };
        match asked.recv().await {
            Some(asked) => asked,
            None => pending().await,
        }
    }
}

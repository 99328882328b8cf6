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

use std::{
    future::pending,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use common::Timestamp;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info};

use crate::{
    client_counts::{AllClients, ClientCounts},
    config::{self, metrics::Endpoint},
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
    state: State,
}

/// Why figures can't be told, while that is so.
#[derive(Clone, Debug, Default)]
struct State(Arc<Mutex<Option<String>>>);

impl State {
    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn works(&self) {
        if self.lock().take().is_some() {
            info!(event = "metrics-back", "figures are told");
        }
    }

    /// Told once for each reason: it may be tried for days.
    fn fails(&self, endpoint: &Endpoint, error: &io::Error) {
        let why = format!("{endpoint}: {error}");
        if self.lock().replace(why.clone()).as_ref() != Some(&why) {
            error!(
                event = "metrics-failed",
                "figures can't be told at {why} ([metrics] listen = \"…\"); tried again"
            );
        }
    }
}

impl Metrics {
    /// Tells figures where the configuration says, from here on until it is dropped. What stands in the way of that is
    /// told, and tried again: no knock is the worse for it.
    #[must_use]
    pub fn start(config: &config::Metrics) -> Self {
        let state = State::default();
        let asked = config.listen.as_ref().and_then(|endpoint| {
            server::start(endpoint.clone(), state.clone())
                .inspect_err(|error| state.fails(endpoint, error))
                .ok()
        });
        Self { asked, state }
    }

    /// Why figures can't be told, if they can't be.
    #[must_use]
    pub fn failing(&self) -> Option<String> {
        self.state.lock().clone()
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

//! The figures as text: OpenMetrics 1.0, or Prometheus' older format 0.0.4 for readers that take that alone.
//!
//! Everything comes from one [`Figures`], so that what a page tells is what the daemon was at one moment.

use std::{fmt::Error, io};

use hyper::body::Bytes;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, prometheus_text, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::{Registry, Unit},
};

use super::{ClientFigures, Figures};
use crate::{
    admission::Failure,
    control::{Clock, Status},
    gate::decision::Reason,
};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The same figures in both formats.
#[derive(Clone, Debug)]
pub(super) struct Pages {
    open_metrics: Bytes,
    prometheus: Bytes,
}

impl Pages {
    /// The content type and the text for a reader that accepts these: OpenMetrics, unless it asks for plain text
    /// and not for that.
    pub(super) fn wanted<'a>(
        &self,
        accepted: impl Iterator<Item = &'a str>,
    ) -> (&'static str, Bytes) {
        let (mut open_metrics, mut plain) = (false, false);
        for accepted in accepted {
            open_metrics |= accepted.contains("application/openmetrics-text");
            plain |= accepted.contains("text/plain");
        }
        match plain && !open_metrics {
            true => (prometheus_text::CONTENT_TYPE, self.prometheus.clone()),
            false => (OPEN_METRICS, self.open_metrics.clone()),
        }
    }
}

/// Writes figures down.
///
/// # Errors
/// None that is known of: a text takes whatever is written to it.
pub(super) fn write(figures: Figures) -> io::Result<Pages> {
    let mut registry = Registry::with_prefix("knockd");
    registry.register_collector(Box::new(figures));
    let (mut open_metrics, mut prometheus) = (String::new(), String::new());
    text::encode(&mut open_metrics, &registry).map_err(io::Error::other)?;
    prometheus_text::encode(&mut prometheus, &registry).map_err(io::Error::other)?;
    Ok(Pages { open_metrics: open_metrics.into(), prometheus: prometheus.into() })
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut page = Page(encoder);
        let Self { status, started, clients, others } = self;
        page.daemon(status, started.as_millis())?;
        page.decisions(status)?;
        page.kernel(status)?;
        page.clock(&status.clock)?;
        let clients: Vec<&ClientFigures> = clients.iter().chain(others).collect();
        if clients.is_empty() { Ok(()) } else { page.clients(&clients) }
    }
}

/// The page, while it is written.
struct Page<'e>(DescriptorEncoder<'e>);

/// A line's labels.
type Labels<'l, const N: usize> = [(&'static str, &'l str); N];

impl Page<'_> {
    fn daemon(&mut self, status: &Status, started_ms: u64) -> Result<(), Error> {
        let info = Info::new([("version", status.version.clone())]);
        info.encode(self.0.encode_descriptor(
            "build",
            "The daemon that runs",
            None,
            MetricType::Info,
        )?)?;
        self.seconds(
            "start_time",
            "When the daemon started, by the clock as it is now",
            started_ms,
        )?;
        let configuration = &status.configuration;
        self.gauge(
            "configuration_refused",
            "Whether a change of the configuration was refused and the one before is in force: 1 or 0",
            usize::from(configuration.refused.is_some()),
        )?;
        self.gauge(
            "configuration_restart_keys",
            "Keys that have changed in the configuration and take effect at a restart",
            configuration.restart.len(),
        )?;
        self.gauge("clients", "Clients in the configuration", status.clients)?;
        self.gauge("grants", "Grants that are live", status.grants)?;
        self.gauges(
            "bans",
            "Sources that are banned, by whom",
            [
                ([("by", "failures")], status.bans_by_failures),
                ([("by", "admin")], status.bans_by_admin),
            ],
        )?;
        self.gauge("bans_limit", "Sources that can be banned at once", status.bans_limit)?;
        let memory = status.replay_memory;
        self.gauge("replay_memory_packets", "Accepted packets that are remembered", memory.used)?;
        self.gauge(
            "replay_memory_packets_limit",
            "Accepted packets that can be remembered at once",
            memory.capacity,
        )?;
        self.counter("errors", "Events at level error since the daemon started", status.errors)
    }

    fn decisions(&mut self, status: &Status) -> Result<(), Error> {
        let counts = &status.decisions;
        let refused = Reason::NAMES.into_iter().chain(Failure::NAMES).map(|reason| {
            let labels = [("decision", "refused"), ("reason", reason)];
            (labels, counts.refused.get(reason).copied().unwrap_or(0))
        });
        let others = [("granted", counts.granted), ("closed", counts.closed)];
        let others =
            others.map(|(decision, count)| ([("decision", decision), ("reason", "")], count));
        self.counters(
            "decisions",
            "What was decided of packets that reached the daemon",
            others.into_iter().chain(refused),
        )?;
        self.counter(
            "grants_given_way",
            "Addresses at which a client's own grants gave way to its newest",
            counts.gave_way,
        )?;
        self.counter("sources_banned", "Sources banned by their failures", counts.banned)?;
        self.counter(
            "sources_not_banned",
            "Times that a source failed too often and was not banned",
            counts.not_banned,
        )?;
        self.counter("bans_lifted", "Bans that a valid knock has lifted", counts.ban_lifted)
    }

    fn kernel(&mut self, status: &Status) -> Result<(), Error> {
        let table = &status.table;
        self.gauge(
            "table_whole",
            "Whether the table in the kernel is as it ought to be: 1 or 0",
            usize::from(table.whole),
        )?;
        self.counter("table_repairs", "Times that the table was put right", table.repairs)?;
        if let Some(drops) = &status.kernel_drops {
            let rows = drops.iter().map(|drops| {
                let labels = [("chain", &*drops.chain), ("rule", &*drops.rule)];
                (labels, drops.packets)
            });
            self.counters(
                "kernel_dropped_packets",
                "Packets that the kernel dropped by rules of the table, since it went in",
                rows,
            )?;
        }
        match status.receive_buffer_drops {
            Some(drops) => self.counter(
                "receive_buffer_dropped_packets",
                "Packets lost because the receive buffer was full",
                drops,
            ),
            None => Ok(()),
        }
    }

    fn clock(&mut self, clock: &Clock) -> Result<(), Error> {
        if let Some(synchronized) = clock.synchronized {
            self.gauge(
                "clock_synchronized",
                "Whether systemd-timesyncd keeps the clock right: 1 or 0; missing where it doesn't run",
                usize::from(synchronized),
            )?;
        }
        self.counter(
            "clock_steps",
            "Times that the clock was set, rather than going on",
            clock.steps,
        )?;
        let last_s = clock.last_step_ms.unwrap_or(0) as f64 / 1000.0;
        self.value(
            "clock_last_step",
            "By how much the clock was set the last time",
            Some(&Unit::Seconds),
            last_s,
        )
    }

    fn clients(&mut self, clients: &[&ClientFigures]) -> Result<(), Error> {
        let decisions = clients.iter().flat_map(|client| {
            let ClientFigures { name, counts, .. } = client;
            [("granted", counts.granted), ("closed", counts.closed), ("refused", counts.refused)]
                .map(|(decision, count)| ([("client", &**name), ("decision", decision)], count))
        });
        self.counters(
            "client_decisions",
            "What was decided of authentic packets, of the clients that have figures of their own",
            decisions,
        )?;
        let denials = clients.iter().map(|client| ([("client", &*client.name)], client.denials));
        self.counters(
            "client_denials",
            "Times that a client asked for what it may not have",
            denials,
        )?;
        let mut family = self.0.encode_descriptor(
            "client_last_granted_timestamp",
            "When a client was granted something the last time",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for client in clients {
            if let Some(last) = client.counts.last_granted {
                let labels = [("client", &*client.name)];
                ConstGauge::new(seconds(last.as_millis()))
                    .encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn family(
        &mut self,
        name: &'static str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'_>, Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn counter(&mut self, name: &'static str, help: &str, count: u64) -> Result<(), Error> {
        ConstCounter::new(count).encode(self.family(name, help, MetricType::Counter)?)
    }

    fn counters<'l, const N: usize>(
        &mut self,
        name: &'static str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, u64)>,
    ) -> Result<(), Error> {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, count) in rows {
            ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &'static str, help: &str, number: usize) -> Result<(), Error> {
        ConstGauge::new(number_of(number)).encode(self.family(name, help, MetricType::Gauge)?)
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &'static str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, usize)>,
    ) -> Result<(), Error> {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, number) in rows {
            ConstGauge::new(number_of(number)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn seconds(&mut self, name: &'static str, help: &str, millis: u64) -> Result<(), Error> {
        self.value(name, help, Some(&Unit::Seconds), seconds(millis))
    }

    fn value(
        &mut self,
        name: &'static str,
        help: &str,
        unit: Option<&Unit>,
        value: f64,
    ) -> Result<(), Error> {
        ConstGauge::new(value).encode(self.0.encode_descriptor(
            name,
            help,
            unit,
            MetricType::Gauge,
        )?)
    }
}

fn number_of(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Seconds since 1970, exact to the millisecond for the next hundred thousand years.
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

//! `[metrics]`: where figures are told to whoever watches this host.
//!
//! # Security considerations
//! Figures are told without a password and without TLS, so that only what this host itself can reach is accepted:
//! a loopback address, or a Unix socket.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{
    field::Field,
    keys::{METRICS_CLIENTS, METRICS_LISTEN},
    section::Section,
    settings::SOCKET_PATH_LIMIT,
    source::Wrong,
};

/// Clients that have figures of their own unless the configuration says otherwise.
const DEFAULT_CLIENTS: u32 = 100;
/// The most clients that can have figures of their own.
const MOST_CLIENTS: u32 = 10_000;

/// Where figures are told, and of how many clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where; `None` for nowhere.
    pub listen: Option<Endpoint>,
    /// How many clients have figures of their own, at most.
    pub per_client: usize,
}

/// Where figures can be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// At a loopback address, by every process of this host.
    Tcp(SocketAddr),
    /// At a Unix socket, by root and the group `knockd`.
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Metrics {
    pub(super) fn read(table: &mut Section<'_, '_, '_>) -> Option<Self> {
        let listen = table.text(&METRICS_LISTEN, |text| match text {
            "" => Ok(None),
            text => endpoint(text).map(Some),
        });
        let clients = table.number(&METRICS_CLIENTS, 0, MOST_CLIENTS).or(DEFAULT_CLIENTS);
        let listen = match listen {
            Field::Absent => None,
            Field::Wrong => return None,
            Field::Is(listen) => listen.value,
        };
        Some(Self { listen, per_client: usize::try_from(clients?.value).ok()? })
    }
}

fn endpoint(text: &str) -> Result<Endpoint, Wrong> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket(path);
    }
    let Ok(address) = text.parse::<SocketAddr>() else {
        return Err(Wrong::with(
            "is neither an address with a port nor unix: and an absolute path",
            r#"write listen = "127.0.0.1:9162" or "unix:/run/knockd-metrics/metrics.sock""#,
        ));
    };
    if !address.ip().to_canonical().is_loopback() {
        return Err(Wrong::with(
            format!(
                "is {address}, where other hosts could fetch them: there is no password before figures, and no TLS"
            ),
            r#"write listen = "127.0.0.1:9162", and let a collector or proxy on this host pass them on"#,
        ));
    }
    if address.port() == 0 {
        return Err(Wrong::new(format!("is {address}, and 0 is no port")));
    }
    Ok(Endpoint::Tcp(address))
}

fn socket(path: &str) -> Result<Endpoint, Wrong> {
    let instead = r#"write listen = "unix:/run/knockd-metrics/metrics.sock""#;
    if !Path::new(path).is_absolute() || path.contains('\0') {
        return Err(Wrong::with("is a socket's path that isn't absolute", instead));
    }
    if path.len() > SOCKET_PATH_LIMIT {
        let what =
            format!("is longer than the {SOCKET_PATH_LIMIT} bytes that a socket's path can have");
        return Err(Wrong::with(what, instead));
    }
    Ok(Endpoint::Unix(path.into()))
}

#[cfg(test)]
mod tests {
    use super::{super::tests::Folder, *};

    const MAIN: &str = "[[service]]\nname = \"mqtts\"\nports = [\"tcp/8883\"]\n";

    fn folder(metrics: &str) -> Folder {
        Folder::new(&format!("{MAIN}[metrics]\n{metrics}\n"))
    }

    #[test]
    fn figures_are_told_nowhere_unless_the_configuration_says_where() {
        let metrics = Folder::new(MAIN).load().unwrap().config.metrics;
        assert_eq!(metrics, Metrics { listen: None, per_client: 100 });
        assert_eq!(folder("listen = \"\"").load().unwrap().config.metrics.listen, None);
    }

    #[test]
    fn figures_are_told_at_a_loopback_address_or_a_socket() {
        for (text, endpoint) in [
            ("127.0.0.1:9162", Endpoint::Tcp(([127, 0, 0, 1], 9162).into())),
            ("[::1]:9162", Endpoint::Tcp(([0, 0, 0, 0, 0, 0, 0, 1], 9162).into())),
            (
                "unix:/run/knockd-metrics/metrics.sock",
                Endpoint::Unix("/run/knockd-metrics/metrics.sock".into()),
            ),
        ] {
            let config = folder(&format!("listen = \"{text}\"\nper-client = 0")).load().unwrap();
            assert_eq!(
                config.config.metrics,
                Metrics { listen: Some(endpoint), per_client: 0 },
                "{text}"
            );
        }
    }

    #[test]
    fn figures_are_told_to_no_other_host_and_to_no_place_that_is_none() {
        for (line, said) in [
            ("listen = \"0.0.0.0:9162\"", "no password before figures"),
            ("listen = \"[::]:9162\"", "no password before figures"),
            ("listen = \"192.0.2.1:9162\"", "let a collector or proxy on this host"),
            ("listen = \"127.0.0.1:0\"", "0 is no port"),
            ("listen = \"9162\"", "neither an address with a port"),
            ("listen = \"unix:metrics.sock\"", "isn't absolute"),
            ("per-client = 10001", "from 0 to 10000"),
        ] {
            let mistakes = folder(line).mistakes();
            assert_eq!(mistakes.len(), 1, "{line}: {mistakes:?}");
            assert!(mistakes[0].contains(said), "{line}: {mistakes:?}");
        }
        let long = format!("listen = \"unix:/{}\"", "x".repeat(107));
        assert!(folder(&long).mistakes()[0].contains("107 bytes"));
    }
}

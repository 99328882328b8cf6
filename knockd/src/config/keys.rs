//! Every key of the configuration's files, and how a value of it is written.
//!
//! The examples stand in messages. What each key means is told in the commented files in `config/`.

use super::field::Key;

pub(super) const LISTEN: Key = Key::new("listen", r#"["[::]:62201"]"#);
pub(super) const CLIENTS: Key = Key::new("clients", r#""clients.d""#);
pub(super) const STATE: Key = Key::new("state", r#""/var/lib/knockd""#);
pub(super) const CONTROL: Key = Key::new("control", r#""/run/knockd/control.sock""#);
pub(super) const REALM: Key = Key::new("realm", r#""""#);
pub(super) const MASTER_KEY_FILE: Key = Key::new("master-key-file", r#""/etc/knockd/master.key""#);
pub(super) const CLOCK_SKEW: Key = Key::new("clock-skew", r#""30s""#);

pub(super) const SERVICE: &str = "service";
pub(super) const SERVICE_NAME: Key = Key::new("name", r#""mqtts""#);
pub(super) const PORTS: Key = Key::new("ports", r#"["tcp/8883"]"#);
pub(super) const TO: Key = Key::new("to", r#"["192.0.2.7"]"#);

pub(super) const ALLOW: &str = "allow";
pub(super) const INTERFACES: Key = Key::new("interfaces", r#"["wg0"]"#);
pub(super) const NETWORKS: Key = Key::new("networks", r#"["192.0.2.0/24"]"#);

pub(super) const GRANT: &str = "grant";
pub(super) const OPEN_FOR: Key = Key::new("open-for", r#""30s""#);
pub(super) const MAX: Key = Key::new("max", r#""1h""#);
pub(super) const GRANT_PER_CLIENT: Key = Key::new("per-client", "64");
pub(super) const SESSIONS: Key = Key::new("sessions", r#""keep" or "cut""#);

pub(super) const BAN: &str = "ban";
pub(super) const FAILURES: Key = Key::new("failures", "5");
pub(super) const WINDOW: Key = Key::new("window", r#""30m""#);
pub(super) const DURATION: Key = Key::new("duration", r#""6h""#);
pub(super) const SCOPE: Key = Key::new("scope", r#""knock" or "host""#);
pub(super) const NEVER: Key = Key::new("never", r#"["192.0.2.0/24"]"#);

pub(super) const PREFILTER: &str = "prefilter";
pub(super) const MODE: Key = Key::new("mode", r#""auto", "on" or "off""#);
pub(super) const JUNK_BUDGET: Key = Key::new("junk-budget", "1000");

pub(super) const REPLAY: &str = "replay";
pub(super) const CAPACITY: Key = Key::new("capacity", "1048576");
pub(super) const PER_CLIENT: Key = Key::new("per-client", "131072");

pub(super) const REPLY: &str = "reply";
pub(super) const REPLY_ENABLED: Key = Key::new("enabled", "true");
pub(super) const METRICS: &str = "metrics";
pub(super) const METRICS_LISTEN: Key = Key::new("listen", r#""127.0.0.1:9162""#);
pub(super) const METRICS_CLIENTS: Key = Key::new("per-client", "100");

pub(super) const CLIENT: &str = "client";
pub(super) const CLIENT_NAME: Key = Key::new("name", r#""press-17""#);
pub(super) const KEY: Key = Key::new("key", r#""…", 44 characters ending in '='"#);
pub(super) const KEY_FROM: Key = Key::new("key-from", r#""own" or "master""#);
pub(super) const KEY_GENERATION: Key = Key::new("key-generation", "2");
pub(super) const OLD_KEY: Key = Key::new("old-key", r#""…", the key before"#);
pub(super) const OLD_KEY_UNTIL: Key = Key::new("old-key-until", "2027-12-31T00:00:00Z");
pub(super) const SERVICES: Key = Key::new("services", r#"["mqtts"]"#);
pub(super) const FROM: Key = Key::new("from", r#"["10.3.0.0/16"]"#);
pub(super) const ADDRESS: Key = Key::new("address", r#""strict" or "observed""#);
pub(super) const CLOCK: Key = Key::new("clock", r#""utc" or "counter""#);
pub(super) const EXPIRES: Key = Key::new("expires", "2027-12-31T00:00:00Z");
pub(super) const ENABLED: Key = Key::new("enabled", "true");

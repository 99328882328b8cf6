//! A real mosquitto with TLS and a password, and its clients.

use std::fmt::Write as _;
use std::fs;

use crate::process::Process;
use crate::world::{Host, World};

/// The user that may connect, and its password.
const USER: [&str; 2] = ["press", "opensesame"];

/// A mosquitto that listens with TLS on port 8883.
#[derive(Debug)]
pub struct Mosquitto {
    process: Process,
}

impl Mosquitto {
    /// Starts it on a host, with a certificate authority of its own.
    #[track_caller]
    pub fn start(host: Host<'_>) -> Self {
        let world = host.world();
        let dir = world.dir().join("mosquitto");
        fs::create_dir_all(&dir).expect("make mosquitto's folder");
        make_certificates(world, &dir.display().to_string());
        let path = |name: &str| dir.join(name).display().to_string();
        world
            .broker()
            .run(&["mosquitto_passwd", "-b", "-c", &path("passwords"), USER[0], USER[1]])
            .success();
        let mut config = String::from("listener 8883\nallow_anonymous false\nuser root\n");
        for (key, file) in [
            ("password_file", "passwords"),
            ("cafile", "ca.crt"),
            ("certfile", "server.crt"),
            ("keyfile", "server.key"),
        ] {
            writeln!(config, "{key} {}", path(file)).expect("write to a string");
        }
        fs::write(dir.join("mosquitto.conf"), config).expect("write mosquitto.conf");
        let mut process = host.spawn(&["mosquitto", "-c", &path("mosquitto.conf")], &[]);
        process.wait_for("running");
        Self { process }
    }

    /// The arguments with which `mosquitto_pub` and `mosquitto_sub` connect and log in.
    pub fn login(&self) -> [&'static str; 10] {
        // Commands run in the world's folder.
        let ca = "mosquitto/ca.crt";
        ["-h", "broker", "-p", "8883", "--cafile", ca, "-u", USER[0], "-P", USER[1]]
    }

    /// Publishes a message with quality of service 1.
    pub fn publish(&self, host: Host<'_>, topic: &str, message: &str, options: &[&str]) -> bool {
        let mut argv = vec!["mosquitto_pub"];
        argv.extend(self.login());
        argv.extend_from_slice(&["-q", "1", "-t", topic, "-m", message]);
        argv.extend_from_slice(options);
        host.run(&argv).is_success()
    }

    /// Subscribes to a topic with quality of service 1; one message a line.
    #[track_caller]
    pub fn subscribe(&self, host: Host<'_>, topic: &str) -> Process {
        // Line by line, although the output goes to a file.
        let mut argv = vec!["stdbuf", "-oL", "mosquitto_sub", "-d"];
        argv.extend(self.login());
        argv.extend_from_slice(&["-q", "1", "-t", topic, "-F", "got [%r] %t: %p"]);
        let mut process = host.spawn(&argv, &[]);
        process.wait_for("received SUBACK");
        process
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.stderr() + &self.process.stdout()
    }

    /// Whether mosquitto itself still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}

/// A certificate authority, and a certificate of its for the broker's names and addresses.
fn make_certificates(world: &World, dir: &str) {
    let names = format!("DNS:broker,IP:{},IP:{}", world.broker().v4(), world.broker().v6());
    let script = format!(
        "set -e; cd '{dir}'
         key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
         openssl req -x509 $key -keyout ca.key -out ca.crt -days 2 -subj '/CN=test CA'
         openssl req -new $key -keyout server.key -out server.csr -subj /CN=broker
         echo 'subjectAltName={names}' >names
         openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out server.crt"
    );
    world.broker().run(&["sh", "-c", &script]).success();
}

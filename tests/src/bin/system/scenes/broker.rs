//! mosquitto from Debian, with TLS and a password, as the service behind the door.

use crate::lan::{self, BROKER, Found, MQTTS, UNGUARDED};
use crate::machine::Machine;
use crate::scenes::Stage;
use crate::wait::wait;

/// Who may log in at the broker.
const USER: [&str; 2] = ["press", "opensesame"];
/// Where the broker has its certificates.
pub(crate) const CA: &str = "/etc/mosquitto/certs/ca.crt";

/// Sets it up.
pub(crate) fn play(stage: &mut Stage<'_>) -> Option<()> {
    let broker = &stage.broker;
    stage.report.check("mosquitto listens with TLS and a password, and everyone sees it", || {
        broker.sh(&format!(
            "cd /etc/mosquitto/certs
             key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
             openssl req -x509 $key -keyout ca.key -out ca.crt -days 2 -subj '/CN=test CA'
             openssl req -new $key -keyout server.key -out server.csr -subj /CN=broker
             echo 'subjectAltName=DNS:broker,IP:{},IP:{}' >names
             openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile names -out server.crt 2>/dev/null
             mosquitto_passwd -b -c /etc/mosquitto/passwords {} {}
             chown -R mosquitto /etc/mosquitto/certs /etc/mosquitto/passwords",
            lan::v4(BROKER),
            lan::v6(BROKER),
            USER[0],
            USER[1]
        ));
        broker.write(
            "/etc/mosquitto/conf.d/tls.conf",
            &format!(
                "per_listener_settings true\n\
                 listener {MQTTS}\nallow_anonymous false\npassword_file /etc/mosquitto/passwords\n\
                 cafile {CA}\ncertfile /etc/mosquitto/certs/server.crt\nkeyfile /etc/mosquitto/certs/server.key\n\
                 listener {UNGUARDED}\nallow_anonymous true\n"
            ),
        );
        broker.run(&["systemctl", "--quiet", "enable", "--now", "mosquitto"]).success();
        wait("the broker's port is open", || {
            lan::broker().map(|address| lan::connect(address, MQTTS)) == [Found::Open; 2]
        });
    })
}

/// The arguments with which mosquitto's clients connect to `host` and log in, with the CA's file here.
pub(crate) fn login<'a>(host: &'a str, ca: &'a str) -> [&'a str; 10] {
    ["-h", host, "-p", "8883", "--cafile", ca, "-u", USER[0], "-P", USER[1]]
}

/// Copies the CA's certificate to another machine.
pub(crate) fn give_ca(from: &Machine, to: &Machine) {
    to.write("/etc/ssl/broker-ca.crt", &from.sh(&format!("cat {CA}")));
}

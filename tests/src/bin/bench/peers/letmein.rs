//! letmein: its client and server exchange four messages, here over UDP.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use e2e::Output;
use tempfile::TempDir;

use super::Peer;
use crate::Bench;
use crate::fleet::{KNOCK_PORT, SERVICE_PORT};
use crate::rig::{BROKER, DAEMON_CORE, Side};
use crate::running::Running;

/// Starts letmeinfwd and letmeind behind a firewall that drops what they don't let in.
pub(crate) fn start(bench: &Bench) -> Peer {
    let rules = format!(
        "table inet filter {{
             chain LETMEIN-INPUT {{ }}
             chain LETMEIN-FORWARD {{ }}
             chain LETMEIN-OUTPUT {{ }}
             chain input {{
                 type filter hook input priority filter; policy accept;
                 ct state established accept
                 jump LETMEIN-INPUT
                 tcp dport {SERVICE_PORT} drop
             }}
         }}"
    );
    Side::Broker.run("nft", &["-f", "-"], &rules).success();
    let dir = TempDir::with_prefix("knock-bench-").expect("make a temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("open a folder");
    let config = dir.path().join("letmein.conf");
    let key = "0123456789abcdef".repeat(4).to_uppercase();
    let text = format!(
        "[GENERAL]\ndebug = false\nport = {KNOCK_PORT} / udp\ncontrol-timeout = 5.0\n\
         control-error-policy = basic-auth\nseccomp = off\n\
         [NFTABLES]\nexe = /usr/sbin/nft\nfamily = inet\ntable = filter\n\
         chain-input = LETMEIN-INPUT\nchain-forward = LETMEIN-FORWARD\n\
         chain-output = LETMEIN-OUTPUT\ntimeout = 30\nmax-nr-rules = 1000\n\
         [CLIENT]\ndefault-user = 00000001\n\
         [KEYS]\n00000001 = {key}\n[RESOURCES]\n00000001 = port: {SERVICE_PORT}\n"
    );
    fs::write(&config, text).expect("write letmein.conf");

    let run = dir.path().join("run");
    for folder in ["", "letmeind", "letmeinfwd"] {
        fs::create_dir(run.join(folder)).expect("make a folder");
    }
    let path = run.join("letmeind").display().to_string();
    let mut chown = Command::new("chown");
    chown.args(["letmeind:letmeind", &path]);
    Output::of(chown, "", "chown").success();

    let daemon = |name: &str, as_user: &[&str]| {
        let program = bench.programs.peers.join(name).display().to_string();
        let argv = [as_user, &[program.as_str()]].concat();
        let mut command = Command::new(argv[0]);
        command.args(&argv[1..]).arg("--no-systemd").arg("--config").arg(&config);
        command.arg("--rundir").arg(&run);
        let log = dir.path().join(format!("{name}.log"));
        Running::start(Side::Broker, Some(DAEMON_CORE), command, &log)
    };
    let user = ["setpriv", "--reuid=letmeind", "--regid=letmeind", "--clear-groups"];
    let daemons = vec![daemon("letmeind", &user), daemon("letmeinfwd", &[])];
    // They say nothing when they are ready.
    std::thread::sleep(Duration::from_millis(1_500));

    let program = bench.programs.peers.join("letmein");
    let client = move |_| {
        let mut command = Command::new(&program);
        command.arg("--config").arg(&config).args(["knock", "-4", "-U"]);
        command.args([BROKER.to_string(), SERVICE_PORT.to_string()]);
        command
    };
    Peer { name: "letmein", daemons, client: Box::new(client), _dir: dir }
}

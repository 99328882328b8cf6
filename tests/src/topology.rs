//! Hosts that aren't on the wire: behind a router with address translation, behind the broker's
//! host, in a container whose port the broker's host publishes, and 65,536 of them in one.

use crate::world::{Host, World};

impl World {
    /// Two more hosts, `lamp` and `heater`, at home behind one public address (that of `home`,
    /// which must be on the wire).
    pub fn behind_nat(&self) -> (Host<'_>, Host<'_>) {
        self.ip(
            Some("home"),
            "link add lan type bridge\nlink set lan up\naddr add 192.168.7.1/24 dev lan",
        );
        for (host, n) in [("lamp", 11), ("heater", 12)] {
            self.ip(None, &format!("netns add {host}"));
            self.ip(
                None,
                &format!("link add {host} netns home type veth peer name eth0 netns {host}"),
            );
            self.ip(Some("home"), &format!("link set {host} master lan up"));
            self.ip(
                Some(host),
                &format!(
                    "link set lo up\nlink set eth0 up\naddr add 192.168.7.{n}/24 dev eth0\n\
                     route add default via 192.168.7.1"
                ),
            );
        }
        let home = self.host("home");
        home.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]).success();
        home.nft(
            "table ip nat { chain out { type nat hook postrouting priority srcnat; \
             oifname eth0 masquerade; }; }",
        );
        (self.host("lamp"), self.host("heater"))
    }

    /// A host `inner` (10.78.0.2, fd78::2) that is reached through the broker's host.
    pub fn behind_broker(&self) -> Host<'_> {
        self.link_to_broker("inner", "10.78.0", Some("fd78:"));
        for host in ["client", "attacker"] {
            self.ip(
                Some(host),
                "route add 10.78.0.0/24 via 10.77.0.1\nroute add fd78::/64 via fd77::1",
            );
        }
        self.host("inner")
    }

    /// A host `container` (172.18.0.2) whose port `port` the broker's host publishes as its own,
    /// as Docker does: destination NAT in prerouting, and forwarding.
    pub fn container(&self, port: u16) -> Host<'_> {
        self.link_to_broker("container", "172.18.0", None);
        self.broker().nft(&format!(
            "table ip docker {{
                 chain PREROUTING {{
                     type nat hook prerouting priority dstnat;
                     fib daddr type local tcp dport {port} dnat to 172.18.0.2:{port}
                 }}
                 chain POSTROUTING {{
                     type nat hook postrouting priority srcnat;
                     ip saddr 172.18.0.0/24 oifname eth0 masquerade
                 }}
             }}"
        ));
        self.host("container")
    }

    /// Makes the attacker's host a crowd: all of 10.80.0.0/16 are its own addresses, and the way from
    /// the broker's host to everywhere leads there, so that an answer to any source would be seen.
    pub fn crowd(&self) {
        self.ip(Some("attacker"), "route add local 10.80.0.0/16 dev lo");
        self.ip(Some("broker"), "route add default via 10.77.0.3");
    }

    fn link_to_broker(&self, host: &str, net4: &str, net6: Option<&str>) {
        self.ip(None, &format!("netns add {host}"));
        self.ip(
            None,
            &format!("link add {host} netns broker type veth peer name eth0 netns {host}"),
        );
        self.ip(Some("broker"), &format!("link set {host} up\naddr add {net4}.1/24 dev {host}"));
        self.ip(
            Some(host),
            &format!(
                "link set lo up\nlink set eth0 up\naddr add {net4}.2/24 dev eth0\n\
                 route add default via {net4}.1"
            ),
        );
        if let Some(net6) = net6 {
            self.ip(Some("broker"), &format!("addr add {net6}:1/64 dev {host} nodad"));
            self.ip(
                Some(host),
                &format!("addr add {net6}:2/64 dev eth0 nodad\nroute add default via {net6}:1"),
            );
        }
        let forwarding = ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"];
        self.broker().run(&[&["sysctl", "-qw"][..], &forwarding[..]].concat()).success();
    }
}

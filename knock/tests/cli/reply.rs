//! `--reply`: what is asked for, what counts as an answer, and how the run ends.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use common::{ClientKeys, Datagram, DoorState, Nonce, Reply, ReplyKeys, ReplyWanted, Timestamp};

use crate::support::{Device, now, open};

/// A server that replies as it is told.
struct Answering(UdpSocket);

impl Answering {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(socket)
    }

    fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2048];
        loop {
            match self.0.recv_from(&mut buffer) {
                Ok((len, from)) => return (buffer[..len].to_vec(), from),
                // The end of another test's child, for example.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("no packet came: {error}"),
            }
        }
    }

    fn send(&self, bytes: &[u8], to: SocketAddr) {
        self.0.send_to(bytes, to).unwrap();
    }
}

/// The reply to a packet: open for a minute.
fn answer(packet: &[u8], keys: &ClientKeys, door: DoorState) -> Vec<u8> {
    let seen = std::net::IpAddr::from([198, 51, 100, 7]);
    let reply = Reply { clock: now(), seen: seen.try_into().unwrap(), door };
    let request = Datagram::parse(packet).unwrap().mac();
    reply.seal(&ReplyKeys::of(keys), request, Nonce::from_random([3; 12])).to_vec()
}

fn for_a_minute() -> DoorState {
    DoorState::OpenUntil(Timestamp::from_millis(now().as_millis() + 60_000))
}

/// Runs `knock` with this server answering each packet as `react` says, until it has ended.
fn run(
    device: &Device,
    arguments: &[&str],
    packets: usize,
    react: impl Fn(usize, &Answering, &[u8], SocketAddr) + Sync,
) -> crate::support::Run {
    let server = Answering::new();
    let name = server.0.local_addr().unwrap().to_string();
    let own = ["--config=empty.toml", "--key-file=key", "--address=observed", "--server", &name];
    let child = device.command(&[&own, arguments].concat()).spawn().unwrap();
    for number in 0..packets {
        let (packet, from) = server.receive();
        react(number, &server, &packet, from);
    }
    device.finish(child, "")
}

#[test]
fn a_reply_is_asked_for_and_its_content_is_told() {
    let device = Device::new();
    let keys = device.keys("");
    let end = run(&device, &["--reply", "--json"], 1, |_, server, packet, from| {
        assert_eq!(open(packet, &keys).reply, ReplyWanted::Yes);
        server.send(&answer(packet, &keys, for_a_minute()), from);
    });
    let json = end.must_succeed().json();
    let reply = &json["replies"][0];
    assert_eq!((&reply["open"], &reply["address"]), (&true.into(), &"198.51.100.7".into()));
    let (until, clock) = (reply["open-until"].as_u64(), reply["clock"].as_u64());
    assert_eq!(reply["open-for-ms"].as_u64(), Some(until.unwrap() - clock.unwrap()));
    assert!(reply["clock-offset-ms"].as_i64().unwrap().abs() < 20_000, "{reply}");

    let end = run(&device, &["--reply", "--close"], 1, |_, server, packet, from| {
        server.send(&answer(packet, &keys, DoorState::Closed), from);
    });
    assert!(end.must_succeed().stdout.contains("closed, for 198.51.100.7"));
}

#[test]
fn without_reply_none_is_asked_for() {
    let device = Device::new();
    let keys = device.keys("");
    run(&device, &[], 1, |_, _, packet, _| assert_eq!(open(packet, &keys).reply, ReplyWanted::No))
        .must_succeed();
}

#[test]
fn a_packet_without_a_reply_is_followed_by_a_fresh_one_whose_reply_counts_as_well() {
    let device = Device::new();
    let keys = device.keys("");
    let seen = std::sync::Mutex::new(Vec::new());
    run(&device, &["--reply=20s"], 2, |number, server, packet, from| {
        seen.lock().unwrap().push(packet.to_vec());
        if number == 1 {
            server.send(&answer(packet, &keys, for_a_minute()), from);
        }
    })
    .must_succeed();
    let seen = seen.into_inner().unwrap();
    assert_ne!(seen[0], seen[1]);
}

#[test]
fn nothing_but_a_reply_to_this_runs_packet_counts_and_none_ends_with_75() {
    let device = Device::new();
    let (keys, other) = (device.keys(""), device.keys("other"));
    // The reply to an earlier packet, which somebody has kept.
    let earlier = std::sync::Mutex::new(Vec::new());
    run(&device, &["--reply"], 1, |_, server, packet, from| {
        let reply = answer(packet, &keys, for_a_minute());
        server.send(&reply, from);
        *earlier.lock().unwrap() = reply;
    })
    .must_succeed();
    let earlier = earlier.into_inner().unwrap();
    let end = run(&device, &["--reply=300ms"], 1, |_, server, packet, from| {
        let mut flipped = answer(packet, &keys, for_a_minute());
        flipped[40] ^= 1;
        let foreign = answer(packet, &other, for_a_minute());
        for bytes in [&earlier, &flipped, &foreign, &packet.to_vec(), &Vec::new(), &vec![0; 900]] {
            server.send(bytes, from);
        }
    });
    end.must_fail(75, &["no reply came within 300ms", "reply.enabled"]);
}

#[test]
fn a_reply_is_taken_among_junk_that_comes_before_it() {
    let device = Device::new();
    let keys = device.keys("");
    run(&device, &["--reply"], 1, |_, server, packet, from| {
        for byte in 0..50 {
            server.send(&[byte; 100], from);
        }
        server.send(&answer(packet, &keys, for_a_minute()), from);
    })
    .must_succeed();
}

#[test]
fn nobody_but_the_server_is_listened_to() {
    let device = Device::new();
    let keys = device.keys("");
    run(&device, &["--reply=300ms"], 1, |_, _, packet, from| {
        let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
        elsewhere.send_to(&answer(packet, &keys, for_a_minute()), from).unwrap();
    })
    .must_fail(75, &["no reply"]);
}

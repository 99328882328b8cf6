//! What the kernel answers and tells: any bytes in place of one receive.

use std::{collections::HashSet, net::IpAddr};

use knockd::{
    firewall::{
        answer::{self, Progress, Question, Verdict},
        connections,
        kernel::read_key,
        netlink::PortId,
        notice::{self, Notice},
    },
    local::rtnetlink::{self, Dump},
};

use crate::input::Input;

/// The first byte says what was asked, and for a verdict the next four which message was the last.
pub fn netlink(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(5) {
        0 => elements(input.rest()),
        2 => changes(input.rest()),
        3 => entries(input.rest()),
        4 => addresses(input.rest()),
        _ => {
            let last = input.number();
            verdict(last, input.rest());
        }
    }
}

/// What the corpus has answers to.
const fn question() -> Question {
    Question { sequence: 0, port: PortId::new(0) }
}

/// An element is read only from bytes that hold it.
fn elements(received: &[u8]) {
    let mut elements = Vec::new();
    let Ok(part) = answer::part(received, question()) else { return };
    for message in part.messages {
        if answer::elements(message, "door4", &mut elements).is_err() {
            break;
        }
    }
    for element in &elements {
        let key = &element.key;
        assert!(key.is_empty() || received.windows(key.len()).any(|bytes| bytes == key));
        if let Some((address, port)) = read_key(key) {
            let octets = octets(address);
            assert_eq!(key[..octets.len()], octets);
            assert_eq!(key[octets.len()], port.protocol.number());
            assert_eq!(key[octets.len() + 4..][..2], port.number.get().to_be_bytes());
        }
    }
    // Every element takes its header's four bytes, its key's eight, and a message's header around it.
    assert!(elements.len() * 12 <= received.len());
}

/// A batch is never taken for done unless its last message is answered.
fn verdict(last: u32, received: &[u8]) {
    let mut verdict = Verdict::on(last.saturating_sub(7)..=last, PortId::new(0));
    let is_answered = matches!(verdict.read(received), Ok(Progress::Complete));
    let sequence = last.to_ne_bytes();
    assert!(!is_answered || received.windows(4).any(|bytes| bytes == sequence));
    if let Some(error) = verdict.into_error() {
        assert_ne!(error.raw_os_error(), Some(0));
    }
}

/// Of changes only so much is kept, nothing twice, and in names only what can be printed.
fn changes(received: &[u8]) {
    let notice = notice::read(received);
    assert!(notice.touched.len() <= Notice::MOST);
    let kept: HashSet<_> = notice.touched.iter().collect();
    assert_eq!(kept.len(), notice.touched.len());
    assert!(kept.is_empty() || holds(received, b"knockd"), "it is not in our table");
    assert!(notice.elements.len() <= Notice::MOST_ELEMENTS);
    for (_, key) in notice.elements.keys() {
        assert!(key.is_empty() || holds(received, key));
    }
    let names = notice.touched.iter().map(|touched| &touched.name);
    let author = notice.end.iter().flatten().map(|author| &author.program);
    for name in names.chain(author) {
        assert!(name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
}

/// A connection is read only from bytes that hold it, and what deletes it is one whole message.
fn entries(received: &[u8]) {
    let mut keys = Vec::new();
    let is_there = |found: &connections::Connection| {
        assert!(holds(received, &octets(found.source)));
        assert!(holds(received, &octets(found.destination)));
        assert!(holds(received, &found.port.number.get().to_be_bytes()));
        true
    };
    let _progress = connections::dump(received, question(), is_there, &mut keys);
    // Every entry takes its message's header, and two addresses.
    assert!(keys.len() * (16 + 8) <= received.len());
    for key in keys {
        let deletion = key.deletion(9);
        let length = u32::from_ne_bytes(*deletion.first_chunk().expect("it has a header"));
        assert_eq!(length as usize, deletion.len());
    }
}

/// An address of the host's own is read only from bytes that hold it.
fn addresses(received: &[u8]) {
    let mut dump = Dump::Whole;
    let mut is_there = |address| assert!(holds(received, &octets(address)));
    let _progress = rtnetlink::read(received, &mut dump, &mut is_there);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn holds(received: &[u8], part: &[u8]) -> bool {
    received.windows(part.len()).any(|bytes| bytes == part)
}

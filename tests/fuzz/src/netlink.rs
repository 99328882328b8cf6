//! What the kernel answers: any bytes in place of one receive.

use knockd::firewall::{
    answer::{Progress, Verdict, dump},
    kernel::read_key,
};

use crate::input::Input;

/// The first byte says what was asked, and for a verdict the next four which message was the last.
pub fn netlink(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(2) {
        0 => elements(input.rest()),
        _ => {
            let last = input.number();
            verdict(last, input.rest());
        }
    }
}

/// An element is read only from bytes that hold it.
fn elements(received: &[u8]) {
    let mut elements = Vec::new();
    let _progress = dump(received, "door4", &mut elements);
    for element in &elements {
        let key = &element.key;
        assert!(key.is_empty() || received.windows(key.len()).any(|bytes| bytes == key));
        if let Some((address, port)) = read_key(key) {
            let octets = match address {
                std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
                std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
            };
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
    let mut verdict = Verdict::on(last);
    let is_answered = matches!(verdict.read(received), Ok(Progress::Complete));
    let sequence = last.to_ne_bytes();
    assert!(!is_answered || received.windows(4).any(|bytes| bytes == sequence));
    if let Some(error) = verdict.into_error() {
        assert_ne!(error.raw_os_error(), Some(0));
    }
}

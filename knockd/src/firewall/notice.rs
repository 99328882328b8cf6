//! What the kernel tells of changes to its nftables: which of them touched our table, and who made them.
//!
//! Message layouts: include/uapi/linux/netlink.h, include/uapi/linux/netfilter/{nfnetlink,nf_tables}.h.
//!
//! # Security considerations
//! - Whatever can't be read counts as a change that was missed: the table is looked at then.
//! - Names come from whoever may change nftables. What isn't printable in them is replaced, and their number
//!   and length are bounded.

use std::{collections::BTreeMap, fmt};

use netlink_packet_netfilter::nftables::NfTablesMessageType;

use super::{
    answer::{items, key, messages},
    attributes::attributes as attributes_in,
    ruleset::{TABLE_NAME, TAGS},
};

/// NFNL_SUBSYS_NFTABLES.
const SUBSYSTEM: u8 = 10;
/// NFPROTO_INET (include/uapi/linux/netfilter.h).
const FAMILY: u8 = 1;
/// NFTA_GEN_PROC_PID and NFTA_GEN_PROC_NAME.
const GEN_PROC_PID: u16 = 2;
const GEN_PROC_NAME: u16 = 3;
/// The name of the table is the first attribute of every kind of object: NFTA_TABLE_NAME,
/// NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE, NFTA_OBJ_TABLE,
/// NFTA_FLOWTABLE_TABLE.
const OF_TABLE: u16 = 1;
/// The most that is kept of a name: NFT_NAME_MAXLEN is 256.
const NAME_LEN: usize = 64;

/// A kind of object in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// The table itself.
    Table,
    /// A chain.
    Chain,
    /// A rule; known by its chain.
    Rule,
    /// A set.
    Set,
    /// An element; known by its set.
    Element,
    /// Anything else: a counter, a flow table.
    Other,
}

/// What was done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Deed {
    /// It was added, or changed.
    Added,
    /// It was deleted.
    Deleted,
    /// It was deleted and added again by one transaction: it was never away.
    Replaced,
}

/// Something in our table that was touched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Touched {
    /// What it is.
    pub object: Object,
    /// Its name, that of a rule's chain, or that of an element's set; empty for the table.
    pub name: String,
    /// What was done to it.
    pub deed: Deed,
}

/// Who made a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The process, as the kernel numbers it: not as it is numbered in a container.
    pub process: u32,
    /// The name of its program, at most 15 bytes (TASK_COMM_LEN).
    pub program: String,
}

impl fmt::Display for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.program, self.process)
    }
}

/// What one datagram tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notice {
    /// What was touched in our table, nothing twice.
    pub touched: Vec<Touched>,
    /// A transaction has ended here: whose it was, as far as the kernel says.
    pub end: Option<Option<Author>>,
    /// Elements of doors and bans that were touched, by set and key, and what was done to each last.
    pub elements: BTreeMap<(String, Vec<u8>), Deed>,
    /// Not all of it could be read, or more was touched than is kept.
    pub incomplete: bool,
}

impl Notice {
    /// Whether something was deleted that is deleted with the table: it may be gone, or on its way.
    #[must_use]
    pub(super) fn deletes_what_ends_with_the_table(&self) -> bool {
        let is_part = |it: &Touched| {
            matches!(it.object, Object::Table | Object::Chain | Object::Rule | Object::Set)
        };
        self.touched.iter().any(|it| it.deed == Deed::Deleted && is_part(it))
    }

    /// The most that is kept of what was touched: more than our table has objects to delete and add.
    pub const MOST: usize = 128;
    /// The most elements that are kept: more are dealt with as if all were touched.
    pub const MOST_ELEMENTS: usize = 4096;

    /// Keeps what was touched, unless it is kept already; what there is no room for makes the notice
    /// incomplete.
    pub(super) fn keep(&mut self, touched: Touched) {
        if self.touched.contains(&touched) {
            return;
        }
        if self.touched.len() < Self::MOST {
            self.touched.push(touched);
        } else {
            self.incomplete = true;
        }
    }

    /// Keeps what was done to an element, as [`Self::keep`] does.
    pub(super) fn keep_element(&mut self, element: (String, Vec<u8>), deed: Deed) {
        if self.elements.len() < Self::MOST_ELEMENTS || self.elements.contains_key(&element) {
            self.elements.insert(element, deed);
        } else {
            self.incomplete = true;
        }
    }

    fn take_elements(&mut self, touched: &Touched, attributes: &[u8]) {
        // Tags are many, and are put in again all together.
        if touched.object != Object::Element || touched.name == TAGS {
            return;
        }
        let Ok(items) = items(attributes) else {
            self.incomplete = true;
            return;
        };
        for item in items {
            match key(item) {
                Ok(Some(key)) => {
                    self.keep_element((touched.name.clone(), key.to_vec()), touched.deed);
                }
                Ok(None) | Err(_) => self.incomplete = true,
            }
        }
    }

    fn take(&mut self, kind: u16, payload: &[u8]) {
        let [subsystem, kind] = kind.to_be_bytes();
        if subsystem != SUBSYSTEM {
            return;
        }
        let Some(([family, ..], attributes)) = payload.split_first_chunk::<4>() else {
            self.incomplete = true;
            return;
        };
        let kind = NfTablesMessageType::from(kind);
        if kind == NfTablesMessageType::NewGen {
            self.end = Some(author(attributes));
        } else if *family == FAMILY {
            match touched(kind, attributes) {
                Ok(None) => {}
                Ok(Some(touched)) => {
                    self.take_elements(&touched, attributes);
                    self.keep(touched);
                }
                Err(Unreadable) => self.incomplete = true,
            }
        }
    }
}

/// Reads a datagram of the group NFNLGRP_NFTABLES, whatever is in it.
#[must_use]
pub fn read(datagram: &[u8]) -> Notice {
    let mut notice = Notice::default();
    for message in messages(datagram) {
        match message {
            Ok(message) => notice.take(message.kind, message.payload),
            Err(_) => notice.incomplete = true,
        }
    }
    notice
}

struct Unreadable;

/// What a message tells was touched; `None` if it isn't in our table.
fn touched(kind: NfTablesMessageType, attributes: &[u8]) -> Result<Option<Touched>, Unreadable> {
    use NfTablesMessageType as Kind;

    // NFTA_CHAIN_NAME, NFTA_RULE_CHAIN, NFTA_SET_NAME, NFTA_SET_ELEM_LIST_SET
    let (object, deed, name_at) = match kind {
        Kind::NewTable => (Object::Table, Deed::Added, None),
        Kind::DeleteTable => (Object::Table, Deed::Deleted, None),
        Kind::NewChain => (Object::Chain, Deed::Added, Some(3)),
        Kind::DeleteChain => (Object::Chain, Deed::Deleted, Some(3)),
        Kind::NewRule => (Object::Rule, Deed::Added, Some(2)),
        Kind::DeleteRule => (Object::Rule, Deed::Deleted, Some(2)),
        Kind::NewSet => (Object::Set, Deed::Added, Some(2)),
        Kind::DeleteSet => (Object::Set, Deed::Deleted, Some(2)),
        Kind::NewSetElement => (Object::Element, Deed::Added, Some(2)),
        Kind::DeleteSetElement => (Object::Element, Deed::Deleted, Some(2)),
        _ => (Object::Other, Deed::Added, None),
    };
    let (mut ours, mut name) = (false, String::new());
    for attribute in attributes_in(attributes) {
        let attribute = attribute.map_err(|_| Unreadable)?;
        let value = attribute.value;
        if attribute.kind == OF_TABLE {
            if value.strip_suffix(&[0]).unwrap_or(value) != TABLE_NAME.as_bytes() {
                return Ok(None);
            }
            ours = true;
        } else if Some(attribute.kind) == name_at {
            name = text(value);
        }
    }
    Ok(ours.then_some(Touched { object, name, deed }))
}

fn author(attributes: &[u8]) -> Option<Author> {
    let (mut process, mut program) = (None, None);
    for attribute in attributes_in(attributes) {
        let Ok(attribute) = attribute else { break };
        let value = attribute.value;
        match attribute.kind {
            GEN_PROC_PID => process = value.first_chunk().copied().map(u32::from_be_bytes),
            GEN_PROC_NAME => program = Some(text(value)),
            _ => {}
        }
    }
    Some(Author { process: process?, program: program? })
}

fn text(value: &[u8]) -> String {
    let printable = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' };
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    value.iter().take(NAME_LEN).map(printable).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u8, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let attributes = attributes.concat();
        let length = u32::try_from(20 + attributes.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(u16::from_be_bytes([SUBSYSTEM, kind]).to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(attributes);
        bytes
    }

    const DELTABLE: u8 = 2;
    const NEWRULE: u8 = 6;
    const DELSETELEM: u8 = 14;
    const NEWGEN: u8 = 15;
    const NEWFLOWTABLE: u8 = 22;

    fn touched(object: Object, name: &str, deed: Deed) -> Touched {
        Touched { object, name: name.to_owned(), deed }
    }

    #[test]
    fn what_was_touched_in_our_table_is_told_once_with_its_name_and_who_did_it() {
        let ours = attribute(1, b"knockd\0");
        let datagram = [
            message(NEWRULE, FAMILY, &[ours.clone(), attribute(2, b"gate\0")]),
            message(NEWRULE, FAMILY, &[ours.clone(), attribute(2, b"gate\0")]),
            message(DELSETELEM, FAMILY, &[ours.clone(), attribute(2, b"door4\0")]),
            message(DELTABLE, FAMILY, std::slice::from_ref(&ours)),
            message(NEWFLOWTABLE, FAMILY, &[ours]),
            message(NEWGEN, 0, &[attribute(2, &4711_u32.to_be_bytes()), attribute(3, b"nft\0")]),
        ]
        .concat();
        let notice = read(&datagram);
        let expected = [
            touched(Object::Rule, "gate", Deed::Added),
            touched(Object::Element, "door4", Deed::Deleted),
            touched(Object::Table, "", Deed::Deleted),
            touched(Object::Other, "", Deed::Added),
        ];
        assert_eq!(notice.touched, expected);
        assert_eq!(notice.end.unwrap().unwrap().to_string(), "nft (process 4711)");
        assert!(!notice.incomplete);
    }

    #[test]
    fn what_is_of_other_tables_and_other_families_is_not_told() {
        let other = message(DELTABLE, FAMILY, &[attribute(1, b"filter\0")]);
        let ip = message(DELTABLE, 2, &[attribute(1, b"knockd\0")]);
        assert_eq!(read(&[other, ip].concat()), Notice::default());
    }

    #[test]
    fn what_cannot_be_read_and_what_there_is_no_room_for_is_told_as_incomplete() {
        let ours = attribute(1, b"knockd\0");
        let whole = message(NEWRULE, FAMILY, &[ours.clone(), attribute(2, b"gate\0")]);
        for cut in 1..whole.len() {
            assert!(read(&whole[..cut]).incomplete, "cut at {cut}");
        }
        let many: Vec<u8> = (0..=Notice::MOST)
            .flat_map(|n| {
                let name = attribute(2, format!("chain{n}\0").as_bytes());
                message(NEWRULE, FAMILY, &[ours.clone(), name])
            })
            .collect();
        let notice = read(&many);
        assert_eq!(notice.touched.len(), Notice::MOST);
        assert!(notice.incomplete);
    }

    #[test]
    fn a_name_is_told_in_printable_letters_and_at_most_so_many() {
        let name = [b"\x1b[2J\n".as_slice(), &[b'x'; 300]].concat();
        let rule = message(NEWRULE, FAMILY, &[attribute(1, b"knockd"), attribute(2, &name)]);
        let told = &read(&rule).touched[0].name;
        assert!(told.starts_with("?[2J?x"), "{told}");
        assert_eq!(told.len(), NAME_LEN);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_damage_to_a_datagram_makes_it_panic(at in 0..60_usize, to in any::<u8>()) {
            let ours = attribute(1, b"knockd\0");
            let mut bytes = message(NEWRULE, FAMILY, &[ours, attribute(2, b"gate\0")]);
            bytes.extend(message(NEWGEN, 0, &[attribute(3, b"nft\0")]));
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            let _ = read(&bytes);
        }
    }
}

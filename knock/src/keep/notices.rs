//! What the kernel's notices say, and whether it is news: rtnetlink(7).
//!
//! Routers announce themselves every few seconds, and network managers set anew what stands already: of each such
//! round there are notices, of which nothing has changed. So what is there is remembered, by what matters for the way
//! to a server and not by how long it lasts, and only the other notices count.
//!
//! Layouts: include/uapi/linux/{netlink,rtnetlink,if_addr,if_link}.h.
//!
//! # Security considerations
//! No bytes whatever in place of a message make this panic or loop, and what is remembered is bounded. It is compared
//! by a hash without a secret: who finds two routes of the same one hides a change until the next renewal.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// sizeof(struct nlmsghdr)
const HEADER_LEN: usize = 16;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// NLM_F_REPLACE: what had this one's place is gone.
const REPLACE: u16 = 0x100;
/// RTN_UNICAST, and RTM_F_CLONED: a route that is a cache of another one.
const UNICAST: u8 = 1;
const CLONED: u32 = 0x200;
/// IFF_RUNNING: the link has a carrier.
const RUNNING: u32 = 0x40;
/// IFA_F_DADFAILED, IFA_F_DEPRECATED and IFA_F_TENTATIVE: whether connections may go out from an address.
const USABILITY: u8 = 0x08 | 0x20 | 0x40;

/// RTA_DST, RTA_PRIORITY and RTA_TABLE: which route it is.
const ROUTE_PLACE: [u16; 3] = [1, 6, 15];
/// RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_MULTIPATH, RTA_VIA and RTA_NH_ID: where it leads.
const ROUTE_WAY: [u16; 6] = [4, 5, 7, 9, 18, 30];
/// IFA_ADDRESS and IFA_LOCAL.
const ADDRESS: [u16; 2] = [1, 2];

/// What is remembered at most; of more, any notice counts as news.
const MOST: usize = 1_024;

/// What a notice is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Something that may have given this device another way to the server: worth a look at the routes.
    Perhaps,
    /// The default route changed, or notices were lost: this may be another network that gives the same local
    /// address, so what is known of the way is void.
    Certain,
}

/// A link, an address or a route that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// What there is at most one of, routes over several ways aside.
    place: u64,
    /// What it is like.
    state: u64,
}

/// All that is known to be there.
#[derive(Debug, Default)]
pub(super) struct Known(Vec<Entry>);

/// What becomes of the others in an entry's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Others {
    Stay,
    Go,
}

impl Known {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes up what there is now, and tells whether it is news.
    fn take(&mut self, entry: Entry, others: Others) -> bool {
        let is_known = self.0.contains(&entry);
        let before = self.0.len();
        if others == Others::Go {
            self.0.retain(|other| other.place != entry.place || *other == entry);
        }
        let is_alone = self.0.len() == before;
        if !is_known && self.0.len() < MOST {
            self.0.push(entry);
        }
        !(is_known && is_alone)
    }

    fn forget(&mut self, place: u64) {
        self.0.retain(|entry| entry.place != place);
    }

    /// What one receive's notices are worth; of several the weightiest counts.
    pub(super) fn read(&mut self, mut notices: &[u8]) -> Option<Change> {
        let mut change = None;
        while let Some((header, _)) = notices.split_first_chunk::<HEADER_LEN>() {
            let [l0, l1, l2, l3, t0, t1, f0, f1, ..] = *header;
            let length =
                usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
            let Some(body) = notices.get(HEADER_LEN..length) else { break };
            let replaces = u16::from_ne_bytes([f0, f1]) & REPLACE != 0;
            let others = if replaces { Others::Go } else { Others::Stay };
            change = change.max(self.worth(u16::from_ne_bytes([t0, t1]), others, body));
            // Messages are aligned to four bytes: NLMSG_ALIGN.
            notices = notices.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        change
    }

    fn worth(&mut self, kind: u16, others: Others, body: &[u8]) -> Option<Change> {
        match kind {
            RTM_NEWADDR | RTM_DELADDR => {
                let is_new = kind == RTM_NEWADDR;
                self.is_news(is_new, Others::Go, address(body)?).then_some(Change::Perhaps)
            }
            RTM_NEWROUTE | RTM_DELROUTE => {
                let (entry, weight) = route(body)?;
                self.is_news(kind == RTM_NEWROUTE, others, entry).then_some(weight)
            }
            RTM_NEWLINK | RTM_DELLINK => {
                let (entry, runs) = link(body)?;
                let is_news = self.is_news(kind == RTM_NEWLINK && runs, Others::Go, entry);
                // That one stops is seen in the routes that go.
                (is_news && runs && kind == RTM_NEWLINK).then_some(Change::Perhaps)
            }
            _ => None,
        }
    }

    fn is_news(&mut self, is_there: bool, others: Others, entry: Entry) -> bool {
        if is_there {
            return self.take(entry, others);
        }
        self.forget(entry.place);
        true
    }
}

/// struct ifaddrmsg: family, prefixlen, flags, scope, index (4)
fn address(body: &[u8]) -> Option<Entry> {
    let ([family, length, flags, _, index @ ..], attributes) = body.split_first_chunk::<8>()?;
    let place = hash(&(b'a', family, length, index), attributes, &ADDRESS);
    Some(Entry { place, state: u64::from(flags & USABILITY) })
}

/// struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags (4)
fn route(body: &[u8]) -> Option<(Entry, Change)> {
    let ([family, to_len, from_len, tos, table, _, _, kind, flags @ ..], attributes) =
        body.split_first_chunk::<12>()?;
    if u32::from_ne_bytes(*flags) & CLONED != 0 {
        return None;
    }
    let is_default = *to_len == 0 && *kind == UNICAST;
    let place = hash(&(b'r', family, to_len, from_len, (tos, table)), attributes, &ROUTE_PLACE);
    let entry = Entry { place, state: hash(kind, attributes, &ROUTE_WAY) };
    Some((entry, if is_default { Change::Certain } else { Change::Perhaps }))
}

/// struct ifinfomsg: family, padding, type (2), index (4), flags (4), change (4)
fn link(body: &[u8]) -> Option<(Entry, bool)> {
    let [_, _, _, _, i0, i1, i2, i3, flags @ ..] = body.first_chunk::<12>()?;
    let place = hash(&(b'l', [i0, i1, i2, i3]), &[], &[]);
    Some((Entry { place, state: 0 }, u32::from_ne_bytes(*flags) & RUNNING != 0))
}

/// A hash of these, and of those attributes that count.
fn hash(fixed: &impl std::hash::Hash, mut attributes: &[u8], counted: &[u16]) -> u64 {
    let mut hasher = DefaultHasher::new();
    fixed.hash(&mut hasher);
    // struct rtattr: length with this header (2), type (2)
    while let Some((&[l0, l1, t0, t1], _)) = attributes.split_first_chunk::<4>() {
        let (length, kind) = (u16::from_ne_bytes([l0, l1]).into(), u16::from_ne_bytes([t0, t1]));
        let Some(value) = attributes.get(4..length) else { break };
        if counted.contains(&kind) {
            (kind, value).hash(&mut hasher);
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn notice(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER_LEN + body.len()).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn attribute(kind: u16, value: u32) -> Vec<u8> {
        [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat()
    }

    /// A route of IPv4, over this gateway; its cache's information differs each time in the field.
    fn route_of(kind: u16, flags: u16, to_len: u8, gateway: u32, age: u32) -> Vec<u8> {
        let head = [2, to_len, 0, 0, 254, 3, 0, UNICAST, 0, 0, 0, 0];
        let parts =
            [attribute(15, 254), attribute(5, gateway), attribute(12, age), attribute(4, 2)];
        notice(kind, flags, &[&head[..], &parts.concat()].concat())
    }

    fn address_of(kind: u16, flags: u8, address: u32, lifetime: u32) -> Vec<u8> {
        let head = [2, 24, flags, 0, 2, 0, 0, 0];
        notice(kind, 0, &[&head[..], &attribute(1, address), &attribute(6, lifetime)].concat())
    }

    fn link_of(kind: u16, index: u32, flags: u32) -> Vec<u8> {
        let body = [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]].concat();
        notice(kind, 0, &body)
    }

    #[test]
    fn a_default_route_weighs_more_than_an_address_or_another_route() {
        let mut known = Known::default();
        assert_eq!(known.read(&address_of(RTM_NEWADDR, 0, 1, 0)), Some(Change::Perhaps));
        assert_eq!(known.read(&route_of(RTM_NEWROUTE, 0, 24, 1, 0)), Some(Change::Perhaps));
        assert_eq!(known.read(&route_of(RTM_NEWROUTE, 0, 0, 1, 0)), Some(Change::Certain));
        let mut cloned = route_of(RTM_NEWROUTE, 0, 0, 9, 0);
        cloned[HEADER_LEN + 8..HEADER_LEN + 12].copy_from_slice(&CLONED.to_ne_bytes());
        assert_eq!(known.read(&cloned), None);
        let both = [route_of(RTM_NEWROUTE, 0, 0, 2, 0), address_of(RTM_NEWADDR, 0, 2, 0)].concat();
        assert_eq!(known.read(&both), Some(Change::Certain));
    }

    #[test]
    fn what_is_set_again_as_it_was_is_no_change_however_long_it_lasts() {
        let mut known = Known::default();
        for expected in [Some(Change::Certain), None, None] {
            assert_eq!(known.read(&route_of(RTM_NEWROUTE, REPLACE, 0, 1, 7)), expected);
        }
        assert_eq!(known.read(&route_of(RTM_NEWROUTE, 0, 0, 1, 8)), None);
        for (lifetime, expected) in [(60, Some(Change::Perhaps)), (59, None), (60, None)] {
            assert_eq!(known.read(&address_of(RTM_NEWADDR, 0, 1, lifetime)), expected);
        }
    }

    #[test]
    fn another_gateway_and_the_first_one_again_are_changes_each_and_so_is_what_goes() {
        let mut known = Known::default();
        for gateway in [1, 2, 1] {
            let route = route_of(RTM_NEWROUTE, REPLACE, 0, gateway, 0);
            assert_eq!(known.read(&route), Some(Change::Certain), "{gateway}");
        }
        for kind in [RTM_DELROUTE, RTM_NEWROUTE] {
            assert_eq!(known.read(&route_of(kind, 0, 0, 1, 0)), Some(Change::Certain));
        }
        for (kind, flags) in
            [(RTM_NEWADDR, 0x40), (RTM_NEWADDR, 0), (RTM_DELADDR, 0), (RTM_NEWADDR, 0)]
        {
            assert_eq!(
                known.read(&address_of(kind, flags, 1, 0)),
                Some(Change::Perhaps),
                "{flags}"
            );
        }
    }

    #[test]
    fn a_link_counts_when_it_begins_to_run_and_not_each_time_it_is_told() {
        let mut known = Known::default();
        for (kind, flags, expected) in [
            (RTM_NEWLINK, RUNNING, Some(Change::Perhaps)),
            (RTM_NEWLINK, RUNNING, None),
            (RTM_NEWLINK, 0, None),
            (RTM_NEWLINK, RUNNING, Some(Change::Perhaps)),
            (RTM_DELLINK, RUNNING, None),
            (RTM_NEWLINK, RUNNING, Some(Change::Perhaps)),
        ] {
            assert_eq!(known.read(&link_of(kind, 7, flags)), expected);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut known = Known::default();
        for index in 0..10_000 {
            known.read(&link_of(RTM_NEWLINK, index, RUNNING));
            known.read(&route_of(RTM_NEWROUTE, 0, 0, index, 0));
        }
        assert_eq!(known.0.len(), MOST);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_go_on_for_ever(bytes: Vec<u8>, kind: u16, body: Vec<u8>) {
            let mut known = Known::default();
            let _ = known.read(&bytes);
            let _ = known.read(&notice(kind, 0, &body));
            let _ = known.read(&notice(RTM_NEWROUTE, 0, &[&[0; 12][..], &body].concat()));
        }
    }
}

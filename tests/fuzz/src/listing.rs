//! The kernel's table as it is read back: any bytes in place of its tables, chains, sets, rules and elements.

use knockd::firewall::{
    listing::{Draft, Expression, Listing, SetInRule},
    netlink::Kind,
    verify,
};

use crate::input::Input;

/// What is read of the table, by this name in the corpus.
const TABLE: &str = "knockd";
const KINDS: [Kind; 5] =
    [Kind::NewTable, Kind::NewChain, Kind::NewSet, Kind::NewRule, Kind::NewSetElem];

/// Messages one after another: a byte that says of which kind, two for the length, and what follows the header.
pub fn listing(data: &[u8]) {
    let mut draft = Draft::of(TABLE);
    let mut input = Input::new(data);
    let mut read = 0;
    while !input.is_empty() {
        let kind = KINDS[input.below(KINDS.len())];
        let length: u16 = input.number();
        let message = input.bytes(usize::from(length & 0xfff));
        read += message.len();
        let _ = match kind {
            Kind::NewSetElem => draft
                .sets_to_read(&["protected", "routed4", "routed6"])
                .iter()
                .try_for_each(|set| draft.read_elements(set, kind.number(), message)),
            _ => draft.read(kind.number(), message),
        };
    }
    let is_there = draft.is_there();
    let Ok(found) = draft.finish() else { return };
    assert_eq!(found.is_some(), is_there, "a table is read only if a message tells of one");
    if let Some(found) = found {
        keeps_its_promises(&found, read);
    }
}

/// A listing is no larger than what it was read from, does the same as itself, and as no other one.
fn keeps_its_promises(found: &Listing, read: usize) {
    let rules = || found.chains.values().flat_map(|chain| &chain.rules);
    assert!(rules().count() <= read);
    for rule in rules() {
        assert!(rule.does_the_same(rule));
        let mut longer = rule.clone();
        longer.expressions.push(Expression::Counter);
        assert!(!rule.does_the_same(&longer));
        for (at, expression) in rule.expressions.iter().enumerate() {
            if let Expression::Lookup { set: SetInRule::Nameless(set), .. } = expression {
                assert!(set.holds_the_same(set));
            }
            let mut other = rule.clone();
            other.expressions[at] =
                Expression::Other { name: "\0".to_owned(), data: vec![0; read + 1] };
            assert!(!rule.does_the_same(&other));
        }
        let _ = rule.drops();
    }
    for chain in found.chains.values() {
        let _ = (chain.hook(), chain.policy());
    }
    let _ = verify::is_as_put_in(found);
}

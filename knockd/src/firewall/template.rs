//! The table in the kernel's own words: what nft makes of the rules' text, and what this kernel gives back of that.
//!
//! nft is run once for each ruleset: it loads the text into a table of another name, dormant, which is read and deleted
//! again. From then on the template says what our table ought to be, part by part, and puts it in: its messages are
//! those that the kernel has given back, in one transaction, without nft. Why so: no two versions of nft and of the
//! kernel say a rule in the same bytes, so that only what this kernel gives back can be compared with what this kernel
//! gives back; another network namespace for it is forbidden to a service without CAP_SYS_ADMIN; and a template in
//! memory needs no program, and no disk, when somebody has just taken the table out.
//!
//! # Security considerations
//! - The other table is dormant: none of its chains is hooked in, before or after.
//! - What was read counts only if it has the sets, chains and comments of the ruleset, which carry digests of its text.

use std::io;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};

use super::{
    FirewallError,
    attributes::{Writer, length_of},
    listing::{Expression, ListedChain, ListedRule, ListedSet, Listing, SetInRule},
    netlink::{Batch, Kind, Netlink},
    nft,
    reader::Reader,
    ruleset::{Contents, Ruleset, TABLE, TABLE_NAME},
    verify,
};

/// The table that a ruleset is read back from.
const REFERENCE: &str = "knockd_reference";
/// How often that is tried: another process may be at it with another ruleset.
const ATTEMPTS: usize = 3;
/// NFT_TABLE_F_DORMANT
const DORMANT: u32 = 1;
/// A nameless set's name, until the kernel has numbered it.
const NAMELESS: &str = "__set%d";
/// Bytes of elements in one message at most: an attribute's length has 16 bits.
const ELEMENTS_LEN: usize = 32 * 1024;

/// NFTA_TABLE_NAME and _FLAGS; NFTA_CHAIN_TABLE and _NAME; NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS and _USERDATA;
/// NFTA_SET_TABLE, _NAME, _ID and _USERDATA; NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS and _SET_ID; NFTA_LIST_ELEM;
/// NFTA_EXPR_NAME and _DATA; NFTA_LOOKUP_SET and _SET_ID.
const OF_TABLE: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const CHAIN_NAME: u16 = 3;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const SET_NAME: u16 = 2;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const ELEMENTS_SET_ID: u16 = 4;
const LIST_ITEM: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const LOOKUP_SET: u16 = 1;
const LOOKUP_SET_ID: u16 = 4;

/// A ruleset, and what this kernel gives back of it.
#[derive(Clone, Debug)]
pub struct Template {
    ruleset: Ruleset,
    listing: Listing,
}

impl Template {
    /// Has nft say a ruleset to the kernel, and reads what that makes of it. Runs nft: takes some tens of milliseconds,
    /// and as long as nft is given if it hangs.
    ///
    /// # Errors
    /// [`FirewallError`]; our own table is as it was.
    pub fn of(ruleset: &Ruleset) -> Result<Self, FirewallError> {
        let text = ruleset.listing().replacen(
            &format!("table {TABLE} {{"),
            &format!("table inet {REFERENCE} {{\n\tflags dormant;"),
            1,
        );
        let script = format!("add table inet {REFERENCE}\ndelete table inet {REFERENCE}\n{text}");
        let mut differences = Vec::new();
        for _ in 0..ATTEMPTS {
            nft::run(&script)?;
            let mut reader = Reader::open().map_err(FirewallError::Netlink)?;
            let read = reader.table(REFERENCE, &ruleset.fixed());
            delete(REFERENCE)?;
            // It is gone if another process is at it as well.
            let Some(mut listing) = read.map_err(FirewallError::Netlink)? else { continue };
            listing.flags &= !DORMANT;
            differences = verify::outline(ruleset, &listing);
            if differences.is_empty() {
                return Ok(Self { ruleset: ruleset.clone(), listing });
            }
        }
        Err(FirewallError::ReadBack(differences.join("; ")))
    }

    /// Takes what is in the kernel for what the ruleset says, where nft can't be run and names, hooks and comments are
    /// those of the ruleset. `None` if they aren't.
    ///
    /// # Errors
    /// [`FirewallError`] if the kernel's table can't be read.
    pub fn of_what_is_there(ruleset: &Ruleset) -> Result<Option<Self>, FirewallError> {
        let mut reader = Reader::open().map_err(FirewallError::Netlink)?;
        let found = reader.table(TABLE_NAME, &ruleset.fixed()).map_err(FirewallError::Netlink)?;
        let is_it = |found: &Listing| verify::outline(ruleset, found).is_empty();
        Ok(found.filter(is_it).map(|listing| Self { ruleset: ruleset.clone(), listing }))
    }

    /// The ruleset.
    #[must_use]
    pub const fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// In which ways a table differs from it, in words; empty if it does the same.
    #[must_use]
    pub fn differences(&self, found: &Listing) -> Vec<String> {
        verify::differences(&self.listing, &self.ruleset, found)
    }

    /// The sets that [`Self::put_in`] makes anew, so that they begin empty: all of them where there is no table or one
    /// that sleeps, otherwise those that aren't as they ought to be. What follows from the configuration is put in with
    /// them, what the daemon keeps is not.
    #[must_use]
    pub fn emptied(&self, found: Option<&Listing>) -> Vec<&'static str> {
        let found = found.filter(|found| found.flags == 0);
        let names = self.ruleset.sets.iter().map(|set| set.name);
        let is_right = |name: &str| {
            let definition = |listing: &Listing| Some(listing.sets.get(name)?.definition.clone());
            found.and_then(definition).is_some_and(|it| definition(&self.listing) == Some(it))
        };
        names.filter(|name| !is_right(name)).collect()
    }

    /// Adds to a batch what makes the table that was found this one. Elements of the sets that are as they ought to be
    /// stay. Where none was found, the kernel refuses the batch (`AlreadyExists`) if there is one by then: its rules
    /// would stay beside ours.
    pub fn put_in(&self, batch: &mut Batch, found: Option<&Listing>) {
        let emptied = self.emptied(found);
        match found {
            Some(found) if found.flags == 0 => make_room(batch, found, &emptied, &self.fixed()),
            Some(_) => {
                delete_table(batch, TABLE_NAME);
                add_table(batch, 0);
            }
            None => add_table(batch, NLM_F_EXCL),
        }
        for (number, name) in (1..).zip(&emptied) {
            if let Some(set) = self.listing.sets.get(*name) {
                add_set(batch, name, number, set);
            }
        }
        for name in self.fixed() {
            if let Some(set) = self.listing.sets.get(name) {
                add_elements(batch, name, None, &set.elements);
            }
        }
        // In the ruleset's order, which is how they are listed.
        let names = self.ruleset.chains.iter().map(|chain| chain.name);
        let chains: Vec<(&str, &ListedChain)> =
            names.filter_map(|name| Some((name, self.listing.chains.get(name)?))).collect();
        for (name, chain) in &chains {
            batch.push(Kind::NewChain, NLM_F_CREATE, |message| {
                message.put_text(OF_TABLE, TABLE_NAME).put_text(CHAIN_NAME, name);
                for (kind, value) in &chain.definition {
                    message.put(*kind, value);
                }
            });
        }
        // Nameless sets are known to the transaction by numbers, which no other set of it has.
        let mut number = 1000;
        for (name, chain) in chains {
            for rule in &chain.rules {
                add_rule(batch, name, rule, &mut number);
            }
        }
    }

    fn fixed(&self) -> Vec<&'static str> {
        self.ruleset.fixed()
    }
}

impl Ruleset {
    /// The names of the sets whose contents follow from the configuration.
    #[must_use]
    pub fn fixed(&self) -> Vec<&'static str> {
        let fixed = self.sets.iter().filter(|set| matches!(set.contents, Contents::Fixed(_)));
        fixed.map(|set| set.name).collect()
    }
}

/// Takes out of a table what is put in anew: its chains and rules, these sets, and what the others of the fixed ones hold.
fn make_room(batch: &mut Batch, found: &Listing, sets: &[&str], fixed: &[&str]) {
    batch.push(Kind::DelRule, 0, |rule| {
        rule.put_text(OF_TABLE, TABLE_NAME);
    });
    for name in found.chains.keys() {
        batch.push(Kind::DelChain, 0, |chain| {
            chain.put_text(OF_TABLE, TABLE_NAME).put_text(CHAIN_NAME, name);
        });
    }
    for name in sets.iter().filter(|name| found.sets.contains_key(**name)) {
        batch.push(Kind::DelSet, 0, |set| {
            set.put_text(OF_TABLE, TABLE_NAME).put_text(SET_NAME, name);
        });
    }
    for name in fixed.iter().filter(|name| !sets.contains(name)) {
        // Without elements it is all of them.
        batch.push(Kind::DelSetElem, 0, |elements| {
            elements.put_text(OF_TABLE, TABLE_NAME).put_text(ELEMENTS_SET, name);
        });
    }
}

/// Deletes a table; it is no fault if it isn't there.
///
/// # Errors
/// [`FirewallError`] if it is still there.
pub(super) fn delete(table: &str) -> Result<(), FirewallError> {
    let mut netlink = Netlink::open().map_err(FirewallError::Netlink)?;
    let mut batch = netlink.batch();
    delete_table(&mut batch, table);
    match netlink.commit(batch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FirewallError::Refused(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn add_table(batch: &mut Batch, exclusive: u16) {
    batch.push(Kind::NewTable, NLM_F_CREATE | exclusive, |table| {
        table.put_text(OF_TABLE, TABLE_NAME).put(TABLE_FLAGS, &0_u32.to_be_bytes());
    });
}

fn delete_table(batch: &mut Batch, name: &str) {
    batch.push(Kind::DelTable, 0, |table| {
        table.put_text(OF_TABLE, name);
    });
}

fn add_set(batch: &mut Batch, name: &str, number: u32, set: &ListedSet) {
    batch.push(Kind::NewSet, NLM_F_CREATE, |message| {
        message.put_text(OF_TABLE, TABLE_NAME).put_text(SET_NAME, name);
        message.put(SET_ID, &number.to_be_bytes());
        for (kind, value) in &set.definition {
            message.put(*kind, value);
        }
        if let Some(userdata) = &set.userdata {
            message.put(SET_USERDATA, userdata);
        }
    });
}

fn add_elements(batch: &mut Batch, set: &str, number: Option<u32>, elements: &[Vec<u8>]) {
    let mut rest = elements;
    while !rest.is_empty() {
        let mut length = 0;
        let fits = |element: &&Vec<u8>| {
            length += length_of(element.len());
            length <= ELEMENTS_LEN
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (now, later) = rest.split_at(count.min(rest.len()));
        batch.push(Kind::NewSetElem, NLM_F_CREATE, |message| {
            message.put_text(OF_TABLE, TABLE_NAME).put_text(ELEMENTS_SET, set);
            if let Some(number) = number {
                message.put(ELEMENTS_SET_ID, &number.to_be_bytes());
            }
            message.nest(ELEMENTS, |list| {
                for element in now {
                    list.put(LIST_ITEM, element);
                }
            });
        });
        rest = later;
    }
}

fn add_rule(batch: &mut Batch, chain: &str, rule: &ListedRule, number: &mut u32) {
    let sets: Vec<Option<u32>> = rule
        .expressions
        .iter()
        .map(|expression| match expression {
            Expression::Lookup { set: SetInRule::Nameless(set), .. } => {
                *number += 1;
                add_set(batch, NAMELESS, *number, set);
                add_elements(batch, NAMELESS, Some(*number), &set.elements);
                Some(*number)
            }
            Expression::Lookup { .. } | Expression::Counter | Expression::Other { .. } => None,
        })
        .collect();
    batch.push(Kind::NewRule, NLM_F_CREATE | NLM_F_APPEND, |message| {
        message.put_text(OF_TABLE, TABLE_NAME).put_text(RULE_CHAIN, chain);
        message.nest(RULE_EXPRESSIONS, |list| {
            for (expression, set) in rule.expressions.iter().zip(sets) {
                list.nest(LIST_ITEM, |item| put_expression(item, expression, set));
            }
        });
        if let Some(userdata) = &rule.userdata {
            message.put(RULE_USERDATA, userdata);
        }
    });
}

fn put_expression(item: &mut Writer<'_>, expression: &Expression, number: Option<u32>) {
    match expression {
        Expression::Counter => {
            item.put_text(EXPRESSION_NAME, "counter").nest(EXPRESSION_DATA, |_| ());
        }
        Expression::Lookup { set, rest } => {
            item.put_text(EXPRESSION_NAME, "lookup").nest(EXPRESSION_DATA, |data| {
                match set {
                    SetInRule::Named(name) => data.put_text(LOOKUP_SET, name),
                    SetInRule::Nameless(_) => data.put_text(LOOKUP_SET, NAMELESS),
                };
                for (kind, value) in rest {
                    data.put(*kind, value);
                }
                if let Some(number) = number {
                    data.put(LOOKUP_SET_ID, &number.to_be_bytes());
                }
            });
        }
        Expression::Other { name, data } => {
            item.put_text(EXPRESSION_NAME, name);
            // An expression that has nothing to say more is one without the attribute.
            if !data.is_empty() {
                item.put(EXPRESSION_DATA, data);
            }
        }
    }
}

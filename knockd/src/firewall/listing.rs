//! A table as the kernel gives it back: what its sets, chains and rules do, in the kernel's own bytes.
//!
//! What the kernel numbers anew each time (handles, the names of nameless sets), what it counts, and what only nft reads
//! is left out or set apart: two tables that do the same are listed the same by one kernel.
//!
//! Message layouts: include/uapi/linux/netfilter/nf_tables.h.
//!
//! # Security considerations
//! - What isn't known to mean nothing is kept and compared: an attribute that a later kernel adds makes two listings
//!   differ if it differs.
//! - No bytes whatever make reading panic or go on for ever.

use std::{collections::BTreeMap, io};

use super::{
    answer::items,
    attributes::{attributes, long_number, number, text},
    netlink::Kind,
};

/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE.
const TABLE: u16 = 1;
/// NFTA_TABLE_FLAGS
const TABLE_FLAGS: u16 = 2;
/// NFTA_CHAIN_HANDLE, _NAME, _HOOK, _POLICY, _USE, _COUNTERS, _PAD, _ID and _USERDATA.
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_USE: u16 = 6;
const CHAIN_COUNTERS: u16 = 8;
const CHAIN_PAD: u16 = 9;
const CHAIN_ID: u16 = 11;
const CHAIN_USERDATA: u16 = 12;
/// NFTA_HOOK_HOOKNUM and _PRIORITY.
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
/// NFTA_RULE_CHAIN, _EXPRESSIONS and _USERDATA.
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
/// NFTNL_UDATA_RULE_COMMENT (libnftnl): a byte of kind, one of length, and the value.
const COMMENT: u8 = 0;
/// NFTA_LIST_ELEM, NFTA_EXPR_NAME and _DATA.
const LIST_ITEM: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
/// NFTA_LOOKUP_SET and _SET_ID.
const LOOKUP_SET: u16 = 1;
const LOOKUP_SET_ID: u16 = 4;
/// NFTA_COUNTER_PACKETS
const COUNTER_PACKETS: u16 = 2;
/// NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE, and NF_DROP.
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const DROP: u32 = 0;
/// NFTA_SET_NAME, _FLAGS, _ID, _USERDATA, _PAD, _HANDLE, _TYPE (which implementation was chosen) and _COUNT.
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
const SET_PAD: u16 = 14;
const SET_HANDLE: u16 = 16;
const SET_IMPLEMENTATION: u16 = 19;
const SET_COUNT: u16 = 20;
/// NFT_SET_ANONYMOUS: nameless, of one rule alone, and never changed.
const ANONYMOUS: u32 = 1;

/// Attributes, in the kernel's order.
pub type Attributes = Vec<(u16, Vec<u8>)>;

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Its flags: any of them makes it another one than ours, dormant perhaps.
    pub flags: u32,
    /// Its sets, by name; nameless ones are with the rules that look into them.
    pub sets: BTreeMap<String, ListedSet>,
    /// Its chains, by name.
    pub chains: BTreeMap<String, ListedChain>,
}

/// A set, without its elements.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedSet {
    /// What it is: type, flags, size, timeout, and whatever else the kernel says.
    pub definition: Attributes,
    /// What nft keeps with it, to list it by.
    pub userdata: Option<Vec<u8>>,
    /// Its elements, each as its attributes; of a set whose contents follow from the configuration.
    pub elements: Vec<Vec<u8>>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedChain {
    /// What it is: type, hook, priority, policy, and whatever else the kernel says.
    pub definition: Attributes,
    /// Its rules, in their order.
    pub rules: Vec<ListedRule>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListedRule {
    /// Its comment, if it has one.
    pub comment: Option<String>,
    /// What nft keeps with it: the comment.
    pub userdata: Option<Vec<u8>>,
    /// What it matches and does.
    pub expressions: Vec<Expression>,
    /// How many packets it has counted, if it counts.
    pub packets: Option<u64>,
}

/// A part of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// A counter, whatever it stands at.
    Counter,
    /// A look into a set.
    Lookup {
        /// Which.
        set: SetInRule,
        /// How.
        rest: Attributes,
    },
    /// Another one.
    Other {
        /// Its name.
        name: String,
        /// Its attributes, as the kernel gives them.
        data: Vec<u8>,
    },
}

/// The set that a rule looks into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetInRule {
    /// One with a name.
    Named(String),
    /// One that is the rule's own.
    Nameless(ListedSet),
}

impl ListedSet {
    /// Whether it is a rule's own.
    fn is_nameless(&self) -> bool {
        let mut flags = self.definition.iter().filter(|(kind, _)| *kind == SET_FLAGS);
        flags.any(|(_, value)| number(value).is_ok_and(|flags| flags & ANONYMOUS != 0))
    }

    /// Whether two sets hold the same elements, in whichever order.
    #[must_use]
    pub fn holds_the_same(&self, other: &Self) -> bool {
        let sorted = |set: &Self| {
            let mut elements = set.elements.clone();
            elements.sort();
            elements
        };
        sorted(self) == sorted(other)
    }
}

impl ListedChain {
    /// Where it hooks in and at which priority; `None` for one that is only gone to.
    #[must_use]
    pub fn hook(&self) -> Option<(u32, i32)> {
        let (_, hook) = self.definition.iter().find(|(kind, _)| *kind == CHAIN_HOOK)?;
        let (mut at, mut priority) = (None, None);
        for attribute in attributes(hook) {
            let attribute = attribute.ok()?;
            match attribute.kind {
                HOOK_NUMBER => at = number(attribute.value).ok(),
                HOOK_PRIORITY => priority = number(attribute.value).ok(),
                _ => {}
            }
        }
        Some((at?, priority?.cast_signed()))
    }

    /// What becomes of packets that no rule decides, as a verdict's code.
    #[must_use]
    pub fn policy(&self) -> Option<u32> {
        let (_, policy) = self.definition.iter().find(|(kind, _)| *kind == CHAIN_POLICY)?;
        number(policy).ok()
    }
}

impl ListedRule {
    /// Whether it does the same as another one.
    #[must_use]
    pub fn does_the_same(&self, other: &Self) -> bool {
        let of = |rule: &Self| rule.expressions.len();
        of(self) == of(other)
            && self.expressions.iter().zip(&other.expressions).all(|(one, other)| one.same(other))
    }

    /// Whether it drops packets.
    #[must_use]
    pub fn drops(&self) -> bool {
        self.expressions.iter().any(|expression| match expression {
            Expression::Other { name, data } if name == "immediate" => verdict(data) == Some(DROP),
            Expression::Other { .. } | Expression::Counter | Expression::Lookup { .. } => false,
        })
    }
}

impl Expression {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Lookup { set: SetInRule::Nameless(set), rest },
                Self::Lookup { set: SetInRule::Nameless(of_other), rest: rest_of_other },
            ) => {
                rest == rest_of_other
                    && set.definition == of_other.definition
                    && set.holds_the_same(of_other)
            }
            _ => self == other,
        }
    }
}

fn verdict(immediate: &[u8]) -> Option<u32> {
    let data = attributes(immediate).flatten().find(|it| it.kind == IMMEDIATE_DATA)?;
    let verdict = attributes(data.value).flatten().find(|it| it.kind == DATA_VERDICT)?;
    let code = attributes(verdict.value).flatten().find(|it| it.kind == VERDICT_CODE)?;
    number(code.value).ok()
}

/// A listing in the making, from the messages that the kernel answers with.
#[derive(Debug)]
pub struct Draft {
    table: String,
    found: Option<Listing>,
    /// Nameless sets, by the names that the kernel has given them.
    nameless: BTreeMap<String, ListedSet>,
    rules: Vec<(String, ListedRule)>,
}

impl Draft {
    /// Of the table with this name.
    #[must_use]
    pub fn of(table: &str) -> Self {
        Self { table: table.to_owned(), found: None, nameless: BTreeMap::new(), rules: Vec::new() }
    }

    /// Whether the table is there, as far as was read.
    #[must_use]
    pub const fn is_there(&self) -> bool {
        self.found.is_some()
    }

    /// Reads a message; what is of other tables is passed over.
    ///
    /// # Errors
    /// If it can't be understood.
    pub fn read(&mut self, kind: u16, message: &[u8]) -> io::Result<()> {
        let mut all = Vec::new();
        for attribute in attributes(message) {
            let attribute = attribute?;
            all.push((attribute.kind, attribute.value));
        }
        let of_table = all.iter().find(|(kind, _)| *kind == TABLE).map(|(_, name)| text(name));
        if of_table.as_ref() != Some(&self.table) {
            return Ok(());
        }
        let value = |wanted| all.iter().find(|(kind, _)| *kind == wanted).map(|(_, value)| *value);
        let without = |left_out: &[u16]| -> Attributes {
            let kept = all.iter().filter(|(kind, _)| *kind != TABLE && !left_out.contains(kind));
            kept.map(|(kind, value)| (*kind, value.to_vec())).collect()
        };
        let named = |kind| value(kind).map(text).ok_or(io::ErrorKind::InvalidData);
        let is = |wanted: Kind| kind == wanted.number();
        if is(Kind::NewTable) {
            let flags = value(TABLE_FLAGS).map_or(Ok(0), number)?;
            self.found.get_or_insert_default().flags = flags;
        } else if is(Kind::NewChain) {
            const LEFT_OUT: [u16; 7] = [
                CHAIN_HANDLE,
                CHAIN_NAME,
                CHAIN_USE,
                CHAIN_COUNTERS,
                CHAIN_PAD,
                CHAIN_ID,
                CHAIN_USERDATA,
            ];
            let chain = ListedChain { definition: without(&LEFT_OUT), rules: Vec::new() };
            self.found.get_or_insert_default().chains.insert(named(CHAIN_NAME)?, chain);
        } else if is(Kind::NewSet) {
            const LEFT_OUT: [u16; 7] = [
                SET_NAME,
                SET_ID,
                SET_USERDATA,
                SET_PAD,
                SET_HANDLE,
                SET_IMPLEMENTATION,
                SET_COUNT,
            ];
            let set = ListedSet {
                definition: without(&LEFT_OUT),
                userdata: value(SET_USERDATA).map(<[u8]>::to_vec),
                elements: Vec::new(),
            };
            match set.is_nameless() {
                true => self.nameless.insert(named(SET_NAME)?, set),
                false => self.found.get_or_insert_default().sets.insert(named(SET_NAME)?, set),
            };
        } else if is(Kind::NewRule) {
            let rule = read_rule(value(RULE_EXPRESSIONS), value(RULE_USERDATA))?;
            self.rules.push((named(RULE_CHAIN)?, rule));
        }
        Ok(())
    }

    /// The sets whose elements belong to the listing: nameless ones, and these.
    pub fn sets_to_read(&self, fixed: &[&str]) -> Vec<String> {
        let sets = self.found.iter().flat_map(|found| found.sets.keys());
        let fixed = sets.filter(|name| fixed.contains(&name.as_str()));
        self.nameless.keys().chain(fixed).cloned().collect()
    }

    /// Reads a message with elements of a set.
    ///
    /// # Errors
    /// If it can't be understood.
    pub fn read_elements(&mut self, set: &str, kind: u16, message: &[u8]) -> io::Result<()> {
        if kind != Kind::NewSetElem.number() {
            return Ok(());
        }
        let elements = items(message)?.into_iter().map(<[u8]>::to_vec);
        let named = self.found.as_mut().and_then(|found| found.sets.get_mut(set));
        if let Some(set) = self.nameless.get_mut(set).or(named) {
            set.elements.extend(elements);
        }
        Ok(())
    }

    /// The listing; `None` if there is no such table.
    ///
    /// # Errors
    /// `Interrupted` if its parts don't belong together: it was changed meanwhile.
    pub fn finish(self) -> io::Result<Option<Listing>> {
        let Self { found, nameless, rules, .. } = self;
        let Some(mut found) = found else { return Ok(None) };
        for (chain, mut rule) in rules {
            for expression in &mut rule.expressions {
                if let Expression::Lookup { set, .. } = expression
                    && let SetInRule::Named(name) = set
                    && let Some(own) = nameless.get(name)
                {
                    *set = SetInRule::Nameless(own.clone());
                }
            }
            let chain = found.chains.get_mut(&chain).ok_or(io::ErrorKind::Interrupted)?;
            chain.rules.push(rule);
        }
        Ok(Some(found))
    }
}

fn read_rule(expressions: Option<&[u8]>, userdata: Option<&[u8]>) -> io::Result<ListedRule> {
    let mut rule = ListedRule {
        comment: userdata.and_then(comment),
        userdata: userdata.map(<[u8]>::to_vec),
        ..ListedRule::default()
    };
    for item in attributes(expressions.unwrap_or_default()) {
        let item = item?;
        if item.kind != LIST_ITEM {
            continue;
        }
        let (mut name, mut data) = (String::new(), &[][..]);
        for attribute in attributes(item.value) {
            let attribute = attribute?;
            match attribute.kind {
                EXPRESSION_NAME => name = text(attribute.value),
                EXPRESSION_DATA => data = attribute.value,
                _ => {}
            }
        }
        rule.expressions.push(match name.as_str() {
            "counter" => {
                let packets = attributes(data).flatten().find(|it| it.kind == COUNTER_PACKETS);
                let packets = packets.map(|packets| long_number(packets.value)).transpose()?;
                rule.packets = rule.packets.or(packets);
                Expression::Counter
            }
            "lookup" => lookup(data)?,
            _ => Expression::Other { name, data: data.to_vec() },
        });
    }
    Ok(rule)
}

fn lookup(data: &[u8]) -> io::Result<Expression> {
    let (mut set, mut rest) = (String::new(), Vec::new());
    for attribute in attributes(data) {
        let attribute = attribute?;
        match attribute.kind {
            LOOKUP_SET => set = text(attribute.value),
            LOOKUP_SET_ID => {}
            kind => rest.push((kind, attribute.value.to_vec())),
        }
    }
    Ok(Expression::Lookup { set: SetInRule::Named(set), rest })
}

fn comment(userdata: &[u8]) -> Option<String> {
    let mut rest = userdata;
    while let [kind, length, after @ ..] = rest {
        let (value, after) = after.split_at_checked(usize::from(*length))?;
        if *kind == COMMENT {
            return Some(text(value));
        }
        rest = after;
    }
    None
}

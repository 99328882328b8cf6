//! The table, as data: sets, chains and rules, from the services and who needs no knock.
//!
//! # Security considerations
//! - A SYN never counts as established: a conntrack entry that the server has reset still does, and an
//!   expired client could come back for ever from the same port.
//! - Established alone lets nobody live on: a connection that began while the table was away is that too.
//!   Only a packet that came by a door gives its connection our label, and only who has it lives on. It is
//!   in conntrack, and so outlives the table.
//! - Every chain that looks at ports relies on packets being whole. Conntrack reassembles fragments, and
//!   is on because `gate` asks for `ct state`, whatever `grant.sessions` is. It does so once; what can't be read
//!   even then doesn't pass (see `guard`).
//! - What can't be read is no knock to `early` and `knock`, and for `banned` it is from its source as anything else. What is
//!   redirected to the port of knocks is filtered behind the redirection. `replies` only takes what it reads off conntrack.
//! - `notrack` for knocks, so that one sniffed tag can't fill the host's conntrack table; and for replies, where they
//!   are on.
//! - A client's tag passes before any ban is looked at: junk that is forged in a device's name can't keep its
//!   next knock out. Where the filter by tags is off, whatever has a knock's length does.
//! - With `ban.scope = "host"`, a live grant passes before a ban as well.
//! - `closed` keeps the host from telling by an ICMP "port unreachable" that no daemon runs.

mod chains;
mod guard;
mod sets;

use std::{fmt::Write as _, num::NonZeroU32};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::gate::policy::{BanScope, ReplyPolicy, Service, Sessions};

/// The table's family and name; nothing of ours is anywhere else.
pub const TABLE: &str = "inet knockd";
/// The table's name alone.
pub const TABLE_NAME: &str = "knockd";
/// Doors for IPv4 addresses.
pub const DOOR4: &str = "door4";
/// Doors for IPv6 addresses.
pub const DOOR6: &str = "door6";

/// IPv4 addresses that are banned by their failures.
pub const BAN4: &str = "ban4";
/// IPv6 networks that are banned by their failures.
pub const BAN6: &str = "ban6";
/// IPv4 addresses that an admin has banned.
pub const BLOCK4: &str = "block4";
/// IPv6 networks that an admin has banned.
pub const BLOCK6: &str = "block6";

/// Tags of the days that the allowed skew reaches now.
pub const TAGS: &str = "tags";

/// The bit of a connection's conntrack label that says: it came by a door. Of 128, one that hardly anybody
/// else's rules use.
pub const LABEL: u8 = 119;

/// What stands in a comment between the rule's own digest and the table's.
pub(super) const OF_TABLE: &str = ", table #";

/// What the kernel does about junk, before any process wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefilter {
    /// Packets with a client's tag always pass, others within a budget.
    On {
        /// Packets a second without a client's tag that reach the daemon.
        junk_budget: NonZeroU32,
        /// How many clients there are: each has a tag or two in the kernel.
        clients: usize,
    },
    /// Every packet reaches the daemon.
    Off,
}

/// All that the table is made from.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// The UDP ports that knocks come in at.
    pub knock_ports: &'a [u16],
    /// What is behind the door.
    pub services: &'a [Service],
    /// Interfaces from which nobody needs to knock.
    pub allowed_interfaces: Vec<&'a str>,
    /// Networks from which nobody needs to knock.
    pub allowed_networks: &'a [IpNet],
    /// What happens to established connections when a grant ends.
    pub sessions: Sessions,
    /// What the kernel does about junk.
    pub prefilter: Prefilter,
    /// What is shut to a source that is banned by its failures.
    pub ban_scope: BanScope,
    /// Whether the daemon replies to who asks for it.
    pub replies: ReplyPolicy,
}

/// A set and how its contents come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// Its type and flags, in nft's words.
    pub definition: String,
    /// Its contents.
    pub contents: Contents,
}

/// How a set's contents come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// The daemon writes them one by one; a new ruleset leaves them alone.
    Kept,
    /// They follow from the configuration.
    Fixed(Vec<String>),
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where it hooks in; `None` for one that is only gone to.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain hooks in; type filter, policy accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The hook's name.
    pub hook: &'static str,
    /// Its priority.
    pub priority: i32,
}

/// A rule, told from all others by its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it matches and does, in nft's words.
    pub text: String,
    /// What it is for, and a digest of its text: the kernel gives a rule back in other words, and a rule
    /// that follows from an older configuration is told from a new one by it.
    pub comment: String,
}

/// What becomes of the set of tags when a table takes another one's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    /// They stay.
    Kept,
    /// They are to be put in again.
    Gone,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Its sets.
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

impl Ruleset {
    /// The table of a plan.
    #[must_use]
    pub fn of(plan: &Plan<'_>) -> Self {
        let mut ruleset = Self { sets: sets::of(plan), chains: chains::of(plan) };
        let digest = ruleset.digest();
        let rules = ruleset.chains.iter_mut().flat_map(|chain| &mut chain.rules);
        if let Some(last) = rules.last() {
            last.comment.push_str(&format!("{OF_TABLE}{digest}"));
        }
        ruleset
    }

    /// A digest of all that a listing of the table tells: the last rule's comment carries it, so that a table can be
    /// told from one that was changed since it was put in, without knowing what it was made from.
    fn digest(&self) -> String {
        let sets = self.sets.iter().map(|set| set.name);
        let fixed = self.sets.iter().filter_map(|set| match &set.contents {
            Contents::Fixed(elements) => Some((set.name, elements.as_slice())),
            Contents::Kept => None,
        });
        let chains = self.chains.iter().map(|chain| ChainFacts {
            name: chain.name,
            base: chain.base.map(|base| (base.hook, base.priority)),
            comments: chain.rules.iter().map(|rule| rule.comment.as_str()).collect(),
        });
        digest(sets.collect(), fixed.collect(), chains.collect())
    }

    /// The script for nft that puts the table in as one transaction: chains and fixed contents anew,
    /// doors kept.
    #[must_use]
    pub fn script(&self) -> String {
        let mut script = format!("add table {TABLE}\n");
        for set in &self.sets {
            put(&mut script, format_args!("add set {TABLE} {} {{ {} }}", set.name, set.definition));
            if let Contents::Fixed(_) = set.contents {
                put(&mut script, format_args!("flush set {TABLE} {}", set.name));
            }
        }
        for name in chains::SOMETIMES.iter().filter(|name| self.lacks_chain(name)) {
            // What isn't there can't be deleted: so it is made first.
            for what in ["add", "flush", "delete"] {
                put(&mut script, format_args!("{what} chain {TABLE} {name}"));
            }
        }
        for chain in &self.chains {
            put(
                &mut script,
                format_args!("add chain {TABLE} {}{}", chain.name, braced(chain.base)),
            );
            put(&mut script, format_args!("flush chain {TABLE} {}", chain.name));
        }
        script + &self.listing()
    }

    fn lacks_chain(&self, name: &str) -> bool {
        self.chains.iter().all(|chain| chain.name != name)
    }

    /// The table as nft would list it, but for counters and doors.
    #[must_use]
    pub fn listing(&self) -> String {
        let mut listing = format!("table {TABLE} {{\n");
        for set in &self.sets {
            let elements = match &set.contents {
                Contents::Fixed(elements) if !elements.is_empty() => {
                    format!(" elements = {{ {} }};", elements.join(", "))
                }
                Contents::Fixed(_) | Contents::Kept => String::new(),
            };
            put(
                &mut listing,
                format_args!("\tset {} {{ {}{elements} }}", set.name, set.definition),
            );
        }
        for chain in &self.chains {
            put(&mut listing, format_args!("\n\tchain {} {{", chain.name));
            if let Some(base) = chain.base {
                put(&mut listing, format_args!("\t\t{}", base.definition()));
            }
            for Rule { text, comment } in &chain.rules {
                put(&mut listing, format_args!("\t\t{text} comment \"{comment}\""));
            }
            put(&mut listing, format_args!("\t}}"));
        }
        listing + "}\n"
    }
}

/// What a listing tells of a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChainFacts<'a> {
    pub(super) name: &'a str,
    pub(super) base: Option<(&'a str, i32)>,
    /// In the order of the rules; empty for a rule that has none.
    pub(super) comments: Vec<&'a str>,
}

/// A digest of what a listing of the table tells, in whichever order it lists sets and chains. The digest of the
/// whole in a comment doesn't count.
pub(super) fn digest(
    mut sets: Vec<&str>,
    mut fixed: Vec<(&str, &[String])>,
    mut chains: Vec<ChainFacts<'_>>,
) -> String {
    sets.sort_unstable();
    fixed.sort_unstable();
    chains.sort_unstable();
    for comment in chains.iter_mut().flat_map(|chain| &mut chain.comments) {
        *comment = comment.split_once(OF_TABLE).map_or(*comment, |(own, _)| own);
    }
    let all = format!("{sets:?}{fixed:?}{chains:?}");
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(all).into();
    format!("{a:02x}{b:02x}{c:02x}{d:02x}")
}

impl Base {
    fn definition(self) -> String {
        format!("type filter hook {} priority {}; policy accept;", self.hook, self.priority)
    }
}

fn braced(base: Option<Base>) -> String {
    base.map_or_else(String::new, |base| format!(" {{ {} }}", base.definition()))
}

fn put(script: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = writeln!(script, "{line}");
}

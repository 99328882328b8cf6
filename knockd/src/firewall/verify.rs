//! Whether the table in the kernel is the one that ought to be there.
//!
//! Rules are told by their comments and their order, chains by where they hook in, sets by their names and
//! fixed contents. Whoever changes a rule in place and copies its comment is not found out.

use nftables::{
    schema::{NfListObject, NfObject, Nftables},
    types::{NfChainPolicy, NfHook},
};

use super::ruleset::{Base, Chain, Ruleset};

/// What differs between the kernel's table and the one that ought to be there, in words; empty if nothing does.
#[must_use]
pub fn differences(ruleset: &Ruleset, listing: &Nftables<'_>) -> Vec<String> {
    let objects: Vec<&NfListObject<'_>> = listing
        .objects
        .iter()
        .filter_map(|object| match object {
            NfObject::ListObject(object) => Some(object),
            NfObject::CmdObject(_) => None,
        })
        .collect();
    let mut differences = Vec::new();
    for set in &ruleset.sets {
        let is_there = objects
            .iter()
            .any(|object| matches!(object, NfListObject::Set(found) if found.name == set.name));
        if !is_there {
            differences.push(format!("set {} is missing", set.name));
        }
    }
    for chain in &ruleset.chains {
        differences.extend(chain_differences(chain, &objects));
    }
    differences.extend(foreign_chains(ruleset, &objects));
    differences
}

fn chain_differences(chain: &Chain, objects: &[&NfListObject<'_>]) -> Vec<String> {
    let found = objects.iter().find_map(|object| match object {
        NfListObject::Chain(found) if found.name == chain.name => Some(found),
        _ => None,
    });
    let Some(found) = found else { return vec![format!("chain {} is missing", chain.name)] };
    let mut differences = Vec::new();
    let base =
        found.hook.zip(found.prio).map(|(hook, priority)| Base { hook: hook_name(hook), priority });
    if base != chain.base || found.policy.is_some_and(|policy| policy != NfChainPolicy::Accept) {
        differences.push(format!("chain {} hooks in elsewhere, or has another policy", chain.name));
    }
    let comments: Vec<Option<&str>> = objects
        .iter()
        .filter_map(|object| match object {
            NfListObject::Rule(rule) if rule.chain == chain.name => Some(rule.comment.as_deref()),
            _ => None,
        })
        .collect();
    let expected: Vec<Option<&str>> =
        chain.rules.iter().map(|rule| Some(rule.comment.as_str())).collect();
    for rule in &chain.rules {
        if !comments.contains(&Some(&rule.comment)) {
            differences
                .push(format!("rule \"{}\" of chain {} is missing", rule.comment, chain.name));
        }
    }
    let foreign = comments.iter().filter(|comment| !expected.contains(comment)).count();
    if foreign > 0 {
        differences.push(format!("chain {} has {foreign} rules that aren't ours", chain.name));
    }
    if differences.is_empty() && comments != expected {
        differences.push(format!("the rules of chain {} are in another order", chain.name));
    }
    differences
}

fn foreign_chains(ruleset: &Ruleset, objects: &[&NfListObject<'_>]) -> Vec<String> {
    objects
        .iter()
        .filter_map(|object| match object {
            NfListObject::Chain(found)
                if ruleset.chains.iter().all(|chain| chain.name != found.name) =>
            {
                Some(format!("chain {} isn't ours", found.name))
            }
            _ => None,
        })
        .collect()
}

const fn hook_name(hook: NfHook) -> &'static str {
    match hook {
        NfHook::Ingress => "ingress",
        NfHook::Prerouting => "prerouting",
        NfHook::Forward => "forward",
        NfHook::Input => "input",
        NfHook::Output => "output",
        NfHook::Postrouting => "postrouting",
        NfHook::Egress => "egress",
    }
}

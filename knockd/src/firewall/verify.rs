//! Whether the table in the kernel is the one that ought to be there.
//!
//! Rules are told by their comments and their order, chains by where they hook in, sets by their names and
//! fixed contents. Whoever changes a rule in place and copies its comment is not found out.

use super::{
    nft::Listing,
    ruleset::{Chain, Ruleset},
};

/// What differs between the kernel's table and the one that ought to be there, in words; empty if nothing does.
#[must_use]
pub fn differences(ruleset: &Ruleset, listing: &Listing) -> Vec<String> {
    let missing_sets = ruleset
        .sets
        .iter()
        .filter(|set| !listing.sets.iter().any(|found| found == set.name))
        .map(|set| format!("set {} is missing", set.name));
    let chains = ruleset.chains.iter().flat_map(|chain| chain_differences(chain, listing));
    let foreign_chains = listing
        .chains
        .iter()
        .filter(|found| ruleset.chains.iter().all(|chain| chain.name != found.name))
        .map(|found| format!("chain {} isn't ours", found.name));
    let flags = listing.has_flags.then(|| "the table has flags, dormant perhaps".to_owned());
    flags.into_iter().chain(missing_sets).chain(chains).chain(foreign_chains).collect()
}

fn chain_differences(chain: &Chain, listing: &Listing) -> Vec<String> {
    let name = chain.name;
    let Some(found) = listing.chains.iter().find(|found| found.name == name) else {
        return vec![format!("chain {name} is missing")];
    };
    let mut differences = Vec::new();
    let base = found.hook.as_deref().zip(found.prio);
    if base != chain.base.map(|base| (base.hook, base.priority)) {
        differences.push(format!("chain {name} hooks in elsewhere"));
    }
    if found.policy.as_deref().is_some_and(|policy| policy != "accept") {
        differences.push(format!("chain {name} has another policy"));
    }
    let comments: Vec<Option<&str>> = listing
        .rules
        .iter()
        .filter(|rule| rule.chain == name)
        .map(|rule| rule.comment.as_deref())
        .collect();
    let expected: Vec<Option<&str>> =
        chain.rules.iter().map(|rule| Some(rule.comment.as_str())).collect();
    for comment in expected.iter().filter(|comment| !comments.contains(comment)).flatten() {
        differences.push(format!("rule \"{comment}\" of chain {name} is missing"));
    }
    let foreign = comments.iter().filter(|comment| !expected.contains(comment)).count();
    if foreign > 0 {
        differences.push(format!("chain {name} has {foreign} rules that aren't ours"));
    }
    if differences.is_empty() && comments != expected {
        differences.push(format!("the rules of chain {name} are in another order, or doubled"));
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            nft::{ListedChain, ListedRule},
            ruleset::{Plan, Prefilter},
        },
        *,
    };
    use crate::gate::policy::{BanScope, ReplyPolicy, Service, Sessions};

    fn ruleset(port: &str) -> Ruleset {
        Ruleset::of(&Plan {
            knock_ports: &[62201],
            services: &[Service {
                name: "mqtts".parse().unwrap(),
                ports: vec![port.parse().unwrap()],
                to: Vec::new(),
            }],
            allowed_interfaces: Vec::new(),
            allowed_networks: &["192.0.2.0/24".parse().unwrap()],
            sessions: Sessions::Keep,
            prefilter: Prefilter::Off,
            ban_scope: BanScope::Host,
            replies: ReplyPolicy::On,
        })
    }

    /// As nft lists it.
    fn listing(ruleset: &Ruleset) -> Listing {
        Listing {
            has_flags: false,
            sets: ruleset.sets.iter().map(|set| set.name.to_owned()).collect(),
            chains: ruleset
                .chains
                .iter()
                .map(|chain| ListedChain {
                    name: chain.name.to_owned(),
                    hook: chain.base.map(|base| base.hook.to_owned()),
                    prio: chain.base.map(|base| base.priority),
                    policy: chain.base.map(|_| "accept".to_owned()),
                })
                .collect(),
            rules: ruleset
                .chains
                .iter()
                .flat_map(|chain| {
                    chain.rules.iter().map(|rule| ListedRule {
                        chain: chain.name.to_owned(),
                        comment: Some(rule.comment.clone()),
                    })
                })
                .collect(),
        }
    }

    #[test]
    fn a_table_as_it_was_put_in_differs_in_nothing() {
        let ruleset = ruleset("tcp/8883");
        assert!(differences(&ruleset, &listing(&ruleset)).is_empty());
    }

    #[test]
    fn whatever_is_missing_from_the_table_is_named() {
        let ruleset = ruleset("tcp/8883");
        let whole = listing(&ruleset);
        for at in 0..whole.rules.len() {
            let mut cut = whole.clone();
            let rule = cut.rules.remove(at);
            let said = differences(&ruleset, &cut).join("; ");
            assert!(said.contains(&rule.comment.unwrap()), "{said}");
        }
        for at in 0..whole.chains.len() {
            let mut cut = whole.clone();
            let name = cut.chains.remove(at).name;
            assert_eq!(differences(&ruleset, &cut), [format!("chain {name} is missing")]);
        }
        for at in 0..whole.sets.len() {
            let mut cut = whole.clone();
            let name = cut.sets.remove(at);
            assert_eq!(differences(&ruleset, &cut), [format!("set {name} is missing")]);
        }
    }

    #[test]
    fn whatever_was_added_to_the_table_or_moved_in_it_is_told() {
        let ruleset = ruleset("tcp/8883");
        let whole = listing(&ruleset);
        let tampered: [fn(&mut Listing); 7] = [
            |listing| listing.has_flags = true,
            |listing| listing.rules.push(ListedRule { chain: "gate".into(), comment: None }),
            |listing| listing.rules.push(listing.rules[0].clone()),
            |listing| listing.rules.swap(0, 1),
            |listing| listing.chains[0].policy = Some("drop".into()),
            |listing| listing.chains[0].prio = Some(0),
            |listing| {
                let name = "mine".to_owned();
                listing.chains.push(ListedChain { name, hook: None, prio: None, policy: None });
            },
        ];
        for (at, tamper) in tampered.into_iter().enumerate() {
            let mut listing = whole.clone();
            tamper(&mut listing);
            assert_eq!(differences(&ruleset, &listing).len(), 1, "{at}");
        }
    }

    #[test]
    fn a_table_of_an_older_configuration_is_told_from_the_new_ones() {
        let mut older = ruleset("tcp/8883");
        let newer = ruleset("tcp/8883");
        let input = older.chains.iter_mut().find(|chain| chain.name == "input").unwrap();
        input.rules[2].comment = "allowed IPv4 networks need no knock #000000".to_owned();
        assert_eq!(differences(&newer, &listing(&older)).len(), 2);
    }
}

//! Whether the table in the kernel is the one that ought to be there.
//!
//! It is compared by what it does: its flags; each set's type, flags, size and timeout; each chain's type, hook, priority
//! and policy; each rule's expressions, in their order. Comments say which rule is which, and prove nothing.

use super::{
    answer,
    kernel::{read_key, read_port},
    listing::{ListedChain, ListedSet, Listing},
    ruleset::{Chain, ChainFacts, OF_TABLE, Ruleset, digest},
};

/// The hooks of the family inet by their numbers (enum nf_inet_hooks, include/uapi/linux/netfilter.h).
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
/// NF_ACCEPT
const ACCEPT: u32 = 1;

/// What differs between a table and what this kernel gives back of the ruleset, in words; empty if nothing does.
#[must_use]
pub fn differences(expected: &Listing, ruleset: &Ruleset, found: &Listing) -> Vec<String> {
    let mut differences = outline(ruleset, found);
    for (name, set) in &expected.sets {
        let Some(found) = found.sets.get(name) else { continue };
        if found.definition != set.definition {
            differences
                .push(format!("set {name} has another type, size or timeout, or other flags"));
        } else if !found.holds_the_same(set) {
            differences.push(format!(
                "set {name} holds {{ {} }} and ought to hold {{ {} }}",
                contents(name, found).join(", "),
                contents(name, set).join(", ")
            ));
        }
    }
    for (name, chain) in &expected.chains {
        let Some(found) = found.chains.get(name) else { continue };
        let same_hook = (found.hook(), found.policy()) == (chain.hook(), chain.policy());
        if same_hook && found.definition != chain.definition {
            differences.push(format!("chain {name} is of another type"));
        }
        // Where some are missing, or others among them, that has been told.
        if found.rules.len() != chain.rules.len() {
            continue;
        }
        for (rule, found) in chain.rules.iter().zip(&found.rules) {
            if rule.comment == found.comment && !rule.does_the_same(found) {
                let comment = rule.comment.as_deref().unwrap_or_default();
                differences.push(format!("rule \"{comment}\" of chain {name} does something else"));
            }
        }
    }
    differences
}

/// What differs in names, hooks, policies and comments alone.
#[must_use]
pub fn outline(ruleset: &Ruleset, listing: &Listing) -> Vec<String> {
    let missing_sets = ruleset
        .sets
        .iter()
        .filter(|set| !listing.sets.contains_key(set.name))
        .map(|set| format!("set {} is missing", set.name));
    let chains = ruleset.chains.iter().flat_map(|chain| chain_differences(chain, listing));
    let foreign_chains = listing
        .chains
        .keys()
        .filter(|found| ruleset.chains.iter().all(|chain| chain.name != found.as_str()))
        .map(|found| format!("chain {found} isn't ours"));
    let flags = (listing.flags != 0).then(|| "the table has flags, dormant perhaps".to_owned());
    flags.into_iter().chain(missing_sets).chain(chains).chain(foreign_chains).collect()
}

fn chain_differences(chain: &Chain, listing: &Listing) -> Vec<String> {
    let name = chain.name;
    let Some(found) = listing.chains.get(name) else {
        return vec![format!("chain {name} is missing")];
    };
    let mut differences = Vec::new();
    if base(found) != chain.base.map(|base| (base.hook, base.priority)) {
        differences.push(format!("chain {name} hooks in elsewhere"));
    }
    if found.policy().is_some_and(|policy| policy != ACCEPT) {
        differences.push(format!("chain {name} has another policy"));
    }
    let comments: Vec<Option<&str>> =
        found.rules.iter().map(|rule| rule.comment.as_deref()).collect();
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

/// Where a chain hooks in, by name, and at which priority.
fn base(chain: &ListedChain) -> Option<(&'static str, i32)> {
    let (hook, priority) = chain.hook()?;
    let name = usize::try_from(hook).ok().and_then(|hook| HOOKS.get(hook).copied());
    Some((name.unwrap_or("another hook"), priority))
}

/// Whether a table is as some configuration, or some version of this program, has put it in: then it differs from
/// another one because that changed, and not because somebody changed the table. It is told by the digest of names,
/// hooks and comments that one of its rules carries.
#[must_use]
pub fn is_as_put_in(listing: &Listing) -> bool {
    let rules = listing.chains.values().flat_map(|chain| &chain.rules);
    let mut comments = rules.filter_map(|rule| rule.comment.as_deref());
    let told = comments.find_map(|comment| comment.split_once(OF_TABLE)).map(|(_, digest)| digest);
    let fixed: Vec<(&str, Vec<String>)> = ["protected", "routed4", "routed6"]
        .into_iter()
        .map(|name| {
            (name, listing.sets.get(name).map(|set| contents(name, set)).unwrap_or_default())
        })
        .collect();
    let facts = listing.chains.iter().map(|(name, chain)| ChainFacts {
        name,
        // With another policy it is no chain of ours, wherever it hooks in.
        base: base(chain).filter(|_| chain.policy() == Some(ACCEPT)),
        comments: chain
            .rules
            .iter()
            .map(|rule| rule.comment.as_deref().unwrap_or_default())
            .collect(),
    });
    let sets = listing.sets.keys().map(String::as_str).collect();
    let fixed = fixed.iter().map(|(name, elements)| (*name, elements.as_slice())).collect();
    listing.flags == 0 && told.is_some_and(|told| digest(sets, fixed, facts.collect()) == told)
}

/// The contents of a set that follows from the configuration, as they are written there, in order.
pub(super) fn contents(name: &str, set: &ListedSet) -> Vec<String> {
    let keys = set.elements.iter().filter_map(|element| answer::key(element).ok().flatten());
    let mut contents: Vec<String> = match name {
        "protected" => keys
            .filter_map(read_port)
            .map(|port| format!("{} . {}", port.protocol, port.number))
            .collect(),
        _ => keys
            .filter_map(read_key)
            .map(|(to, port)| format!("{to} . {} . {}", port.protocol, port.number))
            .collect(),
    };
    contents.sort();
    contents
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            attributes::Writer,
            listing::{Expression, ListedRule, SetInRule},
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

    /// NFTA_CHAIN_HOOK with a hook's number and a priority.
    fn hook(number: u32, priority: i32) -> (u16, Vec<u8>) {
        let mut value = Vec::new();
        Writer(&mut value).put(1, &number.to_be_bytes()).put(2, &priority.to_be_bytes());
        (4, value)
    }

    /// NFTA_CHAIN_POLICY
    fn policy(code: u32) -> (u16, Vec<u8>) {
        (5, code.to_be_bytes().to_vec())
    }

    fn expression(text: &str) -> Expression {
        Expression::Other { name: "payload".to_owned(), data: text.as_bytes().to_vec() }
    }

    /// As a kernel could give it back.
    fn listing(ruleset: &Ruleset) -> Listing {
        let sets = ruleset.sets.iter().map(|set| {
            let definition = vec![(3, vec![0, 0, 0, 16])];
            (set.name.to_owned(), ListedSet { definition, ..ListedSet::default() })
        });
        let chains = ruleset.chains.iter().map(|chain| {
            let number = |name| u32::try_from(HOOKS.iter().position(|it| *it == name).unwrap());
            let base = chain.base.map(|base| hook(number(base.hook).unwrap(), base.priority));
            let definition = base.into_iter().flat_map(|hook| [hook, policy(ACCEPT)]).collect();
            let rules = chain.rules.iter().map(|rule| ListedRule {
                comment: Some(rule.comment.clone()),
                expressions: vec![expression(&rule.text), Expression::Counter],
                packets: Some(7),
                userdata: None,
            });
            (chain.name.to_owned(), ListedChain { definition, rules: rules.collect() })
        });
        Listing { flags: 0, sets: sets.collect(), chains: chains.collect() }
    }

    /// What is told of a table that was changed in this way.
    fn told(change: impl FnOnce(&mut Listing)) -> Vec<String> {
        let ruleset = ruleset("tcp/8883");
        let whole = listing(&ruleset);
        let mut changed = whole.clone();
        change(&mut changed);
        differences(&whole, &ruleset, &changed)
    }

    #[test]
    fn a_table_that_does_the_same_differs_in_nothing_whatever_it_has_counted() {
        assert!(told(|_| ()).is_empty());
        let counted = told(|listing| {
            for rule in listing.chains.values_mut().flat_map(|chain| &mut chain.rules) {
                rule.packets = Some(99);
            }
        });
        assert!(counted.is_empty());
    }

    #[test]
    fn whatever_is_missing_from_the_table_is_named() {
        let whole = listing(&ruleset("tcp/8883"));
        for (name, chain) in &whole.chains {
            for at in 0..chain.rules.len() {
                let comment = chain.rules[at].comment.clone().unwrap();
                let said = told(|listing| {
                    listing.chains.get_mut(name).unwrap().rules.remove(at);
                });
                assert!(said.join("; ").contains(&comment), "{said:?}");
            }
            let said = told(|listing| drop(listing.chains.remove(name)));
            assert_eq!(said, [format!("chain {name} is missing")]);
        }
        for name in whole.sets.keys() {
            let said = told(|listing| drop(listing.sets.remove(name)));
            assert_eq!(said, [format!("set {name} is missing")]);
        }
    }

    #[test]
    fn whatever_was_changed_in_the_table_in_place_is_told() {
        let whole = listing(&ruleset("tcp/8883"));
        for (name, chain) in &whole.chains {
            for at in 0..chain.rules.len() {
                let replaced: [fn(&mut ListedRule); 4] = [
                    |rule| rule.expressions[0] = expression("accept"),
                    |rule| rule.expressions.push(expression("accept")),
                    |rule| rule.expressions.truncate(1),
                    |rule| {
                        let set = SetInRule::Named("tags".to_owned());
                        rule.expressions[0] = Expression::Lookup { set, rest: Vec::new() };
                    },
                ];
                for replace in replaced {
                    let said = told(|listing| {
                        replace(&mut listing.chains.get_mut(name).unwrap().rules[at]);
                    });
                    assert_eq!(said.len(), 1, "{said:?}");
                    assert!(said[0].contains("does something else"), "{said:?}");
                }
            }
        }
        for name in whole.sets.keys() {
            let said = told(|listing| {
                listing.sets.get_mut(name).unwrap().definition[0].1 = vec![0, 0, 0, 0];
            });
            assert!(said[0].contains(&format!("set {name} has another type")), "{said:?}");
        }
    }

    #[test]
    fn what_a_rules_own_set_holds_is_told_in_whichever_order() {
        let own = |elements: &[&[u8]]| {
            let elements = elements.iter().map(|element| element.to_vec()).collect();
            let set = ListedSet { elements, ..ListedSet::default() };
            let set = SetInRule::Nameless(set);
            let lookup = Expression::Lookup { set, rest: Vec::new() };
            ListedRule { expressions: vec![lookup], ..ListedRule::default() }
        };
        assert!(own(&[b"one", b"two"]).does_the_same(&own(&[b"two", b"one"])));
        assert!(!own(&[b"one", b"two"]).does_the_same(&own(&[b"one"])));
        assert!(!own(&[b"one"]).does_the_same(&own(&[b"six"])));
    }

    #[test]
    fn whatever_was_added_to_the_table_or_moved_in_it_is_told() {
        let tampered: [fn(&mut Listing); 8] = [
            |listing| listing.flags = 1,
            |listing| listing.chains.get_mut("gate").unwrap().rules.push(ListedRule::default()),
            |listing| {
                let rules = &mut listing.chains.get_mut("gate").unwrap().rules;
                rules.push(rules[0].clone());
            },
            |listing| listing.chains.get_mut("gate").unwrap().rules.swap(0, 1),
            |listing| listing.chains.get_mut("input").unwrap().definition[1] = policy(0),
            |listing| listing.chains.get_mut("input").unwrap().definition[0] = hook(0, 0),
            |listing| listing.chains.get_mut("input").unwrap().definition.push((7, b"nat".into())),
            |listing| drop(listing.chains.insert("mine".to_owned(), ListedChain::default())),
        ];
        for (at, tamper) in tampered.into_iter().enumerate() {
            let said = told(tamper);
            assert_eq!(said.len(), 1, "{at}: {said:?}");
        }
    }

    #[test]
    fn a_table_of_an_older_configuration_is_told_from_the_new_ones_and_known_as_one_of_ours() {
        let older = listing(&ruleset("tcp/8883"));
        let newer = ruleset("tcp/1883");
        let mut changed = older.clone();
        let input = &mut changed.chains.get_mut("input").unwrap().rules;
        input[2].comment = Some("allowed IPv4 networks need no knock #000000".to_owned());
        assert_eq!(outline(&ruleset("tcp/8883"), &changed).len(), 2);
        assert!(!outline(&newer, &older).is_empty());
        assert!(!is_as_put_in(&changed));
    }
}

//! Tables as `nft --json list ruleset` tells them (libnftables-json(5)).
//!
//! Only what decides about a packet is read, and by its name: whatever this doesn't know becomes a condition
//! that can't be judged, so that no version of nft and no expression is an error.

use std::collections::HashMap;

use serde_json::Value as Json;

mod fields;

pub(super) use fields::FLAGS;
use fields::{bare, field, is_fib_type, ordered, tcp_flags, unknown_field, value};

use super::model::{Base, Chain, Condition, Effect, Field, Rule, Table, Tool, Value, Verdict};

/// A set or map by its family, table and name.
pub(in super::super) type SetName = (String, String, String);

/// Elements of sets and maps.
pub(in super::super) type Elements = HashMap<SetName, Vec<Json>>;

/// A ruleset as it was listed.
#[derive(Debug, Default)]
pub(in super::super) struct Listed {
    pub(in super::super) tables: Vec<Table>,
    /// Tables with rules that only iptables can tell, by family and name.
    pub(in super::super) opaque: Vec<(String, String)>,
    /// Tables with flags, dormant perhaps: nft 1.0.6 names them wrongly in JSON.
    pub(in super::super) flagged: Vec<(String, String)>,
}

/// The sets and maps of a listing without elements whose elements are few by their type, and so can be asked for
/// one by one: no addresses.
pub(in super::super) fn small_sets(document: &Json) -> Vec<(SetName, &'static str)> {
    objects(document)
        .filter_map(|object| {
            let (kind, set) = match (object.get("set"), object.get("map")) {
                (Some(set), _) => ("set", set),
                (_, Some(map)) => ("map", map),
                _ => return None,
            };
            let is_large = |kind: &Json| kind.as_str().is_none_or(|kind| kind.ends_with("_addr"));
            let large = match set.get("type")? {
                Json::Array(parts) => parts.iter().any(is_large),
                kind => is_large(kind),
            };
            (!large && set.get("elem").is_none()).then(|| set_name(set).map(|name| (name, kind)))?
        })
        .collect()
}

fn set_name(set: &Json) -> Option<SetName> {
    let part = |key| set.get(key)?.as_str().map(str::to_owned);
    Some((part("family")?, part("table")?, part("name")?))
}

/// The elements that a listing has.
pub(in super::super) fn elements(document: &Json) -> Elements {
    objects(document)
        .filter_map(|object| object.get("set").or_else(|| object.get("map")))
        .filter_map(|set| Some((set_name(set)?, set.get("elem")?.as_array()?.clone())))
        .collect()
}

/// The tables of a listing.
pub(in super::super) fn parse(document: &Json, elements: &Elements) -> Listed {
    let mut listed = Listed::default();
    for object in objects(document) {
        if let Some(table) = object.get("table") {
            if let (Some(family), Some(name)) = (string(table, "family"), string(table, "name")) {
                if table.get("flags").is_some() {
                    listed.flagged.push((family.clone(), name.clone()));
                }
                listed.tables.push(Table { family, name, tool: Tool::Nft, chains: Vec::new() });
            }
        } else if let Some(chain) = object.get("chain") {
            let Some(table) = listed.table(chain) else { continue };
            let Some(name) = string(chain, "name") else { continue };
            table.chains.push(Chain { name, base: base(chain), rules: Vec::new() });
        } else if let Some(rule) = object.get("rule") {
            listed.rule(rule, elements);
        }
    }
    listed
}

impl Listed {
    fn table(&mut self, object: &Json) -> Option<&mut Table> {
        let (family, name) = (string(object, "family")?, string(object, "table")?);
        self.tables.iter_mut().find(|table| table.family == family && table.name == name)
    }

    fn rule(&mut self, rule: &Json, elements: &Elements) {
        let Some(statements) = rule.get("expr").and_then(Json::as_array) else { return };
        let handle = rule.get("handle").and_then(Json::as_u64);
        let Some(table) = self.table(rule) else { return };
        let sets = Sets { elements, family: table.family.clone(), table: table.name.clone() };
        let rules = sets.rules(statements, handle);
        let Some(name) = string(rule, "chain") else { return };
        if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == name) {
            chain.rules.extend(rules);
        }
        let place = (sets.family, sets.table);
        let opaque = statements.iter().any(|statement| statement.get("xt").is_some());
        if opaque && !self.opaque.contains(&place) {
            self.opaque.push(place);
        }
    }
}

fn objects(document: &Json) -> impl Iterator<Item = &Json> {
    document.get("nftables").and_then(Json::as_array).into_iter().flatten()
}

fn string(object: &Json, key: &str) -> Option<String> {
    object.get(key)?.as_str().map(str::to_owned)
}

fn base(chain: &Json) -> Option<Base> {
    let devices = match chain.get("dev") {
        Some(Json::Array(names)) => names.iter().filter_map(Json::as_str).collect(),
        Some(name) => name.as_str().into_iter().collect(),
        None => Vec::new(),
    };
    Some(Base {
        hook: string(chain, "hook")?,
        devices: devices.into_iter().map(str::to_owned).collect(),
        priority: chain.get("prio").and_then(Json::as_i64).unwrap_or(0),
        is_nat: chain.get("type").and_then(Json::as_str) == Some("nat"),
        drops: chain.get("policy").and_then(Json::as_str) == Some("drop"),
    })
}

/// The sets of a table, which its rules refer to.
struct Sets<'a> {
    elements: &'a Elements,
    family: String,
    table: String,
}

impl Sets<'_> {
    fn named(&self, name: &str) -> Option<&Vec<Json>> {
        self.elements.get(&(self.family.clone(), self.table.clone(), name.to_owned()))
    }

    /// A rule, or several of one handle if it maps keys to verdicts.
    fn rules(&self, statements: &[Json], handle: Option<u64>) -> Vec<Rule> {
        let (mut conditions, mut effect) = (Vec::new(), None);
        for statement in statements {
            let Some((key, body)) = statement.as_object().and_then(|object| object.iter().next())
            else {
                conditions.push(Condition::Unknown("something that nft doesn't tell".to_owned()));
                continue;
            };
            if key == "vmap" {
                return self.mapped(&conditions, body, handle);
            }
            if let Some(verdict) = verdict(key, body) {
                let verdict = Some(verdict);
                return vec![Rule { handle, text: None, conditions, effect, verdict }];
            }
            effect = effect.or(match key.as_str() {
                "notrack" => Some(Effect::Untrack),
                "flow" => Some(Effect::Offload),
                "tproxy" => port(body).map(Effect::Proxy),
                _ => None,
            });
            conditions.extend(self.conditions(key, body));
        }
        vec![Rule { handle, text: None, conditions, effect, verdict: None }]
    }

    fn mapped(&self, conditions: &[Condition], body: &Json, handle: Option<u64>) -> Vec<Rule> {
        let unknown = |what: &str| {
            let verdict = Some(Verdict::Unknown(what.to_owned()));
            let conditions = conditions.to_vec();
            vec![Rule { handle, text: None, conditions, effect: None, verdict }]
        };
        let (Some(key), Some(data)) = (body.get("key"), body.get("data")) else {
            return unknown("a map");
        };
        let elements = match data.as_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => self.named(name),
            None => data.get("set").and_then(Json::as_array),
        };
        let Some(elements) = elements else { return unknown("a map that wasn't read") };
        let rule = |element: &Json| {
            let (value, to) = (element.get(0)?, element.get(1)?.as_object()?.iter().next()?);
            let mut conditions = conditions.to_vec();
            conditions.extend(self.compare(key, "==", value));
            let verdict = verdict(to.0, to.1);
            Some(Rule { handle, text: None, conditions, effect: None, verdict })
        };
        elements.iter().filter_map(rule).collect()
    }

    /// What a statement that is no verdict asks of a packet.
    fn conditions(&self, key: &str, body: &Json) -> Vec<Condition> {
        // A packet below a limit, which a device's are: a rule for those above it doesn't meet them.
        let below = |body: &Json| {
            vec![Condition::Known(body.get("inv").and_then(Json::as_bool) != Some(true))]
        };
        match key {
            "match" => {
                let op = body.get("op").and_then(Json::as_str).unwrap_or("==");
                match (body.get("left"), body.get("right")) {
                    (Some(left), Some(right)) => self.compare(left, op, right),
                    _ => vec![Condition::Unknown("a match".to_owned())],
                }
            }
            "limit" | "quota" | "ct count" => below(body),
            // They change the packet, or tell of it, and let it go on.
            "counter" | "log" | "mangle" | "notrack" | "comment" | "ct helper" | "ct timeout"
            | "ct expectation" | "flow" | "set" | "meter" | "dup" | "tproxy" | "snat"
            | "masquerade" | "secmark" | "last" => Vec::new(),
            "xt" => {
                let name = body.get("name").and_then(Json::as_str).unwrap_or("?");
                let kind = body.get("type").and_then(Json::as_str).unwrap_or("match");
                vec![Condition::Unknown(format!("the {kind} {name} of iptables"))]
            }
            _ => vec![Condition::Unknown(format!("the statement {key}"))],
        }
    }

    fn compare(&self, left: &Json, op: &str, right: &Json) -> Vec<Condition> {
        let negated = op == "!=";
        if let Some(parts) = left.get("concat").and_then(Json::as_array) {
            return vec![self.compare_parts(parts, negated, right)];
        }
        if let Some(flags) = tcp_flags(left, op, right) {
            return flags;
        }
        if left.get("fib").is_some() && !is_fib_type(left) {
            // Where the kernel would send an answer: whoever asks this looks for forged sources.
            let missing = matches!(right, Json::Bool(false)) || right.as_u64() == Some(0);
            return match missing {
                true => vec![Condition::Known(negated)],
                false => vec![Condition::Unknown("the route back to the sender".to_owned())],
            };
        }
        if left.get("exthdr").is_some() {
            // No packet of a device's has an extension header of IPv6.
            return vec![Condition::Known(negated)];
        }
        let Some((field, mut conditions)) = field(left) else {
            return unknown_field(left);
        };
        conditions.push(match op {
            "==" | "!=" | "in" => self.one_of(field, negated, right),
            _ => ordered(field, op, right),
        });
        conditions
    }

    fn one_of(&self, field: Field, negated: bool, right: &Json) -> Condition {
        let values = match right.as_str().and_then(|text| text.strip_prefix('@')) {
            Some(name) => self.named(name).map_or_else(
                || vec![Value::Unread],
                |elements| elements.iter().map(|element| value(field, element)).collect(),
            ),
            None => match right.get("set").unwrap_or(right) {
                Json::Array(values) => values.iter().map(|it| value(field, it)).collect(),
                single => vec![value(field, single)],
            },
        };
        Condition::Field { field, negated, values }
    }

    /// Several fields at once, compared with several values at once.
    fn compare_parts(&self, parts: &[Json], negated: bool, right: &Json) -> Condition {
        let elements: Option<Vec<&Json>> =
            match right.as_str().and_then(|text| text.strip_prefix('@')) {
                Some(name) => self.named(name).map(|elements| elements.iter().collect()),
                None => Some(match right.get("set").and_then(Json::as_array) {
                    Some(elements) => elements.iter().collect(),
                    None => vec![right],
                }),
            };
        let Some(elements) = elements else {
            return Condition::Unknown("a set that wasn't read".to_owned());
        };
        let conjunction = |element: &&Json| {
            let values = bare(element).get("concat").and_then(Json::as_array);
            match values.filter(|values| values.len() == parts.len()) {
                None => vec![Condition::Unknown("a set's element".to_owned())],
                Some(values) => parts
                    .iter()
                    .zip(values)
                    .flat_map(|(part, value)| self.compare(part, "==", value))
                    .collect(),
            }
        };
        Condition::AnyOf { negated, of: elements.iter().map(conjunction).collect() }
    }
}

/// The one port that a statement leads to, if it names one.
fn port(body: &Json) -> Option<u16> {
    body.get("port")?.as_u64()?.try_into().ok()
}

fn verdict(key: &str, body: &Json) -> Option<Verdict> {
    let target = || body.get("target").and_then(Json::as_str).unwrap_or_default().to_owned();
    Some(match key {
        "accept" => Verdict::Accept,
        "drop" => Verdict::Drop,
        "reject" => Verdict::Reject,
        "return" => Verdict::Return,
        "jump" => Verdict::Jump(target()),
        "goto" => Verdict::Goto(target()),
        "dnat" => Verdict::Translate {
            to: body.get("addr").and_then(Json::as_str).and_then(|to| to.parse().ok()),
            port: port(body),
        },
        "redirect" => Verdict::Translate { to: None, port: port(body) },
        "queue" => Verdict::Unknown("a program that the rule hands it to (queue)".to_owned()),
        "synproxy" => Verdict::Unknown("a SYN proxy".to_owned()),
        "fwd" => Verdict::Unknown("another interface that the rule sends it to".to_owned()),
        _ => return None,
    })
}

/// A table that only iptables can tell, in its words.
pub(in super::super) fn replace(tables: &mut [Table], mut with: Table) {
    let Some(table) =
        tables.iter_mut().find(|table| table.family == with.family && table.name == with.name)
    else {
        return;
    };
    for chain in &mut with.chains {
        let Some(listed) = table.chain(&chain.name) else { continue };
        chain.base.clone_from(&listed.base);
        // They are listed in one order: rule by rule.
        if listed.rules.len() == chain.rules.len() {
            for (rule, listed) in chain.rules.iter_mut().zip(&listed.rules) {
                rule.handle = listed.handle;
            }
        }
    }
    *table = with;
}

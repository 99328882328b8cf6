//! What the kernel has counted: packets that each rule of the table has dropped.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FirewallError, nft};

/// Packets that the rules of one purpose have dropped since the table went in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RuleDrops {
    /// The rules' chain.
    pub chain: String,
    /// What they are for, as the kernel's table says.
    pub rule: String,
    /// How many packets.
    pub packets: u64,
}

/// What the table's rules have dropped, in the table's order; `None` if there is no table. Runs nft, which takes
/// milliseconds.
///
/// # Errors
/// [`FirewallError::Nft`] if nft can't be run or understood.
pub fn read() -> Result<Option<Vec<RuleDrops>>, FirewallError> {
    let Some(json) = nft::table_json()? else { return Ok(None) };
    parse(&json)
        .map(Some)
        .map_err(|error| FirewallError::Nft(format!("its counters can't be understood: {error}")))
}

#[derive(Deserialize)]
struct Document {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    rule: Option<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    chain: String,
    comment: Option<String>,
    #[serde(default)]
    expr: Vec<Value>,
}

fn parse(json: &str) -> Result<Vec<RuleDrops>, serde_json::Error> {
    let document: Document = serde_json::from_str(json)?;
    let mut drops: Vec<RuleDrops> = Vec::new();
    for rule in document.nftables.into_iter().filter_map(|object| object.rule) {
        let Some((comment, packets)) = rule.comment.as_deref().zip(dropped(&rule.expr)) else {
            continue;
        };
        let purpose = purpose(comment);
        // The rules for IPv4 and for IPv6 say the same of themselves.
        match drops.iter_mut().find(|known| known.chain == rule.chain && known.rule == purpose) {
            Some(known) => known.packets = known.packets.saturating_add(packets),
            None => drops.push(RuleDrops { chain: rule.chain, rule: purpose.to_owned(), packets }),
        }
    }
    Ok(drops)
}

/// The packets that a rule has counted; `None` if it doesn't count, or doesn't drop.
fn dropped(expressions: &[Value]) -> Option<u64> {
    let drops = expressions.iter().any(|expression| expression.get("drop").is_some());
    let counter = expressions.iter().find_map(|expression| expression.get("counter"))?;
    counter.get("packets").and_then(Value::as_u64).filter(|_| drops)
}

/// A rule's comment without the digest behind it.
fn purpose(comment: &str) -> &str {
    comment.split_once(" #").map_or(comment, |(purpose, _)| purpose)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_of_one_purpose_dropped_is_added_up_and_what_they_let_through_is_left_out() {
        let json = r#"{"nftables": [{"metainfo": {}}, {"table": {"name": "knockd"}},
            {"rule": {"chain": "knock", "comment": "a tag #1", "expr": [{"counter": {"packets": 9, "bytes": 1}}, {"accept": null}]}},
            {"rule": {"chain": "knock", "comment": "banned #2", "expr": [{"match": {}}, {"counter": {"packets": 2, "bytes": 1}}, {"drop": null}]}},
            {"rule": {"chain": "knock", "comment": "banned #3, table #4", "expr": [{"counter": {"packets": 3, "bytes": 1}}, {"drop": null}]}},
            {"rule": {"chain": "gate", "comment": "banned #2", "expr": [{"counter": {"packets": 5, "bytes": 1}}, {"drop": null}]}},
            {"rule": {"chain": "gate", "expr": [{"counter": {"packets": 7, "bytes": 1}}, {"drop": null}]}},
            {"rule": {"chain": "door", "comment": "no counter #4", "expr": [{"drop": null}]}}]}"#;
        let drops = |chain: &str, packets| RuleDrops {
            chain: chain.to_owned(),
            rule: "banned".to_owned(),
            packets,
        };
        assert_eq!(parse(json).unwrap(), [drops("knock", 5), drops("gate", 5)]);
    }
}

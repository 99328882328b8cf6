//! What the kernel has counted: packets that each rule of the table has dropped.

use serde::{Deserialize, Serialize};

use super::{FirewallError, listing::Listing, reader::Reader, ruleset::TABLE_NAME};

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

/// What the table's rules have dropped, in the order of its chains' names; `None` if there is no table. Takes less than a
/// millisecond, whatever is in the sets.
///
/// # Errors
/// [`FirewallError::Netlink`]
pub fn read() -> Result<Option<Vec<RuleDrops>>, FirewallError> {
    let mut reader = Reader::open().map_err(FirewallError::Netlink)?;
    let listing = reader.table(TABLE_NAME, &[]).map_err(FirewallError::Netlink)?;
    Ok(listing.as_ref().map(of))
}

fn of(listing: &Listing) -> Vec<RuleDrops> {
    let mut drops: Vec<RuleDrops> = Vec::new();
    let rules = listing.chains.iter().flat_map(|(chain, listed)| {
        listed.rules.iter().filter(|rule| rule.drops()).map(move |rule| (chain, rule))
    });
    for (chain, rule) in rules {
        let Some((comment, packets)) = rule.comment.as_deref().zip(rule.packets) else { continue };
        let purpose = purpose(comment);
        // The rules for IPv4 and for IPv6 say the same of themselves.
        match drops.iter_mut().find(|known| known.chain == *chain && known.rule == purpose) {
            Some(known) => known.packets = known.packets.saturating_add(packets),
            None => {
                drops.push(RuleDrops { chain: chain.clone(), rule: purpose.to_owned(), packets });
            }
        }
    }
    drops
}

/// A rule's comment without the digest behind it.
fn purpose(comment: &str) -> &str {
    comment.split_once(" #").map_or(comment, |(purpose, _)| purpose)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            attributes::Writer,
            listing::{Expression, ListedChain, ListedRule},
        },
        *,
    };

    /// A rule whose last word is this verdict: NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE.
    fn rule(comment: Option<&str>, packets: Option<u64>, verdict: u32) -> ListedRule {
        let mut data = Vec::new();
        Writer(&mut data).nest(2, |data| {
            data.nest(2, |of| {
                of.put(1, &verdict.to_be_bytes());
            });
        });
        ListedRule {
            comment: comment.map(str::to_owned),
            packets,
            expressions: vec![Expression::Other { name: "immediate".to_owned(), data }],
            userdata: None,
        }
    }

    #[test]
    fn what_rules_of_one_purpose_dropped_is_added_up_and_what_they_let_through_is_left_out() {
        const DROP: u32 = 0;
        const ACCEPT: u32 = 1;
        let knock = [
            rule(Some("a tag #1"), Some(9), ACCEPT),
            rule(Some("banned #2"), Some(2), DROP),
            rule(Some("banned #3, table #4"), Some(3), DROP),
        ];
        let gate = [rule(Some("banned #2"), Some(5), DROP), rule(None, Some(7), DROP)];
        let door = [rule(Some("no counter #4"), None, DROP)];
        let chain = |name: &str, rules: &[ListedRule]| {
            (name.to_owned(), ListedChain { rules: rules.to_vec(), ..ListedChain::default() })
        };
        let chains = [chain("knock", &knock), chain("gate", &gate), chain("door", &door)];
        let listing = Listing { chains: chains.into(), ..Listing::default() };
        let drops = |chain: &str, packets| RuleDrops {
            chain: chain.to_owned(),
            rule: "banned".to_owned(),
            packets,
        };
        assert_eq!(of(&listing), [drops("gate", 5), drops("knock", 5)]);
    }
}

//! What the kernel's table on the broker's host holds and has counted.

use crate::World;

/// The packets that the rules of a chain whose comments say this have counted, all together.
#[track_caller]
pub fn counted(world: &World, chain: &str, comment: &str) -> u64 {
    let argv = ["nft", "list", "chain", "inet", "knockd", chain];
    let listing = world.broker().run(&argv).success().stdout;
    let packets =
        |rule: &str| rule.split("packets ").nth(1)?.split(' ').next()?.parse::<u64>().ok();
    let rules: Vec<&str> = listing.lines().filter(|line| line.contains(comment)).collect();
    assert!(!rules.is_empty(), "no rule {comment:?} in {listing}");
    rules.iter().map(|rule| packets(rule).expect("a counter")).sum()
}

/// The elements of a set, as nft lists them, each with the seconds that are left of it.
#[track_caller]
pub fn elements(world: &World, set: &str) -> Vec<(String, u64)> {
    let argv = ["nft", "-j", "list", "set", "inet", "knockd", set];
    let listing = world.broker().run(&argv).success().json();
    let objects = listing["nftables"].as_array().expect("a list");
    let set = objects.iter().find_map(|object| object.get("set")).expect("a set");
    let elements = set["elem"].as_array().cloned().unwrap_or_default();
    let element = |element: &serde_json::Value| {
        let value = &element["elem"]["val"];
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (text, element["elem"]["expires"].as_u64().unwrap_or(0))
    };
    elements.iter().map(element).collect()
}

/// Whether an address, or the first one of a /64 network, is in a set.
#[track_caller]
pub fn holds(world: &World, set: &str, address: &str) -> bool {
    elements(world, set).iter().any(|(element, _)| element == address)
}

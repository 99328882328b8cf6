//! Which known key a misspelt one is probably meant to be.

/// Whether a name is probably meant to be this key.
pub(super) fn is_near(name: &str, key: &str) -> bool {
    distance(name, key) <= if key.len() > 3 { 2 } else { 1 }
}

/// How many characters must be added, removed or changed to get from one text to the other
/// (Levenshtein), where a difference in case, and `_` for `-`, count for nothing.
fn distance(a: &str, b: &str) -> usize {
    // Names of keys are short: this bounds the work on a text that is none.
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let same = |a: u8, b: u8| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let above = row.get(j + 1).copied().unwrap_or(usize::MAX);
            let changed = diagonal + usize::from(!same(from, to));
            let best = changed.min(above + 1).min(left + 1);
            if let Some(cell) = row.get_mut(j) {
                *cell = left;
            }
            diagonal = above;
            left = best;
        }
        if let Some(cell) = row.last_mut() {
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_near_another_when_two_characters_make_one_of_the_other() {
        for (a, b, expected) in [
            ("ports", "ports", 0),
            ("prots", "ports", 2),
            ("port", "ports", 1),
            ("clock_skew", "clock-skew", 0),
            ("Name", "name", 0),
            ("", "to", 2),
            ("x", "to", 2),
            ("frmo", "from", 2),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
        assert!(distance("services", "from") > 2);
    }
}

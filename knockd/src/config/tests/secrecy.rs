//! No key, and no part of one, ever gets into a message.

use proptest::prelude::*;

use super::*;

/// Shortest part of a key that would be a leak.
const PART: usize = 8;

fn assert_silent(text: &str, about: &str) {
    let folder = Folder::with_clients(MAIN, text);
    let Err(mistakes) = folder.load() else { return };
    let said = format!("{mistakes} {mistakes:?}");
    for key in KEYS {
        for part in key.as_bytes().windows(PART) {
            let part = str::from_utf8(part).unwrap();
            assert!(!said.contains(part), "{about}: a part of the key is shown in {said}");
        }
    }
}

#[test]
fn no_way_to_misplace_a_key_shows_it() {
    let key = KEYS[0];
    let sound = client("a", key, "");
    for (from, to) in [
        ("key = \"", "key = "),
        ("key = \"", "key \""),
        ("key = \"", "\""),
        ("key = \"", ""),
        ("=\"\n", "=\n"),
        ("key = ", "kez = "),
        ("key = ", "key = 1 "),
        ("key = \"", "key = [\""),
        ("name = \"a\"", &format!("name = \"{key}\"")),
        ("name = \"a\"", &format!("name = {key}")),
        ("name = \"a\"", &format!("\"{key}\" = 1")),
        ("name = \"a\"", &format!("[{key}]")),
        ("name = \"a\"", &format!("[client.\"{key}\"]")),
        ("name = \"a\"", &format!("{} = 1", &key[..43])),
        ("[\"mqtts\"]", &format!("[\"{key}\"]")),
        ("[\"mqtts\"]", &format!("\"{key}\"")),
        ("[\"mqtts\"]", &format!("[\"mqtts\"]\nfrom = [\"{key}\"]")),
        ("[\"mqtts\"]", &format!("[\"mqtts\"]\naddress = \"{key}\"")),
        ("[\"mqtts\"]", &format!("[\"mqtts\"]\nclock = \"{key}\"")),
        ("[\"mqtts\"]", &format!("[\"mqtts\"]\nexpires = \"{key}\"")),
        ("[\"mqtts\"]", &format!("[\"mqtts\"]\nenabled = \"{key}\"")),
        ("[\"mqtts\"]", &format!("[\"mqtts\"]\nold-key = \"{key}\"")),
        ("[[client]]", &format!("[[\"{key}\"]]")),
        ("[[client]]", "[client]"),
        ("[[client]]", "[[cleint]]"),
    ] {
        let broken = sound.replace(from, to);
        assert_ne!(broken, sound, "{from} isn't there");
        assert!(Folder::with_clients(MAIN, &broken).load().is_err(), "{to} is sound");
        assert_silent(&broken, to);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_way_to_break_a_file_shows_a_key(
        at in any::<prop::sample::Index>(),
        length in 0_usize..6,
        with in "[\\[\\]\"'=.,a-z0-9\n# {}\\\\-]{0,4}",
    ) {
        let mut text = client("a", KEYS[0], "from = []") + &client("b", KEYS[1], "enabled = true");
        let start = at.index(text.len());
        let end = (start + length).min(text.len());
        text.replace_range(start..end, &with);
        assert_silent(&text, &format!("{start}..{end} replaced by {with:?}"));
    }
}

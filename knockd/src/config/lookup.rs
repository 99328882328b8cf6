//! Finding one client among all: where its text is in the files is looked for, and that alone is read as TOML. A
//! million clients are looked through in the time that it takes to read their files from memory.
//!
//! A name stands in a file as it is, in quotation marks behind `name =`, unless the file has a sign by which TOML can
//! write it otherwise (a backslash, a text of several lines): such a file is read as a whole. So is one in which the
//! name is there twice, or isn't under a `[[client]]` of its own.

use std::{mem, num::NonZeroU32, ops::Range, path::Path};

use memchr::{memchr, memmem};
use zeroize::Zeroizing;

use super::{
    Config, Mistake, Mistakes, Origin,
    clients::{self, Clients},
    files::{self, Guard},
    master::Master,
};
use crate::gate::policy::{Client, ClientName};

/// A client, and the text that it is in.
pub(crate) struct Found {
    /// The client.
    pub(crate) client: Client,
    /// Where its entry is.
    pub(crate) origin: Origin,
    /// The generation of its key, if that is derived.
    pub(crate) generation: Option<NonZeroU32>,
    /// The text of its file.
    pub(crate) text: Zeroizing<String>,
    /// The part of the text with its entry.
    pub(crate) entry: Part,
    /// That part with the entries before and behind it, whose comments may touch it.
    pub(crate) around: Part,
    /// Whether no other client is in the file.
    pub(crate) is_alone: bool,
}

/// A part of a file, with whole entries in it.
pub(crate) struct Part {
    /// In bytes.
    pub(crate) range: Range<usize>,
    /// How many clients are in it.
    pub(crate) clients: usize,
}

/// What a search of a file's text comes to.
enum Search {
    /// The name isn't there.
    None,
    /// Only the whole text tells.
    Whole,
    /// It is here, if at all.
    Here { entry: Range<usize>, around: Part, is_alone: bool },
}

/// Looks for a client of this name in the files of a configuration; the main file is sound.
///
/// # Errors
/// Every mistake in what was read as TOML, and whatever keeps a file from being read or trusted.
pub(crate) fn find(config: &Config, name: &ClientName) -> Result<Option<Found>, Mistakes> {
    let mut mistakes = Vec::new();
    let mut found = None;
    let folder = &config.clients_dir;
    if files::judge_folder(folder, &mut mistakes).is_some() {
        match clients::list(folder) {
            Ok(files) => {
                found = files.iter().find_map(|file| find_in(file, config, name, &mut mistakes));
            }
            Err(error) => mistakes.push(files::unreadable(folder, &error)),
        }
    }
    Mistakes::sorted(mistakes).map_or(Ok(found), Err)
}

fn find_in(
    file: &Path,
    config: &Config,
    name: &ClientName,
    mistakes: &mut Vec<Mistake>,
) -> Option<Found> {
    let mut bytes = files::read(file, Guard::Keys, mistakes)?;
    let search = search(&bytes, name);
    if matches!(search, Search::None) {
        return None;
    }
    let text = match String::from_utf8(mem::take(&mut *bytes)) {
        Ok(text) => Zeroizing::new(text),
        Err(error) => {
            let (bytes, valid) = (error.as_bytes(), error.utf8_error().valid_up_to());
            mistakes.push(clients::not_utf8(file, bytes, valid));
            drop(Zeroizing::new(error.into_bytes()));
            return None;
        }
    };
    if let Search::Here { entry, around, is_alone } = search {
        let mut unclear = Vec::new();
        let part = text.get(entry.clone())?;
        let mut read = read(file, part, config, &mut unclear);
        if let (Some((client, mut origin, generation)), true, true) =
            (read.pop(), read.is_empty(), unclear.is_empty())
            && client.name == *name
        {
            let before = text.as_bytes().get(..entry.start)?;
            let lines = before.iter().filter(|byte| **byte == b'\n').count();
            origin.line = origin.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
            let entry = Part { range: entry, clients: 1 };
            return Some(Found { client, origin, generation, text, entry, around, is_alone });
        }
    }
    let all = read(file, &text, config, mistakes);
    let count = all.len();
    let (client, origin, generation) = all.into_iter().find(|(client, ..)| client.name == *name)?;
    let whole = || Part { range: 0..text.len(), clients: count };
    let (entry, around) = (whole(), whole());
    Some(Found { client, origin, generation, text, entry, around, is_alone: count == 1 })
}

/// The clients in a text.
fn read(
    file: &Path,
    text: &str,
    config: &Config,
    mistakes: &mut Vec<Mistake>,
) -> Vec<(Client, Origin, Option<NonZeroU32>)> {
    let services: Vec<_> = config.policy.services.iter().map(|service| service.name).collect();
    let mut clients = Clients::new(Some(&services), Master::of(Some(&config.master_key_file)));
    clients.read_text(file, text, mistakes);
    let Clients { clients, origins, mut derived, .. } = clients;
    let with_generation = |(client, origin): (Client, Origin)| {
        let generation = derived.remove(&client.name);
        (client, origin, generation)
    };
    clients.into_iter().zip(origins).map(with_generation).collect()
}

fn search(text: &[u8], name: &ClientName) -> Search {
    let holds = |sign: &str| memmem::find(text, sign.as_bytes()).is_some();
    if memchr(b'\\', text).is_some() || holds("\"\"\"") || holds("'''") {
        return Search::Whole;
    }
    let mut at = None;
    for quoted in [format!("\"{name}\""), format!("'{name}'")] {
        for found in memmem::find_iter(text, quoted.as_bytes()) {
            if is_named(text.get(..found).unwrap_or_default()) && at.replace(found).is_some() {
                return Search::Whole;
            }
        }
    }
    match at {
        None => Search::None,
        Some(at) => around(text, at).unwrap_or(Search::Whole),
    }
}

/// Whether what is before a value makes it a client's name: `name =`, with the key in quotation marks or without.
fn is_named(before: &[u8]) -> bool {
    let Some(key) = before.trim_ascii_end().strip_suffix(b"=") else { return false };
    let key = key.trim_ascii_end();
    let key = key.strip_suffix(b"\"").or(key.strip_suffix(b"'")).unwrap_or(key);
    key.ends_with(b"name")
}

/// The entry around a place: from the header above it to the next one.
fn around(text: &[u8], at: usize) -> Option<Search> {
    let start = headers_before(text, at).next()?;
    let before = headers_before(text, start).next();
    let end = header_after(text, at);
    let next = end.and_then(|end| header_after(text, end));
    let length = text.len();
    Some(Search::Here {
        entry: start..end.unwrap_or(length),
        around: Part {
            range: before.unwrap_or(0)..next.unwrap_or(length),
            clients: 1 + usize::from(before.is_some()) + usize::from(end.is_some()),
        },
        is_alone: before.is_none() && end.is_none(),
    })
}

/// Where the lines with a header begin that end before a place, from the last one on.
fn headers_before(text: &[u8], at: usize) -> impl Iterator<Item = usize> {
    let text = text.get(..at).unwrap_or_default();
    let breaks = memchr::memrchr_iter(b'\n', text).map(|at| at + 1).chain([0]);
    breaks.filter(|start| is_header(text.get(*start..).unwrap_or_default()))
}

/// Where the first line with a header begins behind the line of a place.
fn header_after(text: &[u8], at: usize) -> Option<usize> {
    let behind = text.get(at..)?;
    let mut starts = memchr::memchr_iter(b'\n', behind).map(|place| at + place + 1);
    starts.find(|start| is_header(text.get(*start..).unwrap_or_default()))
}

fn is_header(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"[") && {
        // Not one that is lines further on.
        let indent = line.iter().take_while(|byte| byte.is_ascii_whitespace());
        !indent.into_iter().any(|byte| *byte == b'\n')
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{
        load_without_clients,
        tests::{Folder, KEYS, MAIN, client},
    };

    fn found(folder: &Folder, name: &str) -> Option<Found> {
        let config = load_without_clients(&folder.main()).unwrap();
        find(&config, &name.parse().unwrap()).unwrap()
    }

    fn entry(name: &str, key: usize) -> String {
        // The first letter makes it another key.
        let key = ["M", "N", "O", "P"][key].to_owned() + &KEYS[0][1..];
        client(name, &key, "")
    }

    #[test]
    fn an_entry_is_found_with_its_line_whatever_is_around_it() {
        let text =
            format!("# Hall 7.\n{}\n# b\n{}\n{}", entry("a", 0), entry("b", 1), entry("c", 2));
        let folder = Folder::with_clients(MAIN, &text);
        for name in ["a", "b", "c"] {
            let it = found(&folder, name).unwrap();
            assert_eq!(it.client.name.as_str(), name);
            let line = text.lines().nth(it.origin.line as usize - 1).unwrap();
            assert_eq!(line, "[[client]]");
            assert!(it.text[it.entry.range].contains(&format!("name = \"{name}\"")));
            assert!(!it.is_alone);
        }
        assert!(found(&folder, "d").is_none());
        assert!(found(&folder, "mqtts").is_none(), "a service's name");
        assert!(found(&Folder::with_clients(MAIN, &entry("a", 0)), "a").unwrap().is_alone);
    }

    #[test]
    fn however_toml_writes_a_name_it_is_found() {
        let plain = entry("press-17", 0);
        for written in [
            "name=\"press-17\"",
            "name = 'press-17'",
            "\"name\"\t=  \"press-17\"",
            "name = \"press\\u002d17\"",
            "\"na\\u006de\" = \"press-17\"",
            "name = \"\"\"press-17\"\"\"",
            "name = '''\npress-17'''",
        ] {
            let text = plain.replace("name = \"press-17\"", written);
            assert_ne!(text, plain.replace("press-17", ""), "{written}");
            let folder = Folder::with_clients(MAIN, &text);
            assert!(found(&folder, "press-17").is_some(), "{written}");
        }
        let inline = plain.lines().skip(1).collect::<Vec<_>>().join(", ");
        let folder = Folder::with_clients(MAIN, &format!("client = [{{ {inline} }}]\n"));
        assert!(found(&folder, "press-17").is_some());
    }

    #[test]
    fn what_only_looks_like_a_client_is_none() {
        let text = format!("{}# name = \"ghost\"\n", entry("a", 0));
        assert!(found(&Folder::with_clients(MAIN, &text), "ghost").is_none());
    }

    #[test]
    fn a_mistake_in_the_clients_own_entry_is_told_with_its_line() {
        let text = format!("{}{}", entry("a", 0), entry("b", 1).replace("mqtts", "none"));
        let folder = Folder::with_clients(MAIN, &text);
        let config = load_without_clients(&folder.main()).unwrap();
        let mistakes = find(&config, &"b".parse().unwrap()).err().unwrap();
        let lines: Vec<_> = mistakes.iter().filter_map(|mistake| mistake.line).collect();
        let wrong = text.lines().position(|line| line.contains("none")).unwrap();
        assert_eq!(lines, [u32::try_from(wrong).unwrap() + 1]);
        assert!(find(&config, &"a".parse().unwrap()).is_ok(), "others' mistakes are others'");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn who_is_found_is_who_the_whole_reading_finds(
            names in prop::collection::btree_set("[a-c][a-c.]{0,2}", 1..4),
            sought in "[a-c][a-c.]{0,2}",
            comments in prop::collection::vec("(# [a-c\" =\\[\\]\\\\]{0,12}\n|\n){0,2}", 4),
        ) {
            let entries = names.iter().zip(0..).zip(&comments);
            let text: String = entries.map(|((name, key), comment)| comment.clone() + &entry(name, key)).collect();
            let folder = Folder::with_clients(MAIN, &text);
            let it = found(&folder, &sought);
            prop_assert_eq!(it.is_some(), names.contains(&sought));
            if let Some(it) = it {
                prop_assert_eq!(it.client.name.as_str(), &*sought);
                prop_assert_eq!(it.is_alone, names.len() == 1);
            }
        }
    }
}

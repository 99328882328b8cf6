//! The device's `knock.toml`: any text.

use std::{fmt, path::Path, str::FromStr};

use knock::profile::{KeySource, Named, parse};

use crate::planted::{assert_silent, lines, with_keys};

/// The input is the file.
pub fn profile(data: &[u8]) {
    let bytes = with_keys(data);
    let Ok(text) = str::from_utf8(&bytes) else { return };
    match parse(text, Path::new("/etc/knock/knock.toml")) {
        Err(mistake) => {
            assert!((1..=lines(&bytes)).contains(&mistake.line), "{mistake:?}");
            assert!(!mistake.message.is_empty());
            assert_silent(&mistake.message);
        }
        Ok(profiles) => {
            assert!(profiles.is_sorted_by_key(|named| named.name.to_string()));
            profiles.iter().for_each(reads_back);
        }
    }
}

/// What was read is written so that it reads back as the same.
fn reads_back(Named { name, profile }: &Named) {
    same(name);
    profile.server.iter().for_each(same);
    profile.service.iter().for_each(same);
    profile.port.iter().for_each(same);
    profile.open_for.iter().for_each(same);
    if let Some(realm) = &profile.realm {
        assert_eq!(common::Realm::new(realm.as_str()).as_ref(), Ok(realm));
    }
    match &profile.key {
        // A name that begins at the root stays, any other is beside the profile's file.
        Some(KeySource::File(path)) => assert!(path.is_absolute()),
        Some(inline @ KeySource::Inline(_)) => assert_silent(&format!("{inline:?}")),
        None => {}
    }
}

fn same<T>(value: &T)
where
    T: FromStr + fmt::Display + fmt::Debug + PartialEq,
{
    assert_eq!(value.to_string().parse().ok().as_ref(), Some(value));
}

//! Every vector of `vectors/derived-1.json`, made by an implementation that shares no code with this one.
#![allow(clippy::unwrap_used, reason = "a test that goes wrong ends with a panic")]

use std::num::NonZeroU32;

use common::{ClientKeys, InvalidName, MasterKey, Realm, Secret};
use data_encoding::HEXLOWER;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    format: String,
    vectors: Vec<Vector>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vector {
    master: String,
    name: String,
    generation: NonZeroU32,
    secret: String,
}

fn secret(hex: &str) -> Secret {
    let bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
    Secret::new(bytes.try_into().unwrap()).unwrap()
}

#[test]
fn every_derived_key_is_the_one_that_another_implementation_derives() {
    let file: File = serde_json::from_str(include_str!("../vectors/derived-1.json")).unwrap();
    assert_eq!(file.format, "knock/1 derived keys");
    assert!(file.vectors.len() >= 5);
    for vector in file.vectors {
        let master = MasterKey::new(&secret(&vector.master));
        let derived = master.secret(&vector.name, vector.generation).unwrap();
        assert_eq!(HEXLOWER.encode(derived.expose()), vector.secret, "{}", vector.name);
        assert_eq!(format!("{master:?}"), "MasterKey(..)");
    }
}

#[test]
fn what_no_client_can_be_called_has_no_key() {
    let master = MasterKey::new(&secret(&"01".repeat(31).replacen("01", "0203", 1)));
    for name in ["", "A", "-a", "a b", "a\n", "ä", &"a".repeat(65)] {
        assert_eq!(master.secret(name, NonZeroU32::MIN).unwrap_err(), InvalidName, "{name:?}");
    }
}

proptest! {
    #[test]
    fn another_name_another_generation_or_another_use_is_another_key(
        bytes in any::<[u8; 32]>(),
        names in ("[a-z0-9][a-z0-9._-]{0,63}", "[a-z0-9][a-z0-9._-]{0,63}"),
        generation in 1..u32::MAX,
    ) {
        prop_assume!(names.0 != names.1);
        let Ok(one) = Secret::new(bytes) else { return Ok(()) };
        let master = MasterKey::new(&one);
        let generation = NonZeroU32::new(generation).unwrap();
        let key = master.secret(&names.0, generation).unwrap();
        let next = generation.checked_add(1).unwrap();
        prop_assert!(!key.is_same(&master.secret(&names.1, generation).unwrap()));
        prop_assert!(!key.is_same(&master.secret(&names.0, next).unwrap()));
        let realm = Realm::new("master").unwrap();
        let keys = ClientKeys::derive(&one, &realm);
        prop_assert!(keys.expose_for_vectors().iter().all(|it| *it != key.expose()));
    }
}

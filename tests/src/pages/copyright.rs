//! A package's copyright file, in DEP 5's form: this project's licences, and those of all that is linked in.

use std::collections::BTreeMap;
use std::fs;

use super::{Program, changelog::MAINTAINER, dependencies};
use crate::binaries::repository;

/// A licence that a crate is taken under: its SPDX name, and its name in DEP 5.
const LICENCES: [(&str, &str); 3] =
    [("MIT", "Expat"), ("Apache-2.0", "Apache-2.0"), ("Zlib", "Zlib")];

const APACHE: &str = "On Debian systems, the whole text of the Apache License, version 2.0, is in \
    /usr/share/common-licenses/Apache-2.0.";

const ZLIB: &str = "This software is provided 'as-is', without any express or implied warranty. In no event will the
authors be held liable for any damages arising from the use of this software.

Permission is granted to anyone to use this software for any purpose, including commercial
applications, and to alter it and redistribute it freely, subject to the following restrictions:

1. The origin of this software must not be misrepresented; you must not claim that you wrote the
original software. If you use this software in a product, an acknowledgment in the product
documentation would be appreciated but is not required.

2. Altered source versions must be plainly marked as such, and must not be misrepresented as being the
original software.

3. This notice may not be removed or altered from any source distribution.";

/// The copyright file of a program's package.
pub(super) fn debian(program: Program) -> String {
    let mit = licence_file("LICENSE-MIT");
    let (notice, expat) =
        mit.split_once("\n\n").and_then(|(_, rest)| rest.split_once("\n\n")).expect("MIT's form");
    let own = notice.trim_start_matches("Copyright (c) ");
    let mut text = format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\
         Upstream-Name: {}\nUpstream-Contact: {MAINTAINER}\n\
         Comment: Below vendor/ are the libraries that are linked into the program.\n\n\
         Files: *\nCopyright: {own}\nLicense: Expat or Apache-2.0\n\n\
         Files: vendor/std/*\nCopyright: the Rust project's contributors\n\
         License: Expat or Apache-2.0\n\n",
        program.name()
    );
    for one in dependencies::linked_into(program) {
        let license = taken_under(&one.license)
            .unwrap_or_else(|| panic!("{} is under {}: tell of that here", one.name, one.license));
        let copyright = one.copyright.join("\n           ");
        text += &format!(
            "Files: vendor/{}-{}/*\nCopyright: {copyright}\nLicense: {license}\n\n",
            one.name, one.version
        );
    }
    let texts = BTreeMap::from([("Apache-2.0", APACHE), ("Expat", expat), ("Zlib", ZLIB)]);
    let used = texts.into_iter().filter(|(name, _)| {
        text.lines()
            .filter_map(|line| line.strip_prefix("License: "))
            .any(|line| line.contains(name))
    });
    let paragraphs: Vec<String> =
        used.map(|(name, body)| format!("License: {name}\n{}", indented(body))).collect();
    text + &paragraphs.join("\n")
}

/// What a crate is taken under, of what it offers; `None` if there is nothing that is told of here.
fn taken_under(license: &str) -> Option<String> {
    let offered = license.split('/').flat_map(|part| part.split(" OR ")).map(str::trim);
    let mut known: Vec<&str> = offered
        .filter_map(|one| LICENCES.iter().find(|(spdx, _)| *spdx == one))
        .map(|(_, name)| *name)
        .collect();
    known.sort_unstable();
    known.reverse();
    (!known.is_empty()).then(|| known.join(" or "))
}

fn licence_file(name: &str) -> String {
    fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A text below a field.
fn indented(text: &str) -> String {
    let line = |line: &str| if line.is_empty() { " .\n".to_owned() } else { format!(" {line}\n") };
    text.trim_end().lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_taken_under_every_licence_it_offers_that_is_told_of() {
        for (offered, taken) in [
            ("MIT OR Apache-2.0", Some("Expat or Apache-2.0")),
            ("MIT/Apache-2.0", Some("Expat or Apache-2.0")),
            ("Unlicense OR MIT", Some("Expat")),
            ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", Some("Expat or Apache-2.0")),
            ("Zlib", Some("Zlib")),
            ("MIT AND Apache-2.0", None),
            ("GPL-3.0-only", None),
        ] {
            assert_eq!(taken_under(offered).as_deref(), taken, "{offered}");
        }
    }
}

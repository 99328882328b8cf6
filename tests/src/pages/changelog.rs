//! CHANGELOG.md in Debian's form: deb-changelog(5).

use std::fs;

use jiff::{Timestamp, civil, tz::TimeZone};

use super::Release;
use crate::binaries::repository;

/// Who makes the packages.
pub const MAINTAINER: &str =
    "The knockd developers <maintainers@users.noreply.r-seed-bf47befa.example>";

/// Lintian's bound of a line.
const WIDTH: usize = 79;

/// A package's changelog: an entry for each release, the newest first. What is unreleased counts to the
/// release that is made.
pub fn debian(package: &str, release: &Release) -> String {
    let path = repository().join("CHANGELOG.md");
    let text = fs::read_to_string(path).expect("CHANGELOG.md can be read");
    entries(&text, package, release)
}

fn entries(markdown: &str, package: &str, release: &Release) -> String {
    let mut entries = String::new();
    for section in markdown.split("\n## ").skip(1) {
        let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
        let (version, at) = match heading.split_once(" - ") {
            Some((version, day)) => (version.trim_matches(['[', ']']).to_owned(), midnight(day)),
            None => (release.version.clone(), release.at),
        };
        let changes = changes(body);
        if !changes.is_empty() {
            let at = at.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z");
            entries += &format!(
                "{package} ({version}) unstable; urgency=medium\n\n{changes}\n -- {MAINTAINER}  {at}\n\n"
            );
        }
    }
    entries
}

fn midnight(day: &str) -> Timestamp {
    let day: civil::Date =
        day.trim().parse().expect("a release has the day it was made, as 2026-11-25");
    day.to_zoned(TimeZone::UTC).expect("a day of these years").timestamp()
}

/// The changes of a release: `### Added` and its kin as `[ Added ]`, an item for each.
fn changes(body: &str) -> String {
    let mut changes = String::new();
    let mut item = String::new();
    for line in body.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            end(&mut item, &mut changes);
            changes += &format!("  [ {heading} ]\n");
        } else if let Some(first) = line.strip_prefix("- ") {
            end(&mut item, &mut changes);
            item.push_str(first);
        } else if !line.trim().is_empty() {
            item.push(' ');
            item.push_str(line.trim());
        }
    }
    end(&mut item, &mut changes);
    changes
}

/// Writes an item, wrapped.
fn end(item: &mut String, changes: &mut String) {
    let mut line = "  *".to_owned();
    for word in item.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            changes.push_str(&line);
            changes.push('\n');
            line = "   ".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    if !item.is_empty() {
        changes.push_str(&line);
        changes.push('\n');
    }
    item.clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_its_own_day_and_what_is_unreleased_that_of_the_package() {
        let release = Release { version: "0.3.0".to_owned(), at: midnight("2026-11-25") };
        let text = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- One thing,\n  told in two lines.\n- Two.\n\n\
            ## [0.2.0] - 2026-11-01\n\n- Old.\n";
        assert_eq!(
            entries(text, "knockd-spa", &release),
            format!(
                "knockd-spa (0.3.0) unstable; urgency=medium\n\n  [ Added ]\n  * One thing, told in two lines.\n  \
                 * Two.\n\n -- {MAINTAINER}  Wed, 25 Nov 2026 00:00:00 +0000\n\n\
                 knockd-spa (0.2.0) unstable; urgency=medium\n\n  * Old.\n\n -- {MAINTAINER}  \
                 Sun, 01 Nov 2026 00:00:00 +0000\n\n"
            )
        );
    }

    #[test]
    fn no_line_is_longer_than_lintian_lets_it_be() {
        let release = Release { version: "0.3.0".to_owned(), at: midnight("2026-11-25") };
        let text = debian("knockd-spa", &release);
        assert!(text.lines().count() > 10, "{text}");
        for line in text.lines().filter(|line| !line.starts_with(" -- ")) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}

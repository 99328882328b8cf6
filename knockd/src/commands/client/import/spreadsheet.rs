//! What spreadsheets make of a table of comma-separated values: other signs between the columns, a byte order mark,
//! capitals, and marks around what was to stay text.

/// The byte order mark of UTF-8 (RFC 3629, section 6).
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";
/// What to do about a table in another encoding.
pub(super) const SAVE_AS: &str = "save the table as \"CSV UTF-8\"";

/// Whether a text begins with a byte order mark of UTF-16.
pub(super) fn is_utf16(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")
}

/// What is between the columns, how many lines come before the table, and the table. A first line `sep=;` says the
/// sign; otherwise it is the one that the first line has most of.
pub(super) fn delimiter(bytes: &[u8]) -> (u8, u64, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let (first, rest) = bytes.split_at(end);
    if let Some(&[sign]) = first.trim_ascii_end().strip_prefix(b"sep=") {
        return (sign, 1, rest);
    }
    let count = |sign: u8| first.iter().filter(|byte| **byte == sign).count();
    let most = b",;\t".iter().copied().rev().max_by_key(|sign| count(*sign));
    (most.unwrap_or(b','), 0, bytes)
}

/// A cell without what stands around its text: spaces of every kind, and quotation marks, of which a single one before
/// it says that it is to stay text.
pub(super) fn bare(cell: &str) -> &str {
    let is_space = |character: char| {
        // The last two have no width.
        character.is_whitespace() || matches!(character, '\u{200b}' | '\u{feff}')
    };
    let is_mark = |character: char| {
        is_space(character)
            || "'\"\u{2018}\u{2019}\u{201a}\u{201c}\u{201d}\u{201e}".contains(character)
    };
    cell.trim_matches(is_mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sign_between_the_columns_is_the_one_that_the_first_line_has_most_of() {
        for (table, sign, before) in [
            ("name,services\na,b;c;d\n", b',', 0),
            ("name;services;enabled\r\n", b';', 0),
            ("name\tservices\n", b'\t', 0),
            ("name\n", b',', 0),
            ("sep=|\r\nname|services\n", b'|', 1),
            ("", b',', 0),
        ] {
            let (found, lines, rest) = delimiter(table.as_bytes());
            assert_eq!((found, lines), (sign, before), "{table}");
            assert!(table.as_bytes().ends_with(rest));
        }
    }

    #[test]
    fn what_stands_around_the_text_of_a_cell_goes() {
        for cell in [
            "press-17",
            "'press-17",
            " \u{a0}press-17\u{a0}",
            "\u{201c}press-17\u{201d}",
            "\u{feff}press-17",
        ] {
            assert_eq!(bare(cell), "press-17", "{cell:?}");
        }
        assert_eq!(bare("'"), "");
    }
}

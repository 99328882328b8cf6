//! One table of a file, read key by key: every key that is wrong is reported, and so is every key that
//! nobody asked for.
//!
//! The tables are walked by hand and not deserialized into structs, because a deserializer stops at the
//! first thing it can't take, and quotes it. What is asked for is what is known, so the list of known
//! keys can't differ from the keys that are read.

use toml::de::{DeArray, DeTable, DeValue};

use super::{
    field::{At, Field, Key},
    near::is_near,
    source::{Report, Wrong},
};

/// One table, while it is read.
pub(super) struct Section<'r, 'm, 't> {
    report: &'r mut Report<'m>,
    /// As messages have it: `grant`, or nothing at top level.
    name: &'static str,
    table: &'t DeTable<'t>,
    /// The byte that the table begins at.
    at: usize,
    asked: Vec<&'static str>,
}

/// What a table or key is called that a later version may know.
const LATER: [&str; 1] = ["reply"];

impl<'r, 'm, 't> Section<'r, 'm, 't> {
    /// The table of this name, which begins at this byte.
    pub(super) fn new(
        report: &'r mut Report<'m>,
        name: &'static str,
        table: &'t DeTable<'t>,
        at: usize,
    ) -> Self {
        Self { report, name, table, at, asked: Vec::new() }
    }

    /// A value as it stands.
    fn raw(&mut self, name: &'static str) -> Option<(&'t DeValue<'t>, usize)> {
        self.asked.push(name);
        self.table.get(name).map(|value| (value.get_ref(), value.span().start))
    }

    /// The key as messages have it.
    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Reports what is wrong with a key's value; `what` goes on after the key's name.
    pub(super) fn wrong(&mut self, key: &Key, at: usize, wrong: Wrong) {
        let path = self.path(key.name);
        let instead = wrong.instead.unwrap_or_else(|| key.instead());
        self.report.add(at, path.clone(), format!("{path} {}", wrong.what), instead);
    }

    fn wrong_type<T>(&mut self, key: &Key, at: usize, wanted: &str, is: &DeValue<'_>) -> Field<T> {
        self.wrong(key, at, Wrong::new(format!("is {}, not {wanted}", type_name(is))));
        Field::Wrong
    }

    /// A text that `parse` understands.
    pub(super) fn text<T>(
        &mut self,
        key: &Key,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Field<T> {
        let Some((value, at)) = self.raw(key.name) else { return Field::Absent };
        let DeValue::String(text) = value else {
            return self.wrong_type(key, at, "a text", value);
        };
        match parse(text) {
            Ok(value) => Field::Is(At { value, at }),
            Err(wrong) => {
                self.wrong(key, at, wrong);
                Field::Wrong
            }
        }
    }

    /// A list of texts, each of which `parse` understands. All that are wrong are reported.
    pub(super) fn texts<T>(
        &mut self,
        key: &Key,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Field<Vec<At<T>>> {
        let Some((value, at)) = self.raw(key.name) else { return Field::Absent };
        let DeValue::Array(list) = value else {
            return self.wrong_type(key, at, "a list of texts", value);
        };
        let mut values = Vec::with_capacity(list.len());
        let mut all_right = true;
        for item in list.iter() {
            let at = item.span().start;
            let parsed = if let DeValue::String(text) = item.get_ref() {
                parse(text)
            } else {
                let is = type_name(item.get_ref());
                Err(Wrong::new(format!("has {is} in it, and takes texts only")))
            };
            match parsed {
                Ok(value) => values.push(At { value, at }),
                Err(wrong) => {
                    self.wrong(key, at, wrong);
                    all_right = false;
                }
            }
        }
        if all_right { Field::Is(At { value: values, at }) } else { Field::Wrong }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&mut self, key: &Key, least: u32, most: u32) -> Field<u32> {
        let Some((value, at)) = self.raw(key.name) else { return Field::Absent };
        let DeValue::Integer(digits) = value else {
            return self.wrong_type(key, at, "a whole number", value);
        };
        let number = u32::from_str_radix(digits.as_str(), digits.radix());
        match number.ok().filter(|number| (least..=most).contains(number)) {
            Some(value) => Field::Is(At { value, at }),
            None => {
                self.wrong(key, at, Wrong::new(format!("is not a number from {least} to {most}")));
                Field::Wrong
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &Key) -> Field<bool> {
        let Some((value, at)) = self.raw(key.name) else { return Field::Absent };
        let DeValue::Boolean(value) = value else {
            return self.wrong_type(key, at, "true or false", value);
        };
        Field::Is(At { value: *value, at })
    }

    /// A point in time that `parse` understands.
    pub(super) fn time<T>(
        &mut self,
        key: &Key,
        parse: impl FnOnce(toml::value::Datetime) -> Result<T, Wrong>,
    ) -> Field<T> {
        let Some((value, at)) = self.raw(key.name) else { return Field::Absent };
        let DeValue::Datetime(time) = value else {
            return self.wrong_type(key, at, "a date and time without quotes", value);
        };
        match parse(*time) {
            Ok(value) => Field::Is(At { value, at }),
            Err(wrong) => {
                self.wrong(key, at, wrong);
                Field::Wrong
            }
        }
    }

    /// What `read` makes of the table under this key; of an empty one where there is none.
    pub(super) fn table<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&mut Section<'_, 'm, '_>) -> T,
    ) -> Option<T> {
        let empty = DeTable::new();
        let (table, at) = match self.raw(name) {
            None => (&empty, self.at),
            Some((DeValue::Table(table), at)) => (table, at),
            Some((other, at)) => {
                let what = format!("{name} is {}, not a table", type_name(other));
                self.report.add(at, name, what, format!("write [{name}] on a line of its own"));
                return None;
            }
        };
        let mut section = Section::new(self.report, name, table, at);
        let value = read(&mut section);
        section.finish();
        Some(value)
    }

    /// What `read` makes of each of the tables under this key; `None` if that isn't a list of tables.
    pub(super) fn tables<T>(
        &mut self,
        name: &'static str,
        mut read: impl FnMut(&mut Section<'_, 'm, '_>) -> T,
    ) -> Option<Vec<T>> {
        let none = DeArray::new();
        let list = match self.raw(name) {
            None => &none,
            Some((DeValue::Array(list), _)) => list,
            Some((other, at)) => {
                let what = format!("{name} is {}, not a list of tables", type_name(other));
                self.report.add(at, name, what, format!("write [[{name}]] with two brackets"));
                return None;
            }
        };
        let mut values = Vec::with_capacity(list.len());
        let mut all_tables = true;
        for item in list.iter() {
            let at = item.span().start;
            let DeValue::Table(table) = item.get_ref() else {
                let what = format!("{name} is a list with {} in it", type_name(item.get_ref()));
                self.report.add(at, name, what, format!("write [[{name}]] with its keys below it"));
                all_tables = false;
                continue;
            };
            let mut section = Section::new(self.report, name, table, at);
            values.push(read(&mut section));
            section.finish();
        }
        all_tables.then_some(values)
    }

    /// The value of a key that must be there: reports it where it isn't.
    pub(super) fn required<T>(&mut self, key: &Key, field: Field<T>) -> Option<At<T>> {
        if matches!(field, Field::Absent) {
            let at = self.at;
            self.wrong(key, at, Wrong::new("is missing"));
        }
        field.ok()
    }

    /// Reports what is wrong with the table as a whole.
    pub(super) fn add(&mut self, key: &str, what: &str, instead: &str) {
        self.report.add(self.at, key, what, instead);
    }

    /// The byte that the table begins at.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// The byte that the value of a key begins at; that of the table where the key isn't there.
    pub(super) fn place_of(&self, key: &Key) -> usize {
        self.table.get(key.name).map_or(self.at, |value| value.span().start)
    }

    /// Where a byte of this file is.
    pub(super) fn origin(&self, at: usize) -> super::Origin {
        self.report.origin(at)
    }

    /// Reports every key that nobody asked for. A key's name is shown only if it is nearly a known one,
    /// or one that other versions know: anything else could be a secret in the wrong place.
    pub(super) fn finish(self) {
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if self.asked.contains(&name) {
                continue;
            }
            let place = match self.name {
                "" => "at top level".to_owned(),
                name => format!("in {name}"),
            };
            let near = self.asked.iter().find(|known| is_near(name, known));
            let (path, what, instead) = match near {
                _ if LATER.contains(&name) => (
                    name,
                    format!("this version knows no {name} {place}"),
                    "leave it out".to_owned(),
                ),
                Some(known) => (
                    name,
                    format!("{name} is no key {place}"),
                    format!("write {known}, if you mean that"),
                ),
                None => (
                    "",
                    format!("there is an unknown key {place}"),
                    format!("write one of {}", self.asked.join(", ")),
                ),
            };
            self.report.add(key.span().start, path, what, instead);
        }
    }
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

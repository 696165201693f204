//! Reading a TOML table key by key, so that every problem is found and every unknown key is named.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// The problems found so far.
#[derive(Debug, Default)]
pub struct Found(RefCell<Vec<String>>);

impl Found {
    /// The value if nothing was found.
    pub fn into_result<T>(self, value: T) -> Result<T, Vec<String>> {
        let problems = self.0.into_inner();
        if problems.is_empty() { Ok(value) } else { Err(problems) }
    }
}

/// One table of the file. Keys are taken out; [`Section::end`] names those that are left.
pub struct Section<'a> {
    path: String,
    table: toml::Table,
    known: BTreeSet<String>,
    found: &'a Found,
}

impl<'a> Section<'a> {
    /// A table at `path`, the empty text for the whole file.
    pub fn new(path: &str, table: toml::Table, found: &'a Found) -> Section<'a> {
        Section { path: path.to_owned(), table, known: BTreeSet::new(), found }
    }

    /// The keys that are left.
    pub fn keys(&self) -> Vec<String> {
        self.table.keys().cloned().collect()
    }

    /// A text that `read` understands.
    pub fn text<T>(&mut self, key: &str, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let value = self.take(key)?;
        let read = value.as_str().and_then(read);
        if read.is_none() {
            self.wrong(key, wanted);
        }
        read
    }

    /// A text that must be there.
    pub fn required<T>(&mut self, key: &str, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        if !self.table.contains_key(key) {
            self.known.insert(key.to_owned());
            self.add(&self.full(key), &format!("is missing; must be {wanted}"));
        }
        self.text(key, wanted, read)
    }

    /// A list of texts that `read` understands.
    pub fn texts<T>(&mut self, key: &str, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let items = value.as_array().map(Vec::as_slice);
        let read: Option<Vec<T>> = items.and_then(|items| items.iter().map(|i| i.as_str().and_then(&read)).collect());
        if read.is_none() {
            self.wrong(key, wanted);
        }
        read
    }

    /// A whole number in a range.
    pub fn number<T: TryFrom<u64>>(&mut self, key: &str, min: u64, max: u64) -> Option<T> {
        let value = self.take(key)?;
        let number = value.as_integer().and_then(|n| u64::try_from(n).ok()).filter(|n| (min..=max).contains(n));
        let number = number.and_then(|n| T::try_from(n).ok());
        if number.is_none() {
            self.wrong(key, &format!("a whole number from {min} to {max}"));
        }
        number
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.take(key)?;
        if value.as_bool().is_none() {
            self.wrong(key, "true or false");
        }
        value.as_bool()
    }

    /// A table inside this one.
    pub fn section(&mut self, key: &str) -> Option<Section<'a>> {
        match self.take(key)? {
            toml::Value::Table(table) => Some(Section::new(&self.full(key), table, self.found)),
            _ => {
                self.wrong(key, &format!("a section: [{}]", self.full(key)));
                None
            }
        }
    }

    /// The tables of an array of tables, in their order.
    pub fn sections(&mut self, key: &str) -> Vec<Section<'a>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let tables: Vec<&toml::Table> = items.iter().filter_map(toml::Value::as_table).collect();
        if tables.is_empty() || tables.len() < items.len() {
            self.wrong(key, &format!("sections: [[{}]]", self.full(key)));
        }
        let section = |(at, table): (usize, &toml::Table)| {
            Section::new(&format!("{}[{at}]", self.full(key)), table.clone(), self.found)
        };
        tables.into_iter().enumerate().map(section).collect()
    }

    /// A problem of one key.
    pub fn problem_at(&self, key: &str, text: &str) {
        self.add(&self.full(key), text);
    }

    /// A problem of the section as a whole.
    pub fn problem(&self, text: &str) {
        self.add(&self.path, text);
    }

    /// Names the keys that nobody took.
    pub fn end(self) {
        for key in self.table.keys() {
            let nearest = self.known.iter().map(|known| (distance(key, known), known)).min();
            let hint = match nearest {
                Some((steps, known)) if steps <= 2 => format!("did you mean {known}?"),
                _ => format!("known here are: {}", self.known.iter().cloned().collect::<Vec<_>>().join(", ")),
            };
            self.add(&self.full(key), &format!("unknown key; {hint}"));
        }
    }

    fn take(&mut self, key: &str) -> Option<toml::Value> {
        self.known.insert(key.to_owned());
        self.table.remove(key)
    }

    fn full(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn wrong(&self, key: &str, wanted: &str) {
        self.add(&self.full(key), &format!("must be {wanted}"));
    }

    fn add(&self, path: &str, text: &str) {
        self.found.0.borrow_mut().push(format!("{path}: {text}"));
    }
}

/// Edit distance: insertions, removals and exchanges of characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let exchange = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = exchange.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, want) in [("", "", 0), ("a", "", 1), ("idel", "idle", 2), ("region", "region", 0), ("x", "abc", 3)] {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }
}

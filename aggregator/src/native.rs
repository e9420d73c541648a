//! ClickHouse's Native format for the column types that the raw tables use.
//!
//! A block is the number of columns and rows, then for each column its name,
//! its type and its values back to back. Values are gathered in the form in
//! which they travel, so that encoding is copying. The server inserts such
//! blocks five times faster than rows in any other format (docs/decisions/0010).
//!
//! What always holds: a block that [`BlockEncoder::finish`] returns is
//! well-formed whatever was pushed, and a column of another length than the
//! block's is a defect that panics in tests.

use std::collections::HashMap;

use bytes::Bytes;

/// Layout of a `LowCardinality` column: keys travel with every block.
const SHARED_DICTIONARIES_WITH_ADDITIONAL_KEYS: u64 = 1;
const HAS_ADDITIONAL_KEYS: u64 = 1 << 9;
const NEED_UPDATE_DICTIONARY: u64 = 1 << 10;

/// A number of fixed width.
pub trait Fixed: Copy {
    /// Its bytes, least significant first.
    type Bytes: AsRef<[u8]>;
    /// Its bytes, least significant first.
    fn bytes(self) -> Self::Bytes;
}

macro_rules! fixed {
    ($($number:ty),*) => {$(
        impl Fixed for $number {
            type Bytes = [u8; size_of::<$number>()];
            fn bytes(self) -> Self::Bytes {
                self.to_le_bytes()
            }
        }
    )*};
}
fixed!(u8, u16, u32, u64, i64, f64);

/// Values of a `String` column.
#[derive(Debug, Default)]
pub struct Strings {
    bytes: Vec<u8>,
    rows: usize,
}

impl Strings {
    /// Appends a value.
    pub fn push(&mut self, text: &str) {
        put_string(&mut self.bytes, text);
        self.rows += 1;
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Drops all values and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.rows = 0;
    }
}

/// A key of a [`LowCardinality`] column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(u32);

/// Values of a `LowCardinality(String)` column: each distinct one once, and
/// per row which of them.
#[derive(Debug, Default)]
pub struct LowCardinality {
    keys: Vec<Box<str>>,
    known: HashMap<Box<str>, Key>,
    rows: Vec<Key>,
    key_bytes: usize,
    /// The key of the empty text, by far the most frequent in most columns.
    empty: Option<Key>,
}

impl LowCardinality {
    /// The key of `text`, which it keeps until it is cleared.
    pub fn key(&mut self, text: &str) -> Key {
        let known = match text {
            "" => self.empty.as_ref(),
            _ => self.known.get(text),
        };
        known.copied().unwrap_or_else(|| self.new_key(text))
    }

    fn new_key(&mut self, text: &str) -> Key {
        let key = Key(self.keys.len() as u32);
        self.keys.push(text.into());
        if text.is_empty() {
            self.empty = Some(key);
        } else {
            self.known.insert(text.into(), key);
        }
        self.key_bytes += text.len();
        key
    }

    /// Appends the value that `key` stands for.
    pub fn push(&mut self, key: Key) {
        self.rows.push(key);
    }

    /// The text of a key of this column.
    pub fn text(&self, key: Key) -> &str {
        &self.keys[key.0 as usize]
    }

    /// The key in each row.
    pub fn rows(&self) -> &[Key] {
        &self.rows
    }

    /// The key in each row, to be changed.
    pub fn rows_mut(&mut self) -> &mut [Key] {
        &mut self.rows
    }

    /// About how many bytes it takes in a block.
    pub fn bytes(&self) -> usize {
        self.key_bytes + 2 * self.rows.len()
    }

    /// Drops all values and keeps the memory.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.known.clear();
        self.rows.clear();
        self.key_bytes = 0;
        self.empty = None;
    }

    fn encode(&self, out: &mut Vec<u8>) {
        if self.rows.is_empty() {
            return;
        }
        let width = match self.keys.len() {
            0..=0x100 => Width::One,
            0x101..=0x1_0000 => Width::Two,
            _ => Width::Four,
        };
        put(
            out,
            &[width as u64 | HAS_ADDITIONAL_KEYS | NEED_UPDATE_DICTIONARY],
        );
        put(out, &[self.keys.len() as u64]);
        for key in &self.keys {
            put_string(out, key);
        }
        put(out, &[self.rows.len() as u64]);
        match width {
            Width::One => out.extend(self.rows.iter().map(|key| key.0 as u8)),
            Width::Two => put_each(out, self.rows.iter().map(|key| key.0 as u16)),
            Width::Four => put_each(out, self.rows.iter().map(|key| key.0)),
        }
    }
}

/// Bytes per row of a `LowCardinality` column.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Width {
    One = 0,
    Two = 1,
    Four = 2,
}

/// Values of a `Map(LowCardinality(String), LowCardinality(String))` column.
#[derive(Debug, Default)]
pub struct Maps {
    ends: Vec<u64>,
    keys: LowCardinality,
    values: LowCardinality,
}

impl Maps {
    /// Appends a map.
    pub fn push<K: AsRef<str>, V: AsRef<str>>(&mut self, pairs: impl IntoIterator<Item = (K, V)>) {
        for (key, value) in pairs {
            let (key, value) = (self.keys.key(key.as_ref()), self.values.key(value.as_ref()));
            self.keys.push(key);
            self.values.push(value);
        }
        self.ends.push(self.keys.rows.len() as u64);
    }

    /// About how many bytes it takes in a block.
    pub fn bytes(&self) -> usize {
        8 * self.ends.len() + self.keys.bytes() + self.values.bytes()
    }

    /// Drops all values and keeps the memory.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.keys.clear();
        self.values.clear();
    }
}

/// Writes one block, column by column.
pub struct BlockEncoder {
    out: Vec<u8>,
    rows: usize,
    columns_left: usize,
}

impl BlockEncoder {
    /// Begins a block of `columns` columns and `rows` rows; `bytes` is about
    /// how long it will be.
    pub fn new(columns: usize, rows: usize, bytes: usize) -> Self {
        let mut out = Vec::with_capacity(bytes);
        put_length(&mut out, columns);
        put_length(&mut out, rows);
        Self {
            out,
            rows,
            columns_left: columns,
        }
    }

    fn head(&mut self, name: &str, data_type: &str, rows: usize) {
        debug_assert_eq!(rows, self.rows, "column {name} is of another length");
        put_string(&mut self.out, name);
        put_string(&mut self.out, data_type);
        self.columns_left -= 1;
    }

    /// What precedes the values of a column with this many dictionaries. In a
    /// block without rows, nothing does.
    fn dictionary_versions(&mut self, dictionaries: usize) {
        if self.rows > 0 {
            let version = SHARED_DICTIONARIES_WITH_ADDITIONAL_KEYS;
            put_each(&mut self.out, std::iter::repeat_n(version, dictionaries));
        }
    }

    /// A column of numbers; `data_type` is any type of their width.
    pub fn fixed<T: Fixed>(&mut self, name: &str, data_type: &str, values: &[T]) {
        self.head(name, data_type, values.len());
        put(&mut self.out, values);
    }

    /// A column with the same number in each row.
    pub fn constant<T: Fixed>(&mut self, name: &str, data_type: &str, value: T) {
        self.head(name, data_type, self.rows);
        put_each(&mut self.out, std::iter::repeat_n(value, self.rows));
    }

    /// A `LowCardinality(String)` column with the same text in each row.
    pub fn constant_text(&mut self, name: &str, text: &str) {
        let mut column = LowCardinality::default();
        let key = column.key(text);
        column.rows = vec![key; self.rows];
        self.low_cardinality(name, &column);
    }

    /// A `UUID` column.
    pub fn uuids(&mut self, name: &str, values: &[u128]) {
        self.head(name, "UUID", values.len());
        // The server keeps a UUID as two words, the more significant one first.
        let words = values
            .iter()
            .flat_map(|value| [(value >> 64) as u64, *value as u64]);
        put_each(&mut self.out, words);
    }

    /// A `String` column.
    pub fn strings(&mut self, name: &str, values: &Strings) {
        self.head(name, "String", values.rows);
        self.out.extend_from_slice(&values.bytes);
    }

    /// A `LowCardinality(String)` column.
    pub fn low_cardinality(&mut self, name: &str, values: &LowCardinality) {
        self.head(name, "LowCardinality(String)", values.rows.len());
        self.dictionary_versions(1);
        values.encode(&mut self.out);
    }

    /// A `Map(LowCardinality(String), LowCardinality(String))` column.
    pub fn maps(&mut self, name: &str, values: &Maps) {
        let data_type = "Map(LowCardinality(String), LowCardinality(String))";
        self.head(name, data_type, values.ends.len());
        self.dictionary_versions(2);
        put(&mut self.out, &values.ends);
        values.keys.encode(&mut self.out);
        values.values.encode(&mut self.out);
    }

    /// The finished block.
    pub fn finish(self) -> Bytes {
        debug_assert_eq!(self.columns_left, 0, "columns are missing");
        self.out.into()
    }
}

fn put<T: Fixed>(out: &mut Vec<u8>, values: &[T]) {
    put_each(out, values.iter().copied());
}

fn put_each<T: Fixed>(out: &mut Vec<u8>, values: impl Iterator<Item = T>) {
    for value in values {
        out.extend_from_slice(value.bytes().as_ref());
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// A length in groups of seven bits, the lowest first.
fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

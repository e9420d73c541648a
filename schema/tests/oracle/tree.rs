//! A document as it was sent: members in order, duplicates included.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use sha2::{Digest as _, Sha256};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Tree {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Any number.
    Number(Number),
    /// A text.
    Text(String),
    /// An array.
    List(Vec<Tree>),
    /// An object.
    Object(Vec<(String, Tree)>),
}

impl Tree {
    /// Reads a document.
    pub fn read(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json)
    }

    /// The last member of that name, unless it is null.
    pub fn member(&self, name: &str) -> Option<&Self> {
        let (_, value) = self.members().iter().rfind(|(key, _)| key == name)?;
        (*value != Self::Null).then_some(value)
    }

    /// All members; none of what is no object.
    pub fn members(&self) -> &[(String, Self)] {
        match self {
            Self::Object(members) => members,
            _ => &[],
        }
    }

    /// Its text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Its elements, if it is a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        match self {
            Self::List(items) => Some(items),
            _ => None,
        }
    }

    /// Its number, if it is one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => number.as_f64(),
            _ => None,
        }
    }

    /// A text's text, and JSON of all else.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            other => other.json(),
        }
    }

    /// Compact JSON, without NULs in its texts.
    pub fn json(&self) -> String {
        let string = |text: &str| serde_json::to_string(&text.replace('\0', "")).unwrap();
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(number) if number.as_f64() == Some(0.0) => "0".to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => string(text),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::json).collect();
                format!("[{}]", items.join(","))
            }
            Self::Object(members) => {
                let members: Vec<_> = members
                    .iter()
                    .map(|(key, value)| format!("{}:{}", string(key), value.json()))
                    .collect();
                format!("{{{}}}", members.join(","))
            }
        }
    }
}

/// Whether a text is JSON, as far as this reader can tell.
pub fn is_json(text: &str) -> bool {
    let document = Tree::read(text.as_bytes());
    document.is_ok() || is_too_deep(&document)
}

/// Whether a document has more levels than this reader goes down.
pub fn is_too_deep(document: &serde_json::Result<Tree>) -> bool {
    let is_limit = |error: &serde_json::Error| error.to_string().starts_with("recursion limit");
    document.as_ref().is_err_and(is_limit)
}

/// What stands for a value that is too long (telemetry.md §2.6).
pub fn digest(json: &str) -> String {
    let hex = hex::encode(Sha256::digest(json));
    format!("\"sha256:{hex}\"")
}

/// With a replacement character for each escape of half a surrogate pair.
pub fn repaired(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let mut rest = json;
    while let [first, ..] = rest {
        let taken = match (unit(rest), rest.get(6..).and_then(unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => 12,
            (Some(0xD800..=0xDFFF), _) => {
                out.extend_from_slice(br"\uFFFD");
                rest = &rest[6..];
                continue;
            }
            _ if *first == b'\\' => 2.min(rest.len()),
            _ => 1,
        };
        out.extend_from_slice(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

/// Whether it looks as if it had a number whose exponent has ten digits or more.
pub fn has_long_exponent(json: &[u8]) -> bool {
    json.split(|byte| byte.eq_ignore_ascii_case(&b'e'))
        .skip(1)
        .any(|after| {
            let sign = usize::from(matches!(after.first(), Some(b'+' | b'-')));
            after
                .get(sign..sign + 10)
                .is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
        })
}

/// The UTF-16 unit whose escape `json` begins with.
fn unit(json: &[u8]) -> Option<u16> {
    let digits = json.strip_prefix(br"\u")?.get(..4)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Number::from_f64(value).map_or(Tree::Null, Tree::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Tree, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Tree::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Tree, A::Error> {
        let mut all = Vec::new();
        while let Some(member) = members.next_entry()? {
            all.push(member);
        }
        Ok(Tree::Object(all))
    }
}

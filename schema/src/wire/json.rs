//! A cursor over a parsed document that never recurses.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};

use simd_json::{Node, StaticNode};
use siphasher::sip128::{Hasher128 as _, SipHasher13};

/// A value on a tape.
#[derive(Clone, Copy)]
pub(super) struct Value<'t> {
    nodes: &'t [Node<'t>],
}

impl<'t> Value<'t> {
    /// The value that begins where `nodes` begins.
    pub(super) fn new(nodes: &'t [Node<'t>]) -> Self {
        Self { nodes }
    }

    /// Where this value begins on a tape of `tape_nodes` nodes.
    pub(super) fn position(self, tape_nodes: usize) -> u32 {
        (tape_nodes - self.nodes.len()) as u32
    }

    fn head(self) -> Node<'t> {
        self.nodes
            .first()
            .copied()
            .unwrap_or(Node::Static(StaticNode::Null))
    }

    /// Nodes that this value takes on the tape.
    fn width(self) -> usize {
        match self.head() {
            Node::Object { count, .. } | Node::Array { count, .. } => 1 + count,
            Node::String(_) | Node::Static(_) => 1,
        }
    }

    pub(super) fn is_null(self) -> bool {
        matches!(self.head(), Node::Static(StaticNode::Null))
    }

    pub(super) fn as_str(self) -> Option<&'t str> {
        match self.head() {
            Node::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_bool(self) -> Option<bool> {
        match self.head() {
            Node::Static(StaticNode::Bool(value)) => Some(value),
            _ => None,
        }
    }

    /// A number, as near as a float can say it.
    pub(super) fn as_f64(self) -> Option<f64> {
        match self.head() {
            Node::Static(StaticNode::I64(value)) => Some(value as f64),
            Node::Static(StaticNode::U64(value)) => Some(value as f64),
            Node::Static(StaticNode::F64(value)) => Some(value),
            _ => None,
        }
    }

    /// The elements, if this is an array.
    pub(super) fn as_array(self) -> Option<impl Iterator<Item = Value<'t>>> {
        let Node::Array { len, .. } = self.head() else {
            return None;
        };
        let mut rest = &self.nodes[1..];
        Some((0..len).map(move |_| {
            let value = Value::new(rest);
            rest = &rest[value.width()..];
            value
        }))
    }

    /// The members in the order sent, duplicates included, if this is an object.
    pub(super) fn as_object(self) -> Option<impl Iterator<Item = (&'t str, Value<'t>)>> {
        let Node::Object { len, .. } = self.head() else {
            return None;
        };
        let mut rest = &self.nodes[1..];
        Some((0..len).filter_map(move |_| {
            let key = Value::new(rest).as_str();
            let value = Value::new(&rest[1..]);
            rest = &rest[1 + value.width()..];
            key.map(|key| (key, value))
        }))
    }

    /// A string's text, a scalar's literal, and compact JSON of anything else.
    pub(super) fn to_text(self) -> Cow<'t, str> {
        match self.head() {
            Node::String(text) => Cow::Borrowed(text),
            _ => Cow::Owned(self.to_json()),
        }
    }

    /// A digest of this value as sent: two values with the same digest are the same.
    pub(super) fn digest(self) -> u128 {
        let mut hasher = SipHasher13::new();
        for node in &self.nodes[..self.width()] {
            match node {
                Node::Object { len, .. } => (0_u8, len).hash(&mut hasher),
                Node::Array { len, .. } => (1_u8, len).hash(&mut hasher),
                Node::String(text) => (2_u8, text).hash(&mut hasher),
                Node::Static(StaticNode::Null) => hasher.write_u8(3),
                Node::Static(StaticNode::Bool(value)) => (4_u8, value).hash(&mut hasher),
                Node::Static(StaticNode::I64(value)) => (5_u8, value).hash(&mut hasher),
                Node::Static(StaticNode::U64(value)) => (6_u8, value).hash(&mut hasher),
                Node::Static(StaticNode::F64(value)) => (7_u8, value.to_bits()).hash(&mut hasher),
            }
        }
        hasher.finish128().as_u128()
    }

    /// Compact JSON of this value, members in the order sent, without NULs.
    pub(super) fn to_json(self) -> String {
        let mut out = String::new();
        // What is left to close: how many children, and with which bracket.
        let mut open: Vec<(usize, bool)> = Vec::new();
        let mut expect_key = false;
        for node in &self.nodes[..self.width()] {
            write_node(node, &mut out);
            match node {
                Node::Object { len, .. } => open.push((*len, true)),
                Node::Array { len, .. } => open.push((*len, false)),
                Node::String(_) if expect_key => {
                    out.push(':');
                    expect_key = false;
                    continue;
                }
                Node::String(_) | Node::Static(_) => finish_child(&mut open),
            }
            close(&mut open, &mut out);
            expect_key = open.last().is_some_and(|(_, object)| *object);
        }
        out
    }
}

fn finish_child(open: &mut [(usize, bool)]) {
    if let Some((left, _)) = open.last_mut() {
        *left -= 1;
    }
}

/// Closes what is complete; puts a comma where another child follows.
fn close(open: &mut Vec<(usize, bool)>, out: &mut String) {
    while let Some((0, object)) = open.last() {
        out.push(if *object { '}' } else { ']' });
        open.pop();
        finish_child(open);
    }
    let between = !matches!(out.as_bytes().last(), Some(b'{' | b'['));
    if between && !open.is_empty() {
        out.push(',');
    }
}

fn write_node(node: &Node<'_>, out: &mut String) {
    match node {
        Node::Object { .. } => out.push('{'),
        Node::Array { .. } => out.push('['),
        Node::String(text) => write_string(text, out),
        Node::Static(StaticNode::Null) => out.push_str("null"),
        Node::Static(StaticNode::Bool(value)) => {
            out.push_str(if *value { "true" } else { "false" });
        }
        // Writing into a string cannot fail.
        Node::Static(StaticNode::I64(value)) => drop(write!(out, "{value}")),
        Node::Static(StaticNode::U64(value)) => drop(write!(out, "{value}")),
        // Zero has one form: the parser already makes a whole number of `-0`, but not of `-0.0`.
        Node::Static(StaticNode::F64(0.0)) => out.push('0'),
        Node::Static(StaticNode::F64(value)) => {
            out.push_str(
                &serde_json::Number::from_f64(*value)
                    .map_or_else(|| "null".to_owned(), |number| number.to_string()),
            );
        }
    }
}

/// Without NULs: Postgres stores none, and telemetry.md §2.5 removes them.
fn write_string(text: &str, out: &mut String) {
    let text = if text.contains('\0') {
        Cow::Owned(text.replace('\0', ""))
    } else {
        Cow::Borrowed(text)
    };
    // A string always serialises.
    out.push_str(&serde_json::to_string(&*text).unwrap_or_default());
}

/// Deepest nesting of what is stored: readers refuse far deeper documents.
pub(super) const MAX_DEPTH: usize = 32;

/// How deep arrays and objects are nested in a valid document.
pub(super) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use serde_json::Value as Json;

    use super::*;

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            (-1e9..1e9).prop_map(|f: f64| Json::from(f)),
            r"[^\x00\n]{0,8}".prop_map(Json::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
                proptest::collection::btree_map(r"[^\x00\n]{0,4}", inner, 0..6)
                    .prop_map(|m| Json::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn compact_json_is_what_serde_writes(value in any_json()) {
            let text = value.to_string();
            let mut bytes = text.clone().into_bytes();
            let tape = simd_json::to_tape(&mut bytes).unwrap();
            prop_assert_eq!(Value::new(&tape.0).to_json(), text);
        }

        #[test]
        fn a_nul_goes_and_its_escape_as_text_stays(around in r"[a\\\\u0]{0,6}") {
            let with = format!("{around}\0{around}\\u0000");
            let mut bytes = Json::from(&*with).to_string().into_bytes();
            let tape = simd_json::to_tape(&mut bytes).unwrap();
            let written = Value::new(&tape.0).to_json();
            let read: String = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(read, format!("{around}{around}\\u0000"));
        }

        #[test]
        fn depth_is_that_of_the_value(value in any_json()) {
            fn deep(value: &Json) -> usize {
                match value {
                    Json::Array(all) => 1 + all.iter().map(deep).max().unwrap_or(0),
                    Json::Object(all) => 1 + all.values().map(deep).max().unwrap_or(0),
                    _ => 0,
                }
            }
            let brackets = serde_json::json!([value, "[{\"\\[["]);
            prop_assert_eq!(depth(&brackets.to_string()), deep(&brackets));
        }

        #[test]
        fn digests_are_equal_where_values_are(one in any_json(), other in any_json()) {
            let digest = |text: &str| {
                let mut bytes = text.as_bytes().to_vec();
                Value::new(&simd_json::to_tape(&mut bytes).unwrap().0).digest()
            };
            let (one, other) = (one.to_string(), other.to_string());
            prop_assert_eq!(digest(&one), digest(&one));
            prop_assert_eq!(digest(&one) == digest(&other), one == other);
        }
    }
}

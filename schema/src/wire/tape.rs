//! Looks up the members of objects on a parsed document, once for each object.

use std::borrow::Cow;

use simd_json::Tape;

use super::Refusal;
use super::json::Value;
use super::text::clean;

/// Where each known member of an object begins on the tape; 0 where it is absent.
pub(super) type Fields<const N: usize> = [u32; N];

/// Where the members named `names` of the object at `at` begin; the last of
/// duplicates, 0 for what is absent or null. `None` where it is no object.
pub(super) fn fields<const N: usize>(
    tape: &Tape<'_>,
    at: u32,
    names: &[&'static str; N],
) -> Option<Fields<N>> {
    let members = Value::new(tape.0.get(at as usize..)?).as_object()?;
    let mut fields = [0; N];
    for (key, value) in members {
        if let Some(index) = names.iter().position(|name| *name == key) {
            fields[index] = if value.is_null() {
                0
            } else {
                value.position(tape.0.len())
            };
        }
    }
    Some(fields)
}

pub(super) fn value_at<'t>(tape: &'t Tape<'t>, at: u32) -> Option<Value<'t>> {
    if at == 0 {
        return None;
    }
    tape.0.get(at as usize..).map(Value::new)
}

pub(super) fn required_text<'t>(
    tape: &'t Tape<'t>,
    at: u32,
    field: &'static str,
) -> Result<&'t str, Refusal> {
    value_at(tape, at)
        .ok_or(Refusal::Missing(field))?
        .as_str()
        .ok_or(Refusal::WrongType {
            field,
            expected: "a string",
        })
}

pub(super) fn clean_text(value: Option<Value<'_>>, max_bytes: usize) -> Cow<'_, str> {
    match value.map(Value::to_text) {
        None => Cow::Borrowed(""),
        Some(Cow::Borrowed(text)) => clean(text, max_bytes),
        Some(Cow::Owned(text)) => Cow::Owned(clean(&text, max_bytes).into_owned()),
    }
}

//! The query parameters of all reads (telemetry.md §5.0), in one place.
//!
//! A name may come in snake_case or camelCase, and some have an alias; an
//! empty value is absent; of several values the last one counts; unknown names
//! are ignored. What is left is read by serde, so that a value of the wrong
//! type is a 400 that names the parameter.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::error::{ApiError, ApiResult};

/// Parameters of a read, under their names in snake_case.
#[derive(Debug)]
pub(super) struct ReadQuery<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for ReadQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> ApiResult<Self> {
        parse(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn parse<T: DeserializeOwned>(query: &str) -> ApiResult<T> {
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if value.is_empty() {
            continue;
        }
        let (name, value) = canonical(&name, &value);
        kept.retain(|(earlier, _)| *earlier != name);
        kept.push((name, value));
    }
    let mut encoded = form_urlencoded::Serializer::new(String::new());
    let encoded = encoded.extend_pairs(kept).finish();
    let pairs = form_urlencoded::parse(encoded.as_bytes());
    serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs))
        .map_err(|error| ApiError::bad_request(format!("bad query: {error}")))
}

/// The one name and form of a parameter.
fn canonical(name: &str, value: &str) -> (String, String) {
    let name = snake_case(name);
    match name.as_str() {
        "event_type" => ("type".to_owned(), value.to_owned()),
        "period" => {
            let days = value.strip_suffix('d').unwrap_or(value);
            ("days".to_owned(), days.to_owned())
        }
        _ => (name, value.to_owned()),
    }
}

fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;
    use crate::page::Whole;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    struct Probe {
        days: Option<Whole>,
        flag_key: Option<String>,
        update_uuid: Option<String>,
        r#type: Option<String>,
        include_disabled: Option<bool>,
    }

    fn probe(query: &str) -> Probe {
        parse(query).unwrap_or_else(|error| panic!("{query}: {}", error.message()))
    }

    #[test]
    fn every_spelling_means_the_same() {
        for query in ["flag_key=a%20b", "flagKey=a+b", "flagKey=a b"] {
            assert_eq!(probe(query).flag_key.as_deref(), Some("a b"), "{query}");
        }
        for query in ["type=crash", "event_type=crash", "eventType=crash"] {
            assert_eq!(probe(query).r#type.as_deref(), Some("crash"), "{query}");
        }
        for query in ["days=14", "period=14d", "period=14"] {
            assert_eq!(probe(query).days, Some(Whole(14)), "{query}");
        }
        assert!(probe("updateUuid=x").update_uuid.is_some());
        assert_eq!(probe("includeDisabled=true").include_disabled, Some(true));
    }

    #[test]
    fn the_last_value_counts_and_an_empty_one_never() {
        assert_eq!(probe("days=1&days=2").days, Some(Whole(2)));
        assert_eq!(probe("flagKey=a&flag_key=b").flag_key.as_deref(), Some("b"));
        assert_eq!(probe("days=3&days=").days, Some(Whole(3)));
        assert_eq!(probe("days=&flag_key=&type&x=1&&="), Probe::default());
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_by_name() {
        for wrong in ["days=x", "days=1.5", "days=1e3", "period=2w", "days=%20"] {
            let error = parse::<Probe>(wrong).unwrap_err();
            assert_eq!(error.status(), 400, "{wrong}");
            assert!(error.message().contains("days"), "{}", error.message());
        }
        let error = parse::<Probe>("includeDisabled=maybe").unwrap_err();
        assert!(error.message().contains("include_disabled"));
    }

    #[test]
    fn numbers_are_clamped() {
        let clamped = |query| Whole::clamped(probe(query).days, 14, 1, 90);
        assert_eq!(clamped(""), 14);
        assert_eq!(clamped("days=-5"), 1);
        assert_eq!(clamped("days=91"), 90);
        assert_eq!(clamped("days=99999999999999999999"), 90);
    }

    proptest! {
        #[test]
        fn no_query_panics(query in ".*") {
            let _ = parse::<Probe>(&query);
        }

        #[test]
        fn a_text_comes_through_as_it_is(text in ".+") {
            let mut query = form_urlencoded::Serializer::new(String::new());
            let query = query.append_pair("flagKey", &text).finish();
            prop_assert_eq!(probe(&query).flag_key, Some(text));
        }
    }
}

//! Which channels a view is of, and how it shows them (telemetry.md §2.9).
//!
//! Apps that set no channel report health under `default`, and ask for updates
//! as `production`. A project may have its views treat `default` as another
//! channel: then what is under both counts, and is shown, as that one. Only
//! views know of it: what is stored keeps its channel, and so do anomalies,
//! downloads and rollouts (docs/decisions/0097).

use super::reader::{Statement, Value};

/// What is reported without a channel.
pub(crate) const DEFAULT: &str = "default";

/// What the views of a project treat the channel `default` as; as a channel
/// like any other unless the project says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct DefaultChannel(Option<String>);

impl DefaultChannel {
    /// As stored; never `default` itself.
    pub(crate) fn new(treated_as: Option<String>) -> Self {
        Self(treated_as)
    }

    /// The channels that count as the one asked for; all if none is. `default`
    /// is another name of what it is treated as.
    pub(super) fn filter(&self, asked: Option<String>) -> Channels {
        match (&self.0, asked) {
            (Some(other), Some(asked)) if asked == *other || asked == DEFAULT => {
                Channels(vec![other.clone(), DEFAULT.to_owned()])
            }
            (_, asked) => Channels::exactly(asked),
        }
    }

    /// The channel that a view shows for a stored one.
    pub(super) fn shown(&self, stored: String) -> String {
        match &self.0 {
            Some(other) if stored == DEFAULT => other.clone(),
            _ => stored,
        }
    }
}

/// Channels as stored, of which a view is; of all where none is named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Channels(Vec<String>);

impl Channels {
    /// This one alone; all if there is none.
    pub(super) fn exactly(channel: Option<String>) -> Self {
        Self(channel.into_iter().collect())
    }

    /// What people call them.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    /// What continues a WHERE, and the value of its `?`.
    pub(super) fn condition(&self) -> Option<(&'static str, Value)> {
        match self.0.as_slice() {
            [] => None,
            [only] => Some((" AND channel = ?", Value::from(only.as_str()))),
            several => Some((" AND channel IN ?", Value::from(several))),
        }
    }

    /// The same as a statement.
    pub(super) fn clause(&self) -> Statement {
        let condition = self.condition();
        condition.map_or_else(Statement::default, |(sql, value)| {
            Statement::default().with(sql, value)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn without_the_setting_every_channel_is_itself(asked in proptest::option::of("default|[a-z]{1,9}")) {
            let off = DefaultChannel::default();
            let before = Statement::default().with_some(" AND channel = ?", asked.as_deref());
            prop_assert_eq!(off.filter(asked.clone()).clause(), before);
            let stored = asked.unwrap_or_default();
            prop_assert_eq!(off.shown(stored.clone()), stored);
        }

        /// What is shown under a name is what is found under it.
        #[test]
        fn a_view_of_a_channel_is_of_what_is_shown_as_it(
            treated_as in "[a-c]",
            asked in "default|[a-d]",
            stored in "default|[a-d]|",
        ) {
            let on = DefaultChannel::new(Some(treated_as));
            let Channels(found) = on.filter(Some(asked.clone()));
            prop_assert_eq!(found.contains(&stored), on.shown(stored) == on.shown(asked));
        }
    }

    #[test]
    fn two_channels_are_looked_up_by_name_too() {
        let on = DefaultChannel::new(Some("production".to_owned()));
        let both = vec!["production".to_owned(), "default".to_owned()];
        let clause = Statement::default().with(" AND channel IN ?", both.as_slice());
        for asked in ["production", "default"] {
            let channels = on.filter(Some(asked.to_owned()));
            assert_eq!(channels.clause(), clause);
            assert_eq!(channels.name(), Some("production"));
        }
        assert_eq!(on.filter(None), Channels::default());
        assert_eq!(Channels::default().clause(), Statement::default());
    }
}

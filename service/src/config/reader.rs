//! Typed getters over a source, collecting problems instead of stopping at the first.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use super::secret::Secret;
use super::source::{Origin, Source, key_of};
use super::units;

/// Hands out typed values and remembers what was asked for and what was wrong.
///
/// A getter always returns something, so that reading goes on and finds the
/// next problem; what stands in for a bad value never leaves this module.
#[derive(Debug)]
pub struct ConfigReader {
    source: Source,
    settings: Vec<Setting>,
    problems: Vec<String>,
}

/// One setting as it took effect. Displays as a line of the file that sets it.
#[derive(Clone, Debug)]
pub struct Setting {
    name: &'static str,
    /// TOML text of the value; `None` if it is not set.
    value: Option<String>,
    origin: Origin,
    secret: bool,
}

impl Setting {
    /// The variables that set it.
    pub fn spellings(&self) -> Vec<String> {
        let file_form = self.secret.then(|| format!("{}_FILE", self.name));
        std::iter::once(self.name.to_owned())
            .chain(file_form)
            .collect()
    }
}

impl Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = key_of(self.name);
        let origin = match self.origin {
            Origin::Default => "default",
            Origin::File => "file",
            Origin::Environment => "environment",
        };
        match &self.value {
            Some(value) => write!(f, "{key} = {value:?} # {} ({origin})", self.name),
            None => write!(f, "# {key} is not set # {}", self.name),
        }
    }
}

impl ConfigReader {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            settings: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Anything that is written as it is parsed: addresses, numbers, `true`/`false`, texts.
    pub fn value<T: FromStr<Err: Display> + Display>(
        &mut self,
        name: &'static str,
        default: T,
    ) -> T {
        self.or_default(name, default, from_str, T::to_string)
    }

    /// As [`value`](Self::value), without a default.
    pub fn optional<T: FromStr<Err: Display> + Display>(
        &mut self,
        name: &'static str,
    ) -> Option<T> {
        let (value, origin) = self.given(name, from_str);
        self.remember(name, value.as_ref().map(T::to_string), origin);
        value
    }

    /// A text that must be given.
    pub fn required(&mut self, name: &'static str) -> String {
        let value = self.optional::<String>(name);
        self.or_missing(name, value)
    }

    /// A comma-separated list, in the file also an array; empty by default.
    pub fn list<T: FromStr<Err: Display> + Display>(&mut self, name: &'static str) -> Vec<T> {
        let parse = |text: &str| text.split(',').map(|item| from_str(item.trim())).collect();
        self.or_default(name, Vec::new(), parse, |items| join(items))
    }

    /// A number of bytes: plain, or with a unit such as `512MiB`.
    pub fn bytes(&mut self, name: &'static str, default: u64) -> u64 {
        self.or_default(name, default, units::parse_bytes, u64::to_string)
    }

    /// A time with its unit, such as `500ms`, `15s`, `2h`.
    pub fn duration(&mut self, name: &'static str, default: Duration) -> Duration {
        let show = |duration: &Duration| units::format_duration(*duration);
        self.or_default(name, default, units::parse_duration, show)
    }

    /// A secret, given as `<NAME>` or as the file that `<NAME>_FILE` names.
    pub fn secret(&mut self, name: &'static str) -> Option<Secret> {
        let given = self.source.take(name);
        let file = self.source.take(&format!("{name}_FILE"));
        let origin = given
            .as_ref()
            .or(file.as_ref())
            .map_or(Origin::Default, |raw| raw.origin);
        let value = match (given, file) {
            (None, None) => None,
            (Some(raw), None) => Some(raw.text),
            (None, Some(path)) => self.read_secret(name, &path.text),
            (Some(_), Some(_)) => {
                self.problem(name, "given both as a value and as a file");
                None
            }
        };
        let shown = value.as_ref().map(|_| "••••".to_owned());
        self.settings.push(Setting {
            name,
            value: shown,
            origin,
            secret: true,
        });
        value.map(Secret::new)
    }

    /// A secret that must be given.
    pub fn required_secret(&mut self, name: &'static str) -> Secret {
        let already = self.problems.len();
        let value = self.secret(name);
        if self.problems.len() > already {
            Secret::default()
        } else {
            self.or_missing(name, value)
        }
    }

    /// Reports a problem that only shows between values.
    pub fn problem(&mut self, name: &str, problem: impl Display) {
        self.problems.push(format!("{name}: {problem}"));
    }

    pub(super) fn settings(&self) -> &[Setting] {
        &self.settings
    }

    pub(super) fn finish(self) -> Result<Vec<Setting>, Vec<String>> {
        let mut problems = self.source.into_problems();
        problems.extend(self.problems);
        if problems.is_empty() {
            Ok(self.settings)
        } else {
            Err(problems)
        }
    }

    fn or_default<T>(
        &mut self,
        name: &'static str,
        default: T,
        parse: impl FnOnce(&str) -> Result<T, String>,
        show: impl FnOnce(&T) -> String,
    ) -> T {
        let (given, origin) = self.given(name, parse);
        let value = given.unwrap_or(default);
        self.remember(name, Some(show(&value)), origin);
        value
    }

    /// The value that was given and parsed, and where it was given.
    fn given<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> (Option<T>, Origin) {
        let Some(raw) = self.source.take(name) else {
            return (None, Origin::Default);
        };
        let parsed = parse(raw.text.trim());
        (
            parsed.map_err(|error| self.problem(name, error)).ok(),
            raw.origin,
        )
    }

    fn remember(&mut self, name: &'static str, value: Option<String>, origin: Origin) {
        self.settings.push(Setting {
            name,
            value,
            origin,
            secret: false,
        });
    }

    fn or_missing<T: Default>(&mut self, name: &str, value: Option<T>) -> T {
        value.unwrap_or_else(|| {
            self.problem(name, "must be set");
            T::default()
        })
    }

    fn read_secret(&mut self, name: &str, path: &str) -> Option<String> {
        match std::fs::read_to_string(path) {
            Ok(text) if !text.trim_end().is_empty() => Some(text.trim_end().to_owned()),
            Ok(_) => {
                self.problem(name, format!("the file {path} is empty"));
                None
            }
            Err(error) => {
                self.problem(name, format!("cannot read {path}: {error}"));
                None
            }
        }
    }
}

fn from_str<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn join<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

//! Where raw values come from: the file, overridden by the environment.

use std::collections::BTreeMap;
use std::path::Path;

const PREFIX: &str = "SLUICE_";
/// Read by [`super::ConfigArgs`], before there is a reader.
const CONFIG_FILE: &str = "SLUICE_CONFIG";
const OF_TESTS: &str = "SLUICE_TEST_";

/// A raw value and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) text: String,
    pub(super) origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Default,
    File,
    Environment,
}

/// All raw values, by variable name.
#[derive(Debug, Default)]
pub(super) struct Source {
    values: BTreeMap<String, Raw>,
    problems: Vec<String>,
}

impl Source {
    pub(super) fn of_process(file: Option<&Path>) -> Self {
        let mut source = Self::default();
        if let Some(path) = file {
            match std::fs::read_to_string(path) {
                Ok(text) => source.add_toml(&text),
                Err(error) => source.problem(format!("cannot read {}: {error}", path.display())),
            }
        }
        // Variables that are not UTF-8 cannot be ours.
        let ours = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        source.add_variables(ours);
        source
    }

    pub(super) fn of_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut source = Self::default();
        source.add_variables(variables);
        source
    }

    pub(super) fn add_variables(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let ours = variables.into_iter().filter(|(name, value)| {
            name.starts_with(PREFIX)
                && !name.starts_with(OF_TESTS)
                && name != CONFIG_FILE
                && !value.is_empty()
        });
        self.values.extend(ours.map(|(name, text)| {
            let origin = Origin::Environment;
            (name, Raw { text, origin })
        }));
    }

    pub(super) fn add_toml(&mut self, text: &str) {
        match text.parse::<toml::Table>() {
            Ok(table) => self.add_table("", table),
            Err(error) => self.problem(format!("the file is not TOML: {error}")),
        }
    }

    fn add_table(&mut self, path: &str, table: toml::Table) {
        for (key, value) in table {
            let path = if path.is_empty() {
                key
            } else {
                format!("{path}_{key}")
            };
            match value {
                toml::Value::Table(inner) => self.add_table(&path, inner),
                value => self.add_value(&path, &value),
            }
        }
    }

    fn add_value(&mut self, path: &str, value: &toml::Value) {
        let Some(text) = text_of(value) else {
            return self.problem(format!(
                "{path}: neither a text, a number, a boolean nor a list of them"
            ));
        };
        let origin = Origin::File;
        let name = format!("{PREFIX}{}", path.to_uppercase());
        if self.values.insert(name, Raw { text, origin }).is_some() {
            self.problem(format!("{path}: given twice in the file"));
        }
    }

    fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Takes the value of a variable; what nobody takes is unknown.
    pub(super) fn take(&mut self, name: &str) -> Option<Raw> {
        self.values.remove(name)
    }

    /// The problems found so far, and one for every value that nobody took.
    pub(super) fn into_problems(self) -> Vec<String> {
        let unknown = self.values.into_iter().map(|(name, raw)| match raw.origin {
            Origin::File => format!("{}: unknown key", key_of(&name)),
            Origin::Environment | Origin::Default => format!("{name}: unknown variable"),
        });
        self.problems.into_iter().chain(unknown).collect()
    }
}

/// The file's key of a variable.
pub(super) fn key_of(name: &str) -> String {
    name.strip_prefix(PREFIX).unwrap_or(name).to_lowercase()
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(text_of).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

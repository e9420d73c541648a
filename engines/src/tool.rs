//! Programs of the operating system that fetch and unpack.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::EngineError;

/// A program that an engine needs, and what brings it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) install: &'static str,
}

impl Tool {
    /// Where it is on PATH.
    pub(crate) fn find(self, engine: &'static str) -> Result<PathBuf, EngineError> {
        on_path(self.name).ok_or(EngineError::MissingTool {
            engine,
            tool: self.name,
            install: self.install,
        })
    }
}

/// The program `name` on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// Runs a tool quietly; what it says on failure becomes the error.
pub(crate) fn run(command: &mut Command, what: &str) -> Result<(), EngineError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| fetch_error(what, &format!("{}: {e}", command.get_program().display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let mut last: Vec<_> = said.lines().rev().take(3).collect();
    last.reverse();
    let reason = format!("{}: {}", output.status, last.join(" | "));
    Err(fetch_error(what, &reason))
}

pub(crate) fn fetch_error(what: &str, reason: &str) -> EngineError {
    EngineError::Fetch {
        what: what.to_owned(),
        reason: reason.to_owned(),
    }
}

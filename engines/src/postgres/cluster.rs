//! The directory that holds all of a server's databases.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::programs::Programs;
use super::user::User;
use super::{ENGINE, USER};
use crate::{EngineError, file_error, files, tool};

/// The cluster in `dir`, made if there is none.
pub(super) fn ensure(
    dir: &Path,
    programs: &Programs,
    user: Option<&User>,
    password: &str,
) -> Result<PathBuf, EngineError> {
    let cluster = dir.join("cluster");
    if !cluster.is_dir() {
        // Texts are ordered by their bytes. Letters of all alphabets have cases,
        // where the system has that locale.
        let create = |letters| create(dir, programs, user, password, letters);
        let fresh = create("C.UTF-8").or_else(|_| create("C"))?;
        fs::rename(&fresh, &cluster).map_err(file_error(&cluster))?;
    }
    Ok(cluster)
}

/// Made under another name: what an interrupted start leaves is not taken for a cluster.
fn create(
    dir: &Path,
    programs: &Programs,
    user: Option<&User>,
    password: &str,
    letters: &str,
) -> Result<PathBuf, EngineError> {
    let fresh = dir.join("cluster.new");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(file_error(&fresh))?;
    }
    fs::create_dir(&fresh).map_err(file_error(&fresh))?;
    let password_file = dir.join("password.initdb");
    files::write_private(&password_file, password).map_err(file_error(&password_file))?;
    let mut command = Command::new(programs.initdb());
    command.args(["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]);
    command.arg(format!("--lc-ctype={letters}"));
    // The server syncs its first checkpoint before it takes connections.
    command.args(["--no-instructions", "--no-sync"]);
    command.arg(format!("--username={USER}"));
    command.arg("--pwfile").arg(&password_file);
    command.arg("-D").arg(&fresh).current_dir("/");
    if let Some(user) = user {
        give(&fresh, user)?;
        give(&password_file, user)?;
        command.uid(user.uid).gid(user.gid);
    }
    tool::run(&mut command, ENGINE)?;
    fs::remove_file(&password_file).map_err(file_error(&password_file))?;
    Ok(fresh)
}

fn give(path: &Path, user: &User) -> Result<(), EngineError> {
    chown(path, Some(user.uid), Some(user.gid)).map_err(file_error(path))
}

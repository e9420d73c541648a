//! Kafka's code, and what runs it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use super::ENGINE;
use crate::tool::{self, Tool, fetch_error};
use crate::{EngineError, cache, file_error, progress};

const JAVA: Tool = Tool {
    name: "java",
    install: "a Java runtime, version 17 or newer",
};
const MAVEN: Tool = Tool {
    name: "mvn",
    install: "Apache Maven, or set KAFKA_HOME to an unpacked Kafka 4.4",
};

const WHAT: &str = "Apache Kafka 4.4.0";
const JARS: usize = 45;
/// SHA-256 of the lines that `sha256sum *.jar` prints in the order of their names.
const DIGEST: &str = "76844cd9e9e22b54c86833dbbb4be14f7a8c546993e16bc0fbc8453b71ddad39";

/// The broker and what binds its logging.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
<modelVersion>4.0.0</modelVersion>
<groupId>sluice</groupId><artifactId>kafka</artifactId><version>1</version>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.4.0</version></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.24.3</version></dependency>
</dependencies>
</project>
"#;

/// A Java runtime and the jars of Kafka.
#[derive(Clone, Debug)]
pub(super) struct Java {
    pub(super) program: PathBuf,
    jars: PathBuf,
}

impl Java {
    /// `KAFKA_HOME`, else the jars of Maven's repository.
    pub(super) fn find() -> Result<Self, EngineError> {
        let of_home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
        let program = match of_home.filter(|program| program.is_file()) {
            Some(program) => program,
            None => JAVA.find(ENGINE)?,
        };
        let jars = match std::env::var_os("KAFKA_HOME") {
            Some(home) => Path::new(&home).join("libs"),
            None => cache::directory("kafka-4.4.0", fetch)?.join("libs"),
        };
        Ok(Self { program, jars })
    }

    /// Arguments that run `main` with a small heap.
    pub(super) fn arguments(&self, main: &str, logging: &Path) -> Vec<OsString> {
        let mut of_logging = OsString::from("-Dlog4j2.configurationFile=");
        of_logging.push(logging);
        vec![
            "-Xms256m".into(),
            "-Xmx512m".into(),
            of_logging,
            "-cp".into(),
            self.jars.join("*").into(),
            main.into(),
        ]
    }
}

fn fetch(dir: &Path) -> Result<(), EngineError> {
    let maven = MAVEN.find(ENGINE)?;
    let progress = progress::spinner(&format!("fetching {WHAT}"));
    fs::write(dir.join("pom.xml"), POM).map_err(file_error(dir))?;
    let mut command = Command::new(maven);
    command.args(["-B", "-q", "dependency:copy-dependencies"]);
    command.args(["-DincludeScope=runtime", "-DoutputDirectory=libs"]);
    tool::run(command.current_dir(dir), WHAT)?;
    progress.say(&format!("verifying {WHAT}"));
    verify(&dir.join("libs"))
}

fn verify(dir: &Path) -> Result<(), EngineError> {
    let (jars, digest) = inventory(dir).map_err(file_error(dir))?;
    if (jars, digest.as_str()) == (JARS, DIGEST) {
        return Ok(());
    }
    let reason = format!("{jars} jars with digest {digest}, expected {JARS} with {DIGEST}");
    Err(fetch_error(WHAT, &reason))
}

/// Number and common digest of all files in `dir`.
fn inventory(dir: &Path) -> std::io::Result<(usize, String)> {
    let mut paths: Vec<_> = fs::read_dir(dir)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    let mut all = Sha256::new();
    for path in &paths {
        let digest = hex::encode(Sha256::digest(fs::read(path)?));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        all.update(format!("{digest}  {name}\n"));
    }
    Ok((paths.len(), hex::encode(all.finalize())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b.jar"), "b").unwrap();
        fs::write(dir.path().join("a.jar"), "a").unwrap();
        let (count, digest) = inventory(dir.path()).unwrap();
        assert_eq!(count, 2);
        // sha256sum *.jar | sha256sum
        assert_eq!(
            digest,
            "320bce965fc440d592724c995bb80ae9df6504b1c3299b7aae543f715a364de1"
        );
        assert!(verify(dir.path()).is_err());
    }
}

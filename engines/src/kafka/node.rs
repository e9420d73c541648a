//! One node: its directory, its file of properties, its process.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::jars::Java;
use super::properties::{self, Member};
use super::{ENGINE, registered_brokers};
use crate::child::{Launch, Running, Work};
use crate::supervisor::Charge;
use crate::{EngineError, file_error, occupancy, tool};

const START_WITHIN: Duration = Duration::from_mins(2);
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// The directory of node `id`, free of earlier processes.
pub(super) fn prepare(cluster: &Path, id: usize) -> Result<PathBuf, EngineError> {
    occupancy::prepare(ENGINE, &cluster.join(format!("node-{id}")))
}

#[derive(Debug)]
pub(super) struct Node {
    dir: PathBuf,
    member: Member,
    running: Option<Running>,
}

impl Node {
    /// Writes its files; nothing runs yet.
    pub(super) fn new(dir: PathBuf, member: Member, all: &[Member]) -> Result<Self, EngineError> {
        let node = Self {
            dir,
            member,
            running: None,
        };
        let text = properties::of_node(member, all, &node.data());
        fs::write(node.properties(), text).map_err(file_error(&node.dir))?;
        fs::write(node.logging(), properties::LOGGING).map_err(file_error(&node.dir))?;
        Ok(node)
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn properties(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn logging(&self) -> PathBuf {
        self.dir.join("log4j2.properties")
    }

    pub(super) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.member.client_port)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Running::pid)
    }

    /// Prepares its data directory, which Kafka refuses to do by itself.
    pub(super) fn format(&self, java: &Java, cluster_id: &str) -> Result<(), EngineError> {
        if self.data().join("meta.properties").is_file() {
            return Ok(());
        }
        let mut command = Command::new(&java.program);
        command.args(java.arguments("kafka.tools.StorageTool", &self.logging()));
        command.args(["format", "--cluster-id", cluster_id, "--config"]);
        tool::run(command.arg(self.properties()), ENGINE)
    }

    /// Starts it; there when it serves and knows of so many brokers.
    pub(super) fn start(&mut self, java: &Java, brokers: usize) -> Result<(), EngineError> {
        // An earlier process of it ends first.
        self.running = None;
        let mut arguments = java.arguments("kafka.Kafka", &self.logging());
        arguments.push(self.properties().into());
        let launch = Launch {
            engine: ENGINE,
            dir: &self.dir,
            remove: None,
            work: Work::Supervise(Charge {
                program: java.program.clone(),
                arguments,
                environment: Vec::new(),
                user: None,
                stop_signal: Signal::TERM.as_raw(),
                stop_within: STOP_WITHIN,
            }),
            start_within: START_WITHIN,
            stop_within: STOP_WITHIN,
        };
        let port = self.member.client_port;
        let ready = || registered_brokers(port).is_ok_and(|known| known >= brokers);
        self.running = Some(launch.start(ready)?);
        Ok(())
    }

    pub(super) fn stop(&mut self) {
        self.running = None;
    }

    pub(super) fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }
}

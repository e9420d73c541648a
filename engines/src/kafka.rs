//! An Apache Kafka cluster of one or more nodes, each broker and controller.
//!
//! The quorum is static: every node's file names all of them, so that any may
//! be killed and started again.

mod jars;
mod node;
mod properties;

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use self::jars::Java;
use self::node::Node;
use self::properties::Member;
use crate::{EngineError, file_error, files, ports};

const ENGINE: &str = "Kafka";

/// A running cluster. Dropping it stops it.
#[derive(Debug)]
pub struct Kafka {
    java: Java,
    nodes: Vec<Node>,
}

impl Kafka {
    /// Starts `nodes` nodes on `dir`, which keeps their data and their ports.
    /// With three, replication is 3 and `min.insync.replicas` is 2.
    pub fn start(dir: &Path, nodes: usize) -> Result<Self, EngineError> {
        let dir = &std::path::absolute(dir).map_err(file_error(dir))?;
        fs::create_dir_all(dir).map_err(file_error(dir))?;
        let java = Java::find()?;
        // Before their ports are looked at.
        let dirs: Result<Vec<_>, _> = (1..=nodes).map(|id| node::prepare(dir, id)).collect();
        let members = members(dir, nodes).map_err(file_error(dir))?;
        let cluster_id = cluster_id(&dir.join("cluster-id")).map_err(file_error(dir))?;
        let nodes = dirs?
            .into_iter()
            .zip(&members)
            .map(|(dir, member)| Node::new(dir, *member, &members))
            .collect::<Result<_, _>>()?;
        let mut cluster = Self { java, nodes };
        cluster.start_all(&cluster_id)?;
        Ok(cluster)
    }

    fn start_all(&mut self, cluster_id: &str) -> Result<(), EngineError> {
        let (java, count) = (&self.java, self.nodes.len());
        at_once(&mut self.nodes, |node| {
            node.format(java, cluster_id)?;
            node.start(java, count)
        })
        .into_iter()
        .collect()
    }

    /// `host:port` of every node, comma-separated: what a client bootstraps from.
    pub fn brokers(&self) -> String {
        let addresses: Vec<_> = self.nodes.iter().map(Node::address).collect();
        addresses.join(",")
    }

    /// Process ids of the nodes that run, by index; `None` for a killed one.
    pub fn pids(&self) -> Vec<Option<u32>> {
        self.nodes.iter().map(Node::pid).collect()
    }

    /// SIGKILL to the node at `index`, as a fault drill does.
    pub fn kill_node(&mut self, index: usize) {
        self.nodes[index].kill();
    }

    /// Starts the node at `index` again, on its data and its ports.
    pub fn start_node(&mut self, index: usize) -> Result<(), EngineError> {
        // It is there when it serves; the others may be down as well.
        self.nodes[index].start(&self.java, 1)
    }

    /// Stops all nodes in order; takes some seconds, as the last ones have
    /// nobody to hand over to.
    pub fn stop(self) {
        drop(self);
    }

    /// SIGKILL to all nodes.
    pub fn kill(mut self) {
        self.nodes.iter_mut().for_each(Node::kill);
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        at_once(&mut self.nodes, Node::stop);
    }
}

/// Does the same to every node at the same time: they wait for each other.
fn at_once<R: Send>(nodes: &mut [Node], act: impl Fn(&mut Node) -> R + Sync) -> Vec<R> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = nodes
            .iter_mut()
            .map(|node| scope.spawn(|| act(node)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|p| std::panic::resume_unwind(p))
            })
            .collect()
    })
}

fn members(dir: &Path, nodes: usize) -> io::Result<Vec<Member>> {
    let ports = ports::keep_many(&dir.join("ports"), 2 * nodes)?;
    let pairs = ports.chunks_exact(2).enumerate();
    Ok(pairs
        .map(|(index, pair)| Member {
            id: index + 1,
            client_port: pair[0],
            controller_port: pair[1],
        })
        .collect())
}

/// 16 random bytes as Kafka writes them, kept.
fn cluster_id(path: &Path) -> io::Result<String> {
    if let Ok(id) = fs::read_to_string(path) {
        return Ok(id);
    }
    let mut bytes: [u8; 16] = rand::random();
    // A leading dash would look like an option to Kafka's tools.
    bytes[0] &= 0x7f;
    let id = URL_SAFE_NO_PAD.encode(bytes);
    files::write_private(path, &id)?;
    Ok(id)
}

/// How many brokers are registered, as the one at `port` knows.
fn registered_brokers(port: u16) -> io::Result<usize> {
    // Metadata, version 0, correlation id 0, no client id, all topics.
    const REQUEST: [u8; 18] = [0, 0, 0, 14, 0, 3, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(&REQUEST)?;
    // Length, correlation id, number of brokers.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    let [.., a, b, c, d] = answer;
    Ok(u32::from_be_bytes([a, b, c, d]) as usize)
}

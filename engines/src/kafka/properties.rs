//! What a node reads at its start.

use std::fmt::Write;
use std::path::Path;

/// A node as the others know it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) id: usize,
    pub(super) client_port: u16,
    pub(super) controller_port: u16,
}

/// Warnings and worse, to the output.
pub(super) const LOGGING: &str = "\
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %m (%c)%n
";

const REPLICATION: usize = 3;

/// The properties of node `own` of `all`. Session time-outs are short, so that
/// a killed node is missed soon.
pub(super) fn of_node(own: Member, all: &[Member], data: &Path) -> String {
    let voters: Vec<_> = all
        .iter()
        .map(|m| format!("{}@127.0.0.1:{}", m.id, m.controller_port))
        .collect();
    let replicas = all.len().min(REPLICATION);
    let in_sync = if replicas == REPLICATION { 2 } else { 1 };
    let (session_ms, heartbeat_ms) = if all.len() == 1 {
        (1000, 300)
    } else {
        (3000, 500)
    };
    let client = format!("PLAINTEXT://127.0.0.1:{}", own.client_port);
    let lines = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", own.id.to_string()),
        ("controller.quorum.voters", voters.join(",")),
        (
            "listeners",
            format!("{client},CONTROLLER://127.0.0.1:{}", own.controller_port),
        ),
        ("advertised.listeners", client),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("inter.broker.listener.name", "PLAINTEXT".to_owned()),
        (
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT".to_owned(),
        ),
        ("log.dirs", data.display().to_string()),
        ("default.replication.factor", replicas.to_string()),
        ("min.insync.replicas", in_sync.to_string()),
        ("offsets.topic.replication.factor", replicas.to_string()),
        ("offsets.topic.num.partitions", replicas.to_string()),
        (
            "transaction.state.log.replication.factor",
            replicas.to_string(),
        ),
        ("transaction.state.log.min.isr", in_sync.to_string()),
        ("transaction.state.log.num.partitions", replicas.to_string()),
        (
            "share.coordinator.state.topic.replication.factor",
            replicas.to_string(),
        ),
        ("share.coordinator.state.topic.min.isr", in_sync.to_string()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
        ("auto.create.topics.enable", "false".to_owned()),
        ("broker.session.timeout.ms", session_ms.to_string()),
        ("broker.heartbeat.interval.ms", heartbeat_ms.to_string()),
    ];
    let mut text = String::new();
    for (key, value) in lines {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "{key}={value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: usize) -> Vec<Member> {
        (1..=count)
            .map(|id| Member {
                id,
                client_port: id as u16,
                controller_port: 10 + id as u16,
            })
            .collect()
    }

    #[test]
    fn three_nodes_vote_and_keep_two_replicas_in_sync() {
        let all = members(3);
        let text = of_node(all[1], &all, Path::new("/data"));
        let has = |line: &str| text.lines().any(|l| l == line);
        assert!(has("node.id=2"), "{text}");
        assert!(has(
            "controller.quorum.voters=1@127.0.0.1:11,2@127.0.0.1:12,3@127.0.0.1:13"
        ));
        assert!(has(
            "listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:12"
        ));
        assert!(has("default.replication.factor=3") && has("min.insync.replicas=2"));
    }

    #[test]
    fn one_node_needs_no_other() {
        let all = members(1);
        let text = of_node(all[0], &all, Path::new("/data"));
        let replication = text.lines().filter(|l| l.contains("replication.factor"));
        assert!(replication.clone().count() == 4 && replication.clone().all(|l| l.ends_with("=1")));
        assert!(text.contains("min.insync.replicas=1\n"));
    }
}

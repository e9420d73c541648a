//! A cluster forms, and outlives the loss of a node. It takes a minute, so it
//! runs where `SLUICE_TEST_KAFKA=1` asks for it.

use std::time::Instant;

use sluice_engines::Kafka;

fn asked_for() -> bool {
    std::env::var_os("SLUICE_TEST_KAFKA").is_some_and(|value| value == "1")
}

#[test]
fn three_nodes_form_and_one_comes_back_from_a_kill() {
    if !asked_for() {
        eprintln!("left out: SLUICE_TEST_KAFKA is not 1");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut cluster = Kafka::start(dir.path(), 3).unwrap();
    println!("formed in {:?}", started.elapsed());
    let before = cluster.pids();
    assert_eq!(cluster.brokers().split(',').count(), 3);
    cluster.kill_node(1);
    assert_eq!(cluster.pids(), [before[0], None, before[2]]);
    cluster.start_node(1).unwrap();
    let after = cluster.pids();
    assert!(after[1].is_some() && after[1] != before[1]);
    assert_eq!([after[0], after[2]], [before[0], before[2]]);
    cluster.kill();
}

#[test]
fn one_node_starts_again_on_its_directory() {
    if !asked_for() {
        eprintln!("left out: SLUICE_TEST_KAFKA is not 1");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Kafka::start(dir.path(), 1).unwrap();
    let brokers = cluster.brokers();
    cluster.stop();
    let started = Instant::now();
    let cluster = Kafka::start(dir.path(), 1).unwrap();
    println!("started again in {:?}", started.elapsed());
    assert_eq!(cluster.brokers(), brokers);
    cluster.kill();
}

//! What the log cannot take is refused, and nothing of it is stored.

use sluice_eventlog::embedded::EmbeddedConfig;
use sluice_service::admin::Readiness;

use crate::support::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_is_503_and_nothing_is_stored() {
    let log = EmbeddedConfig {
        segment_bytes: 4_000,
        max_bytes: 20_000,
        ..EmbeddedConfig::default()
    };
    let world = World::start(Setting {
        log,
        ..Setting::default()
    })
    .await;
    let mut accepted = 0;
    let refused = loop {
        let reply = world.post(launch()).await;
        if reply.status != 204 {
            break reply;
        }
        accepted += 1;
        assert!(accepted < 1_000, "the log never fills");
    };
    assert_eq!((refused.status, &*refused.code()), (503, "log_full"));
    assert!(
        refused
            .header("retry-after")
            .unwrap()
            .parse::<u32>()
            .unwrap()
            >= 1
    );
    assert!(refused.header("x-request-id").is_some());
    assert_eq!(refused.json()["error"], "Temporarily unavailable");
    assert_eq!(logged(&world.health).len(), accepted);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_committer_is_503() {
    let world = World::start(Setting::default()).await;
    let readiness = Readiness::new();
    world.edge.register(&readiness);
    assert!(readiness.reasons().is_empty());
    world.edge.close();
    let reply = world.post(launch()).await;
    assert_eq!((reply.status, &*reply.code()), (503, "log_unavailable"));
    assert!(logged(&world.health).is_empty());
}

//! A stop under load loses nothing that was acknowledged.

use std::collections::HashSet;
use std::net::SocketAddr;

use crate::support::*;

/// Posts until the edge is gone; which devices were told 204.
async fn device_after_device(address: SocketAddr, client: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        let device = format!("device-{client}-{n}");
        let body = launch().replace("\"d\"", &format!("\"{device}\""));
        match post(address, body.as_bytes()).await {
            Some(204) => acknowledged.push(device),
            Some(other) => panic!("{other}"),
            None => break,
        }
    }
    acknowledged
}

async fn post(address: SocketAddr, body: &[u8]) -> Option<u16> {
    use tokio::io::AsyncWriteExt as _;
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = Request::post(HEALTH, body).bytes();
    stream.write_all(&request).await.ok()?;
    Reply::parse(&read_to_end(&mut stream).await).map(|reply| reply.status)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_in_the_log() {
    let mut world = World::start(Setting::default()).await;
    let clients: Vec<_> = (0..16)
        .map(|client| tokio::spawn(device_after_device(world.address, client)))
        .collect();
    eventually("there is load", async || logged(&world.health).len() > 200).await;
    world.stop.cancel();
    (&mut world.serving).await.unwrap();
    world.edge.close();
    let in_log: HashSet<_> = logged(&world.health)
        .into_iter()
        .map(|request| {
            let body: serde_json::Value = serde_json::from_slice(&request.payload).unwrap();
            body["deviceId"].as_str().unwrap().to_owned()
        })
        .collect();
    let mut acknowledged = 0;
    for client in clients {
        for device in client.await.unwrap() {
            assert!(in_log.contains(&device), "{device}");
            acknowledged += 1;
        }
    }
    assert!(acknowledged >= 200);
    // And nobody was told less than was stored: every answer arrived.
    assert_eq!(acknowledged, in_log.len());
}

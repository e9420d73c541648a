//! A receiver gets each event, also when the process dies while it sends them.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::sluice::{INSIDE, PATIENCE, Sluice, directory};

const EVENTS: usize = 12;

/// The id and the branch that an event names.
type Event = (String, String);

/// An endpoint that answers nobody until it is told to.
struct Receiver {
    url: String,
    received: UnboundedReceiver<Event>,
    answers: watch::Sender<bool>,
}

impl Receiver {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (sender, received) = unbounded_channel();
        let (answers, answering) = watch::channel(false);
        let app = axum::Router::new()
            .fallback(receive)
            .with_state((sender, answering));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            url,
            received,
            answers,
        }
    }

    async fn next(&mut self) -> Event {
        let next = timeout(PATIENCE, self.received.recv()).await;
        next.expect("an event in time").unwrap()
    }
}

type Shared = (UnboundedSender<Event>, watch::Receiver<bool>);

async fn receive(State((sender, mut answering)): State<Shared>, headers: HeaderMap, body: String) {
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    let body: Value = serde_json::from_str(&body).unwrap();
    let branch = body["data"]["name"].as_str().unwrap().to_owned();
    // The test may be over.
    let _ = sender.send((id, branch));
    let _ = answering.wait_for(|answers| *answers).await;
}

#[tokio::test]
async fn each_event_arrives_also_through_kill_9() {
    let dir = directory();
    let mut receiver = Receiver::start().await;
    let sluice = Sluice::start_with(dir.path(), &INSIDE).await;
    let hook = json!({ "url": receiver.url, "events": ["branch.created"] });
    sluice.post("/v1/ota/webhooks", &hook).await;
    let mut branches = BTreeSet::new();
    for n in 0..EVENTS {
        let branch = format!("branch-{n}");
        sluice
            .post("/v1/ota/branches", &json!({ "name": branch }))
            .await;
        branches.insert(branch);
    }
    let under_way = receiver.next().await;
    sluice.kill();

    receiver.answers.send(true).unwrap();
    let sluice = Sluice::start_with(dir.path(), &INSIDE).await;
    // As if the leases of the dead had ended.
    let pool = sluice.postgres().await;
    sqlx::query("update webhook_deliveries set claimed_until = now() where claimed_until > now()")
        .execute(&pool)
        .await
        .unwrap();
    let mut arrived = BTreeSet::new();
    let mut again = false;
    while arrived.len() < EVENTS || !again {
        let event = receiver.next().await;
        again |= event == under_way;
        arrived.insert(event);
    }
    let named: BTreeSet<_> = arrived.into_iter().map(|(_, branch)| branch).collect();
    assert_eq!(named, branches);
    let path = "/v1/ota/webhooks";
    let hook = sluice.get(path).await[0]["id"].clone();
    let settled = |deliveries: &Value| {
        let deliveries = deliveries.as_array().unwrap();
        deliveries.len() == EVENTS && deliveries.iter().all(|one| one["status"] == "success")
    };
    sluice
        .get_until(&format!("{path}/{hook}/deliveries"), settled)
        .await;
}

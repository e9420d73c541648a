use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::UnboundedSender;

use super::*;

const DEADLINE: Duration = Duration::from_secs(5);

/// A lifecycle whose stages note their names; signals come from a channel.
struct Probe {
    lifecycle: Lifecycle,
    stopped: Arc<Mutex<Vec<&'static str>>>,
    signals: UnboundedSender<()>,
    receiver: mpsc::UnboundedReceiver<()>,
}

impl Probe {
    fn new() -> Self {
        let (signals, receiver) = mpsc::unbounded_channel();
        Self {
            lifecycle: Lifecycle::new(),
            stopped: Arc::default(),
            signals,
            receiver,
        }
    }

    fn stage(&mut self, name: &'static str) {
        let stopped = Arc::clone(&self.stopped);
        self.lifecycle.stage(
            name,
            DEADLINE,
            async move { stopped.lock().unwrap().push(name) },
        );
    }

    /// A stage that never ends.
    fn stuck(&mut self) {
        self.lifecycle
            .stage("stuck", DEADLINE, std::future::pending());
    }

    async fn run(mut self) -> (ExitCode, Vec<&'static str>) {
        let signals = self.signals;
        let next = async move || {
            let _open = &signals;
            self.receiver.recv().await;
            "test"
        };
        let code = self
            .lifecycle
            .run_until(next, || ExitCode::from(EXIT_ABORTED))
            .await;
        (code, std::mem::take(&mut *self.stopped.lock().unwrap()))
    }
}

#[tokio::test]
async fn stages_stop_in_the_order_they_were_added() {
    let mut probe = Probe::new();
    probe.stage("readiness");
    probe.stage("listener");
    probe.stage("log");
    probe.signals.send(()).unwrap();
    assert_eq!(
        probe.run().await,
        (ExitCode::SUCCESS, vec!["readiness", "listener", "log"])
    );
}

#[tokio::test(start_paused = true)]
async fn a_stage_past_its_deadline_does_not_hold_up_the_next() {
    let mut probe = Probe::new();
    probe.stuck();
    probe.stage("log");
    probe.signals.send(()).unwrap();
    assert_eq!(probe.run().await, (ExitCode::FAILURE, vec!["log"]));
}

#[tokio::test]
async fn a_second_signal_exits_at_once() {
    let mut probe = Probe::new();
    probe.stuck();
    probe.stage("log");
    probe.signals.send(()).unwrap();
    probe.signals.send(()).unwrap();
    assert_eq!(probe.run().await, (ExitCode::from(EXIT_ABORTED), vec![]));
}

#[tokio::test]
async fn a_failure_stops_everything_and_shows_in_the_exit_code() {
    let mut probe = Probe::new();
    probe.stage("log");
    probe
        .lifecycle
        .failure_reporter()
        .report("consumer", &"fenced");
    assert_eq!(probe.run().await, (ExitCode::FAILURE, vec!["log"]));
}

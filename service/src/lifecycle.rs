//! From the signal to the exit: one owner of the shutdown's order and deadlines.
//!
//! A service registers its stages in the order in which they are to stop, from
//! the outside in: readiness off, stop accepting, answer what is in flight,
//! flush, close. SIGTERM, SIGINT or the failure of a component starts them.
//!
//! What always holds: a stage starts when the one before it has ended or has
//! used up its deadline; a second signal exits at once; the exit code is 0 only
//! if a signal started the shutdown and every stage ended in time.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// As a shell reports a process that SIGINT ended.
const EXIT_ABORTED: u8 = 130;

struct Stage {
    name: &'static str,
    deadline: Duration,
    stop: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Reports that a component cannot go on, which stops the process in order.
#[derive(Clone)]
pub struct FailureReporter(mpsc::UnboundedSender<Failure>);

impl FailureReporter {
    /// Starts the shutdown; the process will exit with code 1.
    pub fn report(&self, component: &'static str, reason: &impl ToString) {
        // No receiver: the shutdown is under way already.
        let _ = self.0.send(Failure {
            component,
            reason: reason.to_string(),
        });
    }
}

struct Failure {
    component: &'static str,
    reason: String,
}

/// The stages of one process's shutdown.
pub struct Lifecycle {
    stages: Vec<Stage>,
    failures: mpsc::UnboundedReceiver<Failure>,
    reporter: FailureReporter,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// No stages yet.
    pub fn new() -> Self {
        let (sender, failures) = mpsc::unbounded_channel();
        Self {
            stages: Vec::new(),
            failures,
            reporter: FailureReporter(sender),
        }
    }

    /// For components that may find that they cannot go on.
    pub fn failure_reporter(&self) -> FailureReporter {
        self.reporter.clone()
    }

    /// Adds the next stage. `stop` first runs when its turn comes; blocking
    /// work belongs into `spawn_blocking`.
    pub fn stage(
        &mut self,
        name: &'static str,
        deadline: Duration,
        stop: impl Future<Output = ()> + Send + 'static,
    ) {
        self.stages.push(Stage {
            name,
            deadline,
            stop: Box::pin(stop),
        });
    }

    /// Waits for SIGTERM, SIGINT or a failure, then stops everything in order.
    /// A second signal does not return: it exits the process.
    pub async fn run(self) -> io::Result<ExitCode> {
        let mut signals = Signals::listen()?;
        Ok(self
            .run_until(async move || signals.next().await, exit_at_once)
            .await)
    }

    async fn run_until(
        mut self,
        mut next_signal: impl AsyncFnMut() -> &'static str,
        abort: impl FnOnce() -> ExitCode,
    ) -> ExitCode {
        let clean = tokio::select! {
            name = next_signal() => {
                tracing::info!(signal = name, "shutting down; another signal exits at once");
                true
            }
            Some(failure) = self.failures.recv() => {
                tracing::error!(failure.component, failure.reason, "shutting down after a failure");
                false
            }
        };
        tokio::select! {
            in_time = stop(self.stages) => if clean && in_time { ExitCode::SUCCESS } else { ExitCode::FAILURE },
            _ = next_signal() => abort(),
        }
    }
}

fn exit_at_once() -> ExitCode {
    tracing::warn!("second signal: exiting at once");
    std::process::exit(i32::from(EXIT_ABORTED));
}

/// Runs the stages in order; whether all ended in time.
async fn stop(stages: Vec<Stage>) -> bool {
    let mut all_in_time = true;
    for Stage {
        name,
        deadline,
        stop,
    } in stages
    {
        let in_time = tokio::time::timeout(deadline, stop).await.is_ok();
        if !in_time {
            tracing::warn!(
                stage = name,
                ?deadline,
                "a stage of the shutdown missed its deadline"
            );
        }
        all_in_time &= in_time;
    }
    all_in_time
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self {
            terminate,
            interrupt,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests;

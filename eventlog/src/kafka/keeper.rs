//! Watches over a topic and its producer, in a thread of its own.
//!
//! It looks for the topic until it is there, looks again whenever something
//! failed, and replaces a producer that can no longer be used.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::KafkaConfig;
use super::producer::Producer;
use super::topic::{self, Topic};
use crate::{Health, LogError};

/// Between two looks while something is wrong.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

struct State {
    partitions: u32,
    /// Why appends cannot be expected to work; `None`: they can.
    trouble: Option<String>,
    /// The producer reported that it must be made anew.
    dead: bool,
    stop: bool,
}

/// What is known of the topic, shared with those who learn something.
pub(crate) struct Status {
    state: Mutex<State>,
    changed: Condvar,
}

impl Status {
    pub(crate) fn new(partitions: u32) -> Self {
        Self {
            state: Mutex::new(State {
                partitions,
                trouble: Some("looking for the topic".to_owned()),
                dead: false,
                stop: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is valid between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As configured, until the topic has been seen.
    pub(crate) fn partitions(&self) -> u32 {
        self.lock().partitions
    }

    pub(crate) fn health(&self) -> Health {
        match &self.lock().trouble {
            None => Health::Ready,
            Some(reason) => Health::NotReady(reason.clone()),
        }
    }

    /// The topic is there.
    pub(crate) fn found(&self, topic: &Topic) {
        let mut state = self.lock();
        state.partitions = topic.partitions.max(1);
        if !state.dead {
            state.trouble = None;
        }
    }

    /// An append was acknowledged.
    pub(crate) fn delivered(&self) {
        let mut state = self.lock();
        if !state.dead {
            state.trouble = None;
        }
    }

    /// Something failed; the keeper looks whether it still does.
    pub(crate) fn trouble(&self, reason: &str) {
        let mut state = self.lock();
        if state.trouble.is_none() {
            state.trouble = Some(reason.to_owned());
            self.changed.notify_all();
        }
    }

    pub(crate) fn producer_is_dead(&self, reason: &str) {
        tracing::error!(reason, "the producer failed and is replaced");
        let mut state = self.lock();
        state.dead = true;
        state.trouble = Some(reason.to_owned());
        self.changed.notify_all();
    }
}

/// The thread. Dropping it stops and joins it.
pub(crate) struct Keeper {
    status: Arc<Status>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    pub(crate) fn start(
        config: KafkaConfig,
        status: Arc<Status>,
        producer: Arc<Mutex<Arc<Producer>>>,
    ) -> Result<Self, LogError> {
        let of_thread = Arc::clone(&status);
        let thread = std::thread::Builder::new()
            .name("kafka-keeper".to_owned())
            .spawn(move || run(&config, &of_thread, &producer))
            .map_err(|error| LogError::Fatal(error.to_string()))?;
        Ok(Self {
            status,
            thread: Some(thread),
        })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.status.lock().stop = true;
        self.status.changed.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the keeper of a Kafka topic panicked");
        }
    }
}

fn run(config: &KafkaConfig, status: &Arc<Status>, producer: &Mutex<Arc<Producer>>) {
    while wait_for_trouble(status) {
        let dead = std::mem::take(&mut status.lock().dead);
        if dead {
            replace(config, status, producer);
        }
        match topic::ensure(config) {
            Ok(topic) => status.found(&topic),
            Err(error) => {
                let reason = format!("{}: {error}", config.topic);
                let mut state = status.lock();
                if state.trouble.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "Kafka is not ready");
                    state.trouble = Some(reason);
                }
            }
        }
        pause(status);
    }
}

/// False when it is time to stop.
fn wait_for_trouble(status: &Status) -> bool {
    let waited = status.changed.wait_while(status.lock(), |state| {
        state.trouble.is_none() && !state.stop
    });
    !waited.unwrap_or_else(PoisonError::into_inner).stop
}

fn pause(status: &Status) {
    // Whether it timed out or was told to stop is seen by the next look.
    drop(
        status
            .changed
            .wait_timeout_while(status.lock(), AGAIN_AFTER, |state| !state.stop),
    );
}

fn replace(config: &KafkaConfig, status: &Arc<Status>, producer: &Mutex<Arc<Producer>>) {
    match Producer::new(config, status) {
        Ok(fresh) => {
            let mut current = producer.lock().unwrap_or_else(PoisonError::into_inner);
            let old = std::mem::replace(&mut *current, Arc::new(fresh));
            drop(current);
            // Answers what it still held as unknown; not under the lock.
            drop(old);
        }
        Err(error) => {
            tracing::error!(%error, "no new producer; trying again");
            status.lock().dead = true;
        }
    }
}

//! One of our programs under test: started, killed, and started again when it
//! ends by itself, as a supervisor does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::http::Client;
use crate::process::{self, Process};
use crate::{Error, workspace};

/// The first start of all may fetch engines.
const START_WITHIN: Duration = Duration::from_mins(10);
const POLL: Duration = Duration::from_millis(50);
/// Ends in a row while it starts, before it counts as broken.
const MAX_ENDS: u32 = 3;

/// How to run a program.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its file name.
    pub program: &'static str,
    /// Its configuration.
    pub environment: Vec<(&'static str, String)>,
    /// Where its output goes.
    pub log: PathBuf,
}

/// A running program with an admin port.
pub struct Service {
    launch: Launch,
    admin: SocketAddr,
    process: Process,
}

impl Service {
    /// Starts it and waits until it is ready.
    pub async fn start(mut launch: Launch) -> Result<Self, Error> {
        let admin = workspace::free_address()?;
        launch
            .environment
            .push(("SLUICE_ADMIN_LISTEN", admin.to_string()));
        let process = start(&launch)?;
        let mut this = Self {
            launch,
            admin,
            process,
        };
        this.wait_until_ready().await?;
        Ok(this)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// SIGKILL, then a start with the same configuration; ready when this returns.
    pub async fn kill_and_restart(&mut self) -> Result<(), Error> {
        self.process.kill();
        self.process = start(&self.launch)?;
        self.wait_until_ready().await
    }

    /// Starts it again if it has ended by itself; whether it had.
    pub fn mend(&mut self) -> Result<bool, Error> {
        let ended = self.process.has_ended();
        if ended {
            self.process = start(&self.launch)?;
        }
        Ok(ended)
    }

    /// Waits until it says that it can do its job.
    pub async fn wait_until_ready(&mut self) -> Result<(), Error> {
        let url = format!("http://{}/readyz", self.admin);
        let client = Client::default();
        let deadline = Instant::now() + START_WITHIN;
        let mut ends = 0;
        while !client
            .get(&url)
            .await
            .is_ok_and(|answer| answer.status.is_success())
        {
            ends += u32::from(self.mend()?);
            if ends > MAX_ENDS || Instant::now() > deadline {
                let Launch { program, log, .. } = &self.launch;
                return Err(format!("{program} does not start:\n{}", workspace::tail(log)).into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// SIGTERM, and waits for an orderly end.
    pub fn stop(mut self) -> Result<(), Error> {
        if self.process.stop() {
            Ok(())
        } else {
            Err(format!("{} did not stop in time", self.launch.program).into())
        }
    }
}

fn start(launch: &Launch) -> Result<Process, Error> {
    let mut command = Command::new(process::beside_us(launch.program)?);
    command.envs(launch.environment.iter().cloned());
    Process::start(command, &launch.log)
}

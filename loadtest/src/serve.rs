//! One variant of a benchmark, in a process of its own.

mod edge;
pub mod fixed;

use std::io::Read as _;
use std::path::PathBuf;

use tokio::net::TcpListener;

use crate::Error;
use crate::bench::baseline::{self, Baseline, GroupSync};

/// What to serve.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    variant: Variant,
    /// Where the variant may write.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Variant {
    Bare,
    Json,
    Fsync,
    Edge,
    Fixed,
}

/// Serves until standard input ends.
pub async fn serve(options: Options) -> Result<bool, Error> {
    std::thread::spawn(exit_with_our_starter);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("http://{}", listener.local_addr()?);
    let baseline = match options.variant {
        Variant::Bare => Baseline::Bare,
        Variant::Json => Baseline::Json,
        Variant::Fsync => Baseline::Fsync(GroupSync::start(&options.dir)?),
        Variant::Fixed => {
            fixed::serve(listener, &options.dir).await?;
            return Ok(true);
        }
        Variant::Edge => {
            edge::serve(listener, &options.dir).await?;
            return Ok(true);
        }
    };
    baseline::serve(listener, baseline).await?;
    Ok(true)
}

fn exit_with_our_starter() {
    let mut byte = [0];
    while !matches!(std::io::stdin().read(&mut byte), Ok(0) | Err(_)) {}
    std::process::exit(0);
}

//! A way to the store that can be cut, or lead nowhere.

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Open,
    /// Connections are closed.
    Cut,
    /// Connections are accepted, and nothing comes back.
    Silent,
}

pub(crate) struct Proxy {
    pub(crate) url: String,
    way: watch::Sender<Way>,
}

impl Proxy {
    /// To the server of this address.
    pub(crate) async fn start(url: &str) -> Self {
        let target = url
            .trim_start_matches("http://")
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, ways) = watch::channel(Way::Open);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, target.clone(), ways.clone()));
            }
        });
        Self {
            url: format!("http://{address}"),
            way,
        }
    }

    pub(crate) fn turn(&self, way: Way) {
        self.way.send(way).unwrap();
    }
}

/// Until either end closes, or the way changes.
async fn carry(mut stream: TcpStream, target: String, mut ways: watch::Receiver<Way>) {
    let way = *ways.borrow_and_update();
    match way {
        Way::Cut => {}
        Way::Silent => drop(ways.changed().await),
        Way::Open => {
            let mut server = TcpStream::connect(target).await.unwrap();
            tokio::select! {
                _ = copy_bidirectional(&mut stream, &mut server) => {}
                _ = ways.changed() => {
                    // What is in flight gets no answer any more.
                    if *ways.borrow_and_update() == Way::Silent {
                        drop(ways.changed().await);
                    }
                }
            }
        }
    }
}

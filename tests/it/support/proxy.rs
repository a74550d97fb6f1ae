//! A network between two nodes that a test can cut.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    task::JoinHandle,
};

/// Passes connections on to an address, and cuts one in the middle when told to.
pub(crate) struct CuttingProxy {
    addr: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    /// How many bytes may pass, both ways together, until a connection is cut.
    left: AtomicI64,
    cuts: AtomicU64,
}

impl CuttingProxy {
    /// A proxy before `to`, which cuts nothing yet.
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let state = Arc::new(State { left: AtomicI64::new(i64::MAX), cuts: AtomicU64::new(0) });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Ok(to) = TcpStream::connect(to).await {
                        // However it ends, both sides are closed.
                        let _ = state.pass(from, to).await;
                    }
                });
            }
        });
        Self { addr, state, accepting }
    }

    /// Where it listens, as a URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Cuts the connection over which the last of so many more bytes pass; once.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.state.left.store(bytes, SeqCst);
    }

    /// How many connections it has cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.state.cuts.load(SeqCst)
    }
}

impl Drop for CuttingProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    async fn pass(&self, mut from: TcpStream, mut to: TcpStream) -> std::io::Result<()> {
        let (from_read, from_write) = from.split();
        let (to_read, to_write) = to.split();
        tokio::try_join!(self.pass_on(from_read, to_write), self.pass_on(to_read, from_write)).map(drop)
    }

    async fn pass_on(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> std::io::Result<()> {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let length = from.read(&mut bytes).await?;
            if length == 0 {
                return to.shutdown().await;
            }
            let counted = i64::try_from(length).expect("a small buffer");
            if self.left.fetch_sub(counted, SeqCst) <= counted {
                self.left.store(i64::MAX, SeqCst);
                self.cuts.fetch_add(1, SeqCst);
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            to.write_all(&bytes[..length]).await?;
        }
    }
}

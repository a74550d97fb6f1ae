//! A network between two nodes that a test can spoil.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use fastrand::Rng;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// What the network does to what passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    /// Nothing.
    Calm,
    /// Each piece comes late, by up to so long.
    Slow(Duration),
    /// So many bytes a second pass.
    Narrow(u32),
    /// Of so many pieces one is torn: a part of it passes, and the connection is cut.
    Tearing(u32),
    /// Everything is taken and nothing passed on. When it changes, the connections that lived through it are cut.
    Swallowing,
    /// Requests come twice: the last one or an earlier one, whole or torn, at once or late.
    Repeating,
}

/// Passes HTTP connections on to an address, as the weather allows, and cuts one in the middle when told to.
pub(crate) struct FaultProxy {
    addr: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    to: SocketAddr,
    weather: watch::Sender<Weather>,
    chance: Mutex<Rng>,
    /// How many bytes may pass, both ways together, until a connection is cut.
    left: AtomicI64,
    cuts: AtomicU64,
    /// Whether the next cut leaves the half of the side that is asked.
    leaves: AtomicBool,
    left_open: Mutex<Vec<TcpStream>>,
    repeats: AtomicU64,
    /// The last requests that were answered.
    requests: Mutex<VecDeque<Vec<u8>>>,
}

/// How many requests are kept to be sent again, and how many bytes of each; a longer one is not sent again.
const REQUESTS_MAX: usize = 8;
const REQUEST_BYTES_MAX: usize = 256 << 10;

impl FaultProxy {
    /// A proxy before `to`, which spoils nothing yet.
    pub(crate) async fn start(to: SocketAddr) -> Self {
        Self::start_with(to, 0).await
    }

    /// The same with a seed for what is left to chance.
    pub(crate) async fn start_with(to: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("an address");
        let state = Arc::new(State {
            to,
            weather: watch::Sender::new(Weather::Calm),
            chance: Mutex::new(Rng::with_seed(seed)),
            left: AtomicI64::new(i64::MAX),
            cuts: AtomicU64::new(0),
            leaves: AtomicBool::new(false),
            left_open: Mutex::default(),
            repeats: AtomicU64::new(0),
            requests: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(to).await {
                        let passed = state.pass(from, &mut to).await;
                        // However it ends, both sides are closed, unless one is left.
                        if passed.is_err_and(|error| error.kind() == io::ErrorKind::NotConnected) {
                            state.left_open.lock().unwrap().push(to);
                        }
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

    /// Changes the weather, for connections that are open too.
    pub(crate) fn set_weather(&self, weather: Weather) {
        self.state.weather.send_replace(weather);
    }

    /// Cuts the connection over which the last of so many more bytes pass; once.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.state.left.store(bytes, SeqCst);
    }

    /// Does the same, but the side that is asked hears nothing of it: its half stays open.
    pub(crate) fn leave_after(&self, bytes: i64) {
        self.state.leaves.store(true, SeqCst);
        self.cut_after(bytes);
    }

    /// How many connections it has cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.state.cuts.load(SeqCst)
    }

    /// How many requests it has sent again.
    pub(crate) fn repeats(&self) -> u64 {
        self.state.repeats.load(SeqCst)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl State {
    async fn pass(self: &Arc<Self>, mut from: TcpStream, to: &mut TcpStream) -> io::Result<()> {
        let (from_read, from_write) = from.split();
        let (to_read, to_write) = to.split();
        // A request is what has come since the last answer began.
        let request = Mutex::new(Vec::new());
        let asking = self.pass_on(from_read, to_write, |piece| request.lock().unwrap().extend_from_slice(piece));
        let answering = self.pass_on(to_read, from_write, |_| {
            let request = std::mem::take(&mut *request.lock().unwrap());
            if !request.is_empty() {
                self.answered(request);
            }
        });
        tokio::try_join!(asking, answering).map(drop)
    }

    async fn pass_on(&self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, passed: impl Fn(&[u8])) -> io::Result<()> {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let length = from.read(&mut bytes).await?;
            if length == 0 {
                return to.shutdown().await;
            }
            let counted = i64::try_from(length).expect("a small buffer");
            if self.left.fetch_sub(counted, SeqCst) <= counted {
                self.left.store(i64::MAX, SeqCst);
                let cut = self.cut();
                return Err(if self.leaves.swap(false, SeqCst) { io::ErrorKind::NotConnected.into() } else { cut });
            }
            let weather = *self.weather.borrow();
            match weather {
                Weather::Calm | Weather::Repeating => {}
                Weather::Slow(longest) => sleep(longest.mul_f64(self.chance(Rng::f64))).await,
                Weather::Narrow(rate) => sleep(Duration::from_secs(1).mul_f64(length as f64 / f64::from(rate))).await,
                Weather::Tearing(pieces) => {
                    if let Some(whole) = self.chance(|rng| (rng.u32(..pieces) == 0).then(|| rng.usize(..length))) {
                        to.write_all(&bytes[..whole]).await?;
                        return Err(self.cut());
                    }
                }
                Weather::Swallowing => {
                    let mut weather = self.weather.subscribe();
                    let swallowing = async { while matches!(from.read(&mut bytes).await, Ok(1..)) {} };
                    tokio::select! {
                        () = swallowing => {}
                        _ = weather.wait_for(|weather| *weather != Weather::Swallowing) => {}
                    }
                    return Err(self.cut());
                }
            }
            passed(&bytes[..length]);
            to.write_all(&bytes[..length]).await?;
        }
    }

    fn cut(&self) -> io::Error {
        self.cuts.fetch_add(1, SeqCst);
        io::ErrorKind::ConnectionReset.into()
    }

    fn chance<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.chance.lock().unwrap())
    }

    /// Keeps a request, and sends it or an earlier one again if that is the weather.
    fn answered(self: &Arc<Self>, request: Vec<u8>) {
        let mut requests = self.requests.lock().unwrap();
        if request.len() <= REQUEST_BYTES_MAX {
            requests.push_back(request);
            if requests.len() > REQUESTS_MAX {
                requests.pop_front();
            }
        }
        if *self.weather.borrow() != Weather::Repeating || requests.is_empty() {
            return;
        }
        let (mut request, late) = self.chance(|rng| {
            let which = if rng.bool() { requests.len() - 1 } else { rng.usize(..requests.len()) };
            let mut request = requests[which].clone();
            if rng.u8(..4) == 0 {
                request.truncate(rng.usize(..request.len()));
            }
            (request, Duration::from_millis(if rng.bool() { 0 } else { rng.u64(..2000) }))
        });
        let state = Arc::clone(self);
        tokio::spawn(async move {
            sleep(late).await;
            let Ok(mut stream) = TcpStream::connect(state.to).await else { return };
            if stream.write_all(&request).await.is_ok() {
                state.repeats.fetch_add(1, SeqCst);
                // Whatever the answer is; a torn request gets none until the connection is closed.
                let _ = timeout(Duration::from_secs(1), stream.read_buf(&mut request)).await;
            }
        });
    }
}

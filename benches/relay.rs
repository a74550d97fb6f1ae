//! What does the whole relay cost, layers included: a query through a front against a server that only plays a script,
//! beside the same query to that server directly? The difference is the relay's, two more copies through the kernel
//! included.

use std::{
    fs,
    io::{BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mysql_async::Opts;
use tokio_util::sync::CancellationToken;
use towline::{
    classify::SqlClassifier,
    frontend::mysql::{Limits, MySqlFront, Networks, SessionCount, serve},
    keepalive::Keepalive,
    upstream::{Endpoint, Killer, LoginKey},
    wire::frame::{HEADER_LEN, Header, put_packet},
};
use towline_middleware::{
    Role, Stack,
    layers::{fan_out::FanOutLayer, guard::GuardLayer, user::UserLayers},
};

const OK: &[u8] = &[0, 0, 0, 2, 0, 0, 0];
const END_OF_ROWS: &[u8] = &[0xfe, 0, 0, 2, 0, 0, 0];
const POINT_SELECT: &[u8] = b"\x03SELECT c FROM sbtest1 WHERE id=5012";
const RANGE_SELECT: &[u8] = b"\x03SELECT c FROM sbtest1 WHERE id BETWEEN 1 AND 1000";

/// A result of one column and so many rows of 120 bytes.
fn result(rows: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut next = put_packet(&mut out, 1, &[1]);
    let definition = b"\x03def\x06sbtest\x07sbtest1\x07sbtest1\x01c\x01c\x0c\x2d\0\xe0\x01\0\0\xfe\0\0\0\0\0";
    next = put_packet(&mut out, next, definition);
    for _ in 0..rows {
        let mut row = vec![119];
        row.resize(120, b'x');
        next = put_packet(&mut out, next, &row);
    }
    put_packet(&mut out, next, END_OF_ROWS);
    out
}

/// Reads one packet; `None` at the end.
fn read_packet(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header).ok()?;
    let header = Header::decode(&header)?;
    let mut payload = vec![0; header.len];
    stream.read_exact(&mut payload).ok()?;
    Some((header.sequence, payload))
}

fn play(mut stream: UnixStream, greeting: &[u8]) -> Option<()> {
    let (one, thousand) = (result(1), result(1000));
    stream.write_all(greeting).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (sequence, payload) = read_packet(&mut reader)?;
        let mut ok = Vec::new();
        put_packet(&mut ok, sequence.wrapping_add(1), OK);
        let reply = match &payload[..] {
            POINT_SELECT => &one,
            RANGE_SELECT => &thousand,
            _ => &ok,
        };
        stream.write_all(reply).ok()?;
    }
}

/// A front as a master has it, before the server that plays its script.
fn front(socket: &Path) -> std::net::SocketAddr {
    let endpoint = Endpoint::unix(socket);
    let (sender, address) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let front = MySqlFront {
                role: Role::Slave,
                endpoint,
                stack: Stack {
                    trace: Default::default(),
                    admission: Default::default(),
                    classify: Default::default(),
                    user: UserLayers::new([]),
                    guard: GuardLayer::new(Role::Slave),
                    fan_out: FanOutLayer::slave(),
                },
                classifier: Arc::new(SqlClassifier::for_server("10.11.19-MariaDB")),
                local_infile: true,
                // Nothing is abandoned here.
                killer: Killer::start(Opts::default()),
                tls: None,
                tls_required: false,
                login_key: LoginKey::default(),
                proxies: Networks::default(),
                limits: Limits {
                    connections_max: 10,
                    handshake_timeout: Duration::from_secs(10),
                    packet_bytes_max: 1 << 20,
                    idle_timeout: Duration::from_secs(600),
                    write_timeout: Duration::from_secs(60),
                    keepalive: Keepalive::new(Duration::from_secs(60)),
                    shutdown_grace: Duration::from_secs(1),
                },
            };
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            sender.send(listener.local_addr().expect("an address")).expect("the bench waits");
            serve(listener.into(), Arc::new(front), SessionCount::default(), CancellationToken::new()).await;
        });
    });
    address.recv().expect("the front serves")
}

/// Logs in as the capture did, and returns the stream.
fn log_in<S: Read + Write>(mut stream: S, login: &[u8]) -> S {
    read_packet(&mut stream).expect("a greeting");
    stream.write_all(login).expect("the peer reads");
    read_packet(&mut stream).expect("an OK");
    stream
}

fn relay(c: &mut Criterion) {
    let captures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures");
    let greeting = fs::read(captures.join("mariadb-10.11.19_greeting.bin")).expect("a capture");
    let login = fs::read(captures.join("mariadb-10.11.19_greeting.client.bin")).expect("a capture");
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("peer.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let greeting = greeting.clone();
            thread::spawn(move || play(stream, &greeting));
        }
    });
    let mut through = log_in(TcpStream::connect(front(&socket)).expect("the front takes connections"), &login);
    through.set_nodelay(true).expect("an option of TCP");
    let mut direct = log_in(UnixStream::connect(&socket).expect("the peer takes connections"), &login);
    for (name, query, rows) in [("point_select", POINT_SELECT, 1), ("1000_rows", RANGE_SELECT, 1000)] {
        let mut command = Vec::new();
        put_packet(&mut command, 0, query);
        let mut reply = vec![0; result(rows).len()];
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(reply.len() as u64));
        let mut ask = |stream: &mut dyn ReadWrite| {
            stream.write_all(&command).expect("the peer reads");
            stream.read_exact(&mut reply).expect("the peer answers");
        };
        group.bench_function("direct", |b| b.iter(|| ask(&mut direct)));
        group.bench_function("through", |b| b.iter(|| ask(&mut through)));
        group.finish();
    }
}

/// A stream of either kind.
trait ReadWrite: Read + Write {}
impl<S: Read + Write> ReadWrite for S {}

criterion_group!(benches, relay);
criterion_main!(benches);

//! Requests that are broken on purpose: a clear answer, a bounded cost, and the front goes on.

use std::time::{Duration, Instant};

use bytes::Bytes;
use mysql_async::prelude::Queryable;
use reqwest::{Body, Method, StatusCode, header};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use towline_middleware::Role;

use crate::support::{
    eventually,
    http::{TestHttp, answer},
};

/// The memory that this process holds, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_gigabyte_is_refused_and_not_held() {
    let (_server, http) = TestHttp::master().await;
    let before = memory();
    // Its length is told: not a byte is read.
    let request = http.request(Method::POST, "").header(header::CONTENT_TYPE, "application/json");
    let chunk = Bytes::from(vec![b' '; 1 << 20]);
    let chunks = {
        let chunk = chunk.clone();
        futures_util::stream::iter((0..1024).map(move |_| Ok::<_, std::io::Error>(chunk.clone())))
    };
    let (status, body) = answer(request.body(Body::wrap_stream(chunks))).await;
    assert_eq!((status, &body["error"]["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &json!(1153)), "{body}");
    let mut stream = TcpStream::connect(http.addr).await.unwrap();
    let head = "POST /master HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\
        Expect: 100-continue\r\nAuthorization: Basic YXBwOnNlY3JldA==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let grown = memory().saturating_sub(before);
    assert!(grown < 200 << 20, "{grown} bytes are held");
    http.rows("SELECT 1").await;
}

#[tokio::test]
async fn what_is_no_request_ends_its_connection_only() {
    let (_server, http) = TestHttp::start(Role::Master, |options| {
        options.head_timeout = Duration::from_millis(300);
        options.request_timeout = Duration::from_millis(600);
    })
    .await;
    let auth = "Host: x\r\nAuthorization: Basic YXBwOnNlY3JldA==\r\nContent-Type: application/json\r\n";
    let half_body = format!("POST /master HTTP/1.1\r\n{auth}Content-Length: 100\r\n\r\n{{\"action\"");
    let half_chunk = format!("POST /master HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n");
    for (bytes, answer) in [
        ("\x16\x03\x01\x02\x00 garbage", "HTTP/1.1 400"),
        ("GET /healthz", ""),
        ("", ""),
        (half_body.as_str(), "HTTP/1.1 408"),
        (half_chunk.as_str(), "HTTP/1.1 400"),
    ] {
        let start = Instant::now();
        let mut stream = TcpStream::connect(http.addr).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut found = String::new();
        // A reset is an end, too.
        let _ = stream.read_to_string(&mut found).await;
        assert!(found.starts_with(answer), "{bytes:?}: {found}");
        assert!(start.elapsed() < Duration::from_secs(20), "{bytes:?} held its connection");
    }
    let head = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(1 << 20));
    let mut stream = TcpStream::connect(http.addr).await.unwrap();
    let _ = stream.write_all(head.as_bytes()).await;
    let mut found = String::new();
    let _ = stream.read_to_string(&mut found).await;
    assert!(found.is_empty() || found.starts_with("HTTP/1.1 431"), "{found}");
    http.rows("SELECT 1").await;
}

#[tokio::test]
async fn deep_json_is_no_danger() {
    let (_server, http) = TestHttp::master().await;
    for body in [
        "[".repeat(1_000_000),
        format!("{{\"action\":{}", "{\"a\":".repeat(1_000_000)),
        format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000)),
        format!(
            "{{\"action\":\"select\",\"dbname\":\"shop\",\"table\":\"item\",\"query\":{}{{\"a\":1}}{}}}",
            "{\"or\":[".repeat(100_000),
            "]}".repeat(100_000)
        ),
    ] {
        let start = Instant::now();
        let request = http.request(Method::POST, "").header(header::CONTENT_TYPE, "application/json").body(body);
        let (status, body) = answer(request).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    http.rows("SELECT 1").await;
}

#[tokio::test]
async fn one_connection_too_many_is_told() {
    let (_server, http) = TestHttp::start(Role::Master, |options| options.connections_max = 2).await;
    let _first = TcpStream::connect(http.addr).await.unwrap();
    let _second = TcpStream::connect(http.addr).await.unwrap();
    let mut third = TcpStream::connect(http.addr).await.unwrap();
    let mut answer = String::new();
    third.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("1040"), "{answer}");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_command_with_it() {
    let (server, http) = TestHttp::master().await;
    for accept in ["application/json", "application/x-ndjson"] {
        let sql = "SELECT SLEEP(0.1) FROM seq_1_to_1000";
        let request = http.request(Method::POST, "").header(header::ACCEPT, accept);
        let running = tokio::spawn(answer(request.json(&json!({"action": "query", "dbname": "shop", "sql": sql}))));
        let mut administrator = server.connect().await;
        let mut running_there = async |wanted: usize| {
            eventually("the command at the server", async || {
                let sql = "SELECT id FROM information_schema.processlist WHERE info LIKE 'SELECT SLEEP%'";
                let ids: Vec<u64> = administrator.query(sql).await.unwrap();
                if ids.len() == wanted { Ok(()) } else { Err(ids) }
            })
            .await;
        };
        running_there(1).await;
        running.abort();
        running_there(0).await;
    }
}

#[tokio::test]
async fn a_stream_that_nobody_reads_is_cut() {
    let (server, http) =
        TestHttp::start(Role::Master, |options| options.request_timeout = Duration::from_millis(500)).await;
    let before = memory();
    let mut stream = TcpStream::connect(http.addr).await.unwrap();
    let body = "{\"action\":\"query\",\"dbname\":\"shop\",\"sql\":\"SELECT REPEAT('x',10000) FROM seq_1_to_100000\"}";
    let head = format!(
        "POST /master HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAccept: application/x-ndjson\r\n\
         Content-Length: {}\r\nAuthorization: Basic YXBwOnNlY3JldA==\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 100];
    stream.read_exact(&mut first).await.unwrap();
    let mut administrator = server.connect().await;
    eventually("the end of the stream at the server", async || {
        let sql = "SELECT id FROM information_schema.processlist WHERE user = 'app'";
        let ids: Vec<u64> = administrator.query(sql).await.unwrap();
        if ids.is_empty() { Ok(()) } else { Err(ids) }
    })
    .await;
    let grown = memory().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes are held");
}

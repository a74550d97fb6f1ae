//! What a session allocates for the rows that it relays.

use std::sync::Arc;

use allocation_counter::measure;
use tokio::sync::Mutex;
use towline_middleware::Role;

use super::{APP, prepare};
use crate::support::{
    TestServer,
    front::TestFront,
    wire_client::{MODERN, Target, WireClient},
};

/// The first byte of the packet behind the rows. None of these rows begins so.
const END_OF_ROWS: u8 = 0xfe;

/// Reads a result of so many rows.
async fn read_rows(client: &mut WireClient, rows: usize) {
    client.send(0, format!("\x03SELECT seq, REPEAT('x', 100) FROM seq_1_to_{rows}").as_bytes()).await;
    let mut packets = 0;
    while client.read().await.expect("a packet").payload[0] != END_OF_ROWS {
        packets += 1;
    }
    assert_eq!(packets, 1 + 2 + rows, "the count of columns, their definitions, the rows");
}

/// The front's tasks run in a thread of their own, whose allocations are counted; the client and the server do not.
#[test]
fn a_row_that_is_relayed_allocates_nothing() {
    let elsewhere =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let counted = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = elsewhere.block_on(async {
        let server = TestServer::start(Role::Master).await;
        prepare(&server).await;
        server
    });
    let front = counted.block_on(TestFront::start(Role::Master, &server));
    let target: Target = front.target();
    let client = counted.block_on(async {
        let client = elsewhere.spawn(async move { WireClient::connect(&target, MODERN, APP, "shop").await });
        Arc::new(Mutex::new(client.await.expect("a session")))
    });
    let allocations = |rows: usize| {
        let count = measure(|| {
            let client = client.clone();
            let reading = elsewhere.spawn(async move { read_rows(&mut *client.lock().await, rows).await });
            counted.block_on(reading).expect("rows");
        });
        count.count_total
    };
    // Buffers grow to their size first.
    allocations(20_000);
    let (ten, twenty) = (allocations(10_000), allocations(20_000));
    let more = twenty.saturating_sub(ten);
    // 10,000 rows more are 1.1 MB more, which come in reads of 16 kB: each may allocate a few times, a row never.
    assert!(more < 1_000, "{ten} allocations for 10,000 rows, {twenty} for 20,000");
}

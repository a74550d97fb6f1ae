//! Answers `SHOW TOWLINE SESSION` by itself: who asks, and how many commands the session has sent.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use towline_middleware::{
    Command, Error, Next, Reply, ServerError, from_fn,
    rows::{Column, ResultSet},
    testing,
};

/// The state of one session.
#[derive(Debug, Default)]
struct Asked(AtomicU64);

async fn who_asked(command: Command, next: Next) -> Result<Reply, Error> {
    let session = command.session();
    let asked = session.state::<Asked>().0.fetch_add(1, Relaxed) + 1;
    if !command.sql().eq_ignore_ascii_case(b"SHOW TOWLINE SESSION") {
        return next.run(command).await;
    }
    let user = session.user();
    let result = ResultSet::new([Column::text("user"), Column::unsigned("commands")]);
    let reply = result.row([(&*user).into(), asked.into()]).reply(&command);
    Ok(reply.unwrap_or_else(|error| Reply::err(ServerError::new(1105, b"HY000", error.to_string()))))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    testing::conformance(|| from_fn(who_asked)).await;
    let command = testing::command("SHOW TOWLINE SESSION");
    let reply = testing::run(from_fn(who_asked), testing::FakeRouter::default(), command.clone()).await?;
    let collected = reply.collect(&command, 1 << 16).await?;
    assert_eq!(collected.rows, [["app".into(), 1u64.into()]]);
    println!("{:?}", collected.rows);
    Ok(())
}

//! Refuses `DELETE` without `WHERE`: the layer of the README, with its test as `main`.

use towline_middleware::{Command, Error, Next, Reply, ServerError, from_fn, testing};

async fn no_bulk_delete(command: Command, next: Next) -> Result<Reply, Error> {
    let sql = String::from_utf8_lossy(command.sql()).to_ascii_uppercase();
    let mut words = sql.split_ascii_whitespace();
    if command.intent().may_write() && words.next() == Some("DELETE") && !words.any(|word| word == "WHERE") {
        return Ok(Reply::err(ServerError::new(1175, b"HY000", "DELETE without WHERE is not allowed here")));
    }
    next.run(command).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    testing::conformance(|| from_fn(no_bulk_delete)).await;
    for (sql, refused) in [("DELETE FROM item", true), ("DELETE FROM item WHERE id = 1", false)] {
        let router = testing::FakeRouter::new([Reply::ok(Default::default())]);
        let reply = testing::run(from_fn(no_bulk_delete), router, testing::command(sql)).await?;
        assert_eq!(reply.server_error().is_some(), refused, "{sql}");
    }
    println!("no_bulk_delete conforms, and refuses what it should");
    Ok(())
}

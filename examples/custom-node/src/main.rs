//! A Towline node with one more layer: `cargo run -- run --config config.toml --role master`.

use std::process::ExitCode;

use towline::layers::Layers;
use towline_middleware::{Command, Error, Next, Reply, ServerError, from_fn};

async fn no_truncate(command: Command, next: Next) -> Result<Reply, Error> {
    if command.sql().trim_ascii_start().get(..8).is_some_and(|word| word.eq_ignore_ascii_case(b"TRUNCATE")) {
        return Ok(Reply::err(ServerError::refused("TRUNCATE is not allowed here")));
    }
    next.run(command).await
}

fn main() -> ExitCode {
    towline::cli::main_with(Layers::default().register("no_truncate", |_setup| Ok(from_fn(no_truncate))))
}

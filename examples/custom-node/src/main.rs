//! A Towline node with one more layer: `cargo run -- run --config config.toml --role master`.

use std::process::ExitCode;

use towline::layers::Layers;
use towline_middleware::{Command, Error, Next, Reply, ServerError, from_fn};

/// Who is called so may only read. What classification does not understand may write.
async fn readers_only_read(command: Command, next: Next) -> Result<Reply, Error> {
    if command.intent().may_write() && command.session().user().ends_with("_reader") {
        return Ok(Reply::err(ServerError::refused("accounts that end in _reader may only read")));
    }
    next.run(command).await
}

fn main() -> ExitCode {
    towline::cli::main_with(Layers::default().register("readers_only_read", |_setup| Ok(from_fn(readers_only_read))))
}

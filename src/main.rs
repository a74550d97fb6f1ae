//! The `towline` program.

use std::process::ExitCode;

/// Many short-lived buffers on many threads are what a proxy allocates, and what this allocator is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    towline::cli::main()
}

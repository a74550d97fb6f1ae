//! Waiting for a condition instead of sleeping.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Asks until the answer is `Ok`, and fails the test with the last `Err` when the deadline has passed.
pub(crate) async fn eventually<T, E: Debug>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let start = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if start.elapsed() > DEADLINE => panic!("{what}: not within {DEADLINE:?}; last: {error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

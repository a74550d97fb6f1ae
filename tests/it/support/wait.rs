//! Waiting for a condition instead of sleeping.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// How long anything may take before a test gives up. A test that is given more to do is given more seconds.
pub(crate) fn deadline() -> Duration {
    let seconds = std::env::var("TEST_DEADLINE_S").map_or(30, |seconds| seconds.parse().expect("a number of seconds"));
    Duration::from_secs(seconds)
}

/// Asks until the answer is `Ok`, and fails the test with the last `Err` when the deadline has passed.
pub(crate) async fn eventually<T, E: Debug>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let (start, deadline) = (Instant::now(), deadline());
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) if start.elapsed() > deadline => panic!("{what}: not within {deadline:?}; last: {error:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

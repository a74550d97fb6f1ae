//! Waiting longer and longer before the next try.

use std::time::Duration;

/// Doubles from a least to a longest wait. Jitter keeps those who failed together from coming back together.
#[derive(Debug)]
pub(crate) struct BackOff {
    next: Duration,
}

impl BackOff {
    const MIN: Duration = Duration::from_millis(100);
    const MAX: Duration = Duration::from_secs(5);

    pub(crate) fn new() -> Self {
        Self { next: Self::MIN }
    }

    /// A success: the next wait is the least again.
    pub(crate) fn reset(&mut self) {
        self.next = Self::MIN;
    }

    /// How long to wait now, between half and the whole of the current wait.
    pub(crate) fn wait(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(Self::MAX);
        now.mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

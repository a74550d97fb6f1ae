//! Taking the next client of a listener.

use std::{io, time::Duration};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// How long to wait after an accept that failed for want of file descriptors or memory: trying at once would only spin.
/// Doubled while the want lasts, up to [`BACK_OFF_MAX`].
const BACK_OFF_MIN: Duration = Duration::from_millis(10);
/// Soon enough for the clients that wait in the system's queue.
const BACK_OFF_MAX: Duration = Duration::from_millis(500);

/// The next client. What hinders an accept is logged once and waited out.
///
/// # Cancel safety
/// A dropped future loses no client.
pub(super) async fn accept(listener: &TcpListener) -> TcpStream {
    let mut want = Want::default();
    loop {
        match listener.accept().await.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return stream,
            Err(error) => want.wait_out(&error).await,
        }
    }
}

/// The same for a Unix socket.
///
/// # Cancel safety
/// A dropped future loses no client.
pub(super) async fn accept_unix(listener: &UnixListener) -> UnixStream {
    let mut want = Want::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => want.wait_out(&error).await,
        }
    }
}

/// A want of the system's that keeps clients waiting.
#[derive(Debug, Default)]
struct Want {
    /// The last wait; none before the first.
    waited: Option<Duration>,
}

impl Want {
    async fn wait_out(&mut self, error: &io::Error) {
        let is_new = self.waited.is_none();
        let Some(delay) = self.delay(error) else { return };
        if is_new {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "can't accept clients; they wait until this is over (see `ulimit -n`)");
        }
        tokio::time::sleep(delay).await;
    }

    /// How long to wait after this error; none for a client that left before it was accepted, which costs nothing.
    fn delay(&mut self, error: &io::Error) -> Option<Duration> {
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return None;
        }
        let delay = self.waited.map_or(BACK_OFF_MIN, |last| (last * 2).min(BACK_OFF_MAX));
        self.waited = Some(delay);
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_want_of_descriptors_is_waited_out_and_not_spun_on() {
        let no_descriptors = io::Error::from_raw_os_error(rustix::io::Errno::MFILE.raw_os_error());
        let mut want = Want::default();
        assert_eq!(want.delay(&io::ErrorKind::ConnectionAborted.into()), None);
        let delays: Vec<_> = (0..8).filter_map(|_| want.delay(&no_descriptors)).map(|d| d.as_millis()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 160, 320, 500, 500]);
    }
}

//! Finding out that the other end of a TCP connection has vanished without a word: its machine lost power, a firewall
//! forgot the connection.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// So many questions go unanswered before the other end is taken for gone.
const PROBES: u32 = 6;

/// When the other end of a connection is asked whether it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive(Duration);

impl Keepalive {
    /// After so long a silence, in whole seconds; never if it is zero. An end that does not answer is given up after
    /// twice the time.
    pub fn new(silence: Duration) -> Self {
        Self(silence)
    }

    /// Has the system ask on this connection. An end that is given up shows as a read that fails.
    ///
    /// An end that does not acknowledge what was sent to it, or is there but takes nothing, has twice the silence, or
    /// `patience` if that is longer.
    ///
    /// # Errors
    /// What the system says.
    pub fn set(self, stream: &TcpStream, patience: Duration) -> io::Result<()> {
        if self.0.is_zero() {
            return Ok(());
        }
        let second = Duration::from_secs(1);
        let (silence, interval) = (self.0.max(second), (self.0 / PROBES).max(second));
        let socket = SockRef::from(stream);
        let asking = TcpKeepalive::new().with_time(silence).with_interval(interval).with_retries(PROBES);
        socket.set_tcp_keepalive(&asking)?;
        // Nobody is asked while sent bytes are not acknowledged: without it those have a quarter of an hour.
        socket.set_tcp_user_timeout(Some(patience.max(silence + interval * PROBES)))
    }
}

/// Lets the other end take nothing of what is sent to it for as long as it likes, if only it is there; returns the limit
/// that held. One that does not acknowledge has the system's quarter of an hour then.
///
/// # Errors
/// What the system says.
pub(crate) fn lift_limit(stream: &TcpStream) -> io::Result<Option<Duration>> {
    let socket = SockRef::from(stream);
    let limit = socket.tcp_user_timeout()?;
    socket.set_tcp_user_timeout(None).map(|()| limit)
}

/// Puts the limit back.
///
/// # Errors
/// What the system says.
pub(crate) fn restore_limit(stream: &TcpStream, limit: Duration) -> io::Result<()> {
    SockRef::from(stream).set_tcp_user_timeout(Some(limit))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_connection_has_its_times_or_the_systems() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        for (silence, seconds) in [(60_000, Some((60, 10, 120))), (500, Some((1, 1, 30))), (0, None)] {
            let stream = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
            Keepalive::new(Duration::from_millis(silence))
                .set(&stream, Duration::from_secs(30))
                .expect("options of TCP");
            let socket = SockRef::from(&stream);
            let asks = socket.keepalive().expect("an option");
            let times = asks.then(|| {
                let interval = socket.tcp_keepalive_interval().expect("an option");
                let given_up = socket.tcp_user_timeout().expect("an option").expect("a limit");
                assert_eq!(socket.tcp_keepalive_retries().expect("an option"), PROBES);
                (socket.tcp_keepalive_time().expect("an option").as_secs(), interval.as_secs(), given_up.as_secs())
            });
            assert_eq!(times, seconds, "{silence} ms");
            let limit = lift_limit(&stream).expect("an option");
            assert_eq!(limit.map(|limit| limit.as_secs()), seconds.map(|(_, _, limit)| limit));
            assert_eq!(socket.tcp_user_timeout().expect("an option"), None);
            if let Some(limit) = limit {
                restore_limit(&stream, limit).expect("an option");
                assert_eq!(socket.tcp_user_timeout().expect("an option"), Some(limit));
            }
        }
    }
}

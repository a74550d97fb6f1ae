//! Taking the next client of a listener.

use std::{io, time::Duration};

use tokio::net::{TcpListener, TcpStream};

/// How long to wait after an accept that failed for want of file descriptors or memory: trying at once would only spin.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The next client. What hinders an accept is logged and waited out.
///
/// # Cancel safety
/// A dropped future loses no client.
pub(super) async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return stream,
            // A client that left before it was accepted costs nothing; anything else is a want of the system's.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "can't accept a client");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

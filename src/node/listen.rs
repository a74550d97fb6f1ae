//! The places where a node listens.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
};

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::NodeError;

/// How many clients may wait to be accepted. Where the queue overflows, the system may let a client believe that it is
/// connected and forget it (SYN cookies), and a client of MySQL's protocol says nothing until it is greeted. The system's
/// own limit, `net.core.somaxconn`, is the same unless it was changed.
const ACCEPT_QUEUE: u32 = 4096;

pub(super) fn listen(key: &'static str, addr: SocketAddr) -> Result<TcpListener, NodeError> {
    let bind = || {
        let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(ACCEPT_QUEUE)
    };
    bind().map_err(|source| NodeError::Listen { key, addr, source })
}

/// Like a server's own socket it is open to every user of the machine: who may do what is for the login to say.
pub(super) fn listen_unix(path: &Path) -> Result<UnixListener, NodeError> {
    let failed = |source| NodeError::ListenUnix { path: path.to_owned(), source };
    let bind = || UnixListener::bind(path);
    let listener = match bind() {
        // What a node that was killed has left; nobody answers there any more.
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_behind(path) => {
            fs::remove_file(path).and_then(|()| bind())
        }
        result => result,
    };
    let listener = listener.map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(failed)?;
    Ok(listener)
}

fn is_left_behind(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A session's sockets: the client's and the server's.
const PER_SESSION: u64 = 2;
/// Listeners, the node's own connections, HTTP clients, logs.
const OWN: u64 = 200;

/// Raises the limit as far as the process may, since shells and service managers begin with a low one for old programs,
/// and tells if that is not enough for so many clients.
pub(super) fn raise_limit(connections_max: u32) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = &error as &dyn std::error::Error, "the limit of open files can't be raised");
    }
    if let Some((allowed, needed)) = shortage(getrlimit(Resource::Nofile).current, connections_max) {
        tracing::warn!(
            allowed,
            needed,
            "limits.connections_max clients need more open files than the process may have: raise its limit \
             (`ulimit -Hn`, LimitNOFILE= of systemd) or lower the number"
        );
    }
}

/// How many are allowed and how many are needed, if that is more. No limit is always enough.
fn shortage(limit: Option<u64>, connections_max: u32) -> Option<(u64, u64)> {
    let needed = u64::from(connections_max) * PER_SESSION + OWN;
    limit.filter(|limit| *limit < needed).map(|limit| (limit, needed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_and_a_shortage_told() {
        raise_limit(1);
        let limit = getrlimit(Resource::Nofile);
        assert_eq!(limit.current, limit.maximum);
        assert_eq!(shortage(Some(1024), 500), Some((1024, 1200)));
        assert_eq!(shortage(Some(1200), 500), None);
        assert_eq!(shortage(None, u32::MAX), None);
    }
}

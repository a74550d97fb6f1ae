//! Accounts that anybody could use through Towline.

use super::{CheckError, Line, server::Server};

/// Over a Unix socket the server takes whoever holds the other end for the operating system's user, and that is
/// Towline: an account that is proved by it would be open to every client of Towline's port.
pub(super) async fn check(server: &mut Server) -> Result<Option<Line>, CheckError> {
    const NAME: &str = "no account without a password over the Unix socket";
    if !server.by_socket {
        return Ok(None);
    }
    let sql = if server.is_mariadb() {
        "SELECT CONCAT(QUOTE(user), '@', QUOTE(host)) FROM mysql.global_priv \
         WHERE priv LIKE '%unix_socket%' AND NOT IFNULL(JSON_VALUE(priv, '$.account_locked'), 0)"
    } else {
        "SELECT CONCAT(QUOTE(user), '@', QUOTE(host)) FROM mysql.user \
         WHERE plugin = 'auth_socket' AND account_locked = 'N'"
    };
    let Some(accounts) = server.query_if_allowed::<String>("its accounts", sql).await? else {
        let table = if server.is_mariadb() { "mysql.global_priv" } else { "mysql.user" };
        let mend = format!("run `GRANT SELECT ON {table} TO {}`, or reach the server over TCP", server.account);
        return Ok(Some(Line::failed(NAME, "the accounts can't be read", mend)));
    };
    if accounts.is_empty() {
        return Ok(Some(Line::ok(NAME)));
    }
    let found = format!("{} would be open to every client, since the socket alone proves it", accounts.join(", "));
    let mend = format!(
        "reach the server over TCP (`mysql://…@127.0.0.1:3306`), or run `ALTER USER {} IDENTIFIED BY '…'`",
        accounts[0]
    );
    Ok(Some(Line::failed(NAME, found, mend)))
}

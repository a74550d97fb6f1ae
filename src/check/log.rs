//! What else concerns the master's binlog: what is left out of it, and whose history it holds.

use super::{CheckError, Line, server::Server};

/// Checks filters and GTIDs.
pub(super) async fn check(server: &mut Server) -> Result<Vec<Line>, CheckError> {
    if server.variable("log_bin") != Some("ON") {
        return Ok(Vec::new()); // that line has failed, and there is no log to look into
    }
    let filters = filters(server).await?;
    let history = if server.is_mariadb() { one_domain(server).await? } else { one_server(server).await? };
    Ok(vec![filters, history])
}

async fn filters(server: &mut Server) -> Result<Line, CheckError> {
    const NAME: &str = "no binlog_do_db, no binlog_ignore_db";
    let sql = if !server.is_mariadb() && server.release() >= (8, 4) {
        "SHOW BINARY LOG STATUS"
    } else {
        "SHOW MASTER STATUS"
    };
    let Some(rows) = server.query_if_allowed::<mysql_async::Row>("its binlog's filters", sql).await? else {
        let right = if server.is_mariadb() { "BINLOG MONITOR" } else { "REPLICATION CLIENT" };
        let mend = format!("run `GRANT {right} ON *.* TO {}`", server.account);
        return Ok(Line::failed(NAME, format!("they can't be read without {right}"), mend));
    };
    let filters: Vec<String> = rows
        .first()
        .into_iter()
        .flat_map(|row| {
            [("binlog_do_db", 2), ("binlog_ignore_db", 3)].map(|(name, n)| (name, row.get_opt::<String, _>(n)))
        })
        .filter_map(|(name, value)| Some((name, value?.ok()?)))
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if filters.is_empty() {
        return Ok(Line::ok(NAME));
    }
    let found = format!("{} leaves changes out of the binlog", filters.join(", "));
    Ok(Line::failed(NAME, found, "remove it from my.cnf and restart the server"))
}

/// MariaDB: every domain that the binlog knows of must be the one that is written under.
async fn one_domain(server: &mut Server) -> Result<Line, CheckError> {
    const NAME: &str = "one GTID domain";
    let own = server.variable("gtid_domain_id").unwrap_or("0").to_owned();
    let state: Option<String> = server.query("its GTIDs", "SELECT @@global.gtid_binlog_state").await?.pop();
    let mut others: Vec<String> = state
        .unwrap_or_default()
        .split(',')
        .filter_map(|gtid| Some(gtid.trim().split_once('-')?.0.to_owned()))
        .filter(|domain| *domain != own)
        .collect();
    others.dedup();
    if others.is_empty() {
        return Ok(Line::ok(NAME));
    }
    let others = others.join(",");
    Ok(Line::failed(
        NAME,
        format!(
            "the binlog also holds transactions of domain {others}, which have no order with those of domain {own}"
        ),
        format!(
            "let nothing write under another gtid_domain_id and take native replication off this server; then run \
             `FLUSH BINARY LOGS`, PURGE the files that hold them, and `FLUSH BINARY LOGS DELETE_DOMAIN_ID=({others})`"
        ),
    ))
}

/// MySQL: every transaction that the binlog still holds must be of this server, without a tag.
async fn one_server(server: &mut Server) -> Result<Line, CheckError> {
    const NAME: &str = "one server's GTIDs";
    let own = server.variable("server_uuid").unwrap_or_default().to_owned();
    let sql = "SELECT GTID_SUBTRACT(@@global.gtid_executed, @@global.gtid_purged)";
    let held: Option<String> = server.query("its GTIDs", sql).await?.pop();
    let foreign = |set: &&str| {
        let (uuid, intervals) = set.split_once(':').unwrap_or((set, ""));
        !uuid.eq_ignore_ascii_case(&own) || intervals.contains(|c: char| c.is_ascii_alphabetic())
    };
    let held = held.unwrap_or_default();
    let others: Vec<&str> = held.split(',').map(str::trim).filter(|set| !set.is_empty()).filter(foreign).collect();
    if others.is_empty() {
        return Ok(Line::ok(NAME));
    }
    Ok(Line::failed(
        NAME,
        format!("the binlog also holds {}, which have no order with {own}", others.join(", ")),
        "take native replication off this server, set no gtid_next by hand, and PURGE the binlogs that hold them",
    ))
}

//! Global variables, compared with what they must be.

use std::time::Duration;

use towline_middleware::Role;

use super::{Line, server::Server};

/// What a variable must be, and how hard.
struct Setting {
    name: &'static str,
    wanted: Wanted,
    /// Whether `SET GLOBAL` can change it while the server runs.
    is_dynamic: bool,
    must: Must,
}

enum Wanted {
    /// This value, in any case.
    Is(&'static str),
    /// One of these; the first is proposed.
    OneOf(&'static [&'static str]),
    /// At least so much; the text is how `my.cnf` writes it.
    AtLeast(u64, &'static str),
    /// Any number but 0.
    NotZero,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Must {
    Fail,
    Warn,
}

use Must::{Fail, Warn};
use Wanted::{AtLeast, Is, NotZero, OneOf};

const fn dynamic(name: &'static str, wanted: Wanted, must: Must) -> Setting {
    Setting { name, wanted, is_dynamic: true, must }
}

const fn fixed(name: &'static str, wanted: Wanted, must: Must) -> Setting {
    Setting { name, wanted, is_dynamic: false, must }
}

/// A variable that a server does not have is passed over: these lists hold both families' names, and those that came or
/// went with a release.
const MASTER: [Setting; 12] = [
    fixed("log_bin", Is("ON"), Fail),
    dynamic("binlog_format", Is("ROW"), Fail),
    dynamic("binlog_row_image", Is("FULL"), Fail),
    dynamic("binlog_checksum", Is("CRC32"), Fail),
    dynamic("server_id", NotZero, Fail),
    dynamic("gtid_strict_mode", Is("ON"), Fail),
    fixed("gtid_mode", Is("ON"), Fail),
    fixed("enforce_gtid_consistency", Is("ON"), Fail),
    fixed("encrypt_binlog", Is("OFF"), Fail),
    // Without these a crash of the machine can leave the slaves with transactions that the master has lost.
    dynamic("sync_binlog", Is("1"), Warn),
    dynamic("innodb_flush_log_at_trx_commit", Is("1"), Warn),
    // Without it a position does not tell what can be read.
    dynamic("binlog_order_commits", Is("ON"), Warn),
];

const SLAVE: [Setting; 15] = [
    fixed("log_bin", Is("ON"), Fail),
    dynamic("binlog_format", Is("ROW"), Fail),
    dynamic("binlog_row_image", Is("FULL"), Fail),
    dynamic("server_id", NotZero, Fail),
    fixed("gtid_mode", Is("ON"), Fail),
    fixed("enforce_gtid_consistency", Is("ON"), Fail),
    dynamic("slave_exec_mode", Is("STRICT"), Fail),
    dynamic("slave_run_triggers_for_rbr", Is("NO"), Fail),
    dynamic("slave_type_conversions", Is(""), Fail),
    dynamic("replica_type_conversions", Is(""), Fail),
    dynamic("event_scheduler", OneOf(&["OFF", "DISABLED"]), Fail),
    // Functions arrive by their own text, and this server has a binlog.
    dynamic("log_bin_trust_function_creators", Is("ON"), Fail),
    dynamic("super_read_only", Is("OFF"), Fail),
    // A row event of the master's and its base64 must fit.
    dynamic("max_allowed_packet", AtLeast(1 << 30, "1G"), Warn),
    dynamic("read_only", Is("ON"), Warn),
];

/// Checks the server's version and settings.
pub(super) fn check(role: Role, server: &Server) -> Vec<Line> {
    let settings: &[Setting] = match role {
        Role::Master => &MASTER,
        Role::Slave => &SLAVE,
    };
    let mut lines = vec![version(server)];
    // MySQL 8 and 9 have this setting under both of its names.
    let is_alias = |name| name == "slave_type_conversions" && server.variable("replica_type_conversions").is_some();
    let settings = settings.iter().filter(|setting| !is_alias(setting.name));
    lines.extend(settings.filter_map(|setting| setting.check(server.variable(setting.name)?)));
    lines
}

/// Looks whether the node gives up a login before the server does, which counts those that it gives up against the
/// node's host.
pub(super) fn connect_timeout(handshake_timeout: Duration, server: &Server) -> Option<Line> {
    const NAME: &str = "connect_timeout";
    let seconds: u64 = server.variable(NAME)?.parse().ok()?;
    if handshake_timeout < Duration::from_secs(seconds) {
        return Some(Line::ok(NAME));
    }
    let (milliseconds, more) = (handshake_timeout.as_millis(), handshake_timeout.as_secs() + 2);
    Some(Line::warning(
        NAME,
        format!(
            "it is {seconds} s, and `limits.handshake_timeout_ms` of this node is {milliseconds}, which is not less"
        ),
        format!(
            "lower the latter, or write `{NAME}={more}` into [mysqld] of my.cnf and run `SET GLOBAL {NAME} = {more}`: \
             a client that is slow to log in could have the server refuse this node (max_connect_errors)"
        ),
    ))
}

fn version(server: &Server) -> Line {
    const NAME: &str = "version";
    let oldest = if server.is_mariadb() { (10, 6) } else { (8, 0) };
    if server.release() >= oldest {
        return Line::ok(NAME);
    }
    Line::failed(NAME, server.version.as_str(), "use MariaDB 10.6 or MySQL 8.0, or later")
}

impl Setting {
    fn check(&self, found: &str) -> Option<Line> {
        let is = |wanted: &str| found.eq_ignore_ascii_case(wanted);
        let (met, propose) = match self.wanted {
            Is(wanted) => (is(wanted), wanted),
            OneOf(wanted) => (wanted.iter().any(|wanted| is(wanted)), wanted[0]),
            AtLeast(least, text) => (found.parse().is_ok_and(|found: u64| found >= least), text),
            NotZero => (found != "0", "a number that no other server of yours has"),
        };
        if met {
            return Some(Line::ok(self.name));
        }
        let found = if found.is_empty() { "it is empty".to_owned() } else { format!("it is {found}") };
        let mend = self.mend(propose);
        Some(if self.must == Fail {
            Line::failed(self.name, found, mend)
        } else {
            Line::warning(self.name, found, mend)
        })
    }

    fn mend(&self, value: &str) -> String {
        let name = self.name;
        // `log_bin=ON` would name the files `ON`.
        let file = if name == "log_bin" { "log_bin".to_owned() } else { format!("{name}={value}") };
        if !self.is_dynamic || matches!(self.wanted, NotZero) {
            return format!("write `{file}` into [mysqld] of my.cnf and restart the server");
        }
        let quoted = match self.wanted {
            AtLeast(number, _) => number.to_string(),
            _ if value.parse::<u64>().is_ok() => value.to_owned(),
            _ => format!("'{value}'"),
        };
        format!("write `{file}` into [mysqld] of my.cnf and run `SET GLOBAL {name} = {quoted}`")
    }
}

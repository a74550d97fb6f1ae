//! Asks a scratch server what a statement does.

use std::{collections::HashSet, path::Path, time::Duration};

use mysql_async::{Conn, DriverError, Error, prelude::Queryable};
use tokio::time::timeout;
use towline_middleware::{Intent, Plan, Role, SqlMode};

use crate::support::TestServer;

/// No statement may take longer; one that is still at work then has hung the server.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// A beginning that takes longer is one on a server that a script has spoiled.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a server is asked whether earlier sessions have ended.
const POLL: Duration = Duration::from_millis(2);
/// The server's error number for a write in a read-only transaction.
const READ_ONLY_TRANSACTION: u16 = 1792;
/// The server's error number for what an option of its forbids.
const OPTION_PREVENTS: u16 = 1290;

/// What a session shows of itself between two statements. Scripts set `character_set_results`, too.
const STATE: &str = "SELECT CAST(@@GLOBAL.gtid_binlog_pos AS BINARY), DATABASE(), @@sql_mode, @@character_set_client, \
                     @@in_transaction, @@autocommit";

/// The end of the binlog.
const BINLOG: &str = "SELECT CAST(@@GLOBAL.gtid_binlog_pos AS BINARY)";

/// Under which domain each session writes to the binlog. What the server writes by itself (for INSERT DELAYED, some time
/// later) goes under neither.
const SCRIPT_DOMAIN: u32 = 7;
const READER_DOMAIN: u32 = 8;

/// How the scratch server runs: fast, impatient, and as the suites expect it.
fn server_args(files: &Path) -> Vec<String> {
    let mut args: Vec<String> = [
        "--max-statement-time=0.4",
        "--lock-wait-timeout=0",
        "--innodb-lock-wait-timeout=0",
        "--default-storage-engine=MyISAM",
        "--sql-mode=STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO",
        "--sync-binlog=0",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-doublewrite=0",
        "--innodb-flush-method=nosync",
        "--debug-no-sync",
        "--innodb-buffer-pool-size=32M",
        "--binlog-annotate-row-events=OFF",
        "--event-scheduler=OFF",
        "--log-bin-trust-function-creators=ON",
    ]
    .map(str::to_owned)
    .into();
    args.push(format!("--secure-file-priv={}", files.display()));
    args
}

/// What the server showed a statement to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    /// A read-only session ran it, or it left nothing in the binlog.
    Reads,
    /// A read-only session refused it.
    Refused,
    /// It made the binlog grow.
    Writes,
    /// It failed.
    Failed,
}

/// A scratch server, and two sessions: one in which the script runs, and a read-only one that is asked about reads.
pub(super) struct Judge {
    server: TestServer,
    sessions: Option<(Conn, Conn)>,
    state: State,
}

/// What the server said about the script's session after the last statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    /// What the script's session and the read-only one have written last.
    written: [Option<String>; 2],
    schema: String,
    sql_mode: String,
    charset: String,
    in_transaction: bool,
}

impl Judge {
    /// A judge with a server of its own.
    pub(super) async fn new() -> Self {
        Self { server: server().await, sessions: None, state: State::default() }
    }

    /// Everything as at the beginning of a script: new sessions, an empty schema `test` and no other.
    pub(super) async fn begin(&mut self) {
        self.sessions = None;
        if !matches!(timeout(BEGIN_TIMEOUT, self.try_begin()).await, Ok(Ok(()))) {
            self.server = server().await;
            let begun = timeout(BEGIN_TIMEOUT, self.try_begin()).await.expect("a new server answers");
            begun.expect("a new server does as it is told");
        }
    }

    async fn try_begin(&mut self) -> Result<(), Error> {
        let mut script = Conn::new(self.server.opts()).await?;
        // What earlier sessions leave (temporary tables, half transactions) goes to the binlog when they end.
        let others = "SELECT COUNT(*) FROM information_schema.processlist \
                      WHERE user = SUBSTRING_INDEX(USER(), '@', 1) AND id <> CONNECTION_ID()";
        while script.query_first::<u32, _>(others).await? != Some(0) {
            tokio::time::sleep(POLL).await;
        }
        let schemas: Vec<String> = script
            .query(
                "SELECT CONCAT('DROP DATABASE `', REPLACE(schema_name, '`', '``'), '`') \
                 FROM information_schema.schemata WHERE schema_name NOT IN \
                 ('information_schema', 'performance_schema', 'mysql', 'sys', 'towline')",
            )
            .await?;
        for drop in schemas {
            script.query_drop(drop).await?;
        }
        script.query_drop("CREATE DATABASE test").await?;
        script.query_drop("USE test").await?;
        script.query_drop(format!("SET gtid_domain_id = {SCRIPT_DOMAIN}")).await?;
        let mut reader = Conn::new(self.server.opts()).await?;
        reader.query_drop("SET SESSION TRANSACTION READ ONLY").await?;
        reader.query_drop("USE test").await?;
        reader.query_drop(format!("SET gtid_domain_id = {READER_DOMAIN}")).await?;
        self.state = State::default();
        self.sessions = Some((script, reader));
        self.follow().await
    }

    /// How the server reads the next statement.
    pub(super) fn mode(&self) -> SqlMode {
        SqlMode {
            no_backslash_escapes: self.state.sql_mode.contains("NO_BACKSLASH_ESCAPES"),
            ansi_quotes: self.state.sql_mode.contains("ANSI_QUOTES"),
            ascii_letters_charset: self.state.charset == "swe7",
            ascii_unsafe_charset: ["big5", "sjis", "gbk", "cp932", "gb18030"].contains(&&*self.state.charset),
        }
    }

    /// Whether this is the script's default schema.
    pub(super) fn stands_in(&self, schema: &str) -> bool {
        self.state.schema == schema
    }

    /// Whether the server has a stored function of this name, on its own or in a package.
    pub(super) async fn is_stored(&mut self, function: &str) -> bool {
        let Some((script, _)) = &mut self.sessions else { return false };
        let found: Result<Option<u8>, _> = script
            .exec_first(
                "SELECT 1 FROM information_schema.routines WHERE routine_type = 'FUNCTION' AND routine_name = ? \
                 OR routine_type = 'PACKAGE BODY' AND LOCATE(CONCAT('function ', LOWER(?)), LOWER(routine_definition))",
                (function, function),
            )
            .await;
        matches!(found, Ok(Some(_)))
    }

    /// A view that a statement names and in whose definition, or in that of a view in it, a stored function or a sequence
    /// is called: what that does, no text of the client's shows.
    pub(super) async fn view_that_calls(&mut self, sql: &[u8]) -> Option<String> {
        let (script, _) = self.sessions.as_mut()?;
        let views: Vec<(String, String)> = script
            .query("SELECT LOWER(table_name), LOWER(view_definition) FROM information_schema.views")
            .await
            .ok()?;
        let functions: Vec<String> = script
            .query("SELECT LOWER(routine_name) FROM information_schema.routines WHERE routine_type = 'FUNCTION'")
            .await
            .ok()?;
        let calls = |definition: &str| {
            let called = functions.iter().any(|name| definition.contains(&format!("`{name}`(")));
            // DEFAULT takes a column's default, which may be the next value of a sequence.
            called || ["nextval(", "setval(", "default("].iter().any(|call| definition.contains(call))
        };
        let mut calling: HashSet<&str> =
            views.iter().filter(|(_, definition)| calls(definition)).map(|(name, _)| &**name).collect();
        // Views on such views, until no other is found.
        loop {
            let on_one = |definition: &str| calling.iter().any(|name| definition.contains(&format!("`{name}`")));
            let more: Vec<&str> = views
                .iter()
                .filter(|(name, definition)| !calling.contains(&**name) && on_one(definition))
                .map(|(name, _)| &**name)
                .collect();
            if more.is_empty() {
                break;
            }
            calling.extend(more);
        }
        let text = String::from_utf8_lossy(sql).to_lowercase();
        let mut words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.find(|word| calling.contains(word)).map(str::to_owned)
    }

    /// Runs a statement of this plan and tells what it was. One that may read is first asked of the read-only session.
    pub(super) async fn judge(&mut self, sql: &[u8], plan: &Plan, is_query: bool) -> Truth {
        let judging = timeout(STATEMENT_TIMEOUT, self.try_judge(sql, plan, is_query)).await;
        match judging {
            Ok(Ok(truth)) => truth,
            // The statement ended the session, or the server.
            Ok(Err(_)) | Err(_) => {
                self.begin().await;
                Truth::Failed
            }
        }
    }

    async fn try_judge(&mut self, sql: &[u8], plan: &Plan, is_query: bool) -> Result<Truth, Error> {
        let before = self.state.clone();
        let (script, reader) = self.sessions.as_mut().expect("a script has begun");
        let mut alone = None;
        let passes = plan.intent <= Intent::SessionState && plan.refusal.is_none();
        if passes || (is_query && plan.intent.may_write()) {
            let outcome = outcome(reader.query_drop(sql).await)?;
            if outcome == Outcome::Ok && plan.intent == Intent::Read {
                // Nothing in the script's session hangs on it.
                let gtid: Option<Vec<u8>> = reader.query_first(BINLOG).await?;
                let same = written(&gtid.ok_or(DriverError::ConnectionClosed)?) == before.written;
                return Ok(if same { Truth::Reads } else { Truth::Writes });
            }
            alone = Some(outcome);
        }
        let ran = outcome(script.query_drop(sql).await)?;
        self.follow().await?;
        let binlog_grew = self.state.written != before.written;
        let commits = plan.intent == Intent::Transaction;
        Ok(match (alone, ran) {
            (Some(Outcome::RefusedAsWrite), _) | (_, Outcome::RefusedAsWrite) => Truth::Refused,
            _ if binlog_grew && !commits => Truth::Writes,
            (Some(Outcome::Ok), _) => Truth::Reads,
            // Inside of a transaction the binlog shows nothing yet.
            (_, Outcome::Ok) if !before.in_transaction || plan.intent > Intent::SessionState => Truth::Reads,
            _ => Truth::Failed,
        })
    }

    /// Asks the script's session for its state, and puts the read-only one into the same.
    async fn follow(&mut self) -> Result<(), Error> {
        let (script, reader) = self.sessions.as_mut().expect("a script has begun");
        type Row = (Vec<u8>, Option<Vec<u8>>, Vec<u8>, Vec<u8>, u8, u8);
        let row: Option<Row> = script.query_first(STATE).await?;
        // A session may be told to show no rows.
        let Some((gtid, schema, sql_mode, charset, in_transaction, autocommit)) = row else {
            return Err(DriverError::ConnectionClosed.into());
        };
        // Results may come in a character set of two or four bytes.
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\0', "");
        let state = State {
            written: written(&gtid),
            schema: text(schema.unwrap_or_default()),
            sql_mode: text(sql_mode),
            charset: text(charset),
            in_transaction: in_transaction != 0 || autocommit == 0,
        };
        if state.schema != self.state.schema && !state.schema.is_empty() {
            outcome(reader.query_drop(format!("USE `{}`", state.schema.replace('`', "``"))).await)?;
        }
        if state.sql_mode != self.state.sql_mode {
            outcome(reader.query_drop(format!("SET SESSION sql_mode='{}'", state.sql_mode)).await)?;
        }
        if state.charset != self.state.charset {
            outcome(reader.query_drop(format!("SET character_set_client={}", state.charset)).await)?;
        }
        self.state = state;
        Ok(())
    }
}

/// What the two sessions have written last, of the last writes of all domains.
fn written(gtids: &[u8]) -> [Option<String>; 2] {
    let gtids = String::from_utf8_lossy(gtids);
    [SCRIPT_DOMAIN, READER_DOMAIN].map(|domain| {
        let domain = format!("{domain}-");
        gtids.split(',').find(|gtid| gtid.starts_with(&domain)).map(str::to_owned)
    })
}

async fn server() -> TestServer {
    // The folder is not known before the server is made: files may go into any folder below the temporary one.
    let args = server_args(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    TestServer::start_with(Role::Master, &args).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    RefusedAsWrite,
    Failed,
}

/// What an answer means; an error when the session is lost.
fn outcome(answer: Result<(), Error>) -> Result<Outcome, Error> {
    match answer {
        Ok(()) => Ok(Outcome::Ok),
        Err(Error::Server(error)) => Ok(match error.code {
            READ_ONLY_TRANSACTION => Outcome::RefusedAsWrite,
            OPTION_PREVENTS if error.message.contains("read-only") => Outcome::RefusedAsWrite,
            // The server goes down, or has thrown the session out.
            1053 | 1077 | 1927 | 1317 => return Err(Error::Server(error)),
            _ => Outcome::Failed,
        }),
        Err(error) => Err(error),
    }
}

//! A retried write gives its first result: a key, by the header `Idempotency-Key` over HTTP or by a comment
//! `/* idempotency-key: … */` in the text, names one write of one account.
//!
//! - The write runs in a transaction of its own, in which its key and result are kept, in the schema `towline_app`: both
//!   are committed or neither. A second try gets the first result; while the first runs, it waits for that.
//! - The same key with another statement, default schema or parameters is refused.
//! - Only one INSERT, REPLACE, UPDATE or DELETE that would commit by itself: within a transaction, and with anything else
//!   that writes, the key is refused, since nobody could keep what it promises. Reads pass.
//! - Clients need no rights on the table: two procedures of the node's account reach it, and only the rows of the account
//!   that logged in. The node grants EXECUTE on them to an account that comes with its first key.
//! - A key's age is told by the node's clock: the server's is the session's, which a client may SET, or has a time zone.
//! - A repeat changes its key's row and commits: its position is behind the first's, and with `ack` its OK waits, too.
//!
//! `ROW_COUNT()` and SHOW WARNINGS tell nothing after a write with a key; the reply itself does. Tables without
//! transactions are not covered.

mod key;
mod schema;

use std::sync::Arc;

use mysql_async::Conn;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use towline_middleware::{
    Command, Completion, Error, Figure, Final, Head, LayerProblem, LayerSetup, Next, Part, Reply, Role, ServerError,
    UserLayer, from_fn,
    rows::{Collected, Value},
};

use self::{
    key::{Refusal, fingerprint, key},
    schema::Promised,
};
use super::{OwnServer, locks::Locks};

/// How often a key is claimed again after a deadlock: nothing was done yet then.
const CLAIMS_MAX: u32 = 5;
/// A claim's answer is one row.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// "EXECUTE command denied", and "access denied to the schema".
const NO_EXECUTE: [u16; 2] = [1370, 1044];
const DEADLOCK: u16 = 1213;
/// "PROCEDURE can't return a result set in the given context".
const ONE_RESULT: u16 = 1312;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// How long a key is remembered; at least 1.
    #[serde(default = "ttl_s")]
    ttl_s: u32,
}

fn ttl_s() -> u32 {
    86_400
}

#[derive(Debug)]
struct Idempotency {
    ttl_s: Arc<u32>,
    server: OwnServer,
    repeated: Figure,
    refused: Figure,
}

#[derive(Debug, thiserror::Error)]
#[error("`ttl_s` is at least 1: a key that nobody remembers promises nothing")]
struct NoTtl;

/// What came of a key.
enum Claim {
    New,
    Repeated {
        first: Completion,
        /// The first has set `LAST_INSERT_ID()`: what it inserted got its id from the server.
        sets_id: bool,
    },
    Refused(ServerError),
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup, server: OwnServer) -> Result<impl UserLayer + use<>, LayerProblem> {
    let Options { ttl_s } = setup.options()?;
    if ttl_s == 0 {
        return Err(NoTtl.into());
    }
    let own = Arc::new(Idempotency {
        ttl_s: Arc::new(ttl_s),
        server: server.clone(),
        repeated: setup.counter("repeated", "Writes answered with the result of an earlier try.", &[]),
        refused: setup.counter("refused", "Writes whose idempotency key could not be kept.", &[]),
    });
    setup.on_missed(|session| session.state::<Locks>().miss());
    // A slave has the schema from its master, and runs no writes.
    if setup.role() == Role::Master {
        let (stop, promised, ttl_s) = (CancellationToken::new(), setup.kept::<Promised>(), own.ttl_s.clone());
        let stopped = stop.clone();
        setup.on_start(async move {
            if let Some(opts) = server.get() {
                let mut conn = Conn::new(opts).await?;
                schema::make(&mut conn).await?;
                conn.disconnect().await?;
            }
            promised.add(&ttl_s);
            tokio::spawn(async move { stopped.run_until_cancelled(schema::sweep(server, promised)).await });
            Ok(())
        });
        setup.on_stop(async move { stop.cancel() });
    }
    Ok(from_fn(move |command: Command, next: Next| own.clone().call(command, next)))
}

impl Idempotency {
    async fn call(self: Arc<Self>, command: Command, next: Next) -> Result<Reply, Error> {
        let frees = Locks::follow(&command);
        let reply = self.answer(command, next).await?;
        frees.end(&reply);
        Ok(reply)
    }

    async fn answer(&self, command: Command, next: Next) -> Result<Reply, Error> {
        let is_write = command.kind().runs_sql() && command.intent().may_write();
        if !is_write || command.session().role() == Role::Slave {
            return next.run(command).await;
        }
        match key(&command) {
            Ok(None) => next.run(command).await,
            Ok(Some(key)) => match self.run(&key, command, &next).await? {
                Ok(completion) => Ok(Reply::ok(completion)),
                Err(error) => {
                    self.refused.increment();
                    Ok(Reply::err(error))
                }
            },
            Err(refusal) => {
                self.refused.increment();
                Ok(Reply::err(refusal.error()))
            }
        }
    }

    /// Runs the write and keeps its result in one transaction, or finds its first result.
    async fn run(&self, key: &str, command: Command, next: &Next) -> Result<Result<Completion, ServerError>, Error> {
        let print = match fingerprint(&command) {
            Ok(print) => print,
            Err(refusal) => return Ok(Err(refusal.error())),
        };
        match self.claim(key, &print, &command, next).await? {
            Claim::New => {}
            Claim::Repeated { first, sets_id } => {
                self.repeated.increment();
                return self.repeat(first, sets_id, &command, next).await;
            }
            Claim::Refused(error) => return self.give_up(&command, next, error).await,
        }
        let done = match written(next.run(command.clone()).await?).await? {
            Ok(done) => done,
            Err(error) => return self.give_up(&command, next, error).await,
        };
        let info = &done.details().info;
        let info = hex(&info[..info.len().min(1024)]);
        let keep = format!(
            "CALL towline_app.keep_2({}, {}, {}, {info})",
            hex(key.as_bytes()),
            done.affected_rows,
            done.last_insert_id
        );
        if let Err(error) = ask(&command, next, &keep).await?.end {
            return self.give_up(&command, next, error).await;
        }
        self.commit(done, &command, next).await
    }

    /// Answers with the first result. The claim has changed the key's row.
    async fn repeat(
        &self,
        first: Completion,
        sets_id: bool,
        command: &Command,
        next: &Next,
    ) -> Result<Result<Completion, ServerError>, Error> {
        if sets_id {
            let sql = format!("DO LAST_INSERT_ID({})", first.last_insert_id);
            if let Err(error) = ask(command, next, &sql).await?.end {
                return self.give_up(command, next, error).await;
            }
        }
        self.commit(first, command, next).await
    }

    /// Ends the transaction, and gives the write's result with what the commit has brought.
    async fn commit(
        &self,
        done: Completion,
        command: &Command,
        next: &Next,
    ) -> Result<Result<Completion, ServerError>, Error> {
        match ask(command, next, "COMMIT AND NO CHAIN NO RELEASE").await?.end {
            Ok(commit) => Ok(Ok(joined(done, commit))),
            Err(error) => self.give_up(command, next, error).await,
        }
    }

    /// Begins the transaction, in which the key is new, or has been used.
    async fn claim(&self, key: &str, print: &[u8], command: &Command, next: &Next) -> Result<Claim, Error> {
        let (key, print) = (hex(key.as_bytes()), hex(print));
        let (mut tries, mut may_grant) = (0, true);
        loop {
            if let Err(error) = ask(command, next, "START TRANSACTION").await?.end {
                return Ok(Claim::Refused(error));
            }
            let claim = format!("CALL towline_app.claim_2({key}, {print}, {}, {})", self.ttl_s, schema::now_s());
            let Collected { rows, end, .. } = ask(command, next, &claim).await?;
            tries += 1;
            match end {
                Ok(_) => return Ok(claimed(rows.first().map_or(&[], Vec::as_slice))),
                Err(error) if error.code == DEADLOCK && tries < CLAIMS_MAX => {}
                Err(error) if NO_EXECUTE.contains(&error.code) && may_grant => {
                    may_grant = false;
                    if let Err(refusal) = self.grant(command, next).await? {
                        return Ok(Claim::Refused(refusal.error()));
                    }
                }
                Err(error) if error.code == ONE_RESULT => return Ok(Claim::Refused(Refusal::OneResult.error())),
                Err(error) => return Ok(Claim::Refused(error)),
            }
        }
    }

    /// Lets the session's account execute the procedures.
    async fn grant(&self, command: &Command, next: &Next) -> Result<Result<(), Refusal>, Error> {
        let own = ask(command, next, "SELECT CURRENT_USER()").await?;
        let own = own.rows.first().and_then(|row| row.first()).map(|value| value.to_text().into_owned());
        let account = own.as_deref().and_then(|own| own.rsplit_once('@')).filter(|(user, _)| !user.is_empty());
        // What is granted to the account without a name is granted to everybody.
        let Some((user, host)) = account else { return Ok(Err(Refusal::Anonymous)) };
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let account = format!("{}@{}", quoted(user), quoted(host));
        let granted = schema::grant(&self.server, &account).await;
        Ok(granted.map_err(|error| Refusal::Grant { reason: error.to_string(), account }))
    }

    async fn give_up<T>(
        &self,
        command: &Command,
        next: &Next,
        error: ServerError,
    ) -> Result<Result<T, ServerError>, Error> {
        // Whatever has failed, the client is told that; if this fails too, the session can't go on.
        match ask(command, next, "ROLLBACK AND NO CHAIN NO RELEASE").await?.end {
            Ok(_) => Ok(Err(error)),
            Err(source) => Err(Error::Layer { layer: "idempotency", source: source.into() }),
        }
    }
}

/// Asks something on the client's session.
async fn ask(command: &Command, next: &Next, sql: &str) -> Result<Collected, Error> {
    let own = Command::query(command.session(), sql);
    next.run(own.clone()).await?.collect(&own, ANSWER_BYTES_MAX).await
}

fn claimed(row: &[Value<'_>]) -> Claim {
    let [is_new, is_same, affected_rows, last_insert_id, sets_id, info] = row else {
        return Claim::Refused(ServerError::new(
            1105,
            b"HY000",
            "towline_app.claim_2 gave no row: drop it, and a reload makes it anew",
        ));
    };
    let number = |value: &Value<'_>| value.to_text().parse::<u64>().unwrap_or(0);
    match (number(is_new), number(is_same)) {
        (1, _) => Claim::New,
        (_, 0) => Claim::Refused(Refusal::Other.error()),
        _ => {
            let mut first = Completion {
                affected_rows: number(affected_rows),
                last_insert_id: number(last_insert_id),
                ..Completion::default()
            };
            first.details_mut().info = info.to_text().into_owned().into();
            Claim::Repeated { first, sets_id: number(sets_id) == 1 }
        }
    }
}

/// How the write ended. Rows that it gives are read to their end.
async fn written(mut reply: Reply) -> Result<Result<Completion, ServerError>, Error> {
    let is_ok = reply.head() == Head::Ok;
    let mut outcome = Ok(Completion::default());
    while let Some(part) = reply.next().await? {
        if let Part::Final { end, .. } = part {
            outcome = match end {
                Final::Ok(completion) => Ok(completion),
                Final::Err(error) => Err(error),
            };
        }
    }
    Ok(outcome.and_then(|completion| if is_ok { Ok(completion) } else { Err(Refusal::Rows.error()) }))
}

/// A write's result with the commit's position, and with what replication has to say to that.
fn joined(done: Completion, commit: Completion) -> Completion {
    let mut both = Completion {
        affected_rows: done.affected_rows,
        last_insert_id: done.last_insert_id,
        warnings: done.warnings.saturating_add(commit.warnings),
        ..commit
    };
    if !done.details().info.is_empty() {
        both.details_mut().info = done.details().info.clone();
    }
    both
}

fn hex(bytes: &[u8]) -> String {
    Value::from(bytes).to_sql()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::{Details, LayerHome, Registry, layers::user::UserLayers, testing::conformance};

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        conformance(|| layer(&mut setup("idempotency", json!({})), OwnServer::default()).unwrap()).await;
    }

    /// Expired keys go on being removed, by one task.
    #[tokio::test]
    async fn a_reload_neither_stops_nor_doubles_the_sweeper() {
        let home = LayerHome::new(Role::Master);
        let setup = |name: &&str| LayerSetup::new(name, Default::default(), home.clone());
        let promised = setup(&"idempotency").kept::<Promised>();
        let mut registry = Registry::default();
        registry.register("idempotency", |setup| layer(setup, OwnServer::default())).register("fails", |setup| {
            setup.on_start(async { Err("on purpose".into()) });
            Ok(from_fn(async |command: Command, next: Next| next.run(command).await))
        });
        let user = UserLayers::default();
        for (names, is_taken, sweepers) in [
            (&["idempotency"][..], true, 1),
            (&["idempotency", "fails"], false, 1),
            (&["fails", "idempotency"], false, 1),
            (&["idempotency"], true, 1),
            (&[], true, 0),
        ] {
            let layers = registry.build(names.iter().map(setup).collect()).unwrap();
            assert_eq!(user.replace(layers).await.is_ok(), is_taken, "{names:?}");
            // One is here, one is kept, and each sweeper has one until it has heard that it is to stop.
            let mut turns = 0;
            while Arc::strong_count(&promised) != 2 + sweepers {
                turns += 1;
                assert!(turns < 1000, "{names:?}: {} sweepers", Arc::strong_count(&promised) - 2);
                tokio::task::yield_now().await;
            }
        }
    }

    #[test]
    fn what_the_commit_says_is_not_lost() {
        let mut done = Completion { affected_rows: 2, last_insert_id: 7, warnings: 1, ..Default::default() };
        done.details_mut().info = "Records: 2".into();
        let mut warned = Completion { warnings: 1, ..Default::default() };
        *warned.details_mut() =
            Details { info: "0 of 1".into(), replication_warning: Some("0 of 1".into()), ..Default::default() };
        let both = joined(done, warned.clone());
        assert_eq!((both.affected_rows, both.last_insert_id, both.warnings), (2, 7, 2));
        let Details { info, replication_warning, .. } = both.details();
        assert_eq!((&info[..], replication_warning.as_deref()), (&b"Records: 2"[..], Some("0 of 1")));
        assert_eq!(joined(Completion::default(), warned).details().info, "0 of 1");
    }
}

//! Results from memory, thrown away exactly when a replicated change touches a table that they were read from.
//!
//! - A result is kept for this account, default schema, session variables, client's form of packets, text and parameters.
//! - A prepared statement means what its text meant at its preparation: in the default schema of then, and only as long
//!   as no variable has been set since.
//! - Only autocommit reads outside a transaction, of base tables alone, whose text gives the same answer as long as the
//!   tables do not change. `SQL_NO_CACHE` in a text keeps it out.
//! - A session that has done what may leave temporary tables, locks or the like is not served any more until it is reset;
//!   nor is one that may have, since a reload has put this layer into its stack later.
//! - A result is never older than the node's position: changes are heard of before the position moves, and while a commit
//!   that this node has acknowledged is not captured yet, nothing is served at all.
//! - A master hears of a change before it can be read: a result is kept only if, when it began to be read, all that was
//!   heard of its tables was visible.
//!
//! Not seen: a temporary table that a trigger, or a function in a write, makes in the place of another table. Its session
//! may be answered with what the other table has. One that a procedure makes is seen, as CALL may have left anything. And
//! for as long as a reload that brings this layer has left transactions to the layers of before, their commits may be
//! answered to their clients before they are heard of here.

mod catalog;
mod store;
mod text;
mod view;
mod visible;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::json;
use towline_middleware::{
    ChangeFeed, Command, CommandKind, Completion, Error, Figure, Final, Head, Intent, LayerProblem, LayerSetup,
    Listening, Next, Part, Reply, Role, UserLayer, from_fn, status,
};

pub(super) use self::{catalog::OWN_SCHEMAS, text::is_steady};
use self::{
    catalog::{Catalog, Table},
    store::{Found, Key, Store, Stored},
    view::View,
};
use super::OwnServer;
use crate::wire::capability;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// How much is kept.
    #[serde(default = "bytes_max")]
    bytes_max: usize,
    /// A longer result is not kept.
    #[serde(default = "result_bytes_max")]
    result_bytes_max: usize,
    /// How long a result is kept at most.
    #[serde(default = "ttl_ms")]
    ttl_ms: u64,
}

fn bytes_max() -> usize {
    64 << 20
}

fn result_bytes_max() -> usize {
    256 << 10
}

fn ttl_ms() -> u64 {
    60_000
}

/// MariaDB's own capabilities stand above the 32 of MySQL's.
const CACHE_METADATA: u64 = (capability::mariadb::CACHE_METADATA as u64) << 32;

/// What a result is read from.
type Tables = Arc<[Table]>;

struct Cache {
    store: Store,
    catalog: Catalog,
    /// Whether the server is being asked what is visible.
    is_asking: AtomicBool,
    changes: ChangeFeed,
    result_bytes_max: usize,
    hits: Figure,
    misses: Figure,
    listening: OnceLock<Listening>,
}

/// The layer of these options.
pub(super) fn layer(setup: &mut LayerSetup, server: OwnServer) -> Result<impl UserLayer + use<>, LayerProblem> {
    let Options { bytes_max, result_bytes_max, ttl_ms } = setup.options()?;
    let cache = Arc::new(Cache {
        store: Store::new(bytes_max, Duration::from_millis(ttl_ms), setup.kept()),
        catalog: Catalog::new(server),
        is_asking: AtomicBool::new(false),
        changes: setup.changes().clone(),
        result_bytes_max,
        hits: setup.counter("hits", "Reads answered from memory.", &[]),
        misses: setup.counter("misses", "Reads that could have been answered from memory.", &[]),
        listening: OnceLock::new(),
    });
    let heard = Arc::downgrade(&cache);
    // A slave tells what it has committed.
    let is_visible = setup.role() == Role::Slave;
    let listening = setup.changes().listen(move |step| {
        if let Some(cache) = heard.upgrade() {
            cache.store.step(step, is_visible);
        }
    });
    // Behind the listening: a step in between is heard of twice, and none not at all.
    cache.store.begin(setup.changes().position(), is_visible);
    // It was empty, and nobody else sets it.
    let _ = cache.listening.set(listening);
    let shown = Arc::downgrade(&cache);
    setup.on_missed(|session| session.state::<View>().miss());
    setup.on_status(move || {
        let Some(cache) = shown.upgrade() else { return json!(null) };
        let (results, bytes) = cache.store.size();
        json!({"results": results, "bytes": bytes, "hits": cache.hits.get(), "misses": cache.misses.get()})
    });
    Ok(from_fn(move |command: Command, next: Next| cache.clone().call(command, next)))
}

impl Cache {
    async fn call(self: Arc<Self>, command: Command, next: Next) -> Result<Reply, Error> {
        let view = command.session().state::<View>();
        let Some((key, tables)) = self.key(&command, &view, &next).await? else {
            if let Some(answered) = view.asked_about(&command) {
                // The server has to have run it to know of its rows.
                let mut reply = next.run(answered).await?;
                while reply.next().await?.is_some() {}
            }
            view.follow(&command, || self.store.is_of_base_tables(&command, &self.catalog));
            let reply = next.run(command.clone()).await?;
            return Ok(self.watch_commit(&command, reply));
        };
        // Before the read begins: a change that it may lack comes later.
        let begun = match self.store.find(&key, &tables, &self.changes) {
            Found::Result(stored) => {
                self.hits.increment();
                view.answer(command);
                return Ok(stored.reply());
            }
            Found::Nothing { step } => step,
        };
        self.misses.increment();
        view.asked_about(&command);
        let reply = next.run(command).await?;
        match begun {
            Some(begun) => Ok(self.keep(key, tables, begun, reply)),
            None => {
                self.ask_what_is_visible();
                Ok(reply)
            }
        }
    }

    /// In the background, one question at a time; whoever needs a newer answer asks again.
    fn ask_what_is_visible(self: Arc<Self>) {
        if self.is_asking.swap(true, SeqCst) {
            return;
        }
        tokio::spawn(async move {
            let position = self.store.position();
            match self.catalog.wait_visible(position).await {
                Ok(()) => self.store.see(position),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "the cache can't ask the server what is visible; trying again");
                }
            }
            self.is_asking.store(false, SeqCst);
        });
    }

    /// Under which key this command's result is kept, and what it is read from; none if it can't be kept.
    async fn key(&self, command: &Command, view: &View, next: &Next) -> Result<Option<(Key, Tables)>, Error> {
        let session = command.session();
        let autocommits = session.status() & (status::AUTOCOMMIT | status::IN_TRANS) == status::AUTOCOMMIT;
        if command.intent() != Intent::Read || !autocommits || !view.is_open_to(command) {
            return Ok(None);
        }
        let (Some(parameters), Some(plan)) = (parameters(command), command.plan()) else { return Ok(None) };
        // Rows without their columns are for one who was sent those at the preparation.
        let leaves_columns_out = command.kind() == CommandKind::Execute && session.capabilities() & CACHE_METADATA != 0;
        if plan.refusal.is_some() || leaves_columns_out {
            return Ok(None);
        }
        let schema = command.schema();
        let Some(tables) = self.store.tables(command, &schema, &self.catalog) else { return Ok(None) };
        let Some(variables) = view.variables(session, next).await? else { return Ok(None) };
        let key = Key {
            user: session.user(),
            schema,
            variables,
            capabilities: session.capabilities(),
            sql: command.sql().clone(),
            parameters,
        };
        Ok(Some((key, tables)))
    }

    /// Keeps the result when it has come to its end.
    fn keep(self: Arc<Self>, key: Key, tables: Tables, begun: u64, reply: Reply) -> Reply {
        if reply.head() != Head::Rows {
            return reply;
        }
        let mut taken = Taken { cache: self, key: Some(key), tables, begun, bytes: BytesMut::new() };
        if reply.is_complete() {
            reply.ready().for_each(|part| taken.follow(part));
            return reply;
        }
        reply.inspect(move |part| taken.follow(part))
    }

    /// A commit that is acknowledged must be captured before anything is served from memory again.
    fn watch_commit(self: Arc<Self>, command: &Command, mut reply: Reply) -> Reply {
        if reply.is_complete() {
            reply.ready_finals().for_each(|end| self.store.acknowledge(end));
            return reply;
        }
        if command.intent() == Intent::Read {
            return reply;
        }
        reply.inspect(move |part| {
            if let Part::Final { end, .. } = part {
                self.store.acknowledge(end);
            }
        })
    }
}

/// The bytes that tell an execute's values; empty for a query. `None` for what can't be told.
fn parameters(command: &Command) -> Option<Bytes> {
    match command.kind() {
        CommandKind::Query => Some(Bytes::new()),
        CommandKind::Execute => {
            let (types, rest) = command.bound_parameters()?;
            // The first byte asks for a cursor. The types tell values apart that have the same bytes.
            (rest.first() == Some(&0)).then(|| [b"x", &types[..], &rest[..]].concat().into())
        }
        _ => None,
    }
}

/// A result on its way to the client, of which a copy is taken.
struct Taken {
    cache: Arc<Cache>,
    key: Option<Key>,
    tables: Tables,
    begun: u64,
    bytes: BytesMut,
}

impl Taken {
    fn follow(&mut self, part: &Part) {
        match part {
            Part::Packets(bytes) if self.bytes.len() + bytes.len() <= self.cache.result_bytes_max => {
                self.bytes.extend_from_slice(bytes);
            }
            Part::Final { end: Final::Ok(completion), sequence } if is_plain(completion) => {
                if let Some(key) = self.key.take() {
                    // Copied to its length: the buffer may be far larger.
                    let packets = Bytes::copy_from_slice(&self.bytes);
                    let stored = Stored::new(packets, completion.clone(), *sequence, self.tables.clone(), self.begun);
                    self.cache.store.insert(key, stored, &self.cache.changes);
                }
            }
            Part::Final { end, .. } => {
                self.cache.store.acknowledge(end);
                self.key = None;
            }
            Part::Packets(_) | Part::Turn(_) => self.key = None,
        }
    }
}

/// Whether a result's end says nothing that belongs to this one execution of it.
fn is_plain(completion: &Completion) -> bool {
    !completion.has_more()
        && completion.warnings == 0
        && completion.details().gtid.is_none()
        && completion.details().state.is_empty()
        && completion.status & status::CURSOR_EXISTS == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use towline_middleware::testing::conformance;

    use super::*;
    use crate::layers::tests::setup;

    #[tokio::test]
    async fn it_conforms() {
        conformance(|| layer(&mut setup("cache", json!({})), OwnServer::default()).unwrap()).await;
    }
}

//! Sessions with MySQL by account: an HTTP client logs in with the name and password of a MySQL account, and its
//! commands run with that account's rights.
//!
//! A login costs several round trips, so a session is kept for the account's next request. In between it is reset: no
//! transaction, lock, variable, temporary table or prepared statement of one request is seen by another.

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use mysql_common::scramble::scramble_sha256;
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};
use towline_middleware::{
    Classifier, Command, CommandKind, Final, Front, Part, Reply, Role, Session, SessionStack, Stack,
    layers::guard::Forwarding,
};

use super::HttpError;
use crate::{
    router::Router,
    upstream::{ConnectError, Credentials, Endpoint, Fence, Opening, Upstream, log_in},
};

/// How long the end of an abandoned session may take.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How many sessions there may be, and for how long.
#[derive(Clone, Debug)]
pub struct AccountLimits {
    /// Sessions per account at a time; one more request waits for as long as connecting may take.
    pub sessions_max: usize,
    /// An unused session is closed after so long.
    pub idle_max: Duration,
    /// A session is not used again after so long, so that a changed password or a lost right takes hold.
    pub age_max: Duration,
    /// How long connecting and logging in may take.
    pub connect_timeout: Duration,
}

impl Default for AccountLimits {
    fn default() -> Self {
        Self {
            sessions_max: 32,
            idle_max: Duration::from_secs(30),
            age_max: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// What a session needs of the node.
#[derive(Clone, Debug)]
pub struct SessionParts {
    /// The node's role, for what sessions are fenced with.
    pub role: Role,
    /// Where this node's MySQL listens.
    pub endpoint: Endpoint,
    /// The layers, applied once per session.
    pub stack: Stack,
    /// Tells reads from writes.
    pub classifier: Arc<dyn Classifier>,
}

/// Which default schema a request needs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Schema<'a> {
    /// Its SQL names schemas itself.
    Any,
    /// None at all, so that a name without a schema is an error and not a table of an earlier request's.
    None,
    /// This one, if there is such a session; otherwise it is to be chosen.
    Named(&'a str),
}

/// The sessions of all accounts. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Accounts(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    parts: SessionParts,
    /// Whether the guard is to tell of writes that the master would take.
    forwards: bool,
    limits: AccountLimits,
    accounts: Mutex<HashMap<String, Account>>,
    /// Makes the proofs of passwords that idle sessions keep worthless outside this process.
    salt: [u8; 20],
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Account {
    permits: Arc<Semaphore>,
    idle: Vec<Idle>,
}

#[derive(Debug)]
struct Idle {
    session: OpenSession,
    proof: Proof,
    since: Instant,
}

/// What a password hashes to; none for an empty one. An idle session is only lent to who knows its password.
type Proof = Option<[u8; 32]>;

fn same_proof(a: &Proof, b: &Proof) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.ct_eq(b).into(),
        (a, b) => a.is_none() && b.is_none(),
    }
}

impl Accounts {
    /// No sessions yet. `forwards`: whether a refused write may be for the master.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub(crate) fn new(parts: SessionParts, limits: AccountLimits, forwards: bool) -> Result<Self, getrandom::Error> {
        let mut salt = [0; 20];
        getrandom::fill(&mut salt)?;
        let (accounts, tasks) = (Mutex::default(), TaskTracker::new());
        Ok(Self(Arc::new(Shared { parts, forwards, limits, accounts, salt, tasks })))
    }

    /// A session of this account.
    ///
    /// # Errors
    /// The login fails, MySQL is away, or all of the account's sessions are at work.
    pub(crate) async fn lend(&self, credentials: &Credentials, schema: Schema<'_>) -> Result<Lent, HttpError> {
        let permit = self.permit(&credentials.user).await?;
        let proof = scramble_sha256(&self.0.salt, credentials.password.as_bytes());
        let session = loop {
            let Some(mut idle) = self.take_idle(&credentials.user, &proof, schema) else {
                break self.open(credentials).await?;
            };
            // One that the server has closed meanwhile is dropped, and the next is tried: a command that broke off on
            // it could not be tried again, since nobody would know whether it was carried out.
            if idle.session.ping().await.is_ok() {
                break idle.session;
            }
        };
        let (credentials, home) = (credentials.clone(), self.clone());
        let lent = Lent { session: Some(session), permit: Some(permit), proof, credentials, home };
        // What an earlier request was refused is nothing to this one.
        lent.take_refused_write();
        Ok(lent)
    }

    /// Whether commands pass a layer of this name.
    pub(crate) fn has_layer(&self, name: &str) -> bool {
        self.0.parts.stack.user.names().iter().any(|own| own == name)
    }

    /// How many sessions there are, idle ones included.
    pub(crate) fn open_sessions(&self) -> usize {
        let accounts = self.0.accounts.lock();
        accounts.values().map(|a| a.idle.len() + self.0.limits.sessions_max - a.permits.available_permits()).sum()
    }

    /// Closes the sessions that were idle or open for too long. To be called every now and then.
    pub(crate) fn sweep(&self) {
        let mut over = Vec::new();
        self.0.accounts.lock().retain(|_, account| {
            let (keep, close) = account.idle.drain(..).partition(|idle| self.is_fresh(idle));
            account.idle = keep;
            over.extend::<Vec<Idle>>(close);
            !account.idle.is_empty() || Arc::strong_count(&account.permits) > 1
        });
        self.close_all(over);
    }

    /// Closes the idle sessions, and waits until those that are being reset or ended are done.
    pub(crate) async fn close(&self) {
        let idle = self.0.accounts.lock().drain().flat_map(|(_, account)| account.idle).collect();
        self.close_all(idle);
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn close_all(&self, sessions: Vec<Idle>) {
        for mut idle in sessions {
            self.0.tasks.spawn(async move {
                // The server is told, or it would log an aborted connection; that it hears is not worth waiting for.
                let _ = tokio::time::timeout(KILL_TIMEOUT, idle.session.settle(CommandKind::Quit, b"")).await;
            });
        }
    }

    fn is_fresh(&self, idle: &Idle) -> bool {
        idle.since.elapsed() < self.0.limits.idle_max && idle.session.opened.elapsed() < self.0.limits.age_max
    }

    async fn permit(&self, user: &str) -> Result<OwnedSemaphorePermit, HttpError> {
        let sessions_max = self.0.limits.sessions_max;
        let permits = {
            let mut accounts = self.0.accounts.lock();
            let fresh = || Account { permits: Arc::new(Semaphore::new(sessions_max)), idle: Vec::new() };
            accounts.entry(user.to_owned()).or_insert_with(fresh).permits.clone()
        };
        let waiting = tokio::time::timeout(self.0.limits.connect_timeout, permits.acquire_owned());
        // The semaphore is never closed, so only the time can run out.
        waiting.await.ok().and_then(Result::ok).ok_or(HttpError::AccountBusy { sessions_max })
    }

    fn take_idle(&self, user: &str, proof: &Proof, schema: Schema<'_>) -> Option<Idle> {
        let mut accounts = self.0.accounts.lock();
        let idle = &mut accounts.get_mut(user)?.idle;
        let fits = |idle: &Idle| same_proof(&idle.proof, proof) && self.is_fresh(idle);
        let index = match schema {
            Schema::Any => idle.iter().rposition(fits),
            // There is no way back to no schema at all.
            Schema::None => idle.iter().rposition(|idle| fits(idle) && idle.session.session.schema().is_empty()),
            Schema::Named(name) => idle
                .iter()
                .rposition(|idle| fits(idle) && *idle.session.session.schema() == *name)
                .or_else(|| idle.iter().rposition(fits)),
        }?;
        Some(idle.swap_remove(index))
    }

    async fn open(&self, credentials: &Credentials) -> Result<OpenSession, HttpError> {
        let parts = &self.0.parts;
        let session = Arc::new(Session::new(Front::Http, parts.role, None, parts.classifier.clone()));
        if self.0.forwards {
            session.state::<Forwarding>().switch_on();
        }
        let upstream = self.connect(credentials, &session).await?;
        let commands = parts.stack.session(&session, Router::new(upstream));
        let mut session = OpenSession { session, commands, opened: Instant::now() };
        session.set_names().await?;
        Ok(session)
    }

    async fn connect(&self, credentials: &Credentials, session: &Session) -> Result<Upstream, HttpError> {
        let Shared { parts: SessionParts { role, endpoint, .. }, limits, .. } = &*self.0;
        let opening = Opening::connect(endpoint, Fence::of(*role), None, limits.connect_timeout).await?;
        let logging_in = log_in(opening, credentials, session);
        let timed_out = |_| ConnectError::Unreachable {
            endpoint: endpoint.clone(),
            source: io::Error::new(io::ErrorKind::TimedOut, "no end of the login in time"),
        };
        Ok(tokio::time::timeout(limits.connect_timeout, logging_in).await.map_err(timed_out)??)
    }

    /// Ends a session that was abandoned in the middle of a command, which the server would otherwise go on with.
    async fn kill(&self, credentials: &Credentials, connection_id: u32) -> Result<(), HttpError> {
        let parts = &self.0.parts;
        let session = Session::new(Front::Http, parts.role, None, parts.classifier.clone());
        let mut upstream = self.connect(credentials, &session).await?;
        let mut payload = vec![CommandKind::Query.to_byte()];
        payload.extend_from_slice(format!("KILL {connection_id}").as_bytes());
        upstream.write_packet(0, &payload).await?;
        // An error means that the session has ended by itself.
        upstream.read_packet().await?;
        Ok(upstream.write_packet(0, &[CommandKind::Quit.to_byte()]).await?)
    }
}

/// A session with MySQL behind the layers.
#[derive(Debug)]
struct OpenSession {
    session: Arc<Session>,
    commands: SessionStack<Router>,
    opened: Instant,
}

impl OpenSession {
    async fn call(&mut self, kind: CommandKind, body: &[u8]) -> Result<Reply, HttpError> {
        let mut payload = Vec::with_capacity(1 + body.len());
        payload.push(kind.to_byte());
        payload.extend_from_slice(body);
        let command = Command::new(self.session.clone(), payload.into());
        Ok(self.commands.ready().await?.call(command).await?)
    }

    /// Runs a command whose rows nobody wants.
    async fn settle(&mut self, kind: CommandKind, body: &[u8]) -> Result<(), HttpError> {
        let mut reply = self.call(kind, body).await?;
        let mut result = Ok(());
        while let Some(part) = reply.next().await? {
            if let Part::Final { end: Final::Err(error), .. } = part {
                result = Err(HttpError::Server(error));
            }
        }
        result
    }

    async fn ping(&mut self) -> Result<(), HttpError> {
        self.settle(CommandKind::Ping, b"").await
    }

    /// Names and literals of ours are UTF-8. The login asks for that, too, but `init_connect` and a server option may
    /// have their own way.
    async fn set_names(&mut self) -> Result<(), HttpError> {
        self.settle(CommandKind::Query, b"SET NAMES utf8mb4").await
    }

    /// Clears all that a request may have left.
    async fn reset(&mut self) -> Result<(), HttpError> {
        self.settle(CommandKind::ResetConnection, b"").await?;
        self.set_names().await
    }
}

/// A session that is lent to one request. Dropped before it is given back, it is ended together with what it runs.
#[derive(Debug)]
pub(crate) struct Lent {
    session: Option<OpenSession>,
    permit: Option<OwnedSemaphorePermit>,
    proof: Proof,
    credentials: Credentials,
    home: Accounts,
}

impl Lent {
    /// The session's facts.
    pub(crate) fn session(&self) -> &Arc<Session> {
        &self.open().session
    }

    /// Sends a command through the layers.
    ///
    /// # Errors
    /// The session is over.
    pub(crate) async fn call(&mut self, kind: CommandKind, body: &[u8]) -> Result<Reply, HttpError> {
        self.open_mut().call(kind, body).await
    }

    /// Runs a command whose rows nobody wants.
    ///
    /// # Errors
    /// The session is over, or the command is refused.
    pub(crate) async fn settle(&mut self, kind: CommandKind, body: &[u8]) -> Result<(), HttpError> {
        self.open_mut().settle(kind, body).await
    }

    /// Whether a write was refused since the last call that the master would take.
    pub(crate) fn take_refused_write(&self) -> bool {
        self.home.0.forwards && self.session().state::<Forwarding>().take_refused()
    }

    /// Gives the session back: it is reset and may serve the account's next request. Every reply must have been read to
    /// its end.
    pub(crate) fn give_back(mut self) {
        let (Some(mut session), permit) = (self.session.take(), self.permit.take()) else { return };
        let (home, user, proof) = (self.home.clone(), self.credentials.user.clone(), self.proof);
        let limit = home.0.limits.connect_timeout;
        self.home.0.tasks.spawn(async move {
            // What can't be reset is not used again. Nor is what holds a transaction: MariaDB parts a prepared XA
            // transaction from its session only when that ends.
            if !session.session.in_transaction()
                && let Ok(Ok(())) = tokio::time::timeout(limit, session.reset()).await
                && let Some(account) = home.0.accounts.lock().get_mut(&user)
            {
                account.idle.push(Idle { session, proof, since: Instant::now() });
            }
            drop(permit);
        });
    }

    fn open(&self) -> &OpenSession {
        self.session.as_ref().expect("only give_back and drop take it out, and they end the loan")
    }

    fn open_mut(&mut self) -> &mut OpenSession {
        self.session.as_mut().expect("only give_back and drop take it out, and they end the loan")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let (Some(session), permit) = (self.session.take(), self.permit.take()) else { return };
        // Without a runtime the process is ending, and its connections with it.
        let Ok(runtime) = Handle::try_current() else { return };
        let (home, credentials) = (self.home.clone(), self.credentials.clone());
        let connection_id = session.session.connection_id();
        drop(session);
        let killing = async move {
            let killed = tokio::time::timeout(KILL_TIMEOUT, home.kill(&credentials, connection_id)).await;
            tracing::debug!(connection_id, ?killed, "a session was abandoned and ended");
            drop(permit);
        };
        self.home.0.tasks.spawn_on(killing, &runtime);
    }
}

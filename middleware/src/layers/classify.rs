//! Middleware that finds out what a command means to do, before anything else looks at it.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use pin_project_lite::pin_project;
use tower::Service;

use super::{
    explain,
    kill::{self, Present, Relayed},
};
use crate::{Command, CommandKind, Error, Head, Intent, Named, Plan, Prepared, Reply, Role, ServerError, Session};

/// So many statements that SQL names are known in one session; the rest stay unknown.
const NAMES_MAX: usize = 1024;
/// The statement id by which MariaDB's clients name "the statement prepared last".
///
/// Source: MariaDB Knowledge Base, COM_STMT_EXECUTE, "statement id -1".
const LAST_PREPARED: u32 = u32::MAX;

/// Applies [`Classify`].
#[derive(Clone, Debug)]
pub struct ClassifyLayer {
    fixed: Arc<Fixed>,
    relayed: Relayed,
}

/// The plans of commands that have no SQL.
#[derive(Debug)]
struct Fixed {
    read: Arc<Plan>,
    session_state: Arc<Plan>,
    write: Arc<Plan>,
    unknown: Arc<Plan>,
}

impl Default for ClassifyLayer {
    fn default() -> Self {
        let plan = |intent| Arc::new(Plan::bare(intent, "command byte"));
        Self {
            fixed: Arc::new(Fixed {
                read: plan(Intent::Read),
                session_state: plan(Intent::SessionState),
                write: plan(Intent::Write),
                unknown: plan(Intent::Unknown),
            }),
            relayed: Relayed::default(),
        }
    }
}

impl ClassifyLayer {
    /// Wraps the service of this session, which sessions of the same account may KILL as long as the service lives.
    pub(crate) fn session<S>(&self, session: &Arc<Session>, inner: S) -> Classify<S> {
        Classify {
            fixed: self.fixed.clone(),
            prepared: Statements::default(),
            relayed: self.relayed.clone(),
            _present: self.relayed.enter(session),
            inner,
        }
    }
}

/// Finds out what a command means to do.
#[derive(Debug)]
pub struct Classify<S> {
    fixed: Arc<Fixed>,
    prepared: Statements,
    relayed: Relayed,
    _present: Present,
    inner: S,
}

/// A session's prepared statements: an execute takes the class and the SQL of its preparation.
#[derive(Clone, Debug, Default)]
struct Statements(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    by_id: HashMap<u32, Arc<Prepared>>,
    last: Option<Arc<Prepared>>,
    /// The plans of what `PREPARE name FROM 'text'` has prepared.
    by_name: HashMap<String, Arc<Plan>>,
}

impl Statements {
    fn lock(&self) -> MutexGuard<'_, Known> {
        // Valid after every single step, so a panic elsewhere can't have left it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: Option<u32>) -> Option<Arc<Prepared>> {
        let known = self.lock();
        match id? {
            LAST_PREPARED => known.last.clone(),
            id => known.by_id.get(&id).cloned(),
        }
    }
}

impl<S> Classify<S> {
    fn classify(&self, command: &mut Command) {
        use CommandKind as Kind;
        let plan = match command.kind() {
            Kind::Query | Kind::Prepare => {
                let answer = explain::asked_about(command.sql()).map(|asked| self.explain(command.session(), asked));
                if answer.is_some_and(|answer| command.rewrite(answer)) {
                    return;
                }
                let session = command.session();
                let plan = session.classifier().classify(command.sql(), session.sql_mode());
                self.by_name(command, plan)
            }
            Kind::Execute | Kind::BulkExecute => match self.prepared.get(command.statement_id()) {
                Some(statement) => {
                    if command.kind() == Kind::Execute {
                        statement.learn_types(command.payload());
                    }
                    return command.executes(statement);
                }
                None => self.fixed.unknown.clone(),
            },
            Kind::Fetch => {
                command.fetches(self.prepared.get(command.statement_id()));
                self.fixed.read.clone()
            }
            Kind::Ping | Kind::Statistics | Kind::ProcessInfo | Kind::FieldList => self.fixed.read.clone(),
            // They reach beyond the session, as KILL and FLUSH do.
            Kind::Refresh | Kind::ProcessKill | Kind::Debug => self.fixed.write.clone(),
            Kind::Quit
            | Kind::InitDb
            | Kind::ChangeUser
            | Kind::SendLongData
            | Kind::CloseStatement
            | Kind::ResetStatement
            | Kind::SetOption
            | Kind::ResetConnection => self.fixed.session_state.clone(),
            Kind::Unsupported(_) => self.fixed.unknown.clone(),
        };
        command.classified(plan);
    }

    /// The SELECT that answers an `EXPLAIN TOWLINE`.
    fn explain(&self, session: &Session, asked: &[u8]) -> String {
        let mut explanation = session.classifier().explain(asked, session.sql_mode());
        let target = || kill::target_of_text(asked);
        if let Some(plan) = self.relayed.plan_of_own(session, target, &explanation.plan) {
            explanation.plan = Arc::new(plan);
        }
        explain::answer(session, explanation)
    }

    /// Lets a KILL of the client's own session pass. Decided anew at each execute: the session may have become another
    /// account's since the prepare.
    fn permit_own_kill(&self, command: &mut Command) {
        let plan =
            command.plan().and_then(|plan| self.relayed.plan_of_own(command.session(), || kill::target(command), plan));
        if let Some(plan) = plan {
            command.classified(Arc::new(plan));
        }
    }

    /// On a slave an `EXECUTE s` has the plan of its `PREPARE s`. There every PREPARE that reaches the server has passed
    /// here: what could run another (CALL, a text that nobody can read) is refused. A master's EXECUTE stays unknown.
    fn by_name(&self, command: &Command, plan: Arc<Plan>) -> Arc<Plan> {
        if command.session().role() == Role::Master || command.kind() != CommandKind::Query {
            return plan;
        }
        match &plan.named {
            Some(Named::Prepares(name)) => {
                let mut known = self.prepared.lock();
                if known.by_name.len() < NAMES_MAX {
                    known.by_name.insert(name.clone(), plan.clone());
                } else {
                    known.by_name.remove(name);
                }
            }
            Some(Named::Executes(name)) => {
                if let Some(prepared) = self.prepared.lock().by_name.get(name) {
                    return prepared.clone();
                }
            }
            None => {}
        }
        plan
    }

    /// What the server notes or forgets about statements on this command is noted or forgotten here too.
    fn follow(&self, command: &Command) {
        match command.kind() {
            CommandKind::SendLongData | CommandKind::ResetStatement => {
                if let Some(statement) = self.prepared.get(command.statement_id()) {
                    statement.set_long_data(command.kind() == CommandKind::SendLongData);
                }
            }
            CommandKind::CloseStatement => {
                if let Some(id) = command.statement_id() {
                    self.prepared.lock().by_id.remove(&id);
                }
            }
            CommandKind::ResetConnection | CommandKind::ChangeUser => *self.prepared.lock() = Known::default(),
            _ => {}
        }
    }
}

impl<S> Service<Command> for Classify<S>
where
    S: Service<Command, Response = Reply, Error = Error>,
{
    type Response = Reply;
    type Error = Error;
    type Future = ClassifyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut command: Command) -> Self::Future {
        if command.statement_id() == Some(LAST_PREPARED) && self.prepared.get(Some(LAST_PREPARED)).is_none() {
            // The server may have one that was prepared before what was refused here.
            let reply =
                if command.kind().has_reply() { Reply::err(unknown_statement(&command)) } else { Reply::none() };
            return ClassifyFuture::Answered { reply: Some(reply) };
        }
        self.classify(&mut command);
        self.follow(&command);
        let preparing = match command.kind() {
            CommandKind::Prepare => command.prepares().map(|statement| (self.prepared.clone(), statement)),
            _ => None,
        };
        let executing = if preparing.is_none() { command.prepared().cloned() } else { None };
        self.permit_own_kill(&mut command);
        ClassifyFuture::Running { preparing, executing, inner: self.inner.call(command) }
    }
}

/// In the server's words.
fn unknown_statement(command: &Command) -> ServerError {
    let asked = match command.kind() {
        CommandKind::ResetStatement => "mysqld_stmt_reset",
        CommandKind::Fetch => "mysqld_stmt_fetch",
        _ => "mysqld_stmt_execute",
    };
    let text = format!("Unknown prepared statement handler ({LAST_PREPARED}) given to {asked}");
    ServerError::new(1243, b"HY000", text)
}

pin_project! {
    /// The future of [`Classify`].
    #[project = Projected]
    #[derive(Debug)]
    #[allow(missing_docs, private_interfaces)] // a variant's fields can't carry docs through the macro
    pub enum ClassifyFuture<F> {
        /// The inner service runs.
        Running {
            preparing: Option<(Statements, Arc<Prepared>)>,
            executing: Option<Arc<Prepared>>,
            #[pin]
            inner: F,
        },
        /// Nothing goes further in.
        Answered { reply: Option<Reply> },
    }
}

impl<F: Future<Output = Result<Reply, Error>>> Future for ClassifyFuture<F> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (preparing, executing, inner) = match self.project() {
            Projected::Running { preparing, executing, inner } => (preparing, executing, inner),
            Projected::Answered { reply } => {
                return Poll::Ready(Ok(reply.take().expect("a ready future is not polled again")));
            }
        };
        let outcome = inner.poll(cx);
        let Poll::Ready(Ok(reply)) = &outcome else { return outcome };
        if let Some(statement) = executing.take() {
            statement.answered();
        }
        if let Some((statements, statement)) = preparing.take() {
            let mut known = statements.lock();
            known.last = None;
            if let Head::Prepared { statement_id, parameters } = reply.head() {
                statement.set_parameters(parameters);
                known.by_id.insert(statement_id, statement.clone());
                known.last = Some(statement);
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use tower::{Layer, service_fn};

    use super::*;
    use crate::{Completion, layers::guard::GuardLayer, testing};

    /// What each command byte is that a node carries out, and whether a slave refuses it. What is no SQL stands here for
    /// itself; of what has SQL, the SQL is asked (here it reads), and of an execute its preparation (here there is none).
    const BYTES: [(u8, Intent, bool); 20] = [
        (0x01, Intent::SessionState, false), // COM_QUIT
        (0x02, Intent::SessionState, false), // COM_INIT_DB
        (0x03, Intent::Read, false),         // COM_QUERY
        (0x04, Intent::Read, false),         // COM_FIELD_LIST
        (0x07, Intent::Write, true),         // COM_REFRESH
        (0x09, Intent::Read, false),         // COM_STATISTICS
        (0x0a, Intent::Read, false),         // COM_PROCESS_INFO
        (0x0c, Intent::Write, true),         // COM_PROCESS_KILL
        (0x0d, Intent::Write, true),         // COM_DEBUG
        (0x0e, Intent::Read, false),         // COM_PING
        (0x11, Intent::SessionState, false), // COM_CHANGE_USER
        (0x16, Intent::Read, false),         // COM_STMT_PREPARE
        (0x17, Intent::Unknown, true),       // COM_STMT_EXECUTE
        (0x18, Intent::SessionState, false), // COM_STMT_SEND_LONG_DATA
        (0x19, Intent::SessionState, false), // COM_STMT_CLOSE
        (0x1a, Intent::SessionState, false), // COM_STMT_RESET
        (0x1b, Intent::SessionState, false), // COM_SET_OPTION
        (0x1c, Intent::Read, false),         // COM_STMT_FETCH
        (0x1f, Intent::SessionState, false), // COM_RESET_CONNECTION
        (0xfa, Intent::Unknown, true),       // COM_STMT_BULK_EXECUTE (MariaDB)
    ];

    /// Classify and guard of one session. A command is answered with its intent, and with the error that refused it.
    struct Node<S> {
        session: Arc<Session>,
        service: S,
        intents: Arc<Mutex<Vec<Intent>>>,
    }

    fn node(role: Role, replies: Vec<Reply>) -> Node<impl Service<Command, Response = Reply, Error = Error>> {
        let mut guard = GuardLayer::new(role).layer(testing::FakeRouter::new(replies));
        let intents: Arc<Mutex<Vec<Intent>>> = Arc::default();
        let seen = intents.clone();
        let inner = service_fn(move |command: Command| {
            seen.lock().expect("no test panics with it").extend(command.plan().map(|plan| plan.intent));
            guard.call(command)
        });
        let session = testing::session(role);
        let service = ClassifyLayer::default().session(&session, inner);
        Node { session, service, intents }
    }

    impl<S: Service<Command, Response = Reply, Error = Error>> Node<S> {
        async fn ask(&mut self, payload: &[u8]) -> (Option<Intent>, Option<u16>) {
            let command = Command::new(self.session.clone(), payload.to_vec().into());
            let reply = self.service.call(command).await.expect("a refusal is a reply");
            let intent = self.intents.lock().expect("no test panics with it").pop();
            (intent, reply.server_error().map(|error| error.code))
        }
    }

    fn ok() -> Reply {
        Reply::ok(Completion::default())
    }

    #[tokio::test]
    async fn every_command_byte_has_its_class_and_a_slave_refuses_what_may_write() {
        for byte in 0..=u8::MAX {
            let known = BYTES.iter().find(|(known, ..)| *known == byte);
            for role in [Role::Master, Role::Slave] {
                let (intent, code) = match known {
                    Some((_, intent, true)) if role == Role::Slave => (*intent, Some(1290)),
                    Some((_, intent, _)) => (*intent, None),
                    None => (Intent::Unknown, Some(1047)),
                };
                let found = node(role, vec![ok()]).ask(&[&[byte], &b"SELECT 1"[..]].concat()).await;
                assert_eq!(found, (Some(intent), code), "byte {byte:#x} on a {role}");
            }
        }
    }

    #[tokio::test]
    async fn behind_a_refused_prepare_there_is_no_statement_that_was_prepared_last() {
        let prepared = || Reply::new(Head::Prepared { statement_id: 5, parameters: 0 }, [], None);
        let refused = Reply::err(ServerError::refused("a layer's word"));
        let mut node = node(Role::Master, vec![prepared(), ok(), refused, ok(), prepared(), ok()]);
        let last = |byte: u8| [&[byte], &LAST_PREPARED.to_le_bytes()[..], &[0, 1, 0, 0, 0]].concat();
        assert_eq!(node.ask(&last(0x17)).await, (None, Some(1243)), "nothing was prepared");
        node.ask(b"\x16DELETE FROM t").await;
        assert_eq!(node.ask(&last(0x17)).await, (Some(Intent::Write), None));
        assert_eq!(node.ask(b"\x16SELECT 1").await, (Some(Intent::Read), Some(1290)));
        for (byte, code) in
            [(0x17, Some(1243)), (0xfa, Some(1243)), (0x1a, Some(1243)), (0x1c, Some(1243)), (0x18, None), (0x19, None)]
        {
            assert_eq!(node.ask(&last(byte)).await, (None, code), "{byte:#x} went on");
        }
        let id = [&[0x17], &5u32.to_le_bytes()[..], &[0, 1, 0, 0, 0]].concat();
        assert_eq!(node.ask(&id).await, (Some(Intent::Write), None), "by its id it is there");
        node.ask(b"\x16SELECT 1").await;
        assert_eq!(node.ask(&last(0x17)).await, (Some(Intent::Read), None));
    }

    #[tokio::test]
    async fn a_statement_keeps_nothing_of_what_was_read_with_it() {
        let read = bytes::Bytes::from([&b"\x16SELECT 1"[..], &[b'x'; 1 << 20]].concat());
        let mut command = Command::new(testing::session(Role::Master), read.slice(..9));
        command.classify();
        let statement = command.prepares().expect("it has SQL");
        assert_eq!(statement.text().0, "SELECT 1");
        drop(command);
        assert!(read.try_into_mut().is_ok(), "somebody else holds the buffer");
    }

    #[tokio::test]
    async fn an_execute_is_what_was_prepared_until_that_is_forgotten() {
        let prepared = |statement_id| Reply::new(Head::Prepared { statement_id, parameters: 0 }, [], None);
        let mut node =
            node(Role::Master, vec![prepared(5), prepared(6), ok(), ok(), ok(), ok(), ok(), ok(), ok(), ok()]);
        let id = |byte: u8, id: u32| [&[byte], &id.to_le_bytes()[..], &[0, 1, 0, 0, 0]].concat();
        for (payload, intent) in [
            (b"\x16SELECT 1".to_vec(), Intent::Read),
            (b"\x16DELETE FROM t".to_vec(), Intent::Write),
            (id(0x17, 5), Intent::Read),
            (id(0x17, 6), Intent::Write),
            (id(0xfa, 6), Intent::Write),
            (id(0x17, LAST_PREPARED), Intent::Write),
            (id(0x19, 6), Intent::SessionState),
            (id(0x17, 6), Intent::Unknown),
            (b"\x1f".to_vec(), Intent::SessionState),
            (id(0x17, 5), Intent::Unknown),
        ] {
            assert_eq!(node.ask(&payload).await, (Some(intent), None), "{payload:?}");
        }
    }
}

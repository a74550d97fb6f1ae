//! Middleware that finds out what a command means to do, before anything else looks at it.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{Command, CommandKind, Error, Head, Intent, Plan, Reply};

/// The statement id by which MariaDB's clients name "the statement prepared last".
///
/// Source: MariaDB Knowledge Base, COM_STMT_EXECUTE, "statement id -1".
const LAST_PREPARED: u32 = u32::MAX;

/// Applies [`Classify`].
#[derive(Clone, Debug)]
pub struct ClassifyLayer {
    fixed: Arc<Fixed>,
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
        }
    }
}

impl<S> Layer<S> for ClassifyLayer {
    type Service = Classify<S>;

    fn layer(&self, inner: S) -> Classify<S> {
        Classify { fixed: self.fixed.clone(), prepared: Prepared::default(), inner }
    }
}

/// Finds out what a command means to do.
#[derive(Debug)]
pub struct Classify<S> {
    fixed: Arc<Fixed>,
    prepared: Prepared,
    inner: S,
}

/// A session's prepared statements: an execute takes the class and the SQL of its preparation.
#[derive(Clone, Debug, Default)]
struct Prepared(Arc<Mutex<Statements>>);

#[derive(Debug, Default)]
struct Statements {
    by_id: HashMap<u32, Statement>,
    last: Option<Statement>,
}

#[derive(Clone, Debug)]
struct Statement {
    plan: Arc<Plan>,
    sql: Bytes,
}

impl Prepared {
    fn lock(&self) -> MutexGuard<'_, Statements> {
        // Valid after every single step, so a panic elsewhere can't have left it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: Option<u32>) -> Option<Statement> {
        let statements = self.lock();
        match id? {
            LAST_PREPARED => statements.last.clone(),
            id => statements.by_id.get(&id).cloned(),
        }
    }
}

impl<S> Classify<S> {
    fn classify(&self, command: &mut Command) {
        use CommandKind as Kind;
        let plan = match command.kind() {
            Kind::Query | Kind::Prepare => {
                let session = command.session();
                session.classifier().classify(command.sql(), session.sql_mode())
            }
            Kind::Execute => match self.prepared.get(command.statement_id()) {
                Some(statement) => return command.classified(statement.plan, Some(statement.sql)),
                None => self.fixed.unknown.clone(),
            },
            Kind::Ping | Kind::Statistics | Kind::ProcessInfo | Kind::FieldList | Kind::Fetch => {
                self.fixed.read.clone()
            }
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
        command.classified(plan, None);
    }

    /// The statements that the server forgets on this command are forgotten here too.
    fn forget(&self, command: &Command) {
        match command.kind() {
            CommandKind::CloseStatement => {
                if let Some(id) = command.statement_id() {
                    self.prepared.lock().by_id.remove(&id);
                }
            }
            CommandKind::ResetConnection | CommandKind::ChangeUser => *self.prepared.lock() = Statements::default(),
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
        self.classify(&mut command);
        self.forget(&command);
        let preparing = match (command.kind(), command.plan()) {
            (CommandKind::Prepare, Some(plan)) => {
                let statement = Statement { plan: plan.clone(), sql: command.sql().clone() };
                Some((self.prepared.clone(), statement))
            }
            _ => None,
        };
        ClassifyFuture { preparing, inner: self.inner.call(command) }
    }
}

pin_project! {
    /// The future of [`Classify`].
    #[derive(Debug)]
    #[allow(private_interfaces)]
    pub struct ClassifyFuture<F> {
        preparing: Option<(Prepared, Statement)>,
        #[pin]
        inner: F,
    }
}

impl<F: Future<Output = Result<Reply, Error>>> Future for ClassifyFuture<F> {
    type Output = Result<Reply, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let reply = ready!(this.inner.poll(cx))?;
        if let (Head::Prepared { statement_id }, Some((prepared, statement))) = (reply.head(), this.preparing.take()) {
            let mut statements = prepared.lock();
            statements.by_id.insert(statement_id, statement.clone());
            statements.last = Some(statement);
        }
        Poll::Ready(Ok(reply))
    }
}

//! One command's exchange: send the client's bytes, stream the answer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedMutexGuard;
use towline_middleware::{
    BoxFuture, Command, CommandKind, Error, Final, Head, Intent, Part, Parts, Reply, Session, status,
};

use super::{
    Turn, Upstream,
    reader::{ReplyReader, Step},
    tracking::{self, Learned, Wanted},
};
use crate::wire::{Malformed, change_user::ChangeUser, frame::HEADER_LEN};

/// A session's MySQL connection, borrowed for one command. Dropped before the reply's end, it leaves the connection
/// unusable: nobody could tell the rest of the old reply from the next one.
#[derive(Debug)]
pub struct Lease(OwnedMutexGuard<Upstream>);

impl Lease {
    /// Borrows the connection. `None` while the reply to another command is being read: to wait for its end could be to
    /// wait for oneself.
    ///
    /// # Errors
    /// It was left in the middle of a reply.
    pub fn take(upstream: Arc<tokio::sync::Mutex<Upstream>>) -> Result<Option<Self>, Error> {
        let Ok(guard) = upstream.try_lock_owned() else { return Ok(None) };
        if !guard.clean {
            return Err(Error::Protocol { peer: "client", what: "a command on a connection left in mid-reply" });
        }
        Ok(Some(Self(guard)))
    }

    /// Sends the command and reads the head of its reply.
    ///
    /// # Errors
    /// The session is over.
    pub async fn exchange(mut self, command: Command) -> Result<Reply, Error> {
        let kind = command.kind();
        self.0.clean = false;
        let written = self.0.write_packet(0, command.payload()).await;
        if !kind.has_reply() {
            self.0.clean = written.is_ok();
            return written.map(|()| Reply::none());
        }
        // A server that has left in the middle of the command may have said why: reading tells.
        let reader = self.0.reader(kind, command.session().status());
        let mut rest = Rest { lease: self, reader, after: After::new(&command), put_in: None, broken: None };
        let mut reply = Reply::none();
        loop {
            match rest.step().await? {
                Some(Step::Part(part @ Part::Turn(_))) => {
                    reply.push(part);
                    let head = rest.reader.head().unwrap_or(Head::Turn);
                    return Ok(reply.begin(head, Some(Box::new(rest))));
                }
                Some(Step::Part(part)) => {
                    reply.push(part);
                    if rest.broken.is_some() {
                        let head = rest.reader.head().unwrap_or(Head::Err);
                        return Ok(reply.begin(head, Some(Box::new(rest))));
                    }
                }
                Some(Step::NeedMore) => match rest.reader.head() {
                    Some(head) => return Ok(reply.begin(head, Some(Box::new(rest)))),
                    None => rest.lease.0.fill().await?,
                },
                Some(Step::Done) | None => {
                    let head = rest.reader.head().ok_or_else(|| malformed(Malformed("empty reply")))?;
                    rest.lease.0.clean = true;
                    return Ok(reply.begin(head, None));
                }
            }
        }
    }
}

fn in_transaction(status: u16) -> bool {
    status & status::IN_TRANS != 0
}

fn malformed(error: Malformed) -> Error {
    Error::Protocol { peer: "MySQL", what: error.0 }
}

/// What is to be done when the reply has ended.
#[derive(Debug)]
struct After {
    session: Arc<Session>,
    /// The command may have taken the fence down.
    fence: bool,
    /// Which reports that the fence switches on the client asks for by itself.
    wanted: Wanted,
    /// It chooses a default schema. Whoever has switched the report off, where nobody saw it, leaves that in doubt.
    chooses_schema: bool,
    /// There was another result before this.
    is_one_of_several: bool,
    /// Somebody waits for what it commits, if it does.
    may_commit: bool,
    /// It can't have committed anything if it leaves a transaction open.
    changes_rows: bool,
    /// It leaves the transaction as it is.
    only_reads: bool,
    /// It has ended in an error, which tells no flags, and may have begun or ended a transaction before.
    hides_status: bool,
    /// It may set variables, in part also if it ends in an error.
    may_set: bool,
    /// It has changed rows outside of a transaction, and the server has reported no commit of that.
    is_unreported: bool,
    /// The login of COM_CHANGE_USER.
    login: Option<Bytes>,
    learned: Learned,
}

impl After {
    fn new(command: &Command) -> Self {
        let kind = command.kind();
        let resets = matches!(kind, CommandKind::ResetConnection | CommandKind::ChangeUser);
        // Only a statement that is no read can set a variable.
        let touches = command.intent() != Intent::Read && tracking::touches_tracking(command.sql());
        // What is no write commits only what was open before it.
        let intent = command.intent();
        let may_commit =
            intent.may_write() || intent == Intent::Transaction && in_transaction(command.session().status());
        let changes_rows = tracking::changes_rows(command.sql());
        Self {
            may_commit: command.awaits_commit() && kind.runs_sql() && may_commit,
            changes_rows,
            only_reads: !kind.runs_sql() || intent == Intent::Read,
            hides_status: false,
            may_set: tracking::may_set(command),
            session: command.session().clone(),
            fence: resets || touches,
            chooses_schema: kind == CommandKind::InitDb || command.plan().is_some_and(|plan| plan.chooses_schema),
            is_one_of_several: false,
            is_unreported: false,
            wanted: if touches { Wanted::by(command.sql()) } else { Wanted::default() },
            login: (kind == CommandKind::ChangeUser).then(|| command.payload().clone()),
            learned: Learned::default(),
        }
    }

    /// Without autocommit whatever looks at a table begins a transaction.
    fn may_begin_unseen(&self) -> bool {
        self.session.status() & (status::AUTOCOMMIT | status::IN_TRANS) == 0
    }
}

/// The rest of a reply, read from the leased connection as the client takes it.
#[derive(Debug)]
struct Rest {
    lease: Lease,
    reader: ReplyReader,
    after: After,
    /// What comes next, from the node itself.
    put_in: Option<Part>,
    /// Why the session is over, once the client has been told by a final.
    broken: Option<Error>,
}

impl Rest {
    /// The next step of the reader over what has been read; finals are looked at on their way.
    async fn step(&mut self) -> Result<Option<Step>, Error> {
        let mut step = self.reader.step(self.lease.0.unread()).map_err(malformed)?;
        if let (Step::Part(Part::Turn(packet)), Some(_)) = (&step, &self.after.login)
            && let Some(passwords) = &mut self.lease.0.passwords
        {
            passwords.of_server(packet.get(HEADER_LEN..).unwrap_or_default());
        }
        match &mut step {
            Step::Part(Part::Final { end: Final::Ok(completion), .. }) => {
                let learned = tracking::learn(completion, &self.after.session, self.lease.0.client_wants);
                self.after.learned.schema |= learned.schema;
                self.after.learned.doubt |= learned.doubt;
                match &completion.details().gtid {
                    Some(gtid) if self.after.may_commit => self.lease.0.note_commit(gtid),
                    Some(_) => {}
                    None => {
                        let changed = completion.affected_rows > 0 && !in_transaction(completion.status);
                        self.after.is_unreported |= changed;
                    }
                }
                if completion.has_more() {
                    self.after.is_one_of_several = true;
                } else {
                    let stays_open = in_transaction(completion.status) && self.after.changes_rows;
                    let stays_open = stays_open && !self.after.is_one_of_several;
                    if self.after.may_commit && completion.details().gtid.is_none() && !stays_open {
                        let unreported = self.lease.0.ask_commit(&self.after.session).await?;
                        let details = completion.details_mut();
                        details.gtid = unreported.gtid;
                        details.gtid_is_newest = unreported.is_newest;
                        details.unlogged = unreported.log_is_off && self.after.is_unreported;
                    }
                    self.learn_login();
                    self.settle().await?;
                }
            }
            // It may have done a part of its work, or left the session bare. A server that has left then, or refuses the
            // fence, ends the session: behind the error that the client waits for.
            Step::Part(Part::Final { end: Final::Err(_), .. }) if self.lease.0.has_begun() => {
                self.after.chooses_schema &= self.after.is_one_of_several;
                // In functions and triggers nobody begins or commits.
                let only_changes = self.after.changes_rows && !self.after.is_one_of_several;
                let keeps_status = self.after.only_reads || only_changes;
                // Only the fence tells of all variables. Not after every error: SHOW ERRORS is empty behind it.
                self.after.learned.doubt |= !keeps_status && self.after.may_set;
                self.after.hides_status = !keeps_status || self.after.may_begin_unseen();
                self.broken = self.settle().await.err();
            }
            _ => {}
        }
        Ok(Some(step))
    }

    /// The server has left in the middle of its reply: an error ends it for the client where one can stand.
    fn end_early(&mut self, error: Error) -> Result<Part, Error> {
        match (self.reader.sequence_of_error(), error.to_client()) {
            (Some(sequence), Some(told)) => {
                self.broken = Some(error);
                Ok(Part::Final { end: Final::Err(told), sequence })
            }
            _ => Err(error),
        }
    }

    /// Takes the session's facts from a COM_CHANGE_USER that has succeeded, until the server has told them.
    fn learn_login(&mut self) {
        let After { session, login, .. } = &self.after;
        let login = login.as_ref().and_then(|payload| ChangeUser::decode(payload, self.lease.0.client_capabilities));
        if let Some(login) = login {
            session.set_user(&login.user);
            session.set_schema(&login.schema);
            tracking::learn_collation(session, login.collation.unwrap_or_default());
        }
    }

    /// Before the client knows of its command's end, the fence goes up again where it may be down, and what was not
    /// reported is asked for.
    async fn settle(&mut self) -> Result<(), Error> {
        let (upstream, after) = (&mut *self.lease.0, &self.after);
        if after.fence {
            upstream.client_wants = after.wanted;
        }
        if after.login.is_some() || !upstream.has_begun() {
            upstream.begin_session(&after.session).await?;
        } else if after.fence || after.learned.doubt {
            upstream.put_up_fence(&after.session).await?;
        } else if after.hides_status {
            upstream.ask_status(&after.session).await?;
        }
        if after.chooses_schema && (after.is_one_of_several || !after.learned.schema) {
            upstream.ask_names(&after.session).await?;
        }
        Ok(())
    }
}

impl Parts for Rest {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        Box::pin(async {
            if let Some(error) = self.broken.take() {
                return Err(error);
            }
            if let Some(part) = self.put_in.take() {
                return Ok(Some(part));
            }
            loop {
                match self.step().await? {
                    Some(Step::Part(part)) => return Ok(Some(part)),
                    Some(Step::NeedMore) => {
                        if let Err(error) = self.lease.0.fill().await {
                            return self.end_early(error).map(Some);
                        }
                    }
                    Some(Step::Done) | None => {
                        self.lease.0.clean = true;
                        return Ok(None);
                    }
                }
            }
        })
    }

    fn left(&mut self) -> BoxFuture<'_, Error> {
        Box::pin(self.lease.0.left())
    }

    fn answer(&mut self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let sequence = self.reader.next_sequence();
            let upstream = &mut *self.lease.0;
            let turn = match (&self.after.login, &mut upstream.passwords) {
                (Some(_), Some(passwords)) => passwords.of_client(payload).await,
                _ => Turn::Forward(payload),
            };
            match turn {
                Turn::Forward(payload) => {
                    self.reader.answered(&payload);
                    upstream.be_patient();
                    upstream.write_packet(sequence, &payload).await
                }
                Turn::Reply(payload) => {
                    self.put_in = Some(self.reader.put_in_turn(&payload));
                    Ok(())
                }
                Turn::Encrypt(key_request) => {
                    upstream.write_packet(sequence, key_request).await?;
                    let (sequence, key) = upstream.read_packet().await?;
                    let encrypted = upstream.passwords.as_mut().map(|passwords| passwords.encrypt(&key));
                    self.reader.leave_out_turn();
                    upstream.write_packet(sequence.wrapping_add(1), &encrypted.unwrap_or_default()).await
                }
            }
        })
    }
}

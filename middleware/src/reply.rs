//! What a command is answered with.

use std::{collections::VecDeque, fmt, future::Future, pin::Pin};

use bytes::Bytes;

use crate::{Error, Position, ServerError, session::status};

/// A boxed future, for the traits of this crate that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the first packet of a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// Done, without rows.
    Ok,
    /// Refused, by the server or by a layer.
    Err,
    /// Rows follow.
    Rows,
    /// A statement was prepared.
    Prepared {
        /// The id by which the client will execute it.
        statement_id: u32,
        /// How many parameters it has.
        parameters: u16,
    },
    /// The server wants a file of the client's, or another step of a login.
    Turn,
    /// A packet of another kind, as the line of COM_STATISTICS.
    Other,
    /// No reply at all.
    None,
}

/// What ended one result without an error.
///
/// One command may have several results; every one but the last has [`status::MORE_RESULTS`] set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Completion {
    /// Whether it ends rows. An OK without rows otherwise.
    pub ends_rows: bool,
    /// Rows changed (or found, if the client asked so).
    pub affected_rows: u64,
    /// The first id that AUTO_INCREMENT gave, or 0.
    pub last_insert_id: u64,
    /// The server's status flags (see [`status`]).
    pub status: u16,
    /// How many warnings there are.
    pub warnings: u16,
    /// What most results have nothing of, to be read by [`details`](Self::details). Behind a box, since a reply is moved
    /// from layer to layer.
    pub details: Option<Box<Details>>,
}

/// What the end of a result tells besides, if anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The text for people, as in `Rows matched: 1`.
    pub info: Bytes,
    /// Session state information that the client asked for, encoded as in the OK packet.
    pub state: Bytes,
    /// The GTID of a commit, as the server writes it; none when nothing was committed.
    pub gtid: Option<Box<str>>,
    /// `gtid` is the whole server's newest, since this session's own is told nowhere: the command has committed that one,
    /// an earlier one, or nothing.
    pub gtid_is_newest: bool,
    /// Rows may have been changed, and the session's log is off: no slave will ever have them. Known only of commands whose
    /// commit somebody waits for.
    pub unlogged: bool,
    /// The position of that commit in the master's history, once the fan-out layer has found it.
    pub position: Option<Position>,
    /// What replication has to warn of: too few slaves have acknowledged the commit in time, or it was not logged.
    pub replication_warning: Option<Box<str>>,
}

impl Completion {
    /// Whether another result of the same command follows.
    pub fn has_more(&self) -> bool {
        self.status & status::MORE_RESULTS != 0
    }

    /// What it tells besides.
    pub fn details(&self) -> &Details {
        static NOTHING: Details = Details {
            info: Bytes::new(),
            state: Bytes::new(),
            gtid: None,
            gtid_is_newest: false,
            unlogged: false,
            position: None,
            replication_warning: None,
        };
        self.details.as_deref().unwrap_or(&NOTHING)
    }

    /// What it tells besides, to be changed. Allocates if there was nothing.
    pub fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_default()
    }
}

/// What ends one result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Final {
    /// It succeeded.
    Ok(Completion),
    /// It failed. No other result follows.
    Err(ServerError),
}

/// One piece of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes of the protocol to pass on unread: whole packets, or the next piece of a long one, already framed and
    /// numbered for this client.
    Packets(Bytes),
    /// The end of one result.
    Final {
        /// What ended it.
        end: Final,
        /// The number of the packet that says so, counted from the command's own, which is 0.
        sequence: u8,
    },
    /// Packets after which it is the client's turn: hand its next packet to [`Reply::answer`]. Without bytes, one more
    /// packet of a file that the server has asked for.
    Turn(Bytes),
}

impl Part {
    /// A final that is the whole reply.
    pub fn first(end: Final) -> Self {
        Self::Final { end, sequence: 1 }
    }
}

/// Where the rest of a reply comes from.
pub trait Parts: Send {
    /// The next piece; `None` after the last.
    ///
    /// # Errors
    /// The session is over.
    ///
    /// # Cancel safety
    /// Not safe: keep the future until it is done, or drop the whole reply.
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>>;

    /// Sends the client's packet after a [`Part::Turn`].
    ///
    /// # Errors
    /// The session is over.
    fn answer(&mut self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>>;

    /// Waits, while it is the client's turn, until the server has left. What wraps other parts asks those.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    fn left(&mut self) -> BoxFuture<'_, Error> {
        Box::pin(std::future::pending())
    }
}

/// The answer to one command: a head and an owned stream of parts.
///
/// - A reply that fits the first read from the server is complete in `ready`; a longer one streams and is never collected.
/// - Dropping it before its end leaves its connection to the server unusable, so the router closes it.
pub struct Reply {
    head: Head,
    /// The first parts that need no waiting. Two are what most replies have; they cost no allocation.
    front: [Option<Part>; 2],
    /// What most replies have not. Behind a box, since a reply is moved from layer to layer.
    tail: Option<Box<Tail>>,
}

/// What comes behind the first two parts.
#[derive(Default)]
struct Tail {
    /// More parts that need no waiting.
    ready: VecDeque<Part>,
    rest: Option<Box<dyn Parts>>,
}

impl Reply {
    /// A reply from what has been read and what is still to come.
    pub fn new(head: Head, ready: impl IntoIterator<Item = Part>, rest: Option<Box<dyn Parts>>) -> Self {
        let mut reply = Self { head, front: [None, None], tail: None };
        reply.stream(rest);
        ready.into_iter().for_each(|part| reply.push(part));
        reply
    }

    /// Adds a part that needs no waiting.
    pub fn push(&mut self, part: Part) {
        let tail_is_empty = self.tail.as_ref().is_none_or(|tail| tail.ready.is_empty());
        match self.front.iter_mut().find(|place| place.is_none()) {
            // Behind the tail nothing may overtake it.
            Some(place) if tail_is_empty => *place = Some(part),
            _ => self.tail.get_or_insert_default().ready.push_back(part),
        }
    }

    /// The same parts with this head, and with what is still to come.
    #[must_use]
    pub fn begin(mut self, head: Head, rest: Option<Box<dyn Parts>>) -> Self {
        self.head = head;
        self.stream(rest);
        self
    }

    /// From now on this is what is still to come.
    fn stream(&mut self, rest: Option<Box<dyn Parts>>) {
        if rest.is_some() || self.tail.is_some() {
            self.tail.get_or_insert_default().rest = rest;
        }
    }

    fn rest(&mut self) -> Option<&mut Box<dyn Parts>> {
        self.tail.as_mut()?.rest.as_mut()
    }

    /// An OK of our own.
    pub fn ok(completion: Completion) -> Self {
        Self::of(Head::Ok, Final::Ok(completion))
    }

    /// A refusal.
    pub fn err(error: ServerError) -> Self {
        Self::of(Head::Err, Final::Err(error))
    }

    fn of(head: Head, end: Final) -> Self {
        Self { head, front: [Some(Part::first(end)), None], tail: None }
    }

    /// No reply, for a command that has none.
    pub fn none() -> Self {
        Self::new(Head::None, [], None)
    }

    /// What the first packet said.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The parts that need no waiting.
    pub fn ready(&self) -> impl Iterator<Item = &Part> {
        self.front.iter().flatten().chain(self.tail.iter().flat_map(|tail| &tail.ready))
    }

    /// Whether all of it is in [`ready`](Self::ready).
    pub fn is_complete(&self) -> bool {
        self.tail.as_ref().is_none_or(|tail| tail.rest.is_none())
    }

    /// The error, if the whole reply is one.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self.ready().next() {
            Some(Part::Final { end: Final::Err(error), .. }) => Some(error),
            _ => None,
        }
    }

    /// The next part that needs no waiting. A front drains these before it writes, to send them in one go.
    pub fn next_ready(&mut self) -> Option<Part> {
        let [first, second] = &mut self.front;
        match first.take() {
            Some(part) => {
                *first = second.take();
                Some(part)
            }
            None => self.tail.as_mut()?.ready.pop_front(),
        }
    }

    /// The next part; `None` after the last.
    ///
    /// # Errors
    /// The session is over.
    ///
    /// # Cancel safety
    /// Not safe: keep the future until it is done, or drop the whole reply.
    pub async fn next(&mut self) -> Result<Option<Part>, Error> {
        if let Some(part) = self.next_ready() {
            return Ok(Some(part));
        }
        let Some(rest) = self.rest() else { return Ok(None) };
        let part = rest.next().await?;
        if part.is_none() {
            self.tail = None;
        }
        Ok(part)
    }

    /// Sends the client's packet after a [`Part::Turn`].
    ///
    /// # Errors
    /// The session is over.
    pub async fn answer(&mut self, payload: Bytes) -> Result<(), Error> {
        match self.rest() {
            Some(rest) => rest.answer(payload).await,
            None => Err(Error::Protocol { peer: "client", what: "a packet that nobody asked for" }),
        }
    }

    /// Waits, while it is the client's turn, until the server has left.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub async fn left(&mut self) -> Error {
        match self.rest() {
            Some(rest) => rest.left().await,
            None => std::future::pending().await,
        }
    }

    /// The finals that need no waiting, to look at or change.
    pub fn ready_finals(&mut self) -> impl Iterator<Item = &mut Final> {
        let tail = self.tail.iter_mut().flat_map(|tail| &mut tail.ready);
        self.front.iter_mut().flatten().chain(tail).filter_map(|part| match part {
            Part::Final { end, .. } => Some(end),
            _ => None,
        })
    }

    /// Puts something around all parts, ready ones included: how a layer watches or holds back what streams by.
    #[must_use]
    pub fn wrap(self, wrapper: impl FnOnce(Box<dyn Parts>) -> Box<dyn Parts>) -> Self {
        Self::new(self.head, [], Some(wrapper(Box::new(Whole(self)))))
    }

    /// [`wrap`](Self::wrap), where it stands.
    pub(crate) fn put_into(&mut self, wrapper: impl FnOnce(Box<dyn Parts>) -> Box<dyn Parts>) {
        *self = std::mem::replace(self, Self::none()).wrap(wrapper);
    }
}

/// A whole reply as parts, so that a wrapper sees every one of them.
struct Whole(Reply);

impl Parts for Whole {
    fn next(&mut self) -> BoxFuture<'_, Result<Option<Part>, Error>> {
        Box::pin(self.0.next())
    }

    fn answer(&mut self, payload: Bytes) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.0.answer(payload))
    }

    fn left(&mut self) -> BoxFuture<'_, Error> {
        Box::pin(self.0.left())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("head", &self.head)
            .field("ready", &self.ready().collect::<Vec<_>>())
            .field("complete", &self.is_complete())
            .finish()
    }
}

//! One client's session: read a packet, send the command through the stack, write the reply.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};
use towline_middleware::{Command, CommandKind, Error, Front, Part, Reply, ServerError, Session};

use super::{
    MySqlFront,
    client::Client,
    handshake::{Outcome, handshake},
};
use crate::{
    router::Router,
    transport::Transport,
    wire::frame::{HEADER_LEN, PAYLOAD_MAX},
};

/// Serves a client until it leaves, its session fails or the node stops.
pub(super) async fn serve_client(stream: Transport, front: Arc<MySqlFront>, stop: CancellationToken) {
    let mut ends = stream.ends();
    let mut client = Client::new(stream, front.limits.write_timeout);
    if ends.is_some_and(|ends| front.proxies.contains(ends.source.ip())) {
        let reading = tokio::time::timeout(front.limits.handshake_timeout, client.read_proxy_header()).await;
        match reading {
            Ok(Ok(header)) => ends = header.ends.or(ends),
            Ok(Err(error)) => {
                let error = &error as &dyn std::error::Error;
                return tracing::info!(error, ?ends, "a connection of a proxy was refused");
            }
            Err(_) => return tracing::info!(?ends, "a proxy sent no PROXY header in time"),
        }
    }
    let peer = ends.map(|ends| ends.source);
    let session = Arc::new(Session::new(Front::MySql, front.role, peer, front.classifier.clone()));
    let outcome = match handshake(&mut client, &front, &session, ends).await {
        Ok(Outcome::Welcome { upstream, last }) => {
            let router = Router::new(*upstream);
            let mut commands = front.stack.session(&session, router.clone());
            match welcome(&mut client, last, front.limits.packet_bytes_max).await {
                Ok(()) => {
                    let idle = IdleTimer::new(front.limits.idle_timeout);
                    serve_commands(&mut client, &session, &router, &mut commands, idle, &stop).await
                }
                Err(error) => Err(error),
            }
        }
        Ok(Outcome::Refused | Outcome::Left) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        tracing::info!(error = &error as &dyn std::error::Error, ?session, "a session ended");
    }
}

async fn welcome(client: &mut Client, last: Part, packet_bytes_max: usize) -> Result<(), Error> {
    client.put(last).await?;
    client.flush().await?;
    client.begin_commands(packet_bytes_max);
    Ok(())
}

/// Reads commands until the client leaves. Between two commands the node may stop, and MySQL may end the session; a
/// running command goes on.
async fn serve_commands<S>(
    client: &mut Client,
    session: &Arc<Session>,
    router: &Router,
    commands: &mut S,
    mut idle: IdleTimer,
    stop: &CancellationToken,
) -> Result<(), Error>
where
    S: Service<Command, Response = Reply, Error = Error>,
{
    let mut stopped = pin!(stop.cancelled());
    loop {
        idle.begin();
        let packet = tokio::select! {
            biased;
            packet = client.read_packet(0) => packet,
            () = &mut stopped => {
                client.put_error(0, &ServerError::stopping());
                return client.flush().await;
            }
            farewell = router.farewell() => {
                // As without Towline: an idle client learns at once that its session is over, and why.
                if let Some((sequence, payload)) = farewell {
                    client.put_packet(sequence, &payload);
                }
                return client.flush().await;
            }
            () = idle.expired() => {
                client.put_error(0, &idle_too_long());
                return client.flush().await;
            }
        };
        let payload = match packet {
            Ok(Some(payload)) => payload,
            Ok(None) => return Ok(()),
            Err(error) => {
                farewell(client, 1, &error).await;
                return Err(error);
            }
        };
        let command = Command::new(session.clone(), payload);
        let leaves = command.kind() == CommandKind::Quit;
        match execute(client, commands, command, &mut idle).await {
            Ok(()) if leaves => return Ok(()),
            // A client that always has another command ready would never be found between two of them.
            Ok(()) if stop.is_cancelled() => {
                client.put_error(0, &ServerError::stopping());
                return client.flush().await;
            }
            Ok(()) => {}
            Err((sequence, error)) => {
                if let Some(sequence) = sequence {
                    farewell(client, sequence, &error).await;
                }
                return Err(error);
            }
        }
    }
}

/// Sends one command through the stack and writes its reply. An error comes with the number that an error packet would
/// have, if the client can still be told: not in the middle of rows.
async fn execute<S>(
    client: &mut Client,
    commands: &mut S,
    command: Command,
    idle: &mut IdleTimer,
) -> Result<(), (Option<u8>, Error)>
where
    S: Service<Command, Response = Reply, Error = Error>,
{
    let head = Some(1);
    let mut reply = tokio::select! {
        biased;
        reply = async { commands.ready().await?.call(command).await } => reply.map_err(|error| (head, error))?,
        left = client.left() => return Err((None, left)),
    };
    let written = write_reply(client, &mut reply, idle).await;
    // Also when the session is over: what waits may be the error that says so.
    let flushed = client.flush().await;
    written.and(flushed.map_err(untold))
}

/// An error that the client can't be told.
fn untold(error: Error) -> (Option<u8>, Error) {
    (None, error)
}

/// Writes a reply as it comes: what is there goes out in one write, before anything is waited for. The end of it is left
/// to be flushed.
async fn write_reply(client: &mut Client, reply: &mut Reply, idle: &mut IdleTimer) -> Result<(), (Option<u8>, Error)> {
    let mut expected = 0;
    // An error can stand in the place of a reply, not in its middle.
    let mut place = Some(1);
    while let Some(part) = next_part(client, reply).await.map_err(|error| (place, error))? {
        place = None;
        let turn = match &part {
            Part::Turn(bytes) => Some(bytes.get(HEADER_LEN - 1).copied()),
            _ => None,
        };
        client.put(part).await.map_err(untold)?;
        if let Some(asked) = turn {
            client.flush().await.map_err(untold)?;
            if let Some(sequence) = asked {
                expected = sequence.wrapping_add(1);
            }
            let answer = read_answer(client, reply, expected, idle).await?;
            expected = expected.wrapping_add((answer.len() / PAYLOAD_MAX + 1) as u8);
            reply.answer(answer).await.map_err(untold)?;
        }
    }
    Ok(())
}

/// Reads what the client sends when it is its turn. A client that says nothing, and a server that does not wait for it,
/// end the session as between two commands. A stop lets a file go on, as any command, for as long as the grace.
async fn read_answer(
    client: &mut Client,
    reply: &mut Reply,
    expected: u8,
    idle: &mut IdleTimer,
) -> Result<Bytes, (Option<u8>, Error)> {
    idle.begin();
    tokio::select! {
        biased;
        answer = client.read_packet(expected) => {
            let gone = || Error::Client(io::ErrorKind::UnexpectedEof.into());
            answer.and_then(|answer| answer.ok_or_else(gone)).map_err(untold)
        }
        left = reply.left() => Err((Some(expected), left)),
        () = idle.expired() => {
            client.put_error(expected, &idle_too_long());
            Err(untold(Error::Client(io::ErrorKind::TimedOut.into())))
        }
    }
}

async fn next_part(client: &mut Client, reply: &mut Reply) -> Result<Option<Part>, Error> {
    if let Some(part) = reply.next_ready() {
        return Ok(Some(part));
    }
    if reply.is_complete() {
        return Ok(None);
    }
    let mut next = pin!(reply.next());
    let at_once = poll_fn(|cx| Poll::Ready(next.as_mut().poll(cx))).await;
    match at_once {
        Poll::Ready(part) => part,
        Poll::Pending => {
            client.flush().await?;
            tokio::select! {
                biased;
                part = next => part,
                left = client.left() => Err(left),
            }
        }
    }
}

/// Tells when a session has been without a command for too long. One timer a session, which is set anew only when it
/// goes off: a command costs it a look at the clock.
#[derive(Debug)]
struct IdleTimer {
    timeout: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl IdleTimer {
    fn new(timeout: Duration) -> Self {
        Self { timeout, since: Instant::now(), timer: Box::pin(sleep(timeout)) }
    }

    fn begin(&mut self) {
        self.since = Instant::now();
    }

    async fn expired(&mut self) {
        loop {
            self.timer.as_mut().await;
            let end = self.since + self.timeout;
            if end <= Instant::now() {
                return;
            }
            self.timer.as_mut().reset(end);
        }
    }
}

fn idle_too_long() -> ServerError {
    ServerError::new(
        4031,
        b"HY000",
        "The client was disconnected by this Towline node because of inactivity (limits.idle_timeout_ms)",
    )
}

/// Tells the client why its session ends, if it can be told.
async fn farewell(client: &mut Client, sequence: u8, error: &Error) {
    if let Some(error) = error.to_client() {
        client.put_error(sequence, &error);
        // The session is over either way.
        let _ = client.flush().await;
    }
}

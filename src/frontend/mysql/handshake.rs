//! The login, relayed packet by packet between a client and MySQL.

use std::sync::Arc;

use bytes::Bytes;
use towline_middleware::{Error, Part, ServerError, Session};

use super::{MySqlFront, client::Client};
use crate::{
    upstream::{Fence, Upstream, is_ascii_unsafe_collation, learn},
    wire::{
        capability, err,
        greeting::Greeting,
        login::{self, Login},
        ok,
    },
};

/// More exchanges than any login method has; a peer that goes on is broken.
const TURNS_MAX: usize = 32;

/// What a login came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The session may begin. The client waits for this last part.
    Welcome { upstream: Box<Upstream>, last: Part },
    /// MySQL refused, and the client has been told.
    Refused,
    /// The client left.
    Left,
}

/// Carries a login through.
///
/// # Errors
/// The connection to one of the two broke, or one of them broke the protocol.
pub(super) async fn handshake(
    client: &mut Client,
    front: &MySqlFront,
    session: &Arc<Session>,
) -> Result<Outcome, Error> {
    let connecting = Upstream::connect(&front.endpoint, Fence::of(front.role), front.limits.handshake_timeout);
    let (mut upstream, greeting) = match connecting.await {
        Ok(connected) => connected,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "no connection to MySQL for a client");
            client.put_early_error(&error.to_client());
            client.flush().await?;
            return Ok(Outcome::Refused);
        }
    };
    session.set_connection_id(greeting.connection_id);
    upstream.kill_when_abandoned(front.killer.clone(), greeting.connection_id);
    client.put_packet(0, &greeting.for_client());
    client.flush().await?;
    let Some(payload) = client.read_packet(1).await? else { return Ok(Outcome::Left) };
    let Some(capabilities) = admit(client, &greeting, &payload, session).await? else { return Ok(Outcome::Refused) };
    client.set_capabilities(capabilities);
    session.set_capabilities(capabilities);
    upstream.set_client_capabilities(capabilities);
    upstream.write_packet(1, &login::for_upstream(&payload, capabilities | capability::UPSTREAM)).await?;
    relay(client, upstream, session).await
}

/// Reads the client's login. `None` when it was refused here; otherwise what both sides can do.
async fn admit(
    client: &mut Client,
    greeting: &Greeting,
    payload: &Bytes,
    session: &Session,
) -> Result<Option<u32>, Error> {
    let refusal = if Login::asks_for_tls(payload) {
        "Towline does not offer TLS on this port; connect without it (as in --skip-ssl)"
    } else {
        match Login::decode(payload) {
            Ok(login) => {
                session.set_user(&login.user);
                session.set_schema(&login.schema);
                session.set_ascii_unsafe_charset(is_ascii_unsafe_collation(login.collation.into()));
                return Ok(Some(login.capabilities & greeting.offered()));
            }
            Err(_) => "Bad handshake: the login packet is malformed, or of a client older than MySQL 4.1",
        }
    };
    client.put_error(2, &ServerError::new(1043, b"08S01", refusal));
    client.flush().await?;
    Ok(None)
}

/// Relays what follows the login packet until MySQL says OK or ERR.
async fn relay(client: &mut Client, mut upstream: Upstream, session: &Session) -> Result<Outcome, Error> {
    for _ in 0..TURNS_MAX {
        let (sequence, payload) = upstream.read_packet().await?;
        match payload.first() {
            Some(&ok::HEADER) => {
                let mut completion = ok::decode(&payload).map_err(malformed)?;
                learn(&mut completion, session, false);
                upstream.put_up_fence().await?;
                let last = Part::Final { end: towline_middleware::Final::Ok(completion), sequence };
                return Ok(Outcome::Welcome { upstream: Box::new(upstream), last });
            }
            Some(&err::HEADER) => {
                client.put_error(sequence, &err::decode(&payload).map_err(malformed)?);
                client.flush().await?;
                return Ok(Outcome::Refused);
            }
            _ => {}
        }
        client.put_packet(sequence, &payload);
        client.flush().await?;
        if is_clients_turn(&payload) {
            let next = sequence.wrapping_add(1);
            let Some(answer) = client.read_packet(next).await? else { return Ok(Outcome::Left) };
            upstream.write_packet(next, &answer).await?;
        }
    }
    Err(Error::Protocol { peer: "MySQL", what: "a login without end" })
}

/// Every packet of a login method wants an answer, but for "fast authentication succeeded", which an OK follows.
fn is_clients_turn(payload: &[u8]) -> bool {
    payload != [0x01, 0x03]
}

fn malformed(error: crate::wire::Malformed) -> Error {
    Error::Protocol { peer: "MySQL", what: error.0 }
}

//! The login, relayed packet by packet between a client and MySQL.

use std::{io, sync::Arc};

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};
use towline_middleware::{Error, Final, Part, ServerError, Session};

use super::{MySqlFront, client::Client};
use crate::{
    transport::Protection,
    upstream::{Fence, Opening, PasswordBridge, Turn, Upstream, Wanted, learn, learn_collation},
    wire::{
        capability, err,
        login::{self, Login},
        ok,
        proxy_header::Ends,
    },
};

/// More exchanges than any login method has; a peer that goes on is broken.
const TURNS_MAX: usize = 32;

/// What a login came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The session may begin. The client waits for this last part.
    Welcome { upstream: Box<Upstream>, last: Part },
    /// MySQL or the node refused, and the client has been told.
    Refused,
    /// The client left.
    Left,
}

/// Carries a login through, in the time that there is for it. `ends` is where the client and its connection come from.
///
/// # Errors
/// The connection to one of the two broke, or one of them broke the protocol. The client has been told, if it can be.
pub(super) async fn handshake(
    client: &mut Client,
    front: &MySqlFront,
    session: &Arc<Session>,
    ends: Option<Ends>,
) -> Result<Outcome, Error> {
    let deadline = Instant::now() + front.limits.handshake_timeout;
    let connecting = Opening::connect(&front.endpoint, Fence::of(front.role), ends, front.limits.handshake_timeout);
    let mut opening = match connecting.await {
        Ok(opening) => opening,
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "no connection to MySQL for a client");
            client.put_early_error(&error.to_client());
            client.flush().await?;
            return Ok(Outcome::Refused);
        }
    };
    session.set_connection_id(opening.greeting.connection_id);
    let logging_in = timeout_at(deadline, relay(client, &mut opening, front, session)).await;
    let refusal = match logging_in {
        Ok(Ok(Relayed::Ok(passwords, last))) => {
            let connection_id = opening.greeting.connection_id;
            let mut upstream = opening.into_upstream();
            upstream.kill_when_abandoned(front.killer.clone(), connection_id);
            upstream.set_passwords(passwords);
            let begun = tokio::select! {
                begun = timeout_at(deadline, upstream.begin_session(session)) => begun,
                _ = client.left() => return Ok(Outcome::Left),
            };
            let too_late = |_| Err(Error::Upstream(io::Error::new(io::ErrorKind::TimedOut, "no session in time")));
            if let Err(error) = begun.unwrap_or_else(too_late) {
                tell(client, front, error.to_client()).await;
                return Err(error);
            }
            return Ok(Outcome::Welcome { upstream: Box::new(upstream), last });
        }
        Ok(Ok(Relayed::Refused)) => return Ok(Outcome::Refused),
        Ok(Ok(Relayed::Denied(error))) => Ok(error),
        Ok(Err(error)) => Err(error),
        Err(_) => {
            tracing::info!(?session, "a client did not finish its login in time");
            Ok(None)
        }
    };
    // Before the client is told: one that does not read must not keep the server waiting.
    opening.give_up().await;
    match refusal {
        Ok(None) => Ok(Outcome::Left),
        Ok(error) => {
            tell(client, front, error).await;
            Ok(Outcome::Refused)
        }
        Err(error) => {
            tell(client, front, error.to_client()).await;
            Err(error)
        }
    }
}

/// Tells the client why its login ends, if it can be told.
async fn tell(client: &mut Client, front: &MySqlFront, error: Option<ServerError>) {
    if let Some(error) = error {
        client.put_next_error(&error);
        // The session is over either way.
        let _ = timeout(front.limits.handshake_timeout, client.flush()).await;
    }
}

/// What came of the packets between greeting and OK.
#[derive(Debug)]
enum Relayed {
    /// The server's OK, which is for the client when the session is ready, and what translates passwords in it.
    Ok(PasswordBridge, Part),
    /// The server's refusal has been passed on.
    Refused,
    /// The node refuses, by this word; the client has left if there is none.
    Denied(Option<ServerError>),
}

async fn relay(
    client: &mut Client,
    opening: &mut Opening,
    front: &MySqlFront,
    session: &Session,
) -> Result<Relayed, Error> {
    if !front.local_infile {
        opening.greeting.mask(capability::LOCAL_FILES, 0);
    }
    if !front.stack.user.names().is_empty() {
        opening.greeting.mask(0, capability::mariadb::FORMS);
    }
    client.put_next_packet(&opening.greeting.for_client(front.tls.is_some()));
    client.flush().await?;
    let payload = match read_login(client, front).await? {
        Ok(payload) => payload,
        Err(denied) => return Ok(Relayed::Denied(denied)),
    };
    let Some(login) = admit(&payload, session) else {
        let text = "Bad handshake: the login packet is malformed, or of a client older than MySQL 4.1";
        return Ok(Relayed::Denied(Some(ServerError::new(1043, b"08S01", text))));
    };
    let capabilities = login.capabilities & opening.greeting.offered();
    let mariadb = login.mariadb_capabilities & opening.greeting.offered_mariadb();
    client.set_capabilities(capabilities);
    session.set_capabilities(u64::from(capabilities) | u64::from(mariadb) << 32);
    opening.set_client_capabilities(capabilities, mariadb);
    let asked = capabilities & !capability::COMPRESS | capability::UPSTREAM;
    opening.send_login(login::for_upstream(&payload, asked, mariadb)).await?;
    let salt = &opening.greeting.salt;
    let passwords = PasswordBridge::new(client.protection(), opening.protection(), front.login_key.clone(), salt);
    relay_method(client, opening, passwords, session).await
}

/// Reads the client's login, after a TLS handshake if it asks for one. The inner error is a refusal, or nothing if the
/// client has left.
async fn read_login(client: &mut Client, front: &MySqlFront) -> Result<Result<Bytes, Option<ServerError>>, Error> {
    let Some(mut payload) = client.read_next_packet().await? else { return Ok(Err(None)) };
    if Login::asks_for_tls(&payload) {
        let Some(acceptor) = &front.tls else {
            let text = "This Towline node has no TLS (tls.cert, tls.key); connect without it (as in --skip-ssl)";
            return Ok(Err(Some(ServerError::new(1043, b"08S01", text))));
        };
        if let Err(error) = client.start_tls(acceptor).await {
            tracing::info!(error = &error as &dyn std::error::Error, peer = ?client.peer_addr(), "no TLS with a client");
            return Ok(Err(None));
        }
        match client.read_next_packet().await? {
            Some(login) => payload = login,
            None => return Ok(Err(None)),
        }
    }
    if front.tls_required && client.protection() == Protection::Clear {
        let text = "Connections using insecure transport are prohibited: this Towline node wants TLS (tls.required)";
        return Ok(Err(Some(ServerError::new(3159, b"HY000", text))));
    }
    Ok(Ok(payload))
}

/// Reads a login and takes the session's facts from it. `None` if it is malformed.
fn admit(payload: &Bytes, session: &Session) -> Option<Login> {
    let login = Login::decode(payload).ok()?;
    // Until the server has told it.
    session.set_user(&login.user);
    session.set_schema(&login.schema);
    learn_collation(session, login.collation.into());
    Some(login)
}

/// Relays what follows the login packet until MySQL says OK or ERR.
async fn relay_method(
    client: &mut Client,
    opening: &mut Opening,
    mut passwords: PasswordBridge,
    session: &Session,
) -> Result<Relayed, Error> {
    for _ in 0..TURNS_MAX {
        let payload = opening.read().await?;
        match payload.first() {
            Some(&ok::HEADER) => {
                let mut completion = ok::decode(&payload).map_err(malformed)?;
                learn(&mut completion, session, Wanted::default());
                let last = Part::Final { end: Final::Ok(completion), sequence: client.next_number() };
                return Ok(Relayed::Ok(passwords, last));
            }
            Some(&err::HEADER) => {
                client.put_next_error(&err::decode(&payload).map_err(malformed)?);
                client.flush().await?;
                return Ok(Relayed::Refused);
            }
            _ => {}
        }
        passwords.of_server(&payload);
        client.put_next_packet(&payload);
        client.flush().await?;
        if opening.is_our_turn() && !answer(client, opening, &mut passwords).await? {
            return Ok(Relayed::Denied(None));
        }
    }
    Err(Error::Protocol { peer: "MySQL", what: "a login without end" })
}

/// Carries the client's answer to the server. Whether the client is still there.
async fn answer(client: &mut Client, opening: &mut Opening, passwords: &mut PasswordBridge) -> Result<bool, Error> {
    loop {
        let Some(payload) = client.read_next_packet().await? else { return Ok(false) };
        match passwords.of_client(payload).await {
            Turn::Forward(payload) => opening.answer(&payload).await?,
            Turn::Encrypt(key_request) => {
                opening.answer(key_request).await?;
                let key = opening.read().await?;
                opening.answer(&passwords.encrypt(&key)).await?;
            }
            Turn::Reply(payload) => {
                client.put_next_packet(&payload);
                client.flush().await?;
                continue;
            }
        }
        return Ok(true);
    }
}

fn malformed(error: crate::wire::Malformed) -> Error {
    Error::Protocol { peer: "MySQL", what: error.0 }
}

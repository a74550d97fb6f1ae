//! Which KILLs a slave lets pass: those of the client's own sessions. `mariadb` sends one when Ctrl-C is pressed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{Command, CommandKind, Intent, Plan, Role, Session};

/// A longer text is no plain KILL.
const TEXT_BYTES_MAX: usize = 64;

/// The sessions that a node relays, by the id that MySQL and the client know each by. Clones share them.
///
/// MySQL gives an id once, so an id that is here is no other connection's: neither the applier's nor an administrator's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Relayed(Arc<Mutex<HashMap<u32, Weak<Session>>>>);

impl Relayed {
    /// Makes a session known until what is returned is dropped.
    pub(crate) fn enter(&self, session: &Arc<Session>) -> Present {
        let id = session.connection_id();
        let session = Arc::downgrade(session);
        self.lock().insert(id, session.clone());
        Present { relayed: self.clone(), id, session }
    }

    /// The plan that a command, or a text in a session, has in place of this one, if it is a KILL of a session of the
    /// same account and this is a slave: it changes nothing that others see.
    pub(super) fn plan_of_own(
        &self,
        session: &Session,
        target: impl FnOnce() -> Option<u32>,
        plan: &Plan,
    ) -> Option<Plan> {
        if session.role() == Role::Master || !plan.intent.may_write() {
            return None;
        }
        let other = self.lock().get(&target()?).and_then(Weak::upgrade)?;
        let rule = "KILL of a session of the same account".into();
        (other.user() == session.user()).then(|| Plan {
            intent: Intent::SessionState,
            rule,
            refusal: None,
            ..plan.clone()
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Weak<Session>>> {
        // Valid after every single step, so a panic elsewhere can't have left it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's entry, as long as this lives.
#[derive(Debug)]
pub(crate) struct Present {
    relayed: Relayed,
    id: u32,
    session: Weak<Session>,
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut known = self.relayed.lock();
        // A server that was started again gives ids anew, perhaps before the session of before has noticed.
        if known.get(&self.id).is_some_and(|known| known.ptr_eq(&self.session)) {
            known.remove(&self.id);
        }
    }
}

/// The id that a command kills, if it is a plain KILL.
pub(super) fn target(command: &Command) -> Option<u32> {
    match command.kind() {
        CommandKind::Query | CommandKind::Prepare | CommandKind::Execute => target_of_text(command.sql()),
        CommandKind::ProcessKill => command.payload().get(1..)?.try_into().ok().map(u32::from_le_bytes),
        _ => None,
    }
}

/// The id in `KILL [QUERY | CONNECTION] id`. Only the plain form counts: a number, and no comments, so that no server
/// can read it otherwise.
pub(super) fn target_of_text(sql: &[u8]) -> Option<u32> {
    if sql.len() > TEXT_BYTES_MAX {
        return None;
    }
    let sql = std::str::from_utf8(sql).ok()?.trim_ascii();
    let mut words = sql.strip_suffix(';').unwrap_or(sql).split_ascii_whitespace();
    let is = |word: &str, keyword: &str| word.eq_ignore_ascii_case(keyword);
    words.next().filter(|word| is(word, "KILL"))?;
    let mut id = words.next()?;
    if is(id, "QUERY") || is(id, "CONNECTION") {
        id = words.next()?;
    }
    let is_plain = id.bytes().all(|byte| byte.is_ascii_digit()) && words.next().is_none();
    id.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn only_a_plain_kill_of_a_number_has_a_target() {
        for sql in ["KILL 7", "kill query 7", " KILL\tCONNECTION\n007 ; ", "KILL 7;"] {
            assert_eq!(target_of_text(sql.as_bytes()), Some(7), "{sql}");
        }
        for sql in [
            "KILL",
            "KILL QUERY",
            "KILL QUERY CONNECTION 7",
            "KILL ID 7",
            "KILL USER 7",
            "KILL HARD 7",
            "KILL 7 + 0",
            "KILL (7)",
            "KILL +7",
            "KILL -7",
            "KILL 7.0",
            "KILL '7'",
            "KILL @x",
            "KILL ?",
            "KILL 7; KILL 8",
            "KILL 7;;",
            "KILL 7 -- 8",
            "KILL /* 7 */ 8",
            "/*!KILL 7*/",
            "KILL 4294967303",
            "SELECT 7",
            "",
        ] {
            assert_eq!(target_of_text(sql.as_bytes()), None, "{sql}");
        }
        let long = format!("KILL 7{}8", " ".repeat(TEXT_BYTES_MAX));
        assert_eq!(target_of_text(long.as_bytes()), None);
    }

    #[test]
    fn a_session_is_there_as_long_as_it_lives_and_for_its_account() {
        let session = |role, id, user: &str| {
            let session = testing::session(role);
            session.set_connection_id(id);
            session.set_user(user);
            session
        };
        let relayed = Relayed::default();
        let kill = Plan::bare(Intent::Write, "KILL");
        let (ours, theirs) = (session(Role::Slave, 7, "ours"), session(Role::Slave, 8, "theirs"));
        let present = (relayed.enter(&ours), relayed.enter(&theirs));
        let asks = session(Role::Slave, 9, "ours");
        let plan = |asks: &Session, id| relayed.plan_of_own(asks, || Some(id), &kill);
        assert_eq!(plan(&asks, 7).map(|plan| plan.intent), Some(Intent::SessionState));
        assert_eq!([plan(&asks, 8), plan(&asks, 1)], [None, None], "another's, and one that is not relayed");
        assert_eq!(plan(&session(Role::Master, 9, "ours"), 7), None, "a master has no need");
        theirs.set_user("ours");
        assert!(plan(&asks, 8).is_some(), "it has changed its user");
        let again = session(Role::Slave, 7, "ours");
        let _present = relayed.enter(&again);
        drop(present);
        assert!(plan(&asks, 7).is_some(), "the id is another session's now");
        assert_eq!(plan(&asks, 8), None);
    }
}

//! What the node's account may do.

use towline_middleware::Role;

use super::{CheckError, Line, server::Server};

/// Rights that are asked for together, since one statement grants them.
struct Rights {
    name: &'static str,
    /// Each in every spelling under which a server may list it.
    all: &'static [&'static [&'static str]],
    scope: Scope,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// `*.*`
    Everything,
    /// One schema.
    Schema(&'static str),
}

const OWN_SCHEMA: Rights = Rights {
    name: "rights on the schema towline",
    all: &[&["CREATE"], &["ALTER"], &["DROP"], &["SELECT"], &["INSERT"], &["UPDATE"], &["DELETE"]],
    scope: Scope::Schema("towline"),
};
/// Layer `idempotency` makes this schema, and removes old keys from it.
const KEYS: Rights = Rights {
    name: "rights on the schema towline_app, for layer idempotency",
    all: &[&["CREATE"], &["CREATE ROUTINE"], &["SELECT"], &["INSERT"], &["UPDATE"], &["DELETE"]],
    scope: Scope::Schema("towline_app"),
};
const CAPTURE: Rights =
    Rights { name: "right to read the binlog", all: &[&["REPLICATION SLAVE"]], scope: Scope::Everything };
const APPLY_MARIADB: Rights = Rights {
    name: "rights to apply rows",
    // BINLOG ADMIN is for the one setting that keeps the text of each BINLOG out of the slave's own log.
    all: &[&["BINLOG REPLAY"], &["READ_ONLY ADMIN", "READ ONLY ADMIN"], &["BINLOG ADMIN"]],
    scope: Scope::Everything,
};
const APPLY_MYSQL: Rights = Rights {
    name: "rights to apply rows",
    // The third is for what an applier sets in its session: the slave's own log is to hold no copy of each statement.
    all: &[
        &["REPLICATION_APPLIER"],
        &["CONNECTION_ADMIN"],
        &["SESSION_VARIABLES_ADMIN", "SYSTEM_VARIABLES_ADMIN", "SUPER"],
    ],
    scope: Scope::Everything,
};
const END_BLOCKERS_MARIADB: Rights = Rights {
    name: "rights to end sessions that block changes",
    all: &[&["PROCESS"], &["CONNECTION ADMIN"]],
    scope: Scope::Everything,
};
const END_BLOCKERS_MYSQL: Rights = Rights {
    name: "rights to end sessions that block changes",
    all: &[&["PROCESS"], &["CONNECTION_ADMIN"]],
    scope: Scope::Everything,
};
/// A client that leaves in the middle of a query has it ended by the node's account. A slave has this right anyway.
const END_ABANDONED_MARIADB: Rights = Rights {
    name: "right to end queries that clients abandon",
    all: &[&["CONNECTION ADMIN", "SUPER"]],
    scope: Scope::Everything,
};
const END_ABANDONED_MYSQL: Rights = Rights {
    name: "right to end queries that clients abandon",
    all: &[&["CONNECTION_ADMIN", "SUPER"]],
    scope: Scope::Everything,
};
/// A new slave fetches a snapshot: its master locks for a moment, reads everything, and asks InnoDB which table is which.
const SNAPSHOT_MARIADB: Rights = Rights {
    name: "rights to give new slaves a snapshot",
    all: &[&["RELOAD"], &["PROCESS"], &["LOCK TABLES"], &["SELECT"], &["SHOW VIEW"], &["TRIGGER"], &["EVENT"]],
    scope: Scope::Everything,
};
const SNAPSHOT_MYSQL: Rights = Rights {
    name: "rights to give new slaves a snapshot",
    all: &[
        &["RELOAD"],
        &["BACKUP_ADMIN"],
        &["PROCESS"],
        &["SELECT"],
        &["SHOW VIEW"],
        &["TRIGGER"],
        &["EVENT"],
        &["SHOW_ROUTINE"],
    ],
    scope: Scope::Everything,
};
/// Schema changes and account statements run as their own text, so any right may be needed.
const SCHEMA_CHANGES: Rights = Rights {
    name: "rights to change schemas",
    all: &[
        &["CREATE"],
        &["ALTER"],
        &["DROP"],
        &["INDEX"],
        &["REFERENCES"],
        &["SELECT"],
        &["INSERT"],
        &["UPDATE"],
        &["DELETE"],
        &["EXECUTE"],
        &["CREATE VIEW"],
        &["SHOW VIEW"],
        &["CREATE ROUTINE"],
        &["ALTER ROUTINE"],
        &["TRIGGER"],
        &["EVENT"],
        &["CREATE USER"],
        &["RELOAD"],
    ],
    scope: Scope::Everything,
};
const DEFINER_MARIADB: Rights =
    Rights { name: "right to create for other definers", all: &[&["SET USER"]], scope: Scope::Everything };
/// A definer may be an administrator, or have gone.
const DEFINER_MYSQL: Rights = Rights {
    name: "right to create for other definers",
    all: &[&["SET_ANY_DEFINER", "SET_USER_ID"], &["ALLOW_NONEXISTENT_DEFINER", "SET_USER_ID"], &["SYSTEM_USER"]],
    scope: Scope::Everything,
};
/// A right can be given by those who have it alone, so an account that applies all that a master's administrator may do
/// has every right. These are what `GRANT ALL ON schema.*` takes, which is common.
const GRANTS_MARIADB: Rights = Rights {
    name: "rights to give rights and roles",
    all: &[
        &[GRANT_OPTION],
        &["CREATE TEMPORARY TABLES"],
        &["LOCK TABLES"],
        &["DELETE HISTORY", "DELETE VERSIONING ROWS"],
    ],
    scope: Scope::Everything,
};
const GRANTS_MYSQL: Rights = Rights {
    name: "rights to give rights and roles",
    all: &[&[GRANT_OPTION], &["CREATE TEMPORARY TABLES"], &["LOCK TABLES"], &["ROLE_ADMIN"]],
    scope: Scope::Everything,
};
/// It stands at the end of a line of `SHOW GRANTS`.
const GRANT_OPTION: &str = "GRANT OPTION";

/// Checks the account's rights.
pub(super) async fn check(role: Role, keeps_keys: bool, server: &mut Server) -> Result<Vec<Line>, CheckError> {
    let grants: Vec<String> = server.query("the account's rights", "SHOW GRANTS").await?;
    let grants: Vec<Grant> = grants.iter().filter_map(|line| Grant::parse(line)).collect();
    let rights: &[&Rights] = match (role, server.is_mariadb()) {
        (Role::Master, _) => &[&CAPTURE, &OWN_SCHEMA],
        (Role::Slave, true) => &[&APPLY_MARIADB, &END_BLOCKERS_MARIADB, &OWN_SCHEMA, &SCHEMA_CHANGES, &DEFINER_MARIADB],
        (Role::Slave, false) => &[&APPLY_MYSQL, &END_BLOCKERS_MYSQL, &OWN_SCHEMA, &SCHEMA_CHANGES, &DEFINER_MYSQL],
    };
    let mut lines: Vec<Line> = rights.iter().map(|rights| rights.check(&grants, &server.account)).collect();
    if role == Role::Slave {
        let rights = if server.is_mariadb() { GRANTS_MARIADB } else { GRANTS_MYSQL };
        lines.push(rights.check_all(&grants, &server.account));
    }
    if role == Role::Master {
        let rights = if server.is_mariadb() {
            [&END_ABANDONED_MARIADB, &SNAPSHOT_MARIADB]
        } else {
            [&END_ABANDONED_MYSQL, &SNAPSHOT_MYSQL]
        };
        let of_keys = keeps_keys.then_some(&KEYS);
        lines.extend(rights.into_iter().chain(of_keys).map(|rights| rights.check(&grants, &server.account).weakened()));
    }
    Ok(lines)
}

impl Rights {
    fn missing(&self, grants: &[Grant]) -> Option<String> {
        let has = |right: &&&[&str]| grants.iter().any(|grant| grant.gives(right, self.scope));
        let missing: Vec<&str> = self.all.iter().filter(|right| !has(right)).map(|spellings| spellings[0]).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }

    /// The same for rights that are best given as all there are.
    fn check_all(&self, grants: &[Grant], account: &str) -> Line {
        let Some(missing) = self.missing(grants) else { return Line::ok(self.name) };
        let found = format!("{account} lacks {missing}: a GRANT on the master would keep this slave from going on");
        Line::warning(self.name, found, format!("run `GRANT ALL PRIVILEGES ON *.* TO {account} WITH GRANT OPTION`"))
    }

    fn check(&self, grants: &[Grant], account: &str) -> Line {
        let Some(missing) = self.missing(grants) else { return Line::ok(self.name) };
        let scope = match self.scope {
            Scope::Everything => "*.*".to_owned(),
            Scope::Schema(name) => format!("{name}.*"),
        };
        Line::failed(
            self.name,
            format!("{account} lacks {missing}"),
            format!("run `GRANT {missing} ON {scope} TO {account}`"),
        )
    }
}

/// A line of `SHOW GRANTS`.
#[derive(Debug, PartialEq, Eq)]
struct Grant<'a> {
    rights: Vec<&'a str>,
    object: &'a str,
}

impl<'a> Grant<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (rights, rest) = line.strip_prefix("GRANT ")?.split_once(" ON ")?;
        let (object, rest) = rest.split_once(" TO ")?;
        let grant_option = rest.ends_with(" WITH GRANT OPTION").then_some(GRANT_OPTION);
        Some(Self { rights: rights.split(',').map(str::trim).chain(grant_option).collect(), object })
    }

    fn gives(&self, spellings: &[&str], scope: Scope) -> bool {
        let covers = match scope {
            Scope::Everything => self.object == "*.*",
            Scope::Schema(name) => {
                let schema = self.object.strip_suffix(".*").map(|schema| schema.trim_matches('`').replace("\\_", "_"));
                schema.is_some_and(|schema| schema == "*" || schema == name)
            }
        };
        covers
            && self.rights.iter().any(|right| {
                let is_every = matches!(*right, "ALL PRIVILEGES" | "ALL") && spellings != [GRANT_OPTION];
                is_every || spellings.contains(right)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_are_read_as_the_servers_write_them() {
        let everything =
            Grant::parse("GRANT ALL PRIVILEGES ON *.* TO `a`@`b` IDENTIFIED BY PASSWORD '*1' WITH GRANT OPTION")
                .unwrap();
        assert!(everything.gives(&["BINLOG REPLAY"], Scope::Everything));
        assert!(everything.gives(&[GRANT_OPTION], Scope::Everything));
        let all = Grant::parse("GRANT ALL PRIVILEGES ON *.* TO `a`@`b`").unwrap();
        assert!(all.gives(&["FILE"], Scope::Everything) && !all.gives(&[GRANT_OPTION], Scope::Everything));
        let own = Grant::parse("GRANT SELECT, INSERT ON `towline`.* TO `a`@`b`").unwrap();
        let schema = Scope::Schema("towline");
        assert!(own.gives(&["INSERT"], schema));
        assert!(!own.gives(&["INSERT"], Scope::Everything) && !own.gives(&["DROP"], schema));
        let table = Grant::parse("GRANT SELECT (x), INSERT ON `towline`.`t` TO `a`@`b`").unwrap();
        assert!(!table.gives(&["INSERT"], schema));
        let escaped = Grant::parse("GRANT SELECT ON `towline\\_app`.* TO `a`@`b`").unwrap();
        assert!(escaped.gives(&["SELECT"], Scope::Schema("towline_app")) && !escaped.gives(&["SELECT"], schema));
        assert_eq!(Grant::parse("GRANT `role` TO `a`@`b`"), None);
    }
}

//! Reading the configuration, and telling what is wrong with it.

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Profile,
    error::Kind,
    providers::{Env, Format, Toml},
};
use towline_middleware::{Role, nearest::meant};

use super::Config;

/// What starts the name of every variable of the environment that is configuration.
const ENV_PREFIX: &str = "TOWLINE_";
/// Variables with that prefix that are flags of the command line.
const ENV_FLAGS: [&str; 2] = ["role", "config"];
const PROFILES: [&str; 3] = ["default", "master", "slave"];

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("could not read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Keys or values are wrong.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
    /// Nothing says which server is behind the node.
    #[error(
        "`mysql.managed` is false and `mysql.url` is missing: name the server, as in mysql://user:password@127.0.0.1:3306"
    )]
    NoUrl,
    /// Two servers are named.
    #[error(
        "`mysql.url` names a server and `mysql.managed` asks for a private one: set `mysql.managed = false`, or remove the URL"
    )]
    ManagedWithUrl,
    /// Anybody could be a master to this node.
    #[error(
        "`{key}` is {listen}, which other machines can reach, and there is no `cluster.secret`: set one, the same on every \
         node, or listen on 127.0.0.1"
    )]
    NoSecret {
        /// The key of the listener.
        key: &'static str,
        /// Its address.
        listen: SocketAddr,
    },
    /// Anybody could use an account.
    #[error(
        "`http.anonymous_as` lets anybody in and `http.listen` is {listen}, which other machines can reach: remove one"
    )]
    AnonymousBeyondLoopback {
        /// The address.
        listen: SocketAddr,
    },
    /// The log's filter can't be read.
    #[error("`log.level`: `{level}` is neither a level (error, warn, info, debug, trace) nor a filter")]
    LogLevel {
        /// What it is.
        level: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// Writes are to be forwarded, and nobody says where.
    #[error(
        "`http.writes` is `forward`: set `http.master`, the URL of the master's `http.listen`, as in http://10.0.0.1:5000"
    )]
    NoMaster,
    /// A key of TLS stands alone.
    #[error("`{key}` needs `{needed}`: the path of a file in PEM form")]
    TlsNeeds {
        /// What is set.
        key: &'static str,
        /// What is missing.
        needed: &'static str,
    },
    /// A key of the other role.
    #[error("`{key}` means nothing on a {role}: put it under the other role's table")]
    OtherRole {
        /// The key.
        key: &'static str,
        /// The node's role.
        role: Role,
    },
}

/// One wrong key or value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: `http.listen`.
    pub key: String,
    /// In which file, or in the environment.
    pub place: String,
    /// What is wrong, and what was perhaps meant.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, place, what } = self;
        if key.is_empty() { write!(f, "{place}: {what}") } else { write!(f, "{place}: `{key}`: {what}") }
    }
}

impl Config {
    /// Reads the file, if one is named, and the environment, for a node of this role. A file is checked for both roles.
    ///
    /// # Errors
    /// A key or value that is wrong, with its place and what was perhaps meant.
    pub fn load(file: Option<&Path>, role: Role) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        if let Some(path) = file {
            // figment takes a missing file for an empty one.
            std::fs::metadata(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
            figment = figment.merge(Toml::file_exact(path).nested());
            known_profiles(&figment, path)?;
        }
        figment = figment.merge(Env::prefixed(ENV_PREFIX).ignore(&ENV_FLAGS).split("__").global());
        let other = match role {
            Role::Master => Role::Slave,
            Role::Slave => Role::Master,
        };
        let mut config = extract(&figment, role)?;
        config.file = file.map(Path::to_owned);
        extract(&figment, other)?;
        config.validate(role)?;
        Ok(config)
    }
}

fn extract(figment: &Figment, role: Role) -> Result<Config, ConfigError> {
    let result = figment.clone().select(role.as_str()).extract::<Config>();
    result.map_err(|error| ConfigError::Invalid(error.into_iter().map(problem).collect()))
}

fn known_profiles(figment: &Figment, path: &Path) -> Result<(), ConfigError> {
    let unknown = |profile: &Profile| !PROFILES.iter().any(|known| profile == *known);
    let problems = figment.profiles().filter(|profile| unknown(profile)).map(|profile| Problem {
        key: profile.to_string(),
        place: path.display().to_string(),
        what: format!(
            "no such table{}; every key is in [default.…], [master.…] or [slave.…]",
            meant(profile.as_str().as_str(), &PROFILES)
        ),
    });
    let problems: Vec<Problem> = problems.collect();
    if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
}

fn problem(error: figment::Error) -> Problem {
    let place = match &error.metadata {
        Some(metadata) => metadata.source.as_ref().map_or_else(|| metadata.name.to_string(), ToString::to_string),
        None => "configuration".to_owned(),
    };
    let from_environment = error.metadata.as_ref().is_some_and(|metadata| metadata.name.contains(ENV_PREFIX));
    let mut path = error.path.clone();
    let what = match &error.kind {
        Kind::UnknownField(field, known) => {
            // Some of figment's errors name the field in the path as well.
            if path.last() != Some(field) {
                path.push(field.clone());
            }
            format!("no such key{}; known here: {}", meant(field, known), known.join(", "))
        }
        Kind::UnknownVariant(value, known) => {
            format!("`{value}` is none of {}{}", known.join(", "), meant(value, known))
        }
        Kind::InvalidType(_, expected) if from_environment && expected.contains("string") => {
            format!("{}; in the environment a text that looks like something else needs quotes: '\"123\"'", error.kind)
        }
        kind => kind.to_string(),
    };
    if from_environment {
        let variable = format!("{ENV_PREFIX}{}", path.join("__").to_uppercase());
        return Problem { key: variable, place: "environment".to_owned(), what };
    }
    Problem { key: path.join("."), place, what }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::config::{Ack, HttpUrl};

    const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");

    fn load(text: &str, role: Role) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("node.toml");
        std::fs::write(&file, text).unwrap();
        Config::load(Some(&file), role)
    }

    fn problem_of(text: &str) -> Problem {
        match load(text, Role::Master) {
            Err(ConfigError::Invalid(mut problems)) => problems.remove(0),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_reference_shows_the_defaults() {
        let config = Config::load(Some(Path::new(REFERENCE)), Role::Master).unwrap();
        let data_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        let mut default = Config::default();
        assert_eq!(config.mysql.data_dir, data_dir, "relative to the file");
        default.mysql.data_dir = data_dir;
        default.file = Some(REFERENCE.into());
        assert_eq!(config, default);
    }

    #[test]
    fn the_reference_runs_both_roles_on_one_machine() {
        let [master, slave] =
            [Role::Master, Role::Slave].map(|role| Config::load(Some(Path::new(REFERENCE)), role).unwrap());
        assert_ne!(master.http.listen, slave.http.listen);
        assert_ne!(master.mysql_front.listen, slave.mysql_front.listen);
        assert_ne!(master.mysql.data_dir, slave.mysql.data_dir);
        assert_eq!(slave.cluster.master.unwrap().as_str(), format!("http://{}", master.http.listen));
    }

    /// The keys that a table knows are those that the error about an unknown one lists.
    fn known_keys(table: &str) -> BTreeSet<String> {
        let what = problem_of(&format!("[default.{table}]\nzzz = 1")).what;
        let list = what.split_once("known here: ").unwrap().1;
        list.split(", ").map(str::to_owned).collect()
    }

    fn is_key(text: &str) -> bool {
        text.starts_with(|first: char| first.is_ascii_lowercase())
    }

    #[test]
    fn the_reference_has_every_key_and_each_example_is_valid() {
        let text = std::fs::read_to_string(REFERENCE).unwrap();
        // A commented-out line is an example if `#` is followed by a key or a table at once.
        let example = |line: &str| line.starts_with("#[") || line.strip_prefix('#').is_some_and(is_key);
        let all: String =
            text.lines().map(|line| format!("{}\n", if example(line) { &line[1..] } else { line })).collect();
        let tables: toml::Table = all.parse().unwrap();
        let reference = tables["default"].as_table().unwrap();
        let top = problem_of("[default]\nzzz = 1").what;
        for table in top.split_once("known here: ").unwrap().1.split(", ").filter(|table| *table != "layer") {
            let shown: BTreeSet<String> = reference[table].as_table().unwrap().keys().cloned().collect();
            assert_eq!(shown, known_keys(table), "[default.{table}]");
        }
        // All examples at once contradict each other, so only their types are looked at.
        let figment = Figment::new().merge(Toml::string(&all).nested());
        let mut master = extract(&figment, Role::Master).unwrap();
        // Where a layer may open its files.
        let folder = tempfile::tempdir().unwrap();
        master.file = Some(folder.path().join("node.toml"));
        let stack = crate::layers::Layers::default().describe(&master, Role::Master).unwrap();
        assert_eq!(master.layer.len(), crate::layers::SHIPPED.len(), "{stack}");
        assert_eq!(master.http.anonymous_as.unwrap().password.reveal(), "password");
        assert_eq!(master.mysql.url.unwrap().opts().tcp_port(), 3306);
    }

    #[test]
    fn a_role_wins_over_the_default_and_its_list_replaces_the_default_list() {
        let text = "[default.cluster]\nack = 'one'\npush_timeout_ms = 1500\nslaves = ['http://a:1', 'http://b:1']\n\
                    [master.cluster]\nslaves = ['http://c:1/']\n[slave.cluster]\nslaves = []\nack = 'all'";
        let master = load(text, Role::Master).unwrap().cluster;
        assert_eq!((master.ack, master.push_timeout), (Ack::One, Duration::from_millis(1500)));
        assert_eq!(master.slaves.iter().map(HttpUrl::as_str).collect::<Vec<_>>(), ["http://c:1"]);
        assert_eq!(load(text, Role::Slave).unwrap().cluster.ack, Ack::All);
    }

    #[test]
    fn a_wrong_key_is_named_with_its_file_and_the_nearest_known_one() {
        let problem = problem_of("[master.http]\nlistn = '127.0.0.1:1'");
        assert_eq!(problem.key, "http.listn");
        assert!(problem.place.ends_with("node.toml"), "{problem}");
        assert!(problem.what.contains("did you mean `listen`?"), "{problem}");
        let problem = problem_of("[default.htpp]\nlisten = '127.0.0.1:1'");
        assert!(problem.key == "htpp" && problem.what.contains("`http`"), "{problem}");
        let problem = problem_of("[mater.http]\nlisten = '127.0.0.1:1'");
        assert!(problem.key == "mater" && problem.what.contains("`master`"), "{problem}");
        let problem = problem_of("[global.http]\nlisten = '127.0.0.1:1'");
        assert_eq!(problem.key, "global");
        // A mistake under the other role is found as well.
        let problem = problem_of("[slave.limits]\nconection_max = 1");
        assert!(problem.what.contains("`connections_max`"), "{problem}");
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (text, key, what) in [
            ("[master.http]\nlisten = 'localhost'", "http.listen", "socket address"),
            ("[master.limits]\nconnections_max = 0", "limits.connections_max", "nonzero"),
            ("[master.cluster]\npush_timeout_ms = -1", "cluster.push_timeout_ms", "-1"),
            ("[master.cluster]\nack = 'al'", "cluster.ack", "did you mean `all`?"),
            ("[master.cluster]\nslaves = ['https://a:1']", "cluster.slaves.0", "http://10.0.0.2:5001"),
            ("[master.cluster]\nsecret = ''", "cluster.secret", "empty"),
            ("[master.mysql]\nurl = 'postgres://a'", "mysql.url", "mysql://"),
            ("[master.mysql]\nurl = 'mysql://host'", "mysql.url", "no user"),
            ("[master.tls]\nbackend = 'verify'", "tls.backend", "verify_ca"),
            (
                "[master.mysql_front]\nproxy_protocol_networks = ['x']",
                "mysql_front.proxy_protocol_networks",
                "10.0.0.0/8",
            ),
            ("[master]\nhttp = 3", "http", "expected struct Http"),
        ] {
            let problem = problem_of(text);
            assert!(problem.key == key && problem.what.contains(what), "{text}: {problem}");
        }
    }

    #[test]
    fn a_file_that_is_none_is_an_error() {
        let error = Config::load(Some(Path::new("/nowhere/config.toml")), Role::Master).unwrap_err();
        assert!(matches!(error, ConfigError::Read { .. }), "{error}");
        let problem = problem_of("[master");
        assert!(problem.place.contains("node.toml"), "{problem}");
    }

    #[test]
    fn keys_that_exclude_or_need_each_other_are_told() {
        let refusal = |text: &str, role| load(text, role).unwrap_err().to_string();
        let url = "url = 'mysql://a:b@127.0.0.1:1'";
        assert!(refusal("[default.mysql]\nmanaged = false", Role::Master).contains("mysql.url"));
        assert!(refusal(&format!("[default.mysql]\n{url}"), Role::Master).contains("mysql.managed"));
        for listener in ["http", "mysql_front", "admin"] {
            let text = format!("[default.{listener}]\nlisten = '0.0.0.0:5000'");
            assert!(refusal(&text, Role::Slave).contains("cluster.secret"), "{listener}");
            load(&format!("{text}\n[default.cluster]\nsecret = 'x'"), Role::Slave).unwrap();
        }
        let open = "[default.http]\nlisten = '10.0.0.1:1'\nanonymous_as = { user = 'a', password = 'b' }\n\
                    [default.cluster]\nsecret = 'x'";
        assert!(refusal(open, Role::Master).contains("anonymous_as"));
        for (text, missing) in [
            ("cert = 'a.pem'", "tls.key"),
            ("key = 'a.pem'", "tls.cert"),
            ("required = true", "tls.cert"),
            ("backend = 'verify_ca'", "tls.backend_ca"),
            ("backend = 'verify_identity'", "tls.backend_ca"),
        ] {
            assert!(refusal(&format!("[default.tls]\n{text}"), Role::Slave).contains(missing), "{text}");
        }
        assert!(refusal("[default.log]\nlevel = 'a=b=c'", Role::Master).contains("log.level"));
        assert!(refusal("[slave.cluster]\nslaves = ['http://a:1']", Role::Slave).contains("cluster.slaves"));
        assert!(refusal("[default.cluster]\nmaster = 'http://a:1'", Role::Master).contains("cluster.master"));
        let forward = "http]\nwrites = 'forward'";
        assert!(refusal(&format!("[slave.{forward}"), Role::Slave).contains("http.master"));
        assert!(refusal(&format!("[default.{forward}"), Role::Master).contains("http.writes"));
        assert!(refusal("[default.http]\nmaster = 'http://a:1'", Role::Master).contains("http.master"));
        let slave = load(&format!("[slave.{forward}\nmaster = 'http://a:1'"), Role::Slave).unwrap();
        assert_eq!(slave.http.writes_to().map(HttpUrl::as_str), Some("http://a:1"));
    }

    #[test]
    fn a_secret_never_shows() {
        let text = "[default.mysql]\nmanaged = false\nurl = 'mysql://a:hush@127.0.0.1:1'\n\
                    [default.cluster]\nsecret = 'hush'\n[default.http]\nanonymous_as = { user = 'a', password = 'hush' }";
        let config = load(text, Role::Master).unwrap();
        assert!(!format!("{config:?}").contains("hush"));
        let error = load("[default.mysql]\nurl = 'hush://a:hush@b'", Role::Master).unwrap_err();
        assert!(!error.to_string().contains(":hush@"), "{error}");
    }

    #[test]
    fn administration_is_on_loopback_unless_told_otherwise() {
        let listen = |text: &str| {
            load(&format!("{text}\n[default.cluster]\nsecret = 'x'"), Role::Master).unwrap().admin_listen()
        };
        assert_eq!(listen(""), None);
        assert_eq!(
            listen("[default.http]\nlisten = '0.0.0.0:1'").map(|address| address.ip().is_loopback()),
            Some(true)
        );
        assert_eq!(listen("[default.admin]\nlisten = '127.0.0.1:7'"), Some(SocketAddr::from(([127, 0, 0, 1], 7))));
        assert_eq!(listen("[default.http]\nlisten = '127.0.0.1:7'\n[default.admin]\nlisten = '127.0.0.1:7'"), None);
    }
}

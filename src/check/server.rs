//! The connection that a check asks over.

use std::{collections::HashMap, io};

use mysql_async::{Conn, DriverError, IoError, Opts, OptsBuilder, prelude::Queryable};

use super::{CheckError, Target};
use crate::tls::Connector;

/// A server that is being checked.
pub(super) struct Server {
    conn: Conn,
    address: String,
    variables: HashMap<String, String>,
    /// `VERSION()`
    pub(super) version: String,
    /// The account that asks, as a `GRANT` names it.
    pub(super) account: String,
    /// Whether it is reached over a Unix socket.
    pub(super) by_socket: bool,
}

impl Server {
    pub(super) async fn connect(target: Target<'_>) -> Result<(Self, Opts), CheckError> {
        let with_tls = |tls: &Connector| OptsBuilder::from_opts(target.opts.clone()).ssl_opts(tls.driver_options());
        let opts = target.tls.map_or_else(|| target.opts.clone(), |tls| with_tls(tls).into());
        match (Self::connect_by(&opts).await, target.tls) {
            // A server without TLS, where TLS is preferred only.
            (Err(CheckError::Tls { source: mysql_async::Error::Driver(_), .. }), Some(tls)) if !tls.is_needed() => {
                Ok((Self::connect_by(target.opts).await?, target.opts.clone()))
            }
            (result, _) => Ok((result?, opts)),
        }
    }

    async fn connect_by(opts: &Opts) -> Result<Self, CheckError> {
        let address = address(opts);
        let conn = Conn::new(opts.clone()).await.map_err(|source| match &source {
            mysql_async::Error::Server(_) => CheckError::Refused {
                address: address.clone(),
                user: opts.user().unwrap_or_default().to_owned(),
                source,
            },
            mysql_async::Error::Io(IoError::Tls(_))
            | mysql_async::Error::Driver(DriverError::NoClientSslFlagFromServer) => {
                CheckError::Tls { address: address.clone(), source }
            }
            // The driver reports a certificate that is refused as a failed read.
            mysql_async::Error::Io(IoError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                CheckError::Tls { address: address.clone(), source }
            }
            _ => CheckError::Unreachable { address: address.clone(), source },
        })?;
        let mut server = Self {
            conn,
            address,
            variables: HashMap::new(),
            version: String::new(),
            account: String::new(),
            by_socket: opts.socket().is_some(),
        };
        server.variables = server
            .query::<(String, String)>("its settings", "SHOW GLOBAL VARIABLES")
            .await?
            .into_iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value))
            .collect();
        let rows = server.query::<(String, String)>("its version", "SELECT VERSION(), CURRENT_USER()").await?;
        let (version, account) = rows.into_iter().next().unwrap_or_default();
        server.version = version;
        let (user, host) = account.rsplit_once('@').unwrap_or((&account, "%"));
        server.account = format!("'{}'@'{host}'", user.replace('\'', "''"));
        Ok(server)
    }

    pub(super) async fn disconnect(self) {
        // It ends either way; the server sees it by the closed socket.
        let _ = self.conn.disconnect().await;
    }

    /// Whether it is MariaDB rather than MySQL.
    pub(super) fn is_mariadb(&self) -> bool {
        self.version.contains("MariaDB")
    }

    /// Major and minor number.
    pub(super) fn release(&self) -> (u32, u32) {
        let mut numbers = self.version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// A global variable; none if this server has no such.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// Asks for rows.
    pub(super) async fn query<T: mysql_async::prelude::FromRow + Send + 'static>(
        &mut self,
        what: &'static str,
        sql: &str,
    ) -> Result<Vec<T>, CheckError> {
        let result = self.conn.query(sql).await;
        result.map_err(|source| CheckError::Query { address: self.address.clone(), what, source })
    }

    /// The same; none if the account may not ask this.
    pub(super) async fn query_if_allowed<T: mysql_async::prelude::FromRow + Send + 'static>(
        &mut self,
        what: &'static str,
        sql: &str,
    ) -> Result<Option<Vec<T>>, CheckError> {
        const REFUSALS: [u16; 5] = [1044, 1045, 1142, 1143, 1227];
        match self.query(what, sql).await {
            Err(CheckError::Query { source: mysql_async::Error::Server(error), .. })
                if REFUSALS.contains(&error.code) =>
            {
                Ok(None)
            }
            result => result.map(Some),
        }
    }
}

/// Where a server is, for messages.
pub(super) fn address(opts: &Opts) -> String {
    opts.socket().map_or_else(|| format!("{}:{}", opts.ip_or_hostname(), opts.tcp_port()), str::to_owned)
}

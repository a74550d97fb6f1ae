//! A new data folder, made by the server itself from its SQL files. Needs nothing but the server's package:
//! `mariadb-install-db` calls a program of the client's.

use std::{fmt::Write as _, fs, process::Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    ManagedError,
    folder::{Folder, USER},
    process::{End, Programs},
};

/// The files that make the system tables, in order. Source: MariaDB's `mariadb-install-db`; the names start with
/// `mysql_` or, in newer releases, with `mariadb_`.
const SQL_FILES: [[&str; 2]; 4] = [
    ["mysql_system_tables.sql", "mariadb_system_tables.sql"],
    ["mysql_performance_tables.sql", "mariadb_performance_tables.sql"],
    ["mysql_system_tables_data.sql", "mariadb_system_tables_data.sql"],
    ["maria_add_gis_sp_bootstrap.sql", "maria_add_gis_sp_bootstrap.sql"],
];
/// How much of what the server says an error shows at most.
const LOG_BYTES_MAX: usize = 4096;

/// Makes the data folder and the account. The folder gets its name when it is complete, so a crash leaves nothing that
/// looks like one.
pub(super) async fn run(programs: &Programs, folder: &Folder) -> Result<(), ManagedError> {
    let unfinished = folder.unfinished_data();
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(ManagedError::io("remove", &unfinished))?;
    }
    fs::create_dir(&unfinished).map_err(ManagedError::io("make the folder", &unfinished))?;
    let password = password(folder)?;
    // Before the folder gets its name: a complete folder always has its account.
    folder.write_credentials(&password)?;
    feed(programs, folder, &script(programs, &password)?).await?;
    fs::rename(&unfinished, folder.data()).map_err(ManagedError::io("rename", &unfinished))
}

/// Everything that the server reads: its own files, then the accounts.
fn script(programs: &Programs, password: &str) -> Result<Vec<u8>, ManagedError> {
    let mut script = b"create database if not exists mysql;\nuse mysql;\nSET @auth_root_socket=NULL;\n".to_vec();
    for names in SQL_FILES {
        let file = programs.sql_file(names)?;
        script.extend(fs::read(&file).map_err(ManagedError::io("read", file))?);
        script.push(b'\n');
    }
    // `mariadb.sys` is locked and owns the system's views.
    script.extend_from_slice(b"DELETE FROM mysql.global_priv WHERE User <> 'mariadb.sys';\n");
    script.extend_from_slice(b"DELETE FROM mysql.proxies_priv;\n");
    let account = format!(
        "INSERT INTO mysql.global_priv VALUES ('localhost', '{USER}', JSON_OBJECT('access', 18446744073709551615, \
         'plugin', 'mysql_native_password', 'authentication_string', PASSWORD('{password}')));\n"
    );
    script.extend_from_slice(account.as_bytes());
    Ok(script)
}

async fn feed(programs: &Programs, folder: &Folder, script: &[u8]) -> Result<(), ManagedError> {
    let mut command = programs.bootstrap(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let spawned = command.spawn();
    let mut child = spawned.map_err(ManagedError::io("run", programs.server_path()))?;
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A server that ends early closes the pipe; how it ended says more.
            let _ = stdin.write_all(script).await;
        }
    };
    let read = async {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            let _ = stderr.read_to_end(&mut said).await;
        }
        said
    };
    let ((), said) = tokio::join!(write, read);
    let status = child.wait().await.map_err(ManagedError::io("wait for", programs.server_path()))?;
    // The server ends with 0 after an error in the script as well, but says so.
    if status.success() && !said.windows(5).any(|window| window == b"ERROR") {
        return Ok(());
    }
    let tail = &said[said.len().saturating_sub(LOG_BYTES_MAX)..];
    Err(ManagedError::Bootstrap { end: End::new(Some(status)), log: String::from_utf8_lossy(tail).into_owned() })
}

/// 192 random bits as hexadecimal digits, which need no quoting anywhere.
fn password(folder: &Folder) -> Result<String, ManagedError> {
    let mut bits = [0; 24];
    getrandom::fill(&mut bits).map_err(|error| ManagedError::io("draw a password for", folder.data())(error.into()))?;
    Ok(bits.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every write");
        text
    }))
}

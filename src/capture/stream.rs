//! The connection that the binlog comes over.

use std::time::Duration;

use futures_util::StreamExt;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, GnoInterval, Opts, OptsBuilder, Sid, prelude::Queryable};
use mysql_common::{
    binlog::{consts::EventType, events},
    proto::{MySerialize, codec::error::PacketCodecError},
};

use super::{
    CaptureError, CaptureOptions, Place,
    event::{Event, kind},
    flavor::Source,
    format,
};
use crate::replication::protocol::Family;

/// How often the server says that it is alive while there is nothing to send.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// After how long without anything the connection counts as dead. Well above [`HEARTBEAT`]: while the server looks for
/// the start in its files it sends none.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// The largest event in bytes: no server sends a larger packet.
pub(super) const EVENT_BYTES_MAX: usize = 1 << 30;
/// How long the server waits, in seconds, for a reader that does not take what it sends: as long as a slow slave needs.
const WRITE_TIMEOUT: u32 = 3600;
/// Where the first event of a file stands: behind its magic number.
pub(super) const FILE_START: u64 = 4;
/// ER_MASTER_FATAL_ERROR_READING_BINLOG; its text alone tells one cause from another.
const CANT_READ_BINLOG: u16 = 1236;
/// ER_SPECIFIC_ACCESS_DENIED_ERROR
const NO_PRIVILEGE: u16 = 1227;

/// Events in the order of the binlog, whole.
pub(super) struct EventStream {
    events: BinlogStream,
    /// What the start was, for errors.
    after: String,
    options: CaptureOptions,
    source: Source,
    /// The file that the last event stood in.
    file: String,
    /// The file behind a torn one, where reading is to go on.
    resume_in: Option<String>,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventStream").field("after", &self.after).finish_non_exhaustive()
    }
}

impl EventStream {
    /// Connects and asks for the events after `options.from`. Also tells whose transactions they are.
    pub(super) async fn open(options: &CaptureOptions) -> Result<(Self, Source), CaptureError> {
        Self::connected(options, Start::After).await
    }

    /// The same where `options.from` need not be a transaction, if there is one behind it.
    pub(super) async fn open_near(options: &CaptureOptions) -> Result<(Self, Source), CaptureError> {
        Self::connected(options, Start::Near).await
    }

    /// Connects and asks for the events that follow a place in a file.
    pub(super) async fn open_at(
        options: &CaptureOptions,
        file: &str,
        position: u64,
    ) -> Result<(Self, Source), CaptureError> {
        Self::connected(options, Start::At(file, position)).await
    }

    async fn connected(options: &CaptureOptions, start: Start<'_>) -> Result<(Self, Source), CaptureError> {
        let (events, after, source) = connect(options, start).await?;
        let (options, file) = (options.clone(), String::new());
        Ok((Self { events, after, options, source, file, resume_in: None }, source))
    }

    /// The next event. Errors have no [`Place`]: the caller knows it.
    ///
    /// # Cancel safety
    /// Safe: a part of an event that has come stays in the connection.
    pub(super) async fn next(&mut self) -> Result<Event, CaptureError> {
        loop {
            if let Some(file) = &self.resume_in {
                (self.events, ..) = connect(&self.options, Start::At(file, FILE_START)).await?;
                self.resume_in = None;
            }
            let event = match tokio::time::timeout(SILENCE_MAX, self.events.next()).await {
                Err(_) => return Err(CaptureError::Silent(SILENCE_MAX)),
                Ok(None) => return Err(CaptureError::Ended),
                Ok(Some(Err(error))) => {
                    self.resume_in = self.following(&error);
                    if self.resume_in.is_none() {
                        return Err(self.read_error(error));
                    }
                    tracing::warn!(file = self.file, "a binlog file ends within an event, where the server has died");
                    continue;
                }
                Ok(Some(Ok(event))) => whole(&event)?,
            };
            if event.kind() == kind::ROTATE {
                self.file = format::rotated_to(&event);
            }
            return Ok(event);
        }
    }

    /// The file to go on in, where the server can't read the end of this one. A MariaDB server that died while it wrote
    /// leaves a part of an event and goes on in a new file, and it takes no reader past that by GTID. That nothing but this
    /// part is missing the new file says by what it begins after. MySQL cuts such a part off when it starts.
    fn following(&self, error: &mysql_async::Error) -> Option<String> {
        if self.source.family() == Family::MariaDb && is_torn(error) { format::following(&self.file) } else { None }
    }

    fn read_error(&self, error: mysql_async::Error) -> CaptureError {
        let mysql_async::Error::Server(server) = &error else {
            return match is_too_large(&error) {
                true => CaptureError::TooLarge { place: Place::default(), limit: EVENT_BYTES_MAX },
                false => CaptureError::Connection(error),
            };
        };
        let says = |text| server.message.contains(text);
        let (after, detail) = (self.after.clone(), server.message.clone());
        match server.code {
            CANT_READ_BINLOG if says("purged") || says("Could not find first log file") => {
                CaptureError::BinlogGone { after, detail }
            }
            CANT_READ_BINLOG if says("not in the master's binlog") || says("more GTIDs") => {
                CaptureError::Forked { after, detail }
            }
            CANT_READ_BINLOG if says("same server") => CaptureError::Ended,
            _ => CaptureError::Connection(error),
        }
    }
}

/// Where reading is to begin.
#[derive(Clone, Copy)]
enum Start<'a> {
    /// Behind `from`.
    After,
    /// Behind `from`, or where that would be if there is no such transaction.
    Near,
    /// At a byte of a file.
    At(&'a str, u64),
}

/// Connects and asks for the events that are wanted. Also tells what the start was, for errors, and whose transactions they
/// are.
async fn connect(options: &CaptureOptions, at: Start<'_>) -> Result<(BinlogStream, String, Source), CaptureError> {
    let opts =
        OptsBuilder::from_opts(options.opts.clone()).max_allowed_packet(Some(EVENT_BYTES_MAX)).stmt_cache_size(0);
    let mut conn = Conn::new(opts).await.map_err(CaptureError::Connect)?;
    refuse_unfit(&mut conn).await?;
    let source = Source::of(&mut conn).await?;
    let start = source.start(&options.from)?;
    let after = match at {
        Start::At(file, position) => format!("byte {position} of {file}"),
        _ if start == 0 => "the beginning".to_owned(),
        _ => options.from.gtid.clone(),
    };

    let server_id = unused_server_id(&mut conn).await?;
    let period = HEARTBEAT.as_nanos();
    let mut setup = format!(
        "SET @master_heartbeat_period = {period}, @source_heartbeat_period = {period}, \
         SESSION net_write_timeout = {WRITE_TIMEOUT}"
    );
    let mut request = BinlogStreamRequest::new(server_id);
    if let Start::At(file, position) = at {
        request = request.with_filename(file.as_bytes()).with_pos(position);
    }
    match source {
        Source::Domain(_) => {
            // Asks for MariaDB's own events; without it they come as dummies.
            setup += ", @mariadb_slave_capability = 4";
            if !matches!(at, Start::At(..)) {
                // A GTID holds digits and dashes only: `start` has read it.
                let state = &options.from.gtid;
                let is_strict = u8::from(matches!(at, Start::After));
                setup += &format!(", @slave_connect_state = '{state}', @slave_gtid_strict_mode = {is_strict}");
            }
        }
        Source::Uuid(uuid) if !matches!(at, Start::At(..)) => {
            if matches!(at, Start::After) {
                refuse_unknown_start(&mut conn, &after, start).await?;
            }
            let mut known = Vec::new();
            if start > 0 {
                known = purged_of_others(&mut conn).await?;
                known.push(Sid::new(uuid).with_interval(GnoInterval::new(1, start + 1)));
            }
            request = request.with_gtid().with_gtid_set(known);
        }
        Source::Uuid(_) => {}
    }
    conn.query_drop(setup).await.map_err(CaptureError::Connect)?;
    let events = conn.get_binlog_stream(request).await.map_err(CaptureError::Connect)?;
    Ok((events, after, source))
}

/// When the server began a binlog file, in seconds since 1970 (UTC).
///
/// # Errors
/// When the file can't be read, or is none.
pub(crate) async fn begun_at(opts: Opts, file: &str) -> Result<u64, CaptureError> {
    let mut conn = Conn::new(opts).await.map_err(CaptureError::Connect)?;
    let server_id = unused_server_id(&mut conn).await?;
    let request = BinlogStreamRequest::new(server_id).with_filename(file.as_bytes()).with_pos(FILE_START);
    let mut events = conn.get_binlog_stream(request.with_non_blocking()).await.map_err(CaptureError::Connect)?;
    loop {
        let event = tokio::time::timeout(SILENCE_MAX, events.next()).await;
        let event = event.map_err(|_| CaptureError::Silent(SILENCE_MAX))?.ok_or(CaptureError::Ended)?;
        let header = event.map_err(CaptureError::Connection)?.header();
        if header.event_type_raw() == EventType::FORMAT_DESCRIPTION_EVENT as u8 {
            return Ok(header.timestamp().into());
        }
    }
}

fn is_torn(error: &mysql_async::Error) -> bool {
    let mysql_async::Error::Server(server) = error else { return false };
    server.code == CANT_READ_BINLOG && server.message.contains("truncated in the middle of event")
}

fn is_too_large(error: &mysql_async::Error) -> bool {
    let mysql_async::Error::Io(mysql_async::IoError::Io(error)) = error else { return false };
    let packet = error.get_ref().and_then(|source| source.downcast_ref::<PacketCodecError>());
    matches!(packet, Some(PacketCodecError::PacketTooLarge))
}

/// The event's bytes as they were sent; one that comes out of a compressed transaction gets the checksum that it never
/// had. The reader takes the checksum off, and from a format description also the name
/// of the algorithm.
fn whole(event: &events::Event) -> Result<Event, CaptureError> {
    let header = event.header();
    let mut bytes = Vec::with_capacity(header.event_size() as usize);
    header.serialize(&mut bytes);
    bytes.extend_from_slice(event.data());
    if header.event_type_raw() == EventType::FORMAT_DESCRIPTION_EVENT as u8
        && let Ok(Some(algorithm)) = event.footer().get_checksum_alg()
    {
        bytes.push(algorithm as u8);
    }
    let event = if bytes.len() == header.event_size() as usize {
        // The Rotate event at the start of a stream has its checksum, but the reader has not been told so yet.
        let with_checksum = Event::new(bytes.clone()).filter(Event::is_intact);
        with_checksum.or_else(|| Event::without_checksum(&bytes))
    } else {
        bytes.extend_from_slice(&event.checksum().unwrap_or_default());
        Event::new(bytes)
    };
    event.ok_or_else(|| CaptureError::Malformed { place: Place::default(), what: "its length" })
}

async fn refuse_unfit(conn: &mut Conn) -> Result<(), CaptureError> {
    let row: Option<(u8, String)> =
        conn.query_first("SELECT @@global.log_bin, @@global.binlog_checksum").await.map_err(CaptureError::Connect)?;
    let (log_bin, checksum) = row.unwrap_or_default();
    if log_bin == 0 {
        return Err(CaptureError::Unfit { setting: "log_bin", found: "OFF".into(), mend: "log_bin in my.cnf" });
    }
    if checksum != "CRC32" {
        return Err(CaptureError::Unfit { setting: "binlog_checksum", found: checksum, mend: "binlog_checksum=CRC32" });
    }
    Ok(())
}

/// MySQL starts a reader wherever it says it stands, as long as nothing that it lacks is purged; so whether its last
/// transaction is one of this server's must be asked.
async fn refuse_unknown_start(conn: &mut Conn, after: &str, start: u64) -> Result<(), CaptureError> {
    if start == 0 {
        return Ok(());
    }
    // The GTID was read by `Source::start`: hexadecimal digits, dashes, a colon.
    let query = format!("SELECT GTID_SUBSET('{after}', @@global.gtid_executed)");
    let known: Option<u8> = conn.query_first(query).await.map_err(CaptureError::Connect)?;
    if known != Some(1) {
        let detail = "it is not in gtid_executed".to_owned();
        return Err(CaptureError::Forked { after: after.to_owned(), detail });
    }
    Ok(())
}

/// Whether MySQL's binlog holds a transaction, as far as the server knows. MariaDB is not asked: it only sends a heartbeat
/// when it has nothing else to send.
///
/// # Errors
/// [`CaptureError::Connect`] if the server does not say.
pub(super) async fn holds(opts: &Opts, source: Source, gtid: &str) -> Result<bool, CaptureError> {
    if source.family() == Family::MariaDb {
        return Ok(false);
    }
    const HOLDS: &str = "SELECT GTID_SUBSET(?, GTID_SUBTRACT(@@global.gtid_executed, @@global.gtid_purged))";
    let mut conn = Conn::new(opts.clone()).await.map_err(CaptureError::Connect)?;
    let held: Option<u8> = conn.exec_first(HOLDS, (gtid,)).await.map_err(CaptureError::Connect)?;
    Ok(held == Some(1))
}

/// What the server has of others and no longer in its binlog, as after a restored dump. It refuses readers that lack any of
/// that. A reader from the beginning does: it needs a snapshot.
async fn purged_of_others(conn: &mut Conn) -> Result<Vec<Sid<'static>>, CaptureError> {
    const ALL_OWN: &str = "CONCAT(@@global.server_uuid, ':1-9223372036854775806')";
    let query = format!("SELECT GTID_SUBTRACT(@@global.gtid_purged, {ALL_OWN})");
    let purged: Option<String> = conn.query_first(query).await.map_err(CaptureError::Connect)?;
    // A set that can't be read is left to the server, which then says what it lacks.
    Ok(purged.unwrap_or_default().split(',').filter_map(|set| set.trim().parse().ok()).collect())
}

/// A server id that no other reader of this server's binlog uses: the server throws out the older of two with the same.
///
/// Where the account may not list the readers, chance alone must do: one in two thousand million for each of them.
async fn unused_server_id(conn: &mut Conn) -> Result<u32, CaptureError> {
    let own: Option<u32> = conn.query_first("SELECT @@global.server_id").await.map_err(CaptureError::Connect)?;
    let mut used: Vec<u32> = own.into_iter().collect();
    for list in ["SHOW REPLICA HOSTS", "SHOW REPLICAS", "SHOW SLAVE HOSTS"] {
        match conn.query::<mysql_async::Row, _>(list).await {
            Ok(readers) => {
                used.extend(readers.iter().filter_map(|reader| reader.get_opt::<u32, _>(0)?.ok()));
                break;
            }
            Err(mysql_async::Error::Server(error)) if error.code == NO_PRIVILEGE => break,
            // A syntax error: this server words it otherwise.
            Err(mysql_async::Error::Server(_)) => {}
            Err(error) => return Err(CaptureError::Connect(error)),
        }
    }
    loop {
        let id = fastrand::u32(1 << 31..u32::MAX);
        if !used.contains(&id) {
            return Ok(id);
        }
    }
}

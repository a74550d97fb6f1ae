//! A file of lines, written by a thread of its own and rotated: whoever has a line to write never waits for the disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use towline_middleware::Figure;

/// Where lines go and how many files are kept.
#[derive(Clone, Debug)]
pub(super) struct LineFileOptions {
    pub(super) path: PathBuf,
    /// A file that is longer is renamed to `<path>.1`, that one to `<path>.2`, and so on.
    pub(super) bytes_max: u64,
    /// How many files there are at most, the one being written included.
    pub(super) files_max: usize,
    /// Lines that may wait to be written; one more is lost.
    pub(super) queue_max: usize,
}

impl LineFileOptions {
    /// Opens the file at its end, and makes it where there is none.
    ///
    /// # Errors
    /// It can't be opened.
    pub(super) fn open(&self) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).open(&self.path)
    }
}

/// For how long what follows a first line gathers, to be written with it. A queue must have room for so much.
const GATHER: Duration = Duration::from_millis(5);

/// So many bytes gather before they are written, or one line.
const BUFFER_BYTES: usize = 64 * 1024;

/// A file of lines. Dropped, it writes what waits.
#[derive(Debug)]
pub(super) struct LineFile<T> {
    queue: SyncSender<T>,
    lost: Figure,
}

/// The thread that writes; to be joined after the [`LineFile`] is dropped.
pub(super) type Writing = JoinHandle<()>;

impl<T: Send + 'static> LineFile<T> {
    /// A file that is opened, at its end, with its first line. `line` makes a line of what is to be written, in the file's
    /// thread; `lost` counts what does not get into the file.
    ///
    /// # Errors
    /// The thread can't be made.
    pub(super) fn new(
        options: LineFileOptions,
        lost: Figure,
        line: impl Fn(&T, &mut Vec<u8>) + Send + 'static,
    ) -> io::Result<(Self, Writing)> {
        let (queue, waiting) = sync_channel(options.queue_max);
        let output = Output::new(options, lost.clone());
        let writing =
            thread::Builder::new().name("line-file".to_owned()).spawn(move || write(output, &waiting, line))?;
        Ok((Self { queue, lost }, writing))
    }

    /// Has something written; it is lost, and counted, if too much waits.
    pub(super) fn put(&self, what: T) {
        match self.queue.try_send(what) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.lost.increment(),
        }
    }
}

fn write<T>(mut output: Output, waiting: &Receiver<T>, line: impl Fn(&T, &mut Vec<u8>)) {
    let mut text = Vec::new();
    let mut failed = false;
    loop {
        let next = match waiting.try_recv() {
            Ok(next) => Some(next),
            Err(TryRecvError::Disconnected) => None,
            // Nothing waits: what is written may be seen.
            Err(TryRecvError::Empty) => {
                failed = report(output.flush(), failed, &output.options.path);
                let next = waiting.recv().ok();
                // While this thread sleeps nobody has to wake it: that took a busy node more time than the lines did.
                thread::sleep(GATHER);
                next
            }
        };
        let Some(next) = next else { break };
        text.clear();
        line(&next, &mut text);
        text.push(b'\n');
        failed = report(output.put(&text), failed, &output.options.path);
    }
    report(output.flush(), failed, &output.options.path);
    output.lost.add(output.buffered);
}

/// Tells of a disk that fails once, and not for each line.
fn report(result: io::Result<()>, failed: bool, path: &Path) -> bool {
    match result {
        Ok(()) => false,
        Err(error) => {
            if !failed {
                let error = &error as &dyn std::error::Error;
                tracing::error!(error, path = %path.display(), "lines are lost: the file can't be written");
            }
            true
        }
    }
}

struct Output {
    options: LineFileOptions,
    lost: Figure,
    /// None until there is something to write.
    file: Option<File>,
    bytes: u64,
    /// Lines on their way. Where the disk takes nothing they stay here, and are tried again: no line is torn.
    buffer: Vec<u8>,
    buffered: u64,
}

impl Output {
    fn new(options: LineFileOptions, lost: Figure) -> Self {
        Self { options, lost, file: None, bytes: 0, buffer: Vec::new(), buffered: 0 }
    }

    /// Writes a line, or counts it as lost.
    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        let room = self.make_room(line.len());
        match room {
            Ok(()) => {
                self.buffer.extend_from_slice(line);
                self.buffered += 1;
                self.bytes += line.len() as u64;
            }
            Err(_) => self.lost.increment(),
        }
        room
    }

    fn make_room(&mut self, len: usize) -> io::Result<()> {
        self.open()?;
        if self.bytes > 0 && self.bytes + len as u64 > self.options.bytes_max {
            self.rotate()?;
            self.open()?;
        }
        if self.buffer.len() + len > BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.buffer.is_empty() {
            let Some(file) = &mut self.file else { break };
            match file.write(&self.buffer) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => drop(self.buffer.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffered = 0;
        Ok(())
    }

    /// Opens the file, where it is not open.
    fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let file = self.options.open()?;
            self.bytes = file.metadata()?.len();
            self.file = Some(file);
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.flush()?;
        for number in (1..self.options.files_max).rev() {
            let from = if number == 1 { self.options.path.clone() } else { numbered(&self.options.path, number - 1) };
            match fs::rename(from, numbered(&self.options.path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.options.files_max <= 1 {
            fs::remove_file(&self.options.path)?;
        }
        (self.file, self.bytes) = (None, 0);
        Ok(())
    }
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes 20 lines of 10 bytes, and returns how many of them are lost.
    fn lost_of_20(options: LineFileOptions) -> u64 {
        let lost = Figure::default();
        let line = |n: &u32, out: &mut Vec<u8>| out.extend(format!("line {n:04}").bytes());
        let (file, writing) = LineFile::new(options, lost.clone(), line).unwrap();
        (0..20).for_each(|n| file.put(n));
        drop(file);
        writing.join().unwrap();
        lost.get()
    }

    #[test]
    fn lines_that_the_disk_does_not_take_are_counted() {
        let options = |path: &Path| LineFileOptions { path: path.into(), bytes_max: 55, files_max: 2, queue_max: 1000 };
        assert_eq!(lost_of_20(LineFileOptions { bytes_max: 1000, ..options(Path::new("/dev/full")) }), 20);
        // What can't be renamed takes no more lines than it may.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::create_dir_all(folder.path().join("audit.log.1/taken")).unwrap();
        assert_eq!(lost_of_20(options(&path)), 15);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 5);
    }

    #[test]
    fn lines_go_through_rotation_in_order_and_old_files_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let options = LineFileOptions { path: path.clone(), bytes_max: 30, files_max: 3, queue_max: 1000 };
        assert_eq!(lost_of_20(options), 0);
        let all: String = [numbered(&path, 2), numbered(&path, 1), path]
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        let last: String = (12..20).map(|n| format!("line {n:04}\n")).collect();
        assert!(all.ends_with(&last), "{all}");
        assert!(!folder.path().join("audit.log.3").exists());
    }
}

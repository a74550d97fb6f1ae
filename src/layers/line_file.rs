//! A file of lines, written by a thread of its own and rotated: whoever has a line to write never waits for the disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

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

/// A file of lines. Dropped, it writes what waits.
#[derive(Debug)]
pub(super) struct LineFile<T> {
    queue: SyncSender<T>,
}

/// The thread that writes; to be joined after the [`LineFile`] is dropped.
pub(super) type Writing = JoinHandle<()>;

impl<T: Send + 'static> LineFile<T> {
    /// A file that is opened, at its end, with its first line. `line` makes a line of what is to be written, in the file's
    /// thread.
    ///
    /// # Errors
    /// The thread can't be made.
    pub(super) fn new(
        options: LineFileOptions,
        line: impl Fn(&T, &mut Vec<u8>) + Send + 'static,
    ) -> io::Result<(Self, Writing)> {
        let (queue, waiting) = sync_channel(options.queue_max);
        let writing = thread::Builder::new()
            .name("line-file".to_owned())
            .spawn(move || write(Output::new(options), &waiting, line))?;
        Ok((Self { queue }, writing))
    }

    /// Has something written; false if it is lost, since too much waits or the thread has ended.
    pub(super) fn put(&self, what: T) -> bool {
        match self.queue.try_send(what) {
            Ok(()) => true,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
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
    /// None until there is something to write.
    file: Option<BufWriter<File>>,
    bytes: u64,
}

impl Output {
    fn new(options: LineFileOptions) -> Self {
        Self { options, file: None, bytes: 0 }
    }

    fn put(&mut self, line: &[u8]) -> io::Result<()> {
        self.file()?;
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.options.bytes_max {
            self.rotate()?;
        }
        self.file()?.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_mut().map_or(Ok(()), BufWriter::flush)
    }

    fn file(&mut self) -> io::Result<&mut BufWriter<File>> {
        if self.file.is_none() {
            let file = self.options.open()?;
            self.bytes = file.metadata()?.len();
            self.file = Some(BufWriter::new(file));
        }
        Ok(self.file.as_mut().expect("it was opened just now"))
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
        *self = Self::new(self.options.clone());
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

    #[test]
    fn lines_go_through_rotation_in_order_and_old_files_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let options = LineFileOptions { path: path.clone(), bytes_max: 30, files_max: 3, queue_max: 1000 };
        let (file, writing) =
            LineFile::new(options, |n: &u32, out| out.extend(format!("line {n:04}").bytes())).unwrap();
        assert!((0..20).all(|n| file.put(n)));
        drop(file);
        writing.join().unwrap();
        let all: String = [numbered(&path, 2), numbered(&path, 1), path]
            .iter()
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        let last: String = (12..20).map(|n| format!("line {n:04}\n")).collect();
        assert!(all.ends_with(&last), "{all}");
        assert!(!folder.path().join("audit.log.3").exists());
    }
}

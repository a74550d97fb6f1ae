//! A disk that is soon full.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// A file system in memory, taken away when dropped.
pub(crate) struct SmallDisk {
    path: PathBuf,
    kept: bool,
}

impl SmallDisk {
    /// Makes one of so many megabytes for a new folder. None, and a word on the standard error, where that is not allowed.
    pub(crate) fn mount(path: &Path, megabytes: u32) -> Option<Self> {
        fs::create_dir_all(path).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={megabytes}M"), "towline-test"]).arg(path);
        match mount.output() {
            Ok(output) if output.status.success() => Some(Self { path: path.to_owned(), kept: false }),
            refused => {
                eprintln!("SKIPPED: no file system of its own, which takes root's rights to mount one: {refused:?}");
                None
            }
        }
    }

    /// Fills what is left of it.
    pub(crate) fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).expect("a file");
        for size in [1 << 20, 1 << 12, 1] {
            let zeros = vec![0; size];
            let full = std::iter::repeat_with(|| ballast.write_all(&zeros)).find_map(Result::err);
            let full = full.expect("it is small");
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    /// Makes room again.
    pub(crate) fn clear(&self) {
        fs::remove_file(self.ballast()).expect("what it was filled with");
    }

    /// Leaves it behind, for a test that fails.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // At once out of the way, and gone when its last file is closed.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("could not unmount {}", self.path.display());
        }
    }
}

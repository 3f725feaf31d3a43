//! Files read by mapping and written by streaming, so that weights pass through without being held in memory.
//!
//! Invariants: what is written replaces the old file only when it is complete, so a model may be saved over
//! the file it is mapped from; only regular files are read. A mapping sees what other programs do to the file:
//! one that shortens it while it is in use ends the process, as for any program that maps files.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::buf::UninitSlice;
use bytes::{Buf, BufMut, Bytes};

use aic_ir::ensure;
use aic_ir::error::{Error, Result};

/// The contents of a file, mapped.
///
/// # Errors
/// The file can't be opened, or is not a regular file.
pub fn map(path: &Path) -> Result<Bytes> {
    let failed = |error: io::Error| Error::new(format!("{}: cannot be read: {error}", path.display()));
    let metadata = fs::metadata(path).map_err(failed)?;
    ensure!(!metadata.is_dir(), "{}: expected a file, found a folder", path.display());
    ensure!(metadata.is_file(), "{}: not a regular file", path.display());
    if metadata.len() == 0 {
        return Ok(Bytes::new());
    }
    let file = File::open(path).map_err(failed)?;
    // SAFETY: the mapping is read-only and nothing relies on its bytes staying the same.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
    Ok(Bytes::from_owner(map))
}

/// Writes a file through `fill` and puts it in place of `path` when all of it is on disk.
///
/// # Errors
/// The folder doesn't exist, can't be written to, or is full; the old file, if any, is then untouched.
pub fn write(path: &Path, fill: impl FnOnce(&mut FileWriter)) -> Result<()> {
    let failed = |error: io::Error| Error::new(format!("{}: cannot be written: {error}", path.display()));
    ensure!(!path.is_dir(), "{}: expected a file name, found a folder", path.display());
    let special = path.exists() && !path.is_file();
    let target = if special { path.to_owned() } else { temporary_name(path)? };
    let result = File::create(&target).and_then(|file| {
        let mut writer = FileWriter::new(file);
        fill(&mut writer);
        writer.finish()
    });
    if special {
        return result.map_err(failed);
    }
    // A link is followed: the file it points to is replaced, not the link.
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    result.and_then(|()| fs::rename(&target, place)).map_err(|error| {
        let _ = fs::remove_file(&target);
        failed(error)
    })
}

/// A name in the folder that the file `path` is in.
fn temporary_name(path: &Path) -> Result<PathBuf> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let Some(name) = path.file_name() else {
        return Err(Error::new(format!("{}: expected a file name", path.display())));
    };
    Ok(path.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id())))
}

/// A file to encode messages into. Its first error is kept until the end, since encoding has no way to fail.
pub struct FileWriter {
    file: File,
    buffer: Vec<u8>,
    error: Option<io::Error>,
}

impl FileWriter {
    fn new(file: File) -> Self {
        FileWriter { file, buffer: Vec::with_capacity(1 << 16), error: None }
    }

    fn write_through(&mut self, bytes: &[u8]) {
        if self.error.is_none() {
            self.error = self.file.write_all(bytes).err();
        }
    }

    fn flush(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        self.write_through(&buffer);
        buffer.clear();
        self.buffer = buffer;
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush();
        self.error.map_or(Ok(()), Err)
    }
}

// SAFETY: `chunk_mut` is the spare capacity of `buffer`, never empty, and `advance_mut` takes in what was written
// there.
unsafe impl BufMut for FileWriter {
    fn remaining_mut(&self) -> usize {
        usize::MAX
    }

    unsafe fn advance_mut(&mut self, count: usize) {
        // SAFETY: the caller has initialised `count` bytes of the spare capacity.
        unsafe { self.buffer.set_len(self.buffer.len() + count) };
    }

    fn chunk_mut(&mut self) -> &mut UninitSlice {
        if self.buffer.len() == self.buffer.capacity() {
            self.flush();
        }
        UninitSlice::uninit(self.buffer.spare_capacity_mut())
    }

    fn put<B: Buf>(&mut self, mut source: B) {
        while source.has_remaining() {
            let count = source.chunk().len();
            self.put_slice(source.chunk());
            source.advance(count);
        }
    }

    fn put_slice(&mut self, bytes: &[u8]) {
        if bytes.len() > self.buffer.capacity() - self.buffer.len() {
            self.flush();
        }
        if bytes.len() < self.buffer.capacity() {
            self.buffer.extend_from_slice(bytes);
        } else {
            self.write_through(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_file_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        fs::write(&path, [1; 100]).unwrap();
        let old = map(&path).unwrap();
        write(&path, |file| file.put(old.slice(..50))).unwrap();
        assert_eq!(old, [1; 100][..]);
        assert_eq!(map(&path).unwrap(), [1; 50][..]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }

    #[test]
    fn small_and_large_pieces_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mut expected = Vec::new();
        write(&path, |file| {
            for size in [1usize, 70_000, 5, 65_535, 65_536, 65_537, 0, 3] {
                let piece: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
                file.put_u32_le(size as u32);
                file.put_slice(&piece);
                expected.put_u32_le(size as u32);
                expected.put_slice(&piece);
            }
            file.put_bytes(9, 200_000);
            expected.put_bytes(9, 200_000);
        })
        .unwrap();
        assert_eq!(fs::read(path).unwrap(), expected);
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(map(folder.path()).unwrap_err().message.contains("found a folder"));
        assert!(map(Path::new("/dev/null")).unwrap_err().message.contains("not a regular file"));
        assert!(map(&folder.path().join("absent")).unwrap_err().message.contains("cannot be read"));
        assert!(write(folder.path(), |_| ()).unwrap_err().message.contains("found a folder"));
        assert!(write(&folder.path().join("no/file"), |_| ()).is_err());
        write(Path::new("/dev/null"), |file| file.put_u8(1)).unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, |writer| writer.put_slice(b"new")).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"new");
    }
}

//! Memory: the buffers of a launch, and the shared memory of a block.
//!
//! Global and shared addresses are addresses of this process. Shared memory begins at a multiple of 256 KiB, so that
//! the low 18 bits of an address, which are all that a matrix descriptor holds, are the offset.

use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// The window of a block's shared memory.
pub(super) const WINDOW: usize = 256 << 10;

/// What memory is filled with before it is written: NaN in every float type, -1 in integers.
pub(super) const POISON: u8 = 0xff;

/// Bytes at a multiple of a power of two.
#[derive(Debug)]
pub(super) struct Aligned {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory, as a box does.
unsafe impl Send for Aligned {}
// SAFETY: threads that share it get addresses only; what is done there is up to kernels.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// So many poisoned bytes.
    pub fn new(bytes: usize, alignment: usize) -> Result<Aligned> {
        let layout = Layout::from_size_align(bytes.max(1), alignment)
            .map_err(|_| Error::new(format!("a buffer of {bytes} bytes")))?;
        // SAFETY: the layout's size isn't 0.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        let mut memory = Aligned { start, layout };
        memory.bytes_mut().fill(POISON);
        Ok(memory)
    }

    pub fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    /// All of them.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: it is borrowed mutably and owns so many bytes, which are filled when it is made.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

/// Addresses that a kernel may use.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub start: usize,
    pub bytes: usize,
    pub writable: bool,
    /// As messages name it.
    pub name: String,
}

impl Region {
    pub fn holds(&self, address: usize, bytes: usize) -> bool {
        address >= self.start
            && address - self.start <= self.bytes
            && bytes <= self.bytes - (address - self.start)
    }
}

/// An access to memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub address: usize,
    pub bytes: usize,
    pub alignment: usize,
    pub is_write: bool,
}

impl Access {
    pub fn read(address: usize, bytes: usize, alignment: usize) -> Access {
        Access { address, bytes, alignment, is_write: false }
    }

    pub fn write(address: usize, bytes: usize, alignment: usize) -> Access {
        Access { is_write: true, ..Access::read(address, bytes, alignment) }
    }

    fn verb(&self) -> &'static str {
        if self.is_write { "writes" } else { "reads" }
    }

    /// Checks that one of the regions holds it.
    pub fn check(&self, regions: &[Region]) -> Result<()> {
        let (verb, bytes) = (self.verb(), self.bytes);
        let Some(region) = regions.iter().find(|r| r.holds(self.address, bytes)) else {
            bail!("it {verb} {bytes} bytes {}", place(self.address, regions));
        };
        ensure!(region.writable || !self.is_write, "it writes to {}, an input", region.name);
        let at = self.address - region.start;
        ensure!(
            self.address.is_multiple_of(self.alignment),
            "it {verb} {bytes} bytes at byte {at} of {}, which is no multiple of {}",
            region.name,
            self.alignment
        );
        Ok(())
    }
}

/// Where an address is that nothing holds.
fn place(address: usize, regions: &[Region]) -> String {
    let before = regions.iter().filter(|r| r.start <= address).max_by_key(|r| r.start);
    let after = regions.iter().filter(|r| r.start > address).min_by_key(|r| r.start);
    let behind = before.map(|r| (address - r.start, r));
    let ahead = after.map(|r| (r.start - address, r));
    match (behind, ahead) {
        (Some((at, r)), Some((ahead, _))) if at - r.bytes.min(at) <= ahead => of(at as i64, r),
        (_, Some((ahead, r))) => of(-(ahead as i64), r),
        (Some((at, r)), None) => of(at as i64, r),
        (None, None) => "of memory, and the kernel has none".to_owned(),
    }
}

fn of(at: i64, r: &Region) -> String {
    format!("at byte {at} of {}, which has {}", r.name, r.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions() -> Vec<Region> {
        let region =
            |start, bytes, writable, name: &str| Region { start, bytes, writable, name: name.into() };
        vec![region(0x1000, 64, false, "buffer 0"), region(0x2000, 16, true, "buffer 1")]
    }

    #[test]
    fn accesses_outside_are_named() {
        let message = |a: Access| a.check(&regions()).err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(message(Access::read(0x1000, 64, 16)), "");
        assert_eq!(message(Access::write(0x2008, 8, 8)), "");
        assert!(
            message(Access::read(0x1040, 4, 4))
                .contains("reads 4 bytes at byte 64 of buffer 0, which has 64")
        );
        assert!(message(Access::write(0x1ffc, 4, 4)).contains("writes 4 bytes at byte -4 of buffer 1"));
        assert!(message(Access::write(0x1000, 4, 4)).contains("buffer 0, an input"));
        assert!(message(Access::read(0x2004, 8, 8)).contains("no multiple of 8"));
        assert!(message(Access::read(0x200c, 8, 4)).contains("at byte 12 of buffer 1, which has 16"));
    }
}

//! Who touched which element: races between iterations that may run at the same time.
//!
//! An access is made by a thread of a block. Accesses of different blocks are never ordered; those of different
//! threads of one block are ordered by a barrier, which starts a new epoch.

/// Who makes an access, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Access {
    /// The iteration of the parallel loops, from 1; 0 outside of them.
    pub block: u32,
    /// The thread, unique within the kernel.
    pub thread: u32,
    /// The stretch between barriers.
    pub epoch: u32,
}

impl Access {
    fn conflicts(self, other: Access) -> bool {
        self.block != other.block || (self.epoch == other.epoch && self.thread != other.thread)
    }
}

/// The accesses to one element.
#[derive(Clone, Default)]
struct Element {
    write: Option<Access>,
    read: Option<Access>,
    /// A read that conflicts with `read`, if there was one: any further writer conflicts with one of the two.
    other_read: Option<Access>,
}

/// The accesses to the elements of one array.
#[derive(Clone, Default)]
pub(super) struct Shadow(Vec<Element>);

impl Shadow {
    /// Notes an access to an element of an array of `len`; false if it races with an earlier one.
    pub(super) fn record(&mut self, index: usize, len: usize, is_write: bool, access: Access) -> bool {
        self.0.resize(len, Element::default());
        let e = &mut self.0[index];
        let conflicts = |other: Option<Access>| other.is_some_and(|o| o.conflicts(access));
        if conflicts(e.write) || is_write && (conflicts(e.read) || conflicts(e.other_read)) {
            return false;
        }
        if is_write {
            e.write = Some(access);
        } else {
            if conflicts(e.read) {
                e.other_read = e.read;
            }
            e.read = Some(access);
        }
        true
    }
}

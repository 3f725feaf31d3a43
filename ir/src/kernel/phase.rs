//! Barriers that threads and copies meet at: phases that end when so many warps have arrived and so many bytes have come.
//!
//! A barrier is an element of an array of `u64` in shared memory. Its phases follow one another; the parity of the first
//! one is 0. What a warp does here counts once, not for each of its threads.

use super::Tile;
use crate::dim::{Dim, Sym};

/// Something that happens at a barrier.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// The barrier.
    pub barrier: Element,
    /// What happens.
    pub event: Event,
}

/// An element of a buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    /// The buffer's name.
    pub buffer: Sym,
    /// The element's number.
    pub at: Dim,
}

/// What happens at a barrier.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its first phase begins. Each ends when so many warps have arrived and all bytes have come.
    Begin {
        /// Warps.
        arrivals: u32,
    },
    /// The warp arrives; so many bytes more are to come in this phase.
    Arrive {
        /// Bytes.
        bytes: u32,
    },
    /// Waits for the end of the phase of this parity, the current one or the one before.
    Wait {
        /// 0 or 1.
        parity: Dim,
    },
}

/// A copy of a box of an array of several axes to swizzled memory, by one warp for all: its bytes come to a barrier. Where
/// the box lies outside of the array, zeros are written.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetch {
    /// Where to: a row for each index along the second axis, a column for each along the first one.
    pub dst: Tile,
    /// The array's first element, which depends on no loop.
    pub src: Element,
    /// The array's axes, the innermost first: two or more.
    pub axes: Vec<Along>,
    /// Rows and columns of the box; its extent along other axes is 1.
    pub extent: [u32; 2],
    /// The barrier.
    pub barrier: Element,
}

/// An axis of an array that boxes are copied of.
#[derive(Clone, Debug, PartialEq)]
pub struct Along {
    /// Where the box begins, possibly outside of the array.
    pub at: Dim,
    /// The array's extent, which depends on no loop.
    pub extent: Dim,
    /// Elements from index to index, as above.
    pub step: Dim,
}

impl Element {
    /// The element of a buffer.
    pub fn new(buffer: &Sym, at: impl Into<Dim>) -> Element {
        Element { buffer: buffer.clone(), at: at.into() }
    }
}

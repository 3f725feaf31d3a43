//! Barriers in shared memory, and copies whose bytes come to them, in text form.
//!
//! ```text
//! begin full[0] arrivals 1
//! arrive full[mod(step,4)] bytes 32768
//! await full[mod(step,4)] parity mod(floordiv(step,4),2)
//! fetch ta[8192*mod(step,4); 64] from x0[0] box [64*step of 424 by 1, 128*bm of 200 by 424] size [128, 64] to full[mod(step,4)]
//! ```
//!
//! Of each axis of the array, the innermost first, stands where the box begins, its extent, and the step from index to index.

use super::parser::Parser;
use super::tile::tile;
use crate::error::Result;
use crate::kernel::{Along, Element, Event, Fetch, Phase};
use std::fmt::{self, Display, Formatter};

impl Display for Element {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.buffer, self.at)
    }
}

impl Display for Phase {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let barrier = &self.barrier;
        match &self.event {
            Event::Begin { arrivals } => write!(f, "begin {barrier} arrivals {arrivals}"),
            Event::Arrive { bytes } => write!(f, "arrive {barrier} bytes {bytes}"),
            Event::Wait { parity } => write!(f, "await {barrier} parity {parity}"),
        }
    }
}

impl Display for Fetch {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "fetch {} from {} box [", self.dst, self.src)?;
        for (k, Along { at, extent, step }) in self.axes.iter().enumerate() {
            write!(f, "{}{at} of {extent} by {step}", if k == 0 { "" } else { ", " })?;
        }
        let [rows, columns] = self.extent;
        write!(f, "] size [{rows}, {columns}] to {}", self.barrier)
    }
}

fn element(p: &mut Parser<'_>) -> Result<Element> {
    let buffer = p.sym("a buffer's name")?;
    p.expect("[")?;
    let at = p.dim()?;
    p.expect("]")?;
    Ok(Element { buffer, at })
}

/// What follows `begin`, `arrive` or `await`.
pub(super) fn phase(p: &mut Parser<'_>, word: &str) -> Result<Phase> {
    let barrier = element(p)?;
    let event = match word {
        "begin" => {
            p.expect_word("arrivals")?;
            Event::Begin { arrivals: p.integer("a number of warps")? }
        }
        "arrive" => {
            p.expect_word("bytes")?;
            Event::Arrive { bytes: p.integer("a number of bytes")? }
        }
        _ => {
            p.expect_word("parity")?;
            Event::Wait { parity: p.dim()? }
        }
    };
    Ok(Phase { barrier, event })
}

/// What follows `fetch`.
pub(super) fn fetch(p: &mut Parser<'_>) -> Result<Fetch> {
    let dst = tile(p)?;
    p.expect_word("from")?;
    let src = element(p)?;
    p.expect_word("box")?;
    p.expect("[")?;
    let axes = p.list("]", along)?;
    p.expect_word("size")?;
    p.expect("[")?;
    let rows = p.integer("a number of rows")?;
    p.expect(",")?;
    let columns = p.integer("a number of columns")?;
    p.expect("]")?;
    p.expect_word("to")?;
    Ok(Fetch { dst, src, axes, extent: [rows, columns], barrier: element(p)? })
}

/// `64*step of 424 by 1`
fn along(p: &mut Parser<'_>) -> Result<Along> {
    let at = p.dim()?;
    p.expect_word("of")?;
    let extent = p.dim()?;
    p.expect_word("by")?;
    Ok(Along { at, extent, step: p.dim()? })
}

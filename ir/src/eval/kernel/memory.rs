//! Arrays: every access is checked against its array, against those of other threads, and against the asynchronous
//! copies that are on their way.

use super::super::races::{Access, Shadow};
use super::phases::Barrier;
use super::{KernelBuffer, Machine, Thread};
use crate::dim::Sym;
use crate::dtype::DType;
use crate::error::Result;
use crate::kernel::Buffer;
use crate::scalar::Scalar;
use crate::tensor::{read_scalar, write_scalar};
use crate::{bail, ensure};
use std::collections::HashMap;

/// How many bytes a buffer within a kernel may have.
const MAX_ALLOC: usize = 1 << 32;

/// A buffer in memory.
pub(super) struct Array {
    pub name: Sym,
    pub dtype: DType,
    pub len: usize,
    pub writable: bool,
    pub data: Vec<u8>,
    pub shadow: Shadow,
    /// Elements that asynchronous copies and matrix instructions use until they are waited for.
    flights: HashMap<usize, Flight>,
    /// The barriers that elements are.
    pub barriers: HashMap<usize, Barrier>,
}

/// What is under way at an element.
#[derive(Clone, Default)]
struct Flight {
    /// The groups that will have written it.
    landing: Option<Sym>,
    /// How many will have read it, and of which groups the latest is.
    leaving: u32,
    reader: Option<Sym>,
}

/// Whether an element is read or written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Reads,
    Writes,
}

impl Array {
    pub fn new(b: &Buffer, len: usize, writable: bool, data: Vec<u8>) -> Array {
        let (name, dtype) = (b.name.clone(), b.dtype);
        Array {
            name,
            dtype,
            len,
            writable,
            data,
            shadow: Shadow::default(),
            flights: HashMap::new(),
            barriers: HashMap::new(),
        }
    }
}

impl Machine {
    pub(super) fn len(&self, b: &Buffer, t: &Thread) -> Result<usize> {
        let len = t.dim(&b.len)?;
        match usize::try_from(len) {
            Ok(len) => Ok(len),
            Err(_) => bail!("buffer {} has a length of {len}", b.name),
        }
    }

    /// A buffer of poisoned elements, one for all threads.
    pub(super) fn alloc(&mut self, b: &Buffer, threads: &mut [&mut Thread]) -> Result<()> {
        let len = super::uniform(threads, |t| self.len(b, t))?;
        let bytes = len.saturating_mul(b.dtype.size());
        ensure!(bytes <= MAX_ALLOC, "buffer {} has {bytes} bytes, more than the interpreter takes", b.name);
        let poison = KernelBuffer::poisoned(b.dtype, len);
        let id = self.arrays.len();
        self.arrays.push(Array::new(b, len, true, poison.data));
        threads.iter_mut().for_each(|t| t.vars.push((b.name.clone(), super::Binding::Array(id))));
        Ok(())
    }

    /// Checks that an element exists, and that nobody else interferes; `group` is that of an asynchronous matrix
    /// instruction, which may follow others of the same groups.
    pub(super) fn check(
        &mut self,
        array: usize,
        at: i64,
        verb: Verb,
        group: Option<&Sym>,
        t: &Thread,
    ) -> Result<usize> {
        let index = self.check_free(array, at, verb, group, t)?;
        let access = Access { block: self.block, thread: t.id, epoch: self.epoch };
        let is_write = verb == Verb::Writes;
        let a = &mut self.arrays[array];
        if self.n_parallel > 0 && !a.shadow.record(index, a.len, is_write, access) {
            let verb = if is_write { "writes" } else { "reads" };
            bail!(
                "a race: it {verb} element {at} of {}, which another iteration uses (at {})",
                a.name,
                t.place()
            );
        }
        Ok(index)
    }

    /// The same for what is ordered by other means than barriers of threads.
    pub(super) fn check_free(
        &self,
        array: usize,
        at: i64,
        verb: Verb,
        group: Option<&Sym>,
        t: &Thread,
    ) -> Result<usize> {
        let a = &self.arrays[array];
        let index = usize::try_from(at).ok().filter(|&i| i < a.len);
        let is_write = verb == Verb::Writes;
        let verb = if is_write { "writes" } else { "reads" };
        let Some(index) = index else {
            bail!("it {verb} element {at} of {}, which has {} (at {})", a.name, a.len, t.place())
        };
        ensure!(a.writable || !is_write, "it writes {}, an input", a.name);
        if let Some(flight) = a.flights.get(&index) {
            if let Some(token) = flight.landing.as_ref().filter(|l| group != Some(l)) {
                let (name, place) = (&a.name, t.place());
                bail!(
                    "it {verb} element {at} of {name}, which group {token}, not yet waited for, writes (at {place})"
                )
            }
            if let Some(token) = flight.reader.as_ref().filter(|_| is_write && flight.leaving > 0) {
                let (name, place) = (&a.name, t.place());
                bail!(
                    "it writes element {at} of {name}, which group {token}, not yet waited for, reads (at {place})"
                )
            }
        }
        Ok(index)
    }

    /// Notes that a group uses an element until it is waited for.
    pub(super) fn depart(&mut self, array: usize, index: usize, verb: Verb, token: &Sym) {
        let flight = self.arrays[array].flights.entry(index).or_default();
        match verb {
            Verb::Writes => flight.landing = Some(token.clone()),
            Verb::Reads => {
                flight.leaving += 1;
                flight.reader = Some(token.clone());
            }
        }
    }

    /// Takes back [`Machine::depart`].
    pub(super) fn arrive(&mut self, array: usize, index: usize, verb: Verb) {
        let flights = &mut self.arrays[array].flights;
        let Some(flight) = flights.get_mut(&index) else { return };
        match verb {
            Verb::Writes => flight.landing = None,
            Verb::Reads => flight.leaving = flight.leaving.saturating_sub(1),
        }
        if flight.landing.is_none() && flight.leaving == 0 {
            flights.remove(&index);
        }
    }

    pub(super) fn read(&mut self, array: usize, at: i64, t: &Thread) -> Result<Scalar> {
        let index = self.check(array, at, Verb::Reads, None, t)?;
        Ok(self.get(array, index))
    }

    pub(super) fn write(&mut self, array: usize, at: i64, value: Scalar, t: &Thread) -> Result<()> {
        let index = self.check(array, at, Verb::Writes, None, t)?;
        self.set(array, index, value);
        Ok(())
    }

    /// An element that was checked.
    pub(super) fn get(&self, array: usize, index: usize) -> Scalar {
        let a = &self.arrays[array];
        read_scalar(a.dtype, &a.data[index * a.dtype.size()..][..a.dtype.size()])
    }

    /// Writes an element that was checked.
    pub(super) fn set(&mut self, array: usize, index: usize, value: Scalar) {
        let a = &mut self.arrays[array];
        let mut bytes = Vec::with_capacity(8);
        write_scalar(a.dtype, value, &mut bytes);
        a.data[index * a.dtype.size()..][..a.dtype.size()].copy_from_slice(&bytes);
    }
}

//! Copies and matrix instructions, against those that a machine has.

use super::Checker;
use crate::dim::Dim;
use crate::kernel::{Copy, Fetch, Layout, Level, Mma, Operand, Scope, Steps, Tile};
use crate::target::{Fractal, MatrixUnit, Move};

/// Bytes of a row of a box, rows of it, and its axes at most.
const LINE: i64 = 128;
const BOX: i64 = 256;
const AXES: usize = 5;

impl Checker<'_> {
    pub(super) fn copy(&mut self, c: &Copy) {
        let (Some(dst), Some(src)) = (self.buffer(&c.dst.buffer), self.buffer(&c.src.buffer)) else { return };
        let (dst, src) = (dst.clone(), src.clone());
        let name = self.target.name.clone();
        let is_spread = c.dst.is_fragment() || c.src.is_fragment();
        // Nothing but an NPU's copies moves rows of its unified buffer.
        let plain = !is_spread
            && dst.dtype == src.dtype
            && ![dst.scope, src.scope].contains(&Scope::Ub)
            && self.is_addressable(dst.scope)
            && self.is_addressable(src.scope);
        if c.token.is_none() && plain {
            return;
        }
        if is_spread {
            let other = if c.dst.is_fragment() { src.scope } else { dst.scope };
            let fits = self.is_addressable(other) && other != Scope::Register && dst.dtype == src.dtype;
            self.check(fits, format_args!("a fragment is copied from and to {other} memory of another type"));
            return self.fragment_threads(c);
        }
        let of = match c.token {
            Some(_) => "asynchronous copies",
            None => "copies",
        };
        let moves: Vec<&Move> = self.target.moves(src.scope, dst.scope, c.token.is_some()).collect();
        if moves.is_empty() {
            return self.fail(format_args!("{name} has no {of} from {} to {} memory", src.scope, dst.scope));
        }
        let sizes = [src.dtype.size(), dst.dtype.size()].map(|n| n as i64);
        let types = (src.dtype, dst.dtype);
        let refusals: Vec<Option<String>> = moves.iter().map(|m| refusal(m, c, sizes, types)).collect();
        // One of the moves must do; what the first one lacks is said.
        if let Some(Some(message)) = refusals.first().filter(|_| refusals.iter().all(Option::is_some)) {
            self.fail(format_args!("{of} of {name} from {} to {} memory {message}", src.scope, dst.scope));
        }
    }

    pub(super) fn fetch(&mut self, f: &Fetch) {
        let Some(dst) = self.buffer(&f.dst.buffer).cloned() else { return };
        let name = self.target.name.clone();
        let Some(m) = self.target.moves(Scope::Global, dst.scope, true).find(|m| m.sizes.is_empty()).cloned()
        else {
            return self.fail(format_args!("{name} copies no boxes to {} memory", dst.scope));
        };
        let size = dst.dtype.size() as i64;
        let [rows, columns] = f.extent.map(i64::from);
        let line = Steps::by(LINE / size);
        let is_line =
            matches!(&f.dst.layout, Layout::Steps { rows, columns } if *rows == line && columns.step.is(1));
        self.check(
            is_line && columns * size == LINE && rows <= BOX && (2..=AXES).contains(&f.axes.len()),
            format_args!(
                "a box has up to {BOX} rows of {LINE} bytes, one after the other, and up to {AXES} axes"
            ),
        );
        let bytes = |d: &Dim, of: u32| d.divisor().saturating_mul(size) % i64::from(of) == 0;
        let steps = f.axes.iter().skip(1).all(|a| bytes(&a.step, m.alignment[0]));
        let is_dense = f.axes.first().is_some_and(|a| a.step.is(1));
        self.check(
            is_dense && steps && bytes(&f.src.at, m.alignment[0]) && bytes(&f.dst.first, m.alignment[1]),
            format_args!(
                "it isn't proved that arrays and their rows begin at multiples of {} bytes, and boxes at multiples of {}",
                m.alignment[0], m.alignment[1]
            ),
        );
    }

    fn fragment_threads(&mut self, c: &Copy) {
        for tile in [&c.dst, &c.src] {
            if let Layout::Fragment { intrinsic, .. } = &tile.layout {
                self.unit(intrinsic);
            }
        }
    }

    /// The instruction of this name, executed by as many threads as there are.
    fn unit(&mut self, intrinsic: &str) -> Option<MatrixUnit> {
        let name = &self.target.name;
        let Some(unit) = self.target.matrix_unit(intrinsic).cloned() else {
            self.fail(format_args!("{name} has no matrix instruction {intrinsic}"));
            return None;
        };
        let threads = i64::from(unit.threads);
        if threads > 1 {
            let has_warps = self.loops.iter().any(|(l, _)| *l == Level::Warp);
            let fits = self.n_threads() % threads == 0 && has_warps;
            self.check(
                fits,
                format_args!("{intrinsic} is executed by {threads} threads in a loop over warps"),
            );
        }
        Some(unit)
    }

    pub(super) fn mma(&mut self, m: &Mma) {
        let Some(unit) = self.unit(&m.intrinsic) else { return };
        let name = &m.intrinsic;
        let fits = unit.extents.iter().zip(m.extent).all(|(of, n)| of.contains(n));
        let [rows, columns, depth] = unit.extents;
        let found = format!("{} x {} x {}", m.extent[0], m.extent[1], m.extent[2]);
        self.check(fits, format_args!("{name} is {rows} x {columns} x {depth}, not {found}"));
        match (unit.is_async, &m.token) {
            (true, None) => self.fail(format_args!("{name} is asynchronous: it belongs to a group")),
            (false, Some(_)) => self.fail(format_args!("{name} is not asynchronous")),
            _ => {}
        }
        for (operand, tile) in m.operands() {
            self.operand(&unit, operand, tile);
        }
    }

    fn operand(&mut self, unit: &MatrixUnit, operand: Operand, tile: &Tile) {
        let Some(buffer) = self.buffer(&tile.buffer).cloned() else { return };
        let (name, role) = (&unit.name, operand.keyword());
        let (scope, dtype) = (buffer.scope, buffer.dtype);
        let expected: Vec<&str> = unit.scopes(operand).iter().map(|s| s.keyword()).collect();
        let is_there = unit.scopes(operand).contains(&scope);
        self.check(
            is_there,
            format_args!("operand {role} of {name} is in {} memory, not {scope}", expected.join(" or ")),
        );
        let wanted = unit.dtype(operand);
        self.check(dtype == wanted, format_args!("operand {role} of {name} is {wanted}, not {dtype}"));
        let is_spread = scope == Scope::Register;
        if is_there && is_spread != tile.is_fragment() {
            self.fail(format_args!("operand {role} of {name} is a fragment exactly if it is in registers"));
        }
        let Some(fractals) = unit.fractals else { return };
        let fractal = fractals[operand as usize];
        if let Layout::Steps { rows, columns } = &tile.layout {
            let fits = is_fractal(rows, fractal, 0) && is_fractal(columns, fractal, 1);
            let Fractal { block: [r, c], step: [down, across] } = fractal;
            self.check(
                fits,
                format_args!(
                    "operand {role} of {name} is in blocks({down}, {r}, ..), blocks({across}, {c}, ..)"
                ),
            );
        }
        let alignment = self.target.space(scope).map_or(1, |s| i64::from(s.alignment));
        let fits = tile.first.divisor().saturating_mul(dtype.size() as i64) % alignment == 0;
        let first = &tile.first;
        self.check(
            fits,
            format_args!(
                "{}[{first}] is not proved to begin at a multiple of {alignment} bytes",
                buffer.name
            ),
        );
    }
}

/// Whether steps are those of a fractal's rows, or columns.
fn is_fractal(s: &Steps, f: Fractal, k: usize) -> bool {
    s.step.is(i64::from(f.step[k])) && s.block.as_ref().is_some_and(|(n, _)| *n == f.block[k])
}

/// What is wrong with a copy for this move of elements of so many bytes; `None` if nothing is.
fn refusal(
    m: &Move,
    c: &Copy,
    sizes: [i64; 2],
    types: (crate::dtype::DType, crate::dtype::DType),
) -> Option<String> {
    if types.0 != types.1 && !m.converts.contains(&types) {
        return Some(format!("don't convert {} to {}", types.0, types.1));
    }
    let [rows, columns] = &c.extent;
    if !m.sizes.is_empty() {
        let bytes = (rows.clone() * columns.clone()).as_const().map(|n| n.saturating_mul(sizes[1]));
        let sizes: Vec<i64> = m.sizes.iter().map(|n| i64::from(*n)).collect();
        if bytes.is_none_or(|n| !sizes.contains(&n)) {
            let allowed: Vec<String> = sizes.iter().map(i64::to_string).collect();
            let found = bytes.map_or(format!("{rows} x {columns} elements"), |n| format!("{n}"));
            return Some(format!("have {} bytes, not {found}", allowed.join(" or ")));
        }
    }
    if columns.divisor() % i64::from(m.columns) != 0 {
        return Some(format!("have multiples of {} columns, not {columns}", m.columns));
    }
    if is_transposed(c) && !m.transposes.contains(&(sizes[1] as u32)) {
        return Some(format!("don't make rows of {} the columns", types.0));
    }
    // A copy of a few sizes begins at multiples of its size.
    let whole = match m.sizes.is_empty() {
        true => 1,
        false => (rows.clone() * columns.clone()).as_const().map_or(1, |n| n.saturating_mul(sizes[1])),
    };
    for (tile, (alignment, size)) in [&c.src, &c.dst].into_iter().zip(m.alignment.into_iter().zip(sizes)) {
        let alignment = i64::from(alignment).max(whole);
        if let Some(start) = misaligned(tile, &c.extent, alignment, size) {
            let name = &tile.buffer;
            return Some(format!(
                "begin at multiples of {alignment} bytes, which {name} at multiples of {start} elements is not proved to"
            ));
        }
    }
    None
}

/// Whether neighbours in a row of the source are neighbours in a column of the destination.
fn is_transposed(c: &Copy) -> bool {
    let by_rows = |t: &Tile| match &t.layout {
        Layout::Steps { rows, columns } => Some(columns.step.is(1)).filter(|is| *is || rows.step.is(1)),
        Layout::Fragment { .. } => None,
    };
    let is_matrix = !c.extent.iter().any(|n| n.is(1));
    is_matrix && matches!((by_rows(&c.dst), by_rows(&c.src)), (Some(a), Some(b)) if a != b)
}

/// A distance of a tile's rows or blocks, or its beginning, that isn't proved to be a multiple of so many bytes.
fn misaligned(tile: &Tile, extent: &[Dim; 2], alignment: i64, size: i64) -> Option<Dim> {
    let Layout::Steps { rows, columns } = &tile.layout else { return None };
    let mut starts = vec![&tile.first];
    for (s, n) in [(rows, &extent[0]), (columns, &extent[1])] {
        match &s.block {
            Some((_, outer)) => starts.push(outer),
            None if n.is(1) || s.step.is(1) => {}
            None => starts.push(&s.step),
        }
    }
    starts.into_iter().find(|d| d.divisor().saturating_mul(size) % alignment != 0).cloned()
}

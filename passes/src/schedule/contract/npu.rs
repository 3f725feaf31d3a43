//! Contractions on an NPU: cores that take tiles of the output in turn; tiles of both factors in L1, in fractals, and
//! parts of them in L0A and L0B, each in buffers used in turn; the cube unit sums into L0C. Of several contracted axes
//! the innermost is the matrices'; a convolution is a sum of products over its taps. A result without more to do
//! goes from there to its place; otherwise through the core's workspace to the unified buffers of its vector cores,
//! each of which has half of the rows.
//!
//! Of a schedule: `l1` is the tile of a core, `l0` the part along the contracted axis that the cube unit works on,
//! `ub` the rows that a vector core works on, `cores` how many there are.

mod unified;

use super::super::Frame;
use super::super::nest::{Flat, Nest};
use super::super::unified::{Items, named, with_names};
use super::product::{Matrix, Product, clip, sum_of_products};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Copy, Expr, Level, LoopKind, Mma, Operand, Scope, Steps, Stmt, Tile};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{self, Class, Place, Schedule};
use aic_ir::target::{MatrixUnit, Target};
use std::collections::HashMap;

/// Tiles of a core's L1, the largest first.
const TILES: [[u32; 2]; 6] = [[128, 256], [256, 128], [128, 128], [64, 128], [64, 64], [32, 64]];
/// Bytes of the contracted axis in L1, and in L0.
const DEPTH: [u32; 2] = [512, 128];
/// The most elements between rows in memory.
const MOST_BETWEEN_ROWS: i64 = 65535;
/// Vector cores of a core.
const VECTOR_CORES: u32 = 2;

/// The schedules that fit the target, if the nest is a product of matrices that it multiplies.
pub fn candidates(nest: &Nest, target: &Target) -> Vec<Schedule> {
    let Some(p) = sum_of_products(nest) else { return Vec::new() };
    let Some(unit) = p.unit(target, false).cloned() else { return Vec::new() };
    let is_near = |m: &Matrix| m.row.as_const().is_none_or(|step| step <= MOST_BETWEEN_ROWS);
    if !is_near(&p.a) || !is_near(&p.b) {
        return Vec::new();
    }
    let units = target.level(LoopKind::Bind(Level::Core)).map_or(1, |l| l.units);
    let size = unit.dtype(Operand::A).size() as u32;
    // As much of the contracted axis as there is, in whole parts.
    let bytes = p.axes[2].extent.as_const().unwrap_or(i64::MAX).saturating_mul(i64::from(size));
    let depth = u32::try_from(bytes).unwrap_or(u32::MAX).clamp(1, DEPTH[0]).next_multiple_of(DEPTH[1]);
    let of = |[m, n]: [u32; 2]| {
        let tile = |place, k: u32, buffers| schedule::Tile { place, extent: [m, n, k], buffers };
        let ub = schedule::Tile { place: Place::Ub, extent: [16.min(m / 2), n, 1], buffers: 1 };
        let tiles = vec![tile(Place::L1, depth / size, 2), tile(Place::L0, DEPTH[1] / size, 2), ub];
        Schedule { unit: unit.name.clone(), cores: units, tiles, ..Schedule::new(Class::Contract, 1) }
    };
    let fits = |s: &Schedule| {
        let kernel = super::super::apply("", nest, s);
        !kernel.body.is_empty() && aic_ir::verify::machine(&kernel, target).is_empty()
    };
    TILES.into_iter().map(of).filter(fits).collect()
}

/// Seconds that a schedule is predicted to take: each core's tiles, of whose steps multiplications and copies overlap.
pub fn cost(nest: &Nest, s: &Schedule, target: &Target) -> f64 {
    let (Some(p), Some(l1)) = (sum_of_products(nest), s.tile(Place::L1)) else { return f64::INFINITY };
    let Some(unit) = target.matrix_unit(&s.unit) else { return f64::INFINITY };
    let [m, n, k] = [0, 1, 2].map(|axis| p.tiles(axis, l1.extent[axis]).as_const().unwrap_or(16) as f64);
    let cores = f64::from(s.cores.max(1));
    let batch: f64 = p.batch.iter().map(|a| a.extent.as_const().unwrap_or(8) as f64).product();
    let [tm, tn, tk] = l1.extent.map(f64::from);
    let rate = |from, to| target.moves(from, to, true).map(|m| m.bandwidth).fold(1e9, f64::max);
    let load = (tm + tn) * tk * p.a.dtype.size() as f64 / rate(Scope::Global, Scope::L1);
    let work = 2.0 * tm * tn * tk / (unit.peak / cores);
    let store = tm * tn * 4.0 / rate(Scope::L0C, Scope::Global);
    let outer: f64 = p.outer.iter().map(|a| a.extent.as_const().unwrap_or(8) as f64).product();
    (m * n * batch / cores).ceil() * (outer * k * work.max(load) + store)
}

/// The schedule of least predicted time.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let all = candidates(nest, target);
    all.into_iter().min_by(|a, b| cost(nest, a, target).total_cmp(&cost(nest, b, target)))
}

/// The statements of the kernel; none if the unit can't do it.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let (Some(p), Some(unit)) = (sum_of_products(nest), MatrixUnit::named(&s.unit)) else {
        return Vec::new();
    };
    let (Some(l1), Some(l0)) = (s.tile(Place::L1), s.tile(Place::L0)) else { return Vec::new() };
    let columns = p.tiles(1, l1.extent[1]);
    let rows = p.tiles(0, l1.extent[0]);
    let n_tiles = p.n_batch() * rows.clone() * columns.clone();
    let cores = match n_tiles.as_const() {
        Some(n) => i64::from(s.cores.max(1)).min(n),
        None => i64::from(s.cores.max(1)),
    };
    let core = Dim::named("core");
    let mut extents: Vec<Dim> = p.batch.iter().map(|a| a.extent.clone()).collect();
    extents.extend([rows, columns]);
    let items = Items::new(&extents, cores, &core);
    let [batch @ .., row, column] = &items.index[..] else { return Vec::new() };
    let m0 = row.clone() * i64::from(l1.extent[0]).into();
    let n0 = column.clone() * i64::from(l1.extent[1]).into();
    let axes = p.batch.iter().map(|a| a.var.clone()).zip(batch.iter().cloned()).collect();
    let fractal = 32 / p.a.dtype.size() as i64;
    let n = Npu { p: &p, unit, l1, l0, ub: s.tile(Place::Ub), fractal, origin: [m0, n0], axes };
    let Some(result) = n.result(frame) else { return Vec::new() };
    let mut body = n.buffers();
    let mut tile = n.multiply();
    tile.extend(result);
    body.push(items.each(tile));
    vec![Stmt::loop_of(&Sym::new("core"), cores.into(), LoopKind::Bind(Level::Core), body)]
}

struct Npu<'a> {
    p: &'a Product<'a>,
    unit: &'a MatrixUnit,
    l1: schedule::Tile,
    l0: schedule::Tile,
    ub: Option<schedule::Tile>,
    /// Elements of a factor in 32 bytes, the columns of a fractal.
    fractal: i64,
    /// The first row and column of the tile.
    origin: [Dim; 2],
    /// What the other axes are.
    axes: HashMap<Sym, Dim>,
}

impl Npu<'_> {
    fn buffers(&self) -> Vec<Stmt> {
        let [m, n, k] = self.l1.extent.map(i64::from);
        let (in_l1, in_l0, part) = (
            i64::from(self.l1.buffers.max(1)),
            i64::from(self.l0.buffers.max(1)),
            i64::from(self.l0.extent[2]),
        );
        let (a, b) = (self.p.a.dtype, self.p.b.dtype);
        vec![
            alloc("a1", a, in_l1 * m * k, Scope::L1),
            alloc("b1", b, in_l1 * n * k, Scope::L1),
            alloc("a0", a, in_l0 * m * part, Scope::L0A),
            alloc("b0", b, in_l0 * n * part, Scope::L0B),
            alloc("c0", self.p.nest.acc, m * n, Scope::L0C),
        ]
    }

    /// The extents of a factor's rows and columns in memory.
    fn extent(&self, matrix: &Matrix, own: usize) -> [i64; 2] {
        let axes = if matrix.rows_are_k { [2, own] } else { [own, 2] };
        axes.map(|a| i64::from(self.l1.extent[a]))
    }

    /// Where the tile of a step begins in one of its buffers, used in turn.
    fn slot(step: &Dim, buffers: u32, len: i64) -> Dim {
        step.modulo(&i64::from(buffers.max(1)).into()) * len.into()
    }

    /// Steps along the contracted axis, for one point of those outside of it.
    fn n_steps(&self) -> Dim {
        self.p.tiles(2, self.l1.extent[2])
    }

    /// What the contracted axes are in a step: those outside, and the step along the innermost; with their names.
    fn contracted(&self, step: &Dim) -> (HashMap<Sym, Dim>, Dim, Vec<(Sym, Dim)>) {
        if self.p.outer.is_empty() {
            return (HashMap::new(), step.clone(), Vec::new());
        }
        let mut extents: Vec<Dim> = self.p.outer.iter().map(|a| a.extent.clone()).collect();
        extents.push(self.n_steps());
        let (mut index, names) = named("tap", aic_ir::op::unflatten(step, &extents));
        let along = index.pop().unwrap_or_default();
        (self.p.outer.iter().map(|a| a.var.clone()).zip(index).collect(), along, names)
    }

    /// A step's tiles of both factors into L1, in fractals; beyond the ends of the matrices there are zeros.
    fn load_l1(&self, step: &Dim) -> Vec<Stmt> {
        let mut out: Vec<Stmt> = Vec::new();
        let (outer, along, names) = self.contracted(step);
        for ((matrix, own), name) in self.p.factors().into_iter().zip(["a1", "b1"]) {
            let axes = if matrix.rows_are_k { [2, own] } else { [own, 2] };
            let [rows, columns] = self.extent(matrix, own);
            let origin = axes.map(|axis| match axis {
                2 => along.clone() * i64::from(self.l1.extent[2]).into(),
                _ => self.origin[axis].clone(),
            });
            let rest = |k: usize| self.p.rest(axes[k], self.l1.extent[axes[k]], &origin[k]);
            let valid = match (rest(0), rest(1)) {
                (None, None) => None,
                (r, c) => Some([clip(rows, r), clip(columns, c)]),
            };
            let base = matrix.base.subst(&|x| self.axes.get(x).or_else(|| outer.get(x)).cloned());
            let first = base + origin[0].clone() * matrix.row.clone() + origin[1].clone();
            let src = Tile::rows(&self.p.nest.inputs[matrix.input].name, first, matrix.row.clone());
            let slot = Npu::slot(step, self.l1.buffers, rows * columns);
            let across = Steps::blocks(1, self.fractal as u32, rows * self.fractal);
            let dst = Tile::steps(&Sym::new(name), slot, Steps::by(self.fractal), across);
            let (extent, token) = ([rows.into(), columns.into()], Some(Sym::new("l1")));
            out.push(Stmt::Copy(Copy { dst, src, extent, valid, token }));
        }
        out.push(Stmt::Commit { token: Sym::new("l1") });
        with_names(names, out)
    }

    /// A part of a step's tiles into L0A and L0B.
    fn load_l0(&self, step: &Dim, part: &Dim) -> Vec<Stmt> {
        let f = self.fractal;
        let k = i64::from(self.l0.extent[2]);
        let mut out = Vec::new();
        for (((matrix, own), name), to) in self.p.factors().into_iter().zip(["a1", "b1"]).zip(["a0", "b0"]) {
            let [rows, columns] = self.extent(matrix, own);
            let own_extent = i64::from(self.l1.extent[own]);
            let slot = Npu::slot(step, self.l1.buffers, rows * columns);
            let blocks = Steps::blocks(1, f as u32, rows * f);
            // Along the contracted axis and the other one.
            let (first, along, other) = match matrix.rows_are_k {
                true => (part.clone() * (k * f).into(), Steps::by(f), blocks),
                false => (part.clone() * (k * rows).into(), blocks, Steps::by(f)),
            };
            let (operand, steps) = match own {
                0 => (Operand::A, [other, along]),
                _ => (Operand::B, [along, other]),
            };
            let [down, across] = steps;
            let src = Tile::steps(&Sym::new(name), slot + first, down, across);
            let dst = self.in_l0(operand, to, Npu::slot(part, self.l0.buffers, own_extent * k));
            let extent = operand.extent([own_extent, own_extent, k]).map(Dim::from);
            let token = Some(Sym::new("l0"));
            out.push(Stmt::Copy(Copy { dst, src, extent, valid: None, token }));
        }
        out.push(Stmt::Commit { token: Sym::new("l0") });
        out
    }

    /// An operand of the cube unit as it must lie.
    fn in_l0(&self, operand: Operand, name: &str, first: Dim) -> Tile {
        let f = self.fractal;
        let [m, n, _] = self.l1.extent.map(i64::from);
        let k = i64::from(self.l0.extent[2]);
        let (rows, columns) = match operand {
            Operand::A => (Steps::blocks(f, 16, 16 * k), Steps::blocks(1, f as u32, 16 * f)),
            Operand::B => (Steps::blocks(1, f as u32, n * f), Steps::blocks(f, 16, 16 * f)),
            Operand::C => (Steps::blocks(16, 16, 256), Steps::blocks(1, 16, 16 * m)),
        };
        Tile::steps(&Sym::new(name), first, rows, columns)
    }

    /// The sums of a tile, in L0C.
    fn multiply(&self) -> Vec<Stmt> {
        let (step, part) = (Sym::new("step"), Sym::new("part"));
        let (at, of) = (Dim::sym(&step), Dim::sym(&part));
        let n_steps = self.p.outer.iter().fold(self.n_steps(), |n, a| n * a.extent.clone());
        let n_parts = i64::from(self.l1.extent[2] / self.l0.extent[2].max(1)).max(1);
        let wait = |name: &str| Stmt::Wait { token: Sym::new(name), pending: 0 };
        let next = |at: &Dim, n: Dim, body: Vec<Stmt>| {
            let args = vec![Expr::Index(at.clone() + 1.into()), Expr::Index(n)];
            Stmt::If { cond: Expr::Call(ScalarFn::Lt, args), then: body, other: Vec::new() }
        };
        let is_first = |d: &Dim| Expr::call(ScalarFn::Eq, [Expr::Index(d.clone()), Expr::int(0)]);
        let [m, n, _] = self.l1.extent;
        let k = i64::from(self.l0.extent[2]);
        let slot = |own: u32| Npu::slot(&of, self.l0.buffers, i64::from(own) * k);
        let mma = Mma {
            intrinsic: self.unit.name.clone(),
            extent: [m, n, self.l0.extent[2]],
            c: self.in_l0(Operand::C, "c0", 0.into()),
            a: self.in_l0(Operand::A, "a0", slot(m)),
            b: self.in_l0(Operand::B, "b0", slot(n)),
            fresh: Some(Expr::call(ScalarFn::And, [is_first(&at), is_first(&of)])),
            token: None,
        };
        // While one buffer is worked on, the next one is filled.
        let ahead = |buffers: u32, load: Stmt, body: Vec<Stmt>| match buffers {
            0 | 1 => [body, vec![load]].concat(),
            _ => [vec![load], body].concat(),
        };
        let parts = ahead(
            self.l0.buffers,
            next(&of, n_parts.into(), self.load_l0(&at, &(of.clone() + 1.into()))),
            vec![Stmt::Mma(mma)],
        );
        let mut parts_body = vec![wait("l0")];
        parts_body.extend(parts);
        let mut inner = self.load_l0(&at, &0.into());
        inner.push(Stmt::serial(&part, n_parts.into(), parts_body));
        let steps =
            ahead(self.l1.buffers, next(&at, n_steps.clone(), self.load_l1(&(at.clone() + 1.into()))), inner);
        let mut steps_body = vec![wait("l1")];
        steps_body.extend(steps);
        let mut out = self.load_l1(&0.into());
        out.push(Stmt::serial(&step, n_steps, steps_body));
        out
    }

    /// The copies of the sums to where the result goes; `None` if the vector cores can't do what is left to do.
    fn result(&self, frame: &mut Frame) -> Option<Vec<Stmt>> {
        let nest = self.p.nest;
        let [m, n, _] = &self.p.axes;
        let (n_step, rest) = nest.at.affine_in(&n.var)?;
        let (m_step, base) = rest.affine_in(&m.var)?;
        let is_free = |d: &Dim| !d.mentions(&m.var) && !d.mentions(&n.var);
        if !(n_step.is(1) || n.extent.is(1)) || !is_free(&m_step) || !is_free(&base) {
            return None;
        }
        let at = |row: &Dim, column: &Dim| {
            let base = base.subst(&|x| self.axes.get(x).cloned());
            Tile::rows(
                &nest.output.name,
                base + row.clone() * m_step.clone() + column.clone(),
                m_step.clone(),
            )
        };
        let is_stored_as_is = match &nest.epilogue {
            None | Some(Flat::Acc) => true,
            Some(Flat::Cast(_, e)) => **e == Flat::Acc,
            _ => false,
        };
        // Whole fractals of columns.
        let [rows, columns] = [0, 1].map(|k| self.rest_of(k, &self.origin[k]));
        let sums = self.in_l0(Operand::C, "c0", 0.into());
        if is_stored_as_is && columns.is_multiple(16) {
            let dst = at(&self.origin[0], &self.origin[1]);
            let extent = [rows, columns];
            return Some(vec![Stmt::Copy(Copy { dst, src: sums, extent, valid: None, token: None })]);
        }
        let [tm, tn, _] = self.l1.extent.map(i64::from);
        let workspace = Sym::new("sums");
        let dst = Tile::rows(&workspace, 0, tn);
        let extent = [tm, tn].map(Dim::from);
        let mut out = vec![
            alloc("sums", nest.acc, tm * tn, Scope::Workspace),
            Stmt::Copy(Copy { dst, src: sums, extent, valid: None, token: None }),
        ];
        let rows = self.ub.map_or(16, |t| i64::from(t.extent[0])).clamp(1, (tm / 2).max(1));
        let half = tm / i64::from(VECTOR_CORES);
        let own = Dim::named("half") * half.into() + Dim::named("rows") * rows.into();
        let body = self.vector(&own, rows, &at, frame)?;
        let loops = Stmt::serial(&Sym::new("rows"), (half / rows).into(), body);
        let kind = LoopKind::Bind(Level::VectorCore);
        out.push(Stmt::loop_of(&Sym::new("half"), i64::from(VECTOR_CORES).into(), kind, vec![loops]));
        Some(out)
    }

    /// How many rows or columns of a tile that begins there are in the matrix.
    fn rest_of(&self, axis: usize, from: &Dim) -> Dim {
        clip(i64::from(self.l1.extent[axis]), self.p.rest(axis, self.l1.extent[axis], from))
    }
}

fn alloc(name: &str, dtype: DType, len: i64, scope: Scope) -> Stmt {
    Stmt::Alloc(Buffer { name: Sym::new(name), dtype, len: len.into(), scope })
}

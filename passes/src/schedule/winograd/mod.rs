//! Winograd's convolution in one kernel: blocks of tiles that stay in the cache between the transforms and the products.
//!
//! A kernel takes a block of rows of tiles, brings their elements to the transform's domain, multiplies there, one
//! product of matrices for each point of the domain, and brings sums back, where the epilogue joins. The compute is
//! recognised by being what [`Winograd`] defines, so that the transforms may be written as their short sums.

mod transform;

use super::Frame;
use super::contract::{MOST, Shape};
use super::nest::{Arrays, Nest};
use super::phase::{Phase, phases};
use super::reduce::{lanes_at, read, register};
use super::slide::{even, prefetch, prefetch_near};
use super::space::{Field, Knob, Prediction};
use aic_ir::compose::compose;
use aic_ir::compute::{Compute, Source, Stage};
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::kernel::{Buffer, Expr, Kernel, LoopKind, Param, Scope, Stmt};
use aic_ir::op::{Op, Winograd};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::{MAX_ARRAY_BYTES, Target};
use aic_ir::types::Type;

/// Tiles of a block that are enough for the products.
const TILES: i64 = 28;
/// Terms between a row of filters and the one that is asked for with it.
const AHEAD: i64 = 16;
/// The largest padding that is looked for.
const MAX_PAD: usize = 2;

/// What is known of such a compute.
pub struct Plan {
    op: Winograd,
    phases: Vec<Phase>,
    arrays: Arrays,
    /// How many of the buffers the kernel is passed.
    n_params: usize,
    /// Extents of the operand's and the result's channels, and of a block of filters.
    channels: i64,
    filters: i64,
    block: i64,
    /// Rows and columns of the result, and of tiles.
    rows: i64,
    columns: i64,
    tile_rows: i64,
    tile_columns: i64,
}

/// Whether a compute is Winograd's convolution, possibly with an epilogue.
pub fn fits(c: &Compute, target: &Target) -> bool {
    target.is_cpu() && Plan::new(c).is_some_and(|p| p.schedule(target).is_some())
}

/// The schedule and the kernel, if the compute is Winograd's convolution.
pub fn kernel(name: &str, c: &Compute, target: &Target) -> Option<(Schedule, Kernel)> {
    let plan = Plan::new(c).filter(|_| target.is_cpu())?;
    let schedule = plan.schedule(target)?;
    let kernel = plan.kernel(name, &schedule).ok()?;
    Some((schedule, kernel))
}

impl Plan {
    pub fn new(c: &Compute) -> Option<Plan> {
        let [transformed, products, back, ..] = &c.stages[..] else { return None };
        let tile = match transformed.axes.first()?.extent.as_const()? {
            16 => 2,
            36 => 4,
            _ => return None,
        };
        let (x, u) = (only_input(transformed)?, only_input(products)?);
        let (x_ty, u_ty) = (&c.inputs[x], &c.inputs[u]);
        let is_single = x_ty.dtype == DType::F32 && u_ty.dtype == DType::F32 && back.dtype == DType::F32;
        if !is_single || x_ty.rank() != 4 || u_ty.rank() != 4 || back.axes.len() != 4 {
            return None;
        }
        let renamed = |s: &Stage| {
            let source = |s: Source| match s {
                Source::Input(k) => Source::Input(usize::from(k == u)),
                stage => stage,
            };
            Stage { value: super::phase::map_sources(&s.value, &source), ..s.clone() }
        };
        let found: Vec<Stage> = c.stages[..3].iter().map(renamed).collect();
        let y = back.ty();
        let op = (0..=MAX_PAD).flat_map(|i| (0..=MAX_PAD).map(move |j| [i, j])).find_map(|lo| {
            let hi = |k: usize| {
                let hi = y.dims[1 + k].as_const()? + 2 - x_ty.dims[1 + k].as_const()? - lo[k] as i64;
                usize::try_from(hi).ok()
            };
            let op = Winograd { tile, pads: vec![lo[0], lo[1], hi(0)?, hi(1)?] };
            definitions(&op, x_ty, u_ty)?.contains(&found).then_some(op)
        })?;
        let phases = phases(c);
        let [_, _, last] = &phases[..] else { return None };
        let mut arrays = Arrays::default();
        for (k, ty) in c.inputs.iter().enumerate() {
            arrays.push(Source::Input(k), &format!("x{k}"), ty);
        }
        let result = last.result;
        arrays.push(Source::Stage(result), "y", &c.stages[result].ty());
        let n_params = arrays.buffers.len();
        // Named by the phases that make and read them; they are the block's arrays.
        for stage in [0, 1] {
            arrays.push(Source::Stage(stage), &format!("s{stage}"), &c.stages[stage].ty());
        }
        let extent = |d: &Dim| d.as_const().filter(|d| *d > 0);
        let (rows, columns) = (extent(&y.dims[1])?, extent(&y.dims[2])?);
        let m = op.tile as i64;
        Some(Plan {
            channels: extent(&x_ty.dims[3])?,
            filters: extent(&y.dims[3])?,
            block: extent(&u_ty.dims[3])?,
            rows,
            columns,
            tile_rows: (rows + m - 1) / m,
            tile_columns: (columns + m - 1) / m,
            op,
            phases,
            arrays,
            n_params,
        })
    }

    /// Vectors of channels, rows of tiles in a block, the register tile of the products, and whether the next panel of
    /// filters is asked for.
    pub fn schedule(&self, target: &Target) -> Option<Schedule> {
        let lanes = i64::from(target.lanes(4));
        if self.block % lanes != 0 || self.filters % lanes != 0 {
            return None;
        }
        let most = if target.vector_registers >= 32 { 4 } else { 2 };
        let nr = (1..=most).rev().find(|nr| (self.block / lanes) % nr == 0)?;
        let cache = target.second_cache_bytes();
        // Filters that no cache keeps are read once for each block.
        let domain = (self.op.tile as i64 + 2).pow(2);
        let bytes = 4 * domain * self.channels * self.filters;
        let is_streamed = bytes > cache;
        let tiles = if is_streamed { 2 * TILES } else { TILES };
        let wanted = (tiles / self.tile_columns).clamp(1, self.tile_rows);
        let count = (self.tile_rows + wanted - 1) / wanted;
        let rows = (self.tile_rows + count - 1) / count;
        let rows = (1..=rows).rev().find(|r| self.has_room(*r, lanes, target))?;
        let mr = even(rows * self.tile_columns, (i64::from(target.vector_registers) - 1 - nr) / nr);
        // One block is two tasks, each with half of the filters.
        let panels = self.filters / (nr * lanes);
        let parts = if rows >= self.tile_rows && panels % 2 == 0 { 2 } else { 1 };
        let s = Schedule::new(Class::Winograd, lanes as u32);
        // Fewer stay in the cache from block to block.
        let asks = 2 * bytes > cache;
        Some(Schedule {
            mr: mr as u32,
            nr: nr as u32,
            kc: rows as u32,
            panel: (self.filters / parts) as u32,
            ahead: u32::from(asks),
            ..s
        })
    }

    /// Whether the arrays for a block of so many rows of tiles fit on a stack.
    fn has_room(&self, rows: i64, lanes: i64, target: &Target) -> bool {
        let space = target.space(Scope::Stack).and_then(|s| s.bytes).unwrap_or(1 << 20) as i64;
        let bytes = self.scratch(rows, lanes).map(|n| 4 * n);
        bytes.iter().sum::<i64>() <= space / 2 && bytes.iter().all(|b| *b <= MAX_ARRAY_BYTES as i64)
    }

    /// What can be chosen.
    pub fn knobs(&self, s: &Schedule) -> Vec<Knob> {
        let divisors =
            |n: i64, unit: u32| (1..=n.min(8)).filter(|d| n % d == 0).map(|d| unit * d as u32).collect();
        let rows = [1, 2, 3, 4, 6, 8, 12, 16, 28].into_iter().filter(|r| i64::from(*r) <= self.tile_rows);
        let parts = [1, 2, 4, 8].into_iter().map(|n| (self.filters / n) as u32);
        vec![
            Knob::new(None, Field::Mr, (1..=MOST.0).collect()),
            Knob::new(None, Field::Nr, divisors(self.block / i64::from(s.lanes), 1)),
            Knob::new(None, Field::Kc, rows.collect()),
            Knob::new(None, Field::Panel, parts.collect()),
            Knob::new(None, Field::Ahead, vec![0, 1]),
        ]
    }

    /// Whether a schedule evaluates it, with the bits of the schedule `like`.
    pub fn allows(&self, like: &Schedule, s: &Schedule, target: &Target) -> bool {
        let [lanes, mr, nr, rows, panel] = [s.lanes, s.mr, s.nr, s.kc, s.panel].map(i64::from);
        let only = Schedule { mr: s.mr, nr: s.nr, kc: s.kc, panel: s.panel, ahead: s.ahead, ..like.clone() };
        let is_tile = (1..=i64::from(MOST.0)).contains(&mr) && nr > 0 && (self.block / lanes) % nr == 0;
        let is_part = panel > 0 && self.filters % panel == 0 && panel % (nr.max(1) * lanes) == 0;
        let is_block = (1..=self.tile_rows).contains(&rows) && self.has_room(rows, lanes, target);
        only == *s && s.ahead <= 1 && is_tile && is_part && is_block
    }

    /// What a schedule should cost.
    pub fn predict(&self, s: &Schedule, target: &Target) -> Prediction {
        let [lanes, rows, panel] = [s.lanes, s.kc, s.panel].map(|n| i64::from(n).max(1));
        let images = self.phases[2].axes[0].extent.as_const().unwrap_or(1);
        let blocks = (self.tile_rows + rows - 1) / rows * images * (self.filters / panel);
        let domain = (self.op.tile as i64 + 2).pow(2);
        let tiles = rows.min(self.tile_rows) * self.tile_columns;
        let extents = [tiles, panel / lanes, self.channels, domain.saturating_mul(blocks)];
        let product = Schedule { kc: 0, mc: 0, panel: 0, ..s.clone() };
        Shape::of(target, extents, s.lanes).predict(&product)
    }

    /// Elements of the arrays for a block of so many rows of tiles: what is multiplied, and the products.
    fn scratch(&self, rows: i64, lanes: i64) -> [i64; 2] {
        let domain = (self.op.tile as i64 + 2).pow(2);
        let whole = (self.channels + lanes - 1) / lanes * lanes;
        let tiles = rows * self.tile_columns;
        [domain * (tiles * whole + lanes), domain * (tiles * self.filters + lanes)]
    }

    pub fn kernel(&self, name: &str, s: &Schedule) -> Result<Kernel> {
        let mut frame = Frame::kernel();
        let per_block = i64::from(s.kc);
        let blocks = (self.tile_rows + per_block - 1) / per_block;
        let images = self.phases[2].axes[0].extent.clone();
        let parts = self.filters / i64::from(s.panel);
        let extents = [images, blocks.into(), parts.into()];
        let index = frame.index(&extents);
        let (rest, first) = (self.tile_rows % per_block, index[1].clone() * per_block.into());
        let mut make = |rows: i64| Maker::new(self, s, &index, &first, rows, &mut frame).block();
        let body = match rest {
            0 => make(per_block)?,
            _ if blocks == 1 => make(rest)?,
            _ => {
                let cond = Expr::call(ScalarFn::Lt, [Expr::Index(index[1].clone()), Expr::int(blocks - 1)]);
                vec![Stmt::If { cond, then: make(per_block)?, other: make(rest)? }]
            }
        };
        let body = frame.outermost(&extents, body);
        let written = |b: &Buffer| b.name == Sym::new("y");
        let params = &self.arrays.buffers[..self.n_params];
        let params = params.iter().map(|b| Param { buffer: b.clone(), writable: written(b) }).collect();
        let mut symbols = std::collections::BTreeSet::new();
        symbols.extend(extents[0].symbols());
        symbols.extend(self.arrays.buffers[..self.n_params].iter().flat_map(|b| b.len.symbols()));
        let symbols = symbols.into_iter().map(|s| (s, Range::DIM)).collect();
        Ok(Kernel { name: name.into(), params, symbols, body })
    }
}

/// The stages of the operator alone, as it defines them and as they are composed with others.
fn definitions(op: &Winograd, x: &Type, u: &Type) -> Option<[Vec<Stage>; 2]> {
    let mut g = Graph::new("");
    let operands = [g.add_input("", x.clone()), g.add_input("", u.clone())];
    let op = Op::from(op.clone());
    let y = g.add(op.clone(), &operands, &[]).ok()?[0];
    g.add_output("", y);
    let alone = op.compute(&[x.clone(), u.clone()], &[g.ty(y).clone()])?;
    Some([alone.stages, compose(&g)?.stages])
}

/// The one input that a stage loads.
fn only_input(s: &Stage) -> Option<usize> {
    let mut found = Vec::new();
    s.value.visit(&mut |e| {
        if let aic_ir::compute::Expr::Load(Source::Input(k), _) = e
            && !found.contains(k)
        {
            found.push(*k);
        }
    });
    match found[..] {
        [k] => Some(k),
        _ => None,
    }
}

/// Makes the statements for a block of rows of tiles.
struct Maker<'a> {
    plan: &'a Plan,
    s: &'a Schedule,
    image: &'a Dim,
    /// Which part of the filters.
    part: &'a Dim,
    /// The first row of tiles, and how many there are.
    first: &'a Dim,
    rows: i64,
    /// What is multiplied, and the products: for each point of the domain a matrix of tiles by channels, the matrices
    /// so far apart that they don't compete for the same places of a cache.
    elements: Buffer,
    products: Buffer,
    frame: &'a mut Frame,
}

impl<'a> Maker<'a> {
    fn new(
        plan: &'a Plan,
        s: &'a Schedule,
        index: &'a [Dim],
        first: &'a Dim,
        rows: i64,
        frame: &'a mut Frame,
    ) -> Maker<'a> {
        let (image, part) = (&index[0], &index[2]);
        let [elements, products] = plan.scratch(rows, i64::from(s.lanes));
        let id = frame.next();
        let array = |name: &str, len: i64| Buffer {
            name: Sym::new(&format!("{name}{id}")),
            dtype: DType::F32,
            len: len.into(),
            scope: Scope::Stack,
        };
        let (elements, products) = (array("elements", elements), array("products", products));
        Maker { plan, s, image, part, first, rows, elements, products, frame }
    }

    fn block(&mut self) -> Result<Vec<Stmt>> {
        let arrays = [&self.elements, &self.products].map(|b| Stmt::Alloc(b.clone()));
        let (forth, multiply, back) = (self.forth()?, self.multiply(), self.back()?);
        Ok([arrays.to_vec(), forth, multiply, back].concat())
    }

    /// How many filters the block has to do with.
    fn filters(&self) -> i64 {
        i64::from(self.s.panel)
    }

    fn domain(&self) -> i64 {
        (self.plan.op.tile as i64 + 2).pow(2)
    }

    /// The distance of two points' matrices in an array.
    fn apart(&self, array: &Buffer) -> i64 {
        array.len.as_const().unwrap_or(0) / self.domain()
    }

    /// Channels of the operand, filled up to whole vectors.
    fn whole_channels(&self) -> i64 {
        let lanes = i64::from(self.s.lanes);
        (self.plan.channels + lanes - 1) / lanes * lanes
    }

    /// For each point of the domain: tiles by channels times channels by filters.
    fn multiply(&mut self) -> Vec<Stmt> {
        let (plan, lanes, nr) = (self.plan, i64::from(self.s.lanes), i64::from(self.s.nr));
        let [a, jb, it, c] = ["a", "jb", "it", "c"].map(Sym::new);
        let tiles = self.rows * plan.tile_columns;
        let mr = i64::from(self.s.mr).min(tiles);
        let panels = self.filters() / (nr * lanes);
        let panel = self.part.clone() * panels.into() + Dim::sym(&jb);
        let u = &self.plan.arrays.buffers[self.filters_input()];
        // The panel of filters lies within a block of them.
        let per_block = plan.block / (nr * lanes);
        let (block, within) = match per_block {
            1 => (panel, Dim::from(0)),
            n => (panel.floor_div(&n.into()), panel.modulo(&n.into())),
        };
        let blocks = Dim::from(plan.filters / plan.block);
        let row_of_u = (Dim::sym(&a) * blocks + block) * plan.channels.into() + Dim::sym(&c);
        let at_u = row_of_u * plan.block.into() + within * (nr * lanes).into();
        let at_v = Dim::sym(&a) * self.apart(&self.elements).into();
        let at_m = Dim::sym(&a) * self.apart(&self.products).into() + Dim::sym(&jb) * (nr * lanes).into();
        // Where the next panel of filters begins, of which every term of a tile asks for a share.
        let next = Dim::sym(&a) * panels.into() + Dim::sym(&jb) + 1.into();
        let next = at_u.subst(&|s| match s {
            s if *s == a => Some(next.floor_div(&panels.into())),
            s if *s == jb => Some(next.modulo(&panels.into())),
            s if *s == c => Some(0.into()),
            _ => None,
        });
        let n_tiles = (tiles + mr - 1) / mr;
        let share = (nr * lanes + n_tiles - 1) / n_tiles;
        let asks = self.s.ahead > 0;
        let filters = self.filters();
        let mut tile = |k: Dim, r0: Dim, count: i64| {
            let product = Product {
                lanes: self.s.lanes,
                rows: count,
                vectors: nr,
                c: &c,
                terms: plan.channels,
                scalars: (&self.elements.name, at_v.clone() + r0.clone() * self.whole_channels().into()),
                row_step: self.whole_channels(),
                matrix: (&u.name, at_u.clone()),
                matrix_step: plan.block,
                results: (&self.products.name, at_m.clone() + r0 * filters.into()),
                result_step: filters,
                ask: asks.then(|| next.clone() + (k * plan.channels.into() + Dim::sym(&c)) * share.into()),
            };
            product.statements(self.frame.next())
        };
        let mut body = Vec::new();
        if tiles / mr > 0 {
            let whole = tile(Dim::sym(&it), Dim::sym(&it) * mr.into(), mr);
            body.push(Stmt::serial(&it, (tiles / mr).into(), whole));
        }
        if tiles % mr > 0 {
            body.extend(tile((tiles / mr).into(), (tiles / mr * mr).into(), tiles % mr));
        }
        let body = vec![Stmt::serial(&jb, panels.into(), body)];
        vec![Stmt::serial(&a, self.domain().into(), body)]
    }

    /// Which of the buffers holds the filters.
    fn filters_input(&self) -> usize {
        let mut found = 0;
        self.plan.phases[1].value.visit(&mut |e| {
            if let aic_ir::compute::Expr::Load(Source::Input(k), _) = e {
                found = *k;
            }
        });
        found
    }

    /// The nest of a phase at points of its axes that are expressions.
    fn nest(&self, phase: usize, at: &[Dim]) -> Result<Nest> {
        let p = &self.plan.phases[phase];
        let position = |s: &Sym| p.axes.iter().position(|a| a.var == *s).map(|k| at[k].clone());
        Nest::of(p, &self.plan.arrays, &position)
    }
}

/// A register tile of a product of matrices.
struct Product<'a> {
    lanes: u32,
    rows: i64,
    vectors: i64,
    c: &'a Sym,
    terms: i64,
    /// The factor that is broadcast: its array, and where the tile's first row begins.
    scalars: (&'a Sym, Dim),
    row_step: i64,
    /// The other one, and where its row for a term begins.
    matrix: (&'a Sym, Dim),
    matrix_step: i64,
    results: (&'a Sym, Dim),
    result_step: i64,
    /// The element of the matrix whose line a term asks for.
    ask: Option<Dim>,
}

impl Product<'_> {
    fn statements(&self, id: usize) -> Vec<Stmt> {
        let lanes = i64::from(self.lanes);
        let name = |base: &str| Sym::new(&format!("{base}{id}"));
        let (acc, b, i, j, a) = (name("acc"), name("b"), name("ti"), name("tj"), name("a"));
        let unroll = |v: &Sym, n: i64, body| Stmt::loop_of(v, n.into(), LoopKind::Unroll, body);
        let each = |body| unroll(&i, self.rows, vec![unroll(&j, self.vectors, body)]);
        let slot = (Dim::sym(&i) * self.vectors.into() + Dim::sym(&j)) * lanes.into();
        let column = Dim::sym(&j) * lanes.into();
        let zero = Expr::Const(DType::F32, Scalar::zero(DType::F32));
        let zero = Expr::Broadcast(zero.into(), self.lanes);
        let vector = |array: &Sym, at: Dim| read(array, at, self.lanes, DType::F32);

        let row = vector(self.matrix.0, self.matrix.1.clone() + column.clone()).expr;
        let ahead = self.matrix.1.clone() + (AHEAD * self.matrix_step).into() + column.clone();
        let load =
            vec![prefetch(self.matrix.0, ahead), Stmt::store(&b, lanes_at(column.clone(), self.lanes), row)];
        let scalar = self.scalars.1.clone() + Dim::sym(&i) * self.row_step.into() + Dim::sym(self.c);
        let bound = Stmt::Let { var: a.clone(), value: Expr::load(self.scalars.0, scalar) };
        let scalar = Expr::Var(a, aic_ir::kernel::VType::scalar(DType::F32));
        let factors = [
            Expr::Broadcast(scalar.into(), self.lanes),
            vector(&b, column.clone()).expr,
            vector(&acc, slot.clone()).expr,
        ];
        let sum = Stmt::store(&acc, lanes_at(slot.clone(), self.lanes), Expr::call(ScalarFn::Fma, factors));
        let mut term = vec![
            unroll(&j, self.vectors, load),
            unroll(&i, self.rows, vec![bound, unroll(&j, self.vectors, vec![sum])]),
        ];
        term.extend(self.ask.iter().map(|at| prefetch_near(self.matrix.0, at.clone())));
        let at = self.results.1.clone() + Dim::sym(&i) * self.result_step.into() + column;
        let end = Stmt::store(self.results.0, lanes_at(at, self.lanes), vector(&acc, slot.clone()).expr);
        vec![
            register(&acc, DType::F32, self.rows * self.vectors * lanes),
            register(&b, DType::F32, self.vectors * lanes),
            each(vec![Stmt::store(&acc, lanes_at(slot, self.lanes), zero)]),
            Stmt::serial(self.c, self.terms.into(), term),
            each(vec![end]),
        ]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::unified::allocations;
    use super::*;

    #[test]
    fn arrays_of_a_block_fit_on_the_stack() {
        let shapes = [(56, 64, 192), (13, 256, 384), (224, 64, 64), (7, 512, 512)];
        for (tile, (extent, channels, filters)) in shapes.into_iter().flat_map(|s| [(2, s), (4, s)]) {
            let x = Type::of(DType::F32, &[1, extent, extent, channels]);
            let u = Type::of(DType::F32, &[(tile + 2) * (tile + 2), filters / 16, channels, 16]);
            let op = Op::from(Winograd { tile, pads: vec![1; 4] });
            let y = op.infer(&[&x, &u]).unwrap();
            let c = op.compute(&[x, u], &y).unwrap();
            for target in [Target::x86_avx2(), Target::x86_avx512()] {
                let (_, kernel) = kernel("k", &c, &target).unwrap();
                let mut largest = 0;
                let bytes = |b: &Buffer| b.len.as_const().unwrap() as u64 * b.dtype.size() as u64;
                allocations(&kernel.body, &mut |b| largest = largest.max(bytes(b)));
                assert!((1..=MAX_ARRAY_BYTES).contains(&largest), "{largest} for {tile} {extent} {filters}");
            }
        }
    }
}

//! Attention by threads: a thread has some rows of the scores and of the result, and eight neighbours share rows. The
//! weights go through shared memory.

use super::super::Frame;
use super::super::emit::{Emitter, Value, lane};
use super::super::reduce::{finish, register};
use super::block::{
    Block, Bring, KEYS, QUERIES, clear, constant, held, hold, is_below, shared, spread, unroll, value,
};
use super::{column, element, key, row};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType::{self, F32};
use aic_ir::kernel::{Expr, Scope, Stmt};
use aic_ir::scalar::ScalarFn;

/// Queries, and keys of a tile, that a thread has.
const OWN: i64 = 4;
/// Threads that share queries.
const ACROSS: i64 = KEYS / OWN;
/// Elements between the rows of a tile in shared memory, so that what is stored down a column is in other banks.
const PADDING: i64 = 4;

/// The statements of the kernel.
pub fn body(block: &Block) -> Vec<Stmt> {
    let [size, value_size] = block.a.sizes;
    let vector = if value_size % (4 * ACROSS) == 0 { 4 } else { 1 };
    let threads = Threads { block, columns: (value_size + ACROSS - 1) / ACROSS, vector };
    let shared = vec![
        shared("tq", F32, size * (QUERIES + PADDING)),
        shared("tk", F32, size * (KEYS + PADDING)),
        shared("tv", F32, KEYS * threads.columns * ACROSS),
        shared("tp", F32, KEYS * (QUERIES + PADDING)),
    ];
    block.loops(shared, threads.thread(&mut Frame::kernel()))
}

struct Threads<'a> {
    block: &'a Block<'a>,
    /// Columns of the result that a thread has.
    columns: i64,
    /// How many of them lie side by side.
    vector: i64,
}

impl Threads<'_> {
    /// The first of a thread's queries, within the block's.
    fn first(&self) -> Dim {
        let group =
            Dim::named("warp") * (32 / ACROSS).into() + Dim::named("thread").floor_div(&ACROSS.into());
        group * OWN.into()
    }

    /// The number of a thread among those that share queries.
    fn across(&self) -> Dim {
        Dim::named("thread").modulo(&ACROSS.into())
    }

    /// What a thread does.
    fn thread(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (block, columns) = (self.block, self.columns);
        let registers = [
            ("score", OWN * OWN),
            ("most", OWN),
            ("total", OWN),
            ("result", OWN * columns),
            ("fa", OWN),
            ("fb", columns.max(OWN)),
        ];
        let mut out: Vec<Stmt> =
            registers.iter().map(|(name, len)| register(&Sym::new(name), F32, *len)).collect();
        out.push(clear("most", OWN, f64::NEG_INFINITY));
        out.push(clear("total", OWN, 0.0));
        out.push(clear("result", OWN * columns, 0.0));
        let [of_query, of_key] = block.factors();
        let [size, value_size] = block.a.sizes;
        let along = (element(), size, size);
        let keys = (key(), KEYS, Dim::named("tile") * KEYS.into(), block.a.keys.clone());
        let scores = &block.a.scores;
        let tq = Bring {
            buffer: "tq",
            dtype: F32,
            nest: scores,
            value: of_query,
            own: (row(block.a.query), QUERIES, block.origin.clone(), block.queries().clone()),
            along: along.clone(),
            steps: [1, QUERIES + PADDING],
        };
        let (own, steps) = (keys.clone(), [1, KEYS + PADDING]);
        let tk = Bring { buffer: "tk", dtype: F32, nest: scores, value: of_key, own, along, steps };
        let tv = Bring {
            buffer: "tv",
            dtype: F32,
            nest: &block.a.values,
            value: &block.a.values.value,
            own: keys,
            along: (column(), value_size, value_size),
            steps: [columns * ACROSS, 1],
        };
        out.extend(block.bring(&tq, frame));
        let barrier = || vec![Stmt::Barrier(Scope::Shared)];
        let tile = [
            block.bring(&tk, frame),
            block.bring(&tv, frame),
            barrier(),
            self.products(),
            self.scores(frame),
            self.weights(frame),
            barrier(),
            self.weighted(),
            barrier(),
        ];
        out.push(block.tiles(tile.concat()));
        out.extend(self.finish(frame));
        out
    }

    /// The products of queries and keys of a tile.
    fn products(&self) -> Vec<Stmt> {
        let (i, d) = (Dim::named("i"), Dim::named("d"));
        let from = |name: &str, at: Dim| held(name, at, OWN);
        let row = i.clone() * OWN.into();
        let sum = Expr::call(
            ScalarFn::Fma,
            [spread(held("fa", i, 1), OWN), from("fb", 0.into()), from("score", row.clone())],
        );
        let body = vec![
            hold("fa", 0.into(), OWN, from("tq", d.clone() * (QUERIES + PADDING).into() + self.first())),
            hold("fb", 0.into(), OWN, from("tk", d * (KEYS + PADDING).into() + self.across() * OWN.into())),
            unroll("i", OWN, vec![hold("score", row.clone(), OWN, sum)]),
        ];
        let clear = unroll("i", OWN, vec![hold("score", row, OWN, spread(constant(0.0), OWN))]);
        vec![clear, Stmt::serial(&Sym::new("d"), self.block.a.sizes[0].into(), body)]
    }

    /// The scores that they are.
    fn scores(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (i, j) = (Dim::named("i"), Dim::named("j"));
        let at = i.clone() * OWN.into() + j.clone();
        let of_tile = self.across() * OWN.into() + j;
        let body = self.block.score(&(self.first() + i), of_tile, at, frame);
        vec![unroll("i", OWN, vec![unroll("j", OWN, body)])]
    }

    /// The weights go to shared memory; what was summed up before is made relative to the new maximum.
    fn weights(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (i, mut body) = (Dim::named("i"), Vec::new());
        let at: Vec<Dim> = (0..OWN).map(|j| i.clone() * OWN.into() + j.into()).collect();
        let fade = self.block.weights(&i, &at, ACROSS, frame, &mut body);
        for (j, at) in (0..OWN).zip(at) {
            let key = self.across() * OWN.into() + j.into();
            let to = key * (QUERIES + PADDING).into() + self.first() + i.clone();
            body.push(Stmt::store(&Sym::new("tp"), Expr::Index(to), held("score", at, 1)));
        }
        let own = i * self.columns.into() + Dim::named("g");
        let faded = Expr::call(ScalarFn::Mul, [held("result", own.clone(), 1), fade]);
        body.push(unroll("g", self.columns, vec![hold("result", own, 1, faded)]));
        vec![unroll("i", OWN, body)]
    }

    /// The values of a tile, weighted and added.
    fn weighted(&self) -> Vec<Stmt> {
        let (i, t) = (Dim::named("i"), Dim::named("t"));
        let (vector, columns) = (self.vector, self.columns);
        let g = Dim::named("g") * vector.into();
        let from = t.clone() * (columns * ACROSS).into() + self.column();
        let own = i.clone() * columns.into() + g.clone();
        let sum = Expr::call(
            ScalarFn::Fma,
            [
                spread(held("fa", i, 1), vector),
                held("fb", g.clone(), vector),
                held("result", own.clone(), vector),
            ],
        );
        let n = columns / vector;
        let body = vec![
            hold("fa", 0.into(), OWN, held("tp", t * (QUERIES + PADDING).into() + self.first(), OWN)),
            unroll("g", n, vec![hold("fb", g, vector, held("tv", from, vector))]),
            unroll("i", OWN, vec![unroll("g", n, vec![hold("result", own, vector, sum)])]),
        ];
        vec![Stmt::serial(&Sym::new("t"), KEYS.into(), body)]
    }

    /// The first column of group `g` that a thread has.
    fn column(&self) -> Dim {
        Dim::named("g") * (ACROSS * self.vector).into() + self.across() * self.vector.into()
    }

    /// What is stored.
    fn finish(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (block, i, lanes) = (self.block, Dim::named("i"), self.vector as u32);
        let query = self.first() + i.clone();
        let mut axes = block.axes(&query);
        let at = if lanes > 1 { self.column() + Dim::sym(&lane()) } else { self.column() };
        axes.insert(column(), at.clone());
        let own = i.clone() * self.columns.into() + Dim::named("g") * self.vector.into();
        let nest = &block.a.values;
        let mut e = Emitter::new(nest, axes, lanes, frame);
        let acc = e.bind(Value::new(block.quotient(&i, own, self.vector), F32, lanes));
        let size = Dim::from(block.a.sizes[1]);
        let mask = (!size.is_multiple(ACROSS)).then(|| e.bind(value(is_below(at, &size), DType::Bool)));
        let mut body = e.take_lets();
        body.extend(finish(&mut e, nest, acc, mask.as_ref()));
        if !block.queries().is_multiple(QUERIES) {
            let cond = is_below(block.origin.clone() + query, block.queries());
            body = vec![Stmt::If { cond, then: body, other: Vec::new() }];
        }
        vec![unroll("i", OWN, vec![unroll("g", self.columns / self.vector, body)])]
    }
}

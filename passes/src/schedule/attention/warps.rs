//! Attention by matrix instructions: a warp has 16 queries, and a thread of it what the instruction gives it of two of
//! them. The scores that a thread holds lie as the left factor of the next product wants them, so that the weights stay
//! in registers: as the sum of two numbers of 16 bits each, which is as exact as the values are.

use super::super::Frame;
use super::super::contract::implicit::stored;
use super::super::emit::{Emitter, Value, lane};
use super::super::nest::Flat;
use super::super::reduce::{finish, read, register};
use super::block::{Block, Bring, KEYS, QUERIES, clear, held, hold, is_below, shared, unroll, value};
use super::{Attention, column, element, key, row};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType::{self, F32};
use aic_ir::kernel::{Copy, Expr, Mma, Operand, Scope, Steps, Stmt, Tile};
use aic_ir::scalar::ScalarFn;
use aic_ir::target::{MatrixUnit, Target};

/// Rows, columns and terms of the instruction.
const M: i64 = 16;
const N: i64 = 8;
const K: i64 = 16;
/// Elements between the rows of a tile in shared memory: they begin in other banks, at multiples of 16 bytes.
const PADDING: i64 = 8;
/// Threads that share a row of a fragment.
const ACROSS: i64 = 4;

/// The matrix instruction for queries, keys and values of 16 bits, and their type.
pub fn unit<'t>(a: &Attention, target: &'t Target) -> Option<(&'t MatrixUnit, DType)> {
    let Flat::Call(_, factors) = &a.scores.value else { return None };
    let factors = factors.iter().map(|f| stored(&a.scores, f)).chain([stored(&a.values, &a.values.value)]);
    let types: Vec<DType> = factors.map(|f| Some(f?.1)).collect::<Option<_>>()?;
    let dtype = types.first().copied().filter(|t| types.iter().all(|other| other == t))?;
    let fits = |u: &&MatrixUnit| {
        let extents = u.extents.map(|e| i64::from(e.step));
        !u.is_async && u.dtypes == [F32, dtype, dtype] && extents == [M, N, K]
    };
    Some((target.matrix.iter().find(fits)?, dtype))
}

fn multiple(n: i64, of: i64) -> i64 {
    (n + of - 1) / of * of
}

/// The statements of the kernel.
pub fn body(block: &Block, unit: &MatrixUnit, dtype: DType) -> Vec<Stmt> {
    let [size, value_size] = block.a.sizes;
    let padded = [multiple(size, K), multiple(value_size, N)];
    let warps = Warps { block, unit: &unit.name, dtype, padded, rows: padded.map(|n| n + PADDING) };
    let [row, of_value] = warps.rows;
    let shared = vec![
        shared("tq", dtype, QUERIES * row),
        shared("tk", dtype, KEYS * row),
        shared("tv", dtype, KEYS * of_value),
    ];
    block.loops(shared, warps.thread(&mut Frame::kernel()))
}

struct Warps<'a> {
    block: &'a Block<'a>,
    unit: &'a str,
    dtype: DType,
    /// Elements of a query and of a value, in whole fragments.
    padded: [i64; 2],
    /// Elements from row to row in shared memory, of queries and keys, and of values.
    rows: [i64; 2],
}

impl Warps<'_> {
    /// The first query of a warp.
    fn first(&self) -> Dim {
        Dim::named("warp") * M.into()
    }

    /// The query of the block that is a thread's number `half`.
    fn query(&self, half: &Dim) -> Dim {
        self.first() + half.clone() * 8.into() + Dim::named("thread").floor_div(&ACROSS.into())
    }

    /// The first of a thread's two columns of a fragment.
    fn pair(&self) -> Dim {
        Dim::named("thread").modulo(&ACROSS.into()) * 2.into()
    }

    /// What a thread does.
    fn thread(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (block, dtype) = (self.block, self.dtype);
        let (scores, results) = (KEYS / N * 4, self.padded[1] / N * 4);
        let registers = [
            ("score", F32, scores),
            ("most", F32, 2),
            ("total", F32, 2),
            ("result", F32, results),
            ("fa", dtype, 8),
            ("rest", dtype, 8),
            ("fb", dtype, 4),
        ];
        let mut out: Vec<Stmt> =
            registers.iter().map(|(name, dtype, len)| register(&Sym::new(name), *dtype, *len)).collect();
        out.push(clear("most", 2, f64::NEG_INFINITY));
        out.push(clear("total", 2, 0.0));
        out.push(clear("result", results, 0.0));
        let barrier = || vec![Stmt::Barrier(Scope::Shared)];
        let [queries, keys, values] = self.tiles();
        out.extend(queries.iter().flat_map(|b| block.bring(b, frame)));
        let tile = [
            keys.iter().flat_map(|b| block.bring(b, frame)).collect(),
            values.iter().flat_map(|b| block.bring(b, frame)).collect(),
            barrier(),
            self.products(),
            self.scores(frame),
            self.weights(frame),
            self.weighted(),
            barrier(),
        ];
        out.push(block.tiles(tile.concat()));
        out.extend(self.finish(frame));
        out
    }

    /// What is brought: queries, keys and values, as they are before they are converted.
    fn tiles(&self) -> [Option<Bring<'_>>; 3] {
        let (block, dtype) = (self.block, self.dtype);
        let [of_query, of_key] = block.factors();
        let (scores, values) = (&block.a.scores, &block.a.values);
        let [size, value_size] = block.a.sizes;
        let along = (element(), size, self.padded[0]);
        let steps = [self.rows[0], 1];
        let queries = (row(block.a.query), QUERIES, block.origin.clone(), block.queries().clone());
        let keys = (key(), KEYS, Dim::named("tile") * KEYS.into(), block.a.keys.clone());
        let bring = |buffer, nest, value, own, along, steps| {
            let value = stored(nest, value)?.0;
            Some(Bring { buffer, dtype, nest, value, own, along, steps })
        };
        let of_value = (column(), value_size, self.padded[1]);
        [
            bring("tq", scores, of_query, queries, along.clone(), steps),
            bring("tk", scores, of_key, keys.clone(), along, steps),
            bring("tv", values, &values.value, keys, of_value, [self.rows[1], 1]),
        ]
    }

    fn fragment(&self, name: &str, first: Dim, operand: Operand) -> Tile {
        Tile::fragment(&Sym::new(name), first, self.unit, operand)
    }

    /// A fragment of a factor, from shared memory.
    fn load(&self, name: &str, from: &str, first: Dim, steps: [Steps; 2], operand: Operand) -> Stmt {
        let [rows, columns] = steps;
        let src = Tile::steps(&Sym::new(from), first, rows, columns);
        let extent = operand.extent([M, N, K]).map(Dim::from);
        Stmt::Copy(Copy {
            dst: self.fragment(name, 0.into(), operand),
            src,
            extent,
            valid: None,
            token: None,
        })
    }

    fn multiply(&self, c: &str, at: Dim, a: &str) -> Stmt {
        Stmt::Mma(Mma {
            intrinsic: self.unit.to_owned(),
            extent: [M, N, K].map(|n| n as u32),
            c: self.fragment(c, at, Operand::C),
            a: self.fragment(a, 0.into(), Operand::A),
            b: self.fragment("fb", 0.into(), Operand::B),
            fresh: None,
            token: None,
        })
    }

    /// The products of queries and keys of a tile.
    fn products(&self) -> Vec<Stmt> {
        let (j, kk, row) = (Dim::named("j"), Dim::named("kk"), self.rows[0]);
        let along = kk * K.into();
        let (down, across) = (Steps::by(row), Steps::by(1));
        let a = self.load(
            "fa",
            "tq",
            self.first() * row.into() + along.clone(),
            [down.clone(), across.clone()],
            Operand::A,
        );
        let b = self.load("fb", "tk", j.clone() * (N * row).into() + along, [across, down], Operand::B);
        let each = unroll("j", KEYS / N, vec![b, self.multiply("score", j * 4.into(), "fa")]);
        vec![clear("score", KEYS / N * 4, 0.0), unroll("kk", self.padded[0] / K, vec![a, each])]
    }

    /// The scores that they are.
    fn scores(&self, frame: &mut Frame) -> Vec<Stmt> {
        let [j, half, one] = ["j", "half", "one"].map(Dim::named);
        let at = j.clone() * 4.into() + half.clone() * 2.into() + one.clone();
        let of_tile = j * N.into() + self.pair() + one;
        let body = self.block.score(&self.query(&half), of_tile, at, frame);
        vec![unroll("j", KEYS / N, vec![unroll("half", 2, vec![unroll("one", 2, body)])])]
    }

    /// The weights, in place of the scores; what was summed up before is made relative to the new maximum.
    fn weights(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (half, mut body) = (Dim::named("half"), Vec::new());
        let of_row = |j: Dim, one: Dim| j * 4.into() + half.clone() * 2.into() + one;
        let at: Vec<Dim> =
            (0..KEYS / N).flat_map(|j| [0, 1].map(|one| of_row(j.into(), one.into()))).collect();
        let fade = self.block.weights(&half, &at, ACROSS, frame, &mut body);
        let own = of_row(Dim::named("j"), Dim::named("one"));
        let faded = Expr::call(ScalarFn::Mul, [held("result", own.clone(), 1), fade]);
        let each = unroll("one", 2, vec![hold("result", own, 1, faded)]);
        body.push(unroll("j", self.padded[1] / N, vec![each]));
        vec![unroll("half", 2, body)]
    }

    /// The values of a tile, weighted and added.
    fn weighted(&self) -> Vec<Stmt> {
        let [j, kk, i] = ["j", "kk", "i"].map(Dim::named);
        let row = self.rows[1];
        let weight = held("score", kk.clone() * 8.into() + i.clone(), 1);
        let half = Expr::Cast(self.dtype, weight.clone().into());
        let most = read(&Sym::new("fa"), i.clone(), 1, self.dtype).expr;
        let rest = Expr::call(ScalarFn::Sub, [weight, Expr::Cast(F32, most.into())]);
        let split =
            vec![hold("fa", i.clone(), 1, half), hold("rest", i, 1, Expr::Cast(self.dtype, rest.into()))];
        let from = kk * (K * row).into() + j.clone() * N.into();
        let b = self.load("fb", "tv", from, [Steps::by(row), Steps::by(1)], Operand::B);
        let at = j * 4.into();
        let each = vec![b, self.multiply("result", at.clone(), "fa"), self.multiply("result", at, "rest")];
        vec![unroll("kk", KEYS / K, vec![unroll("i", 8, split), unroll("j", self.padded[1] / N, each)])]
    }

    /// What is stored: two neighbours in a row at a time.
    fn finish(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (block, nest) = (self.block, &self.block.a.values);
        let [j, half, one] = ["j", "half", "one"].map(Dim::named);
        let size = Dim::from(block.a.sizes[1]);
        let lanes: u32 = if size.is_multiple(N) { 2 } else { 1 };
        let offset = if lanes == 2 { Dim::sym(&lane()) } else { one.clone() };
        let at = j.clone() * N.into() + self.pair() + offset;
        let query = self.query(&half);
        let mut axes = block.axes(&query);
        axes.insert(column(), at.clone());
        let own = j * 4.into() + half.clone() * 2.into() + if lanes == 2 { 0.into() } else { one };
        let mut e = Emitter::new(nest, axes, lanes, frame);
        let acc = e.bind(Value::new(block.quotient(&half, own, lanes.into()), F32, lanes));
        let mask = (lanes == 1).then(|| e.bind(value(is_below(at, &size), DType::Bool)));
        let mut body = e.take_lets();
        body.extend(finish(&mut e, nest, acc, mask.as_ref()));
        if lanes == 1 {
            body = vec![unroll("one", 2, body)];
        }
        if !block.queries().is_multiple(QUERIES) {
            let cond = is_below(block.origin.clone() + query, block.queries());
            body = vec![Stmt::If { cond, then: body, other: Vec::new() }];
        }
        vec![unroll("j", self.padded[1] / N, vec![unroll("half", 2, body)])]
    }
}

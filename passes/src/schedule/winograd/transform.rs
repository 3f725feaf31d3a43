//! The transforms of tiles: one vector of channels of one tile at a time, its points in registers.

use super::super::contract::Tiles;
use super::super::emit::{Emitter, Value, lane};
use super::super::nest::Flat;
use super::super::reduce::{finish, lanes_at, read, register};
use super::Maker;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Expr, LoopKind, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};
use std::collections::HashMap;

impl Maker<'_> {
    /// Loops over the tiles of the block, around what `make` makes of a tile's row and column.
    fn tiles(&self, make: impl FnOnce(Dim, Dim) -> Result<Vec<Stmt>>) -> Result<Vec<Stmt>> {
        let [ii, jj] = ["ii", "jj"].map(Sym::new);
        let body = make(Dim::sym(&ii), Dim::sym(&jj))?;
        let row = vec![Stmt::serial(&jj, self.plan.tile_columns.into(), body)];
        Ok(vec![Stmt::serial(&ii, self.rows.into(), row)])
    }

    /// Elements to the domain.
    pub fn forth(&mut self) -> Result<Vec<Stmt>> {
        let this = &mut *self;
        let [ii, jj] = ["ii", "jj"].map(|s| Dim::sym(&Sym::new(s)));
        let (inside, border) = (this.elements_of(&ii, &jj, false)?, this.elements_of(&ii, &jj, true)?);
        let cond = this.is_inside(&ii, &jj);
        self.tiles(|_, _| {
            Ok(match cond {
                None => inside,
                Some(cond) => vec![Stmt::If { cond, then: inside, other: border }],
            })
        })
    }

    /// Whether all elements of a tile lie in the operand; `None` if those of all tiles do.
    fn is_inside(&self, ii: &Dim, jj: &Dim) -> Option<Expr> {
        let (op, plan) = (&self.plan.op, self.plan);
        let m = op.tile as i64;
        let mut conditions = Vec::new();
        let extents = [plan.rows, plan.columns];
        for (k, tile) in [self.first.clone() + ii.clone(), jj.clone()].into_iter().enumerate() {
            let (lo, hi) = (op.pads[k] as i64, op.pads[2 + k] as i64);
            let extent = extents[k] + 2 - lo - hi;
            let begin = tile * m.into() - lo.into();
            let n_tiles = if k == 0 { plan.tile_rows } else { plan.tile_columns };
            if lo > 0 {
                conditions.push(Expr::call(ScalarFn::Ge, [Expr::Index(begin.clone()), Expr::int(0)]));
            }
            if (n_tiles - 1) * m - lo + m + 2 > extent {
                let last = Expr::int(extent - m - 2);
                conditions.push(Expr::call(ScalarFn::Le, [Expr::Index(begin), last]));
            }
        }
        conditions.into_iter().reduce(|a, b| Expr::call(ScalarFn::And, [a, b]))
    }

    /// Brings a tile's elements to the domain, for all channels.
    fn elements_of(&mut self, ii: &Dim, jj: &Dim, is_border: bool) -> Result<Vec<Stmt>> {
        let (t, lanes) = (self.plan.op.tile as i64 + 2, i64::from(self.s.lanes));
        let jc = Sym::new("jc");
        let channels = Tiles::new(&self.plan.channels.into(), lanes, lanes);
        let row = (ii.clone() * self.plan.tile_columns.into() + jj.clone()) * self.whole_channels().into();
        let mut failed = None;
        let body = channels.each(&jc, &mut |c0, part| {
            let (tile_row, lane) = (self.first.clone() + ii.clone(), Dim::sym(&lane()));
            let at = [0.into(), self.image.clone(), tile_row, jj.clone(), c0.clone() + lane];
            let nest = match self.nest(0, &at) {
                Ok(nest) => nest,
                Err(e) => {
                    failed = Some(e);
                    return Vec::new();
                }
            };
            let Some(element) = element(&nest.value, is_border) else { return Vec::new() };
            let taps: Vec<Sym> = nest.over().iter().map(|a| a.var.clone()).collect();
            let apart = self.apart(&self.elements);
            let mut e = Emitter::new(&nest, HashMap::new(), self.s.lanes, self.frame);
            let is_partial = part.partial && part.width % lanes != 0;
            let mask = is_partial.then(|| {
                let lane = Value::new(lanes_at(0.into(), e.lanes), DType::I64, e.lanes);
                let end = Value::new(Expr::int(part.width), DType::I64, 1);
                let mask = e.call(ScalarFn::Lt, vec![lane, end]);
                e.bind(mask)
            });
            let mut out = e.take_lets();
            let mut columns: Vec<Vec<Value>> = Vec::new();
            for q in 0..t {
                let mut load = |p: i64| {
                    let at = [p, q];
                    let named = |s: &Sym| taps.iter().position(|v| v == s).map(|k| Dim::from(at[k]));
                    let value = e.expr(&element.subst(&named), mask.as_ref());
                    e.bind(value)
                };
                let column: Vec<Value> = (0..t).map(&mut load).collect();
                columns.push(forth(&mut e, &column));
            }
            for p in 0..t as usize {
                let along: Vec<Value> = columns.iter().map(|c| c[p].clone()).collect();
                for (q, value) in forth(&mut e, &along).into_iter().enumerate() {
                    out.extend(e.take_lets());
                    let point = (p as i64 * t + q as i64) * apart;
                    let at = row.clone() + c0.clone() + point.into();
                    let index = lanes_at(at, self.s.lanes);
                    out.push(Stmt::store(&self.elements.name, index, value.widen(self.s.lanes)));
                }
            }
            out
        });
        failed.map_or(Ok(body), Err)
    }

    /// Products back to results, with the epilogue.
    pub fn back(&mut self) -> Result<Vec<Stmt>> {
        let [ii, jj] = ["ii", "jj"].map(|s| Dim::sym(&Sym::new(s)));
        let body = self.results_of(&ii, &jj)?;
        self.tiles(|_, _| Ok(body))
    }

    fn results_of(&mut self, ii: &Dim, jj: &Dim) -> Result<Vec<Stmt>> {
        let (m, lanes) = (self.plan.op.tile as i64, i64::from(self.s.lanes));
        let t = m + 2;
        let id = self.frame.next();
        let [jf, y, r, s] = ["jf", "r", "tr", "ts"].map(|n| Sym::new(&format!("{n}{id}")));
        let f0 = Dim::sym(&jf) * lanes.into();
        let row = (ii.clone() * self.plan.tile_columns.into() + jj.clone()) * self.filters().into();
        let (h, w) = ((self.first.clone() + ii.clone()) * m.into(), jj.clone() * m.into());
        let at = [
            self.image.clone(),
            h.clone() + Dim::sym(&r),
            w.clone() + Dim::sym(&s),
            self.part.clone() * self.filters().into() + f0.clone() + Dim::sym(&lane()),
        ];
        let nest = self.nest(2, &at)?;
        let apart = self.apart(&self.products);
        let mut e = Emitter::new(&nest, HashMap::new(), self.s.lanes, self.frame);
        let mut columns = Vec::new();
        for q in 0..t {
            let load = |p: i64| {
                let at = row.clone() + f0.clone() + ((p * t + q) * apart).into();
                read(&self.products.name, at, self.s.lanes, DType::F32)
            };
            let column: Vec<Value> = (0..t).map(load).map(|v| e.bind(v)).collect();
            columns.push(back(&mut e, &column));
        }
        let mut body = vec![register(&y, DType::F32, m * m * lanes)];
        for p in 0..m as usize {
            let along: Vec<Value> = columns.iter().map(|c| c[p].clone()).collect();
            for (q, value) in back(&mut e, &along).into_iter().enumerate() {
                body.extend(e.take_lets());
                let index = lanes_at(((p as i64 * m + q as i64) * lanes).into(), self.s.lanes);
                body.push(Stmt::store(&y, index, value.widen(self.s.lanes)));
            }
        }
        let slot = (Dim::sym(&r) * m.into() + Dim::sym(&s)) * lanes.into();
        let result = e.bind(read(&y, slot, self.s.lanes, DType::F32));
        let end = finish(&mut e, &nest, result, None);
        let within = |at: &Dim, extent: i64, body: Vec<Stmt>| match extent % m {
            0 => body,
            _ => {
                let cond = Expr::call(ScalarFn::Lt, [Expr::Index(at.clone()), Expr::int(extent)]);
                vec![Stmt::If { cond, then: body, other: Vec::new() }]
            }
        };
        let unroll = |v: &Sym, body| vec![Stmt::loop_of(v, m.into(), LoopKind::Unroll, body)];
        let end = unroll(&s, within(&(w + Dim::sym(&s)), self.plan.columns, end));
        body.extend(unroll(&r, within(&(h + Dim::sym(&r)), self.plan.rows, end)));
        Ok(vec![Stmt::serial(&jf, (self.filters() / lanes).into(), body)])
    }
}

/// The element among the factors of a transform's summand, with its condition at the border.
fn element(value: &Flat, is_border: bool) -> Option<&Flat> {
    match value {
        Flat::Load { .. } => Some(value),
        Flat::Call(ScalarFn::Select, args) if !args[1].loads().is_empty() => {
            if is_border {
                Some(value)
            } else {
                element(&args[1], false)
            }
        }
        Flat::Call(ScalarFn::Mul, factors) => factors.iter().find_map(|f| element(f, is_border)),
        _ => None,
    }
}

/// Scalars times vectors, added up.
struct Sum<'a, 'e>(&'a mut Emitter<'e>);

impl Sum<'_, '_> {
    /// `a + by * b`
    fn plus(&mut self, a: &Value, by: f64, b: &Value) -> Value {
        let sum = match by {
            1.0 => self.0.call(ScalarFn::Add, vec![a.clone(), b.clone()]),
            -1.0 => self.0.call(ScalarFn::Sub, vec![a.clone(), b.clone()]),
            _ => {
                let by = Value::new(Expr::Const(DType::F32, Scalar::F(by)), DType::F32, 1);
                self.0.call(ScalarFn::Fma, vec![by, b.clone(), a.clone()])
            }
        };
        self.0.bind(sum)
    }
}

/// Elements to the domain along one axis: `input` of [`aic_ir::op::Matrices`], with common sums computed once.
fn forth(e: &mut Emitter, d: &[Value]) -> Vec<Value> {
    let mut s = Sum(e);
    if let [d0, d1, d2, d3] = d {
        return vec![s.plus(d0, -1.0, d2), s.plus(d1, 1.0, d2), s.plus(d2, -1.0, d1), s.plus(d1, -1.0, d3)];
    }
    let [d0, d1, d2, d3, d4, d5] = d else { return Vec::new() };
    let (even, odd) = (s.plus(d4, -4.0, d2), s.plus(d3, -4.0, d1));
    let (far_even, far_odd) = (s.plus(d4, -1.0, d2), s.plus(d3, -1.0, d1));
    let (first, last) = (s.plus(d4, -5.0, d2), s.plus(d5, -5.0, d3));
    vec![
        s.plus(&first, 4.0, d0),
        s.plus(&even, 1.0, &odd),
        s.plus(&even, -1.0, &odd),
        s.plus(&far_even, 2.0, &far_odd),
        s.plus(&far_even, -2.0, &far_odd),
        s.plus(&last, 4.0, d1),
    ]
}

/// Back along one axis: `output` of [`aic_ir::op::Matrices`].
fn back(e: &mut Emitter, d: &[Value]) -> Vec<Value> {
    let mut s = Sum(e);
    if let [m0, m1, m2, m3] = d {
        let (sum, difference) = (s.plus(m1, 1.0, m2), s.plus(m1, -1.0, m2));
        return vec![s.plus(m0, 1.0, &sum), s.plus(&difference, -1.0, m3)];
    }
    let [m0, m1, m2, m3, m4, m5] = d else { return Vec::new() };
    let (near, far) = (s.plus(m1, 1.0, m2), s.plus(m3, 1.0, m4));
    let (near_odd, far_odd) = (s.plus(m1, -1.0, m2), s.plus(m3, -1.0, m4));
    let (first, last) = (s.plus(m0, 1.0, &near), s.plus(m5, 1.0, &near_odd));
    vec![
        s.plus(&first, 1.0, &far),
        s.plus(&near_odd, 2.0, &far_odd),
        s.plus(&near, 4.0, &far),
        s.plus(&last, 8.0, &far_odd),
    ]
}

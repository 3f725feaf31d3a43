//! The epilogue of a contraction on an NPU's vector cores: the sums and what else it reads are copied from memory into the
//! unified buffer, some rows at a time, and the results from there to memory.

use super::super::super::Frame;
use super::super::super::emit::Emitter;
use super::super::super::nest::Flat;
use super::super::super::reduce::{finish, read};
use super::super::super::unified::lane;
use super::super::product::clip;
use super::Npu;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Copy, Scope, Stmt, Tile};

impl Npu<'_> {
    /// A vector core's work on some rows of the tile: what they need into the unified buffer, the epilogue, and out.
    pub(super) fn vector(
        &self,
        own: &Dim,
        rows: i64,
        at: &dyn Fn(&Dim, &Dim) -> Tile,
        frame: &mut Frame,
    ) -> Option<Vec<Stmt>> {
        let nest = self.p.nest;
        let tn = i64::from(self.l1.extent[1]);
        let [m, n, _] = &self.p.axes;
        let (row, column) = (self.origin[0].clone() + own.clone(), self.origin[1].clone());
        let rest = clip(rows, self.p.rest(0, self.l1.extent[0], &row));
        let columns = self.rest_of(1, &column);
        let mut ub = Unified { outer: self, row: row.clone(), rows, tn, loads: Vec::new(), out: Vec::new() };
        ub.copy_in(
            "u",
            nest.acc,
            Tile::rows(&Sym::new("sums"), own.clone() * tn.into(), tn),
            [rows, tn],
            None,
        );
        let r = Sym::new("r");
        let local = |name: &str, dtype| Buffer {
            name: Sym::new(name),
            dtype,
            len: (rows * tn).into(),
            scope: Scope::Ub,
        };
        let mut inner = nest.clone();
        inner.epilogue = match &nest.epilogue {
            Some(e) => Some(ub.localize(e, &[rest.clone(), columns.clone()])?),
            None => None,
        };
        inner.inputs.extend(ub.loads.iter().map(|(b, _)| b.clone()));
        inner.output = local("uy", nest.output.dtype);
        inner.at = m.dim() * tn.into() + n.dim();
        let mut out = std::mem::take(&mut ub.out);
        out.push(Stmt::Commit { token: Sym::new("ub") });
        out.push(Stmt::Wait { token: Sym::new("ub"), pending: 0 });
        out.push(Stmt::Alloc(inner.output.clone()));
        // A row at a time.
        let mut axes = self.axes.clone();
        axes.extend([(m.var.clone(), Dim::sym(&r)), (n.var.clone(), Dim::sym(&lane()))]);
        let mut e = Emitter::new(&inner, axes, 1, frame);
        let sums = read(&Sym::new("u"), Dim::sym(&r) * tn.into() + Dim::sym(&lane()), 1, nest.acc);
        let sums = e.bind(sums);
        let mut body = e.take_lets();
        body.extend(finish(&mut e, &inner, sums, None));
        out.push(Stmt::serial(&r, rows.into(), vec![Stmt::serial(&lane(), tn.into(), body)]));
        let src = Tile::rows(&inner.output.name, 0, tn);
        let dst = at(&row, &column);
        out.push(Stmt::Copy(Copy { dst, src, extent: [rest, columns], valid: None, token: None }));
        Some(out)
    }
}

/// What a vector core holds of some rows of a tile.
struct Unified<'a> {
    outer: &'a Npu<'a>,
    /// The first row in the matrix.
    row: Dim,
    rows: i64,
    /// Columns of the tile.
    tn: i64,
    /// Buffers of what the epilogue loads, and what it loads.
    loads: Vec<(Buffer, Flat)>,
    /// The allocations and copies.
    out: Vec<Stmt>,
}

impl Unified<'_> {
    fn copy_in(&mut self, name: &str, dtype: DType, src: Tile, extent: [i64; 2], valid: Option<[Dim; 2]>) {
        let name = Sym::new(name);
        // Rows begin at multiples of 32 bytes.
        let row = extent[1].max(32 / dtype.size().max(1) as i64);
        let (len, scope) = ((extent[0] * row).into(), Scope::Ub);
        self.out.push(Stmt::Alloc(Buffer { name: name.clone(), dtype, len, scope }));
        let dst = Tile::rows(&name, 0, row);
        let token = Some(Sym::new("ub"));
        self.out.push(Stmt::Copy(Copy { dst, src, extent: extent.map(Dim::from), valid, token }));
    }

    /// An epilogue whose loads are from the unified buffer, where rows and columns count from the tile's.
    fn localize(&mut self, e: &Flat, valid: &[Dim; 2]) -> Option<Flat> {
        let [m, n, _] = &self.outer.p.axes;
        let global = |s: &Sym| match s {
            s if *s == m.var => Some(self.row.clone() + m.dim()),
            s if *s == n.var => Some(self.outer.origin[1].clone() + n.dim()),
            _ => None,
        };
        Some(match e {
            Flat::Const(..) | Flat::Acc => e.clone(),
            Flat::Index(d) => Flat::Index(d.subst(&global)),
            Flat::Call(f, args) => {
                Flat::Call(*f, args.iter().map(|a| self.localize(a, valid)).collect::<Option<_>>()?)
            }
            Flat::Cast(t, e) => Flat::Cast(*t, self.localize(e, valid)?.into()),
            Flat::Load { input, address, terms } if terms.is_empty() => {
                self.load(e, *input, address, valid)?
            }
            Flat::Load { .. } => return None,
        })
    }

    fn load(&mut self, e: &Flat, input: usize, address: &Dim, valid: &[Dim; 2]) -> Option<Flat> {
        let (m, n) = (self.outer.p.axes[0].clone(), self.outer.p.axes[1].clone());
        let (n_step, rest) = address.affine_in(&n.var)?;
        let (m_step, base) = rest.affine_in(&m.var)?;
        if [&n_step, &m_step, &base].iter().any(|d| d.mentions(&m.var) || d.mentions(&n.var)) {
            return None;
        }
        let extent = |step: &Dim, n: i64| if step.is(0) { 1 } else { n };
        let size = [extent(&m_step, self.rows), extent(&n_step, self.tn)];
        if !(n_step.is(0) || n_step.is(1)) {
            return None;
        }
        let known = self.loads.iter().position(|(_, known)| known == e);
        let k = known.unwrap_or_else(|| {
            let name = format!("u{}", self.loads.len());
            let dtype = self.outer.p.nest.inputs[input].dtype;
            let base = base.subst(&|x| self.outer.axes.get(x).cloned());
            let corner = [&self.row, &self.outer.origin[1]];
            let first = base + corner[0].clone() * m_step.clone() + corner[1].clone() * n_step.clone();
            let src = Tile::rows(&self.outer.p.nest.inputs[input].name, first, m_step.clone());
            let valid = [0, 1].map(|k| if size[k] == 1 { 1.into() } else { valid[k].clone() });
            let is_whole = valid.iter().zip(size).all(|(v, n)| v.is(n));
            self.copy_in(&name, dtype, src, size, (!is_whole).then_some(valid));
            let len = (size[0] * size[1].max(32 / dtype.size().max(1) as i64)).into();
            self.loads.push((Buffer { name: Sym::new(&name), dtype, len, scope: Scope::Ub }, e.clone()));
            self.loads.len() - 1
        });
        let row = size[1].max(32 / self.loads[k].0.dtype.size().max(1) as i64);
        let row_at = if size[0] == 1 { 0.into() } else { m.dim() * row.into() };
        let column_at = if size[1] == 1 { 0.into() } else { n.dim() };
        let input = self.outer.p.nest.inputs.len() + k;
        Some(Flat::Load { input, address: row_at + column_at, terms: Vec::new() })
    }
}

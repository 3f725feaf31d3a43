//! Statements of the cube unit: fractals into L1 and on into L0A and L0B, products, and results out of L0C.

use super::moves::row_step;
use super::roles::{Local, Role};
use super::text::{ctype, name, within_buffer};
use super::writer::{Part, Writer};
use aic_ir::bail;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Copy, Layout, Mma, Scope, Steps, Tile};

/// Products of fewer fractals than these follow each other too quickly on the same sums.
const FEW_FRACTALS: u32 = 10;

impl<'a> Writer<'a> {
    pub(super) fn cube_copy(&mut self, c: &'a Copy) -> Result<()> {
        if self.part != Part::Cube {
            return Ok(());
        }
        let scope = |t: &Tile| self.local(&t.buffer).map_or(Scope::Global, |l| l.buffer.scope);
        match (scope(&c.src), scope(&c.dst)) {
            (Scope::Global | Scope::Workspace, Scope::L1) => self.load_l1(c),
            (Scope::L1, Scope::L0A | Scope::L0B) => self.load_l0(c),
            (Scope::L0C, Scope::Global | Scope::Workspace) => self.fixpipe(c),
            (from, to) => bail!("Ascend C has no copies from {from} to {to}"),
        }
    }

    fn cube(&self, t: &Tile) -> Result<&'a Local> {
        match self.local(&t.buffer) {
            Some(l) => Ok(l),
            None => bail!("{} isn't a buffer of the cube unit", t.buffer),
        }
    }

    /// The tensor that a copy fills, taken from its queue.
    fn take(&mut self, t: &Tile) -> Result<String> {
        let local = self.cube(t)?;
        let (n, ty) = (name(&t.buffer), ctype(local.buffer.dtype)?);
        self.text.line(format!("LocalTensor<{ty}> {n}Next = {n}Queue.AllocTensor<{ty}>();"));
        Ok(format!("{n}Next"))
    }

    fn fill_later(&mut self, c: &Copy) {
        if let Some(token) = &c.token {
            let all = self.filled.entry(token.clone()).or_default();
            if !all.contains(&c.dst.buffer) {
                all.push(c.dst.buffer.clone());
            }
        }
    }

    fn load_l1(&mut self, c: &Copy) -> Result<()> {
        let dst = self.take(&c.dst)?;
        let local = self.cube(&c.dst)?;
        let size = local.buffer.dtype.size() as i64;
        let valid = c.valid.as_ref().unwrap_or(&c.extent);
        let ([height, width], ld) = (constants(&c.extent)?, row_step(&c.src)?);
        let [rows, columns] = [self.extent(&valid[0]), self.extent(&valid[1])];
        let (from, ld) = (self.index(&c.src.first), self.index(&ld));
        let load = format!(
            "DataCopy({dst}, {}, Nd2NzParams(1, {rows}, {columns}, 0, {ld}, {height}, 1, 0));",
            self.ring(&c.src.buffer, &from)
        );
        if *valid == c.extent {
            self.text.line(load);
        } else {
            // Beyond the ends of the matrix there are zeros.
            let t = if size == 4 { "float" } else { "half" };
            let blocks = height * width * size / 32;
            self.text.open(format!("if ({rows} < {height} || {columns} < {width}) {{"));
            self.text.line(format!(
                "InitConstValue({dst}.ReinterpretCast<{t}>(), InitConstValueParams<{t}>(1, {blocks}, 0, ({t})0));"
            ));
            self.text.line("PipeBarrier<PIPE_MTE2>();");
            self.text.close();
            self.text.line(format!("if ({rows} > 0 && {columns} > 0) {load}"));
        }
        self.fill_later(c);
        Ok(())
    }

    /// Rows of fractals: of 16 rows for the left factor, of 32 bytes along the contracted axis for the right one.
    fn load_l0(&mut self, c: &Copy) -> Result<()> {
        let dst = self.take(&c.dst)?;
        let local = self.cube(&c.dst)?;
        let (size, is_left) = (local.buffer.dtype.size() as i64, local.buffer.scope == Scope::L0A);
        let fractal = 32 / size;
        let [rows, columns] = constants(&c.extent)?;
        let Layout::Steps { rows: down, columns: across } = &c.src.layout else {
            bail!("a factor in registers")
        };
        let src = name(&c.src.buffer);
        let first = within_buffer(&c.src.first, &self.ranges);
        // In L1, fractals of 16 rows lie in columns; one index runs within a row of 32 bytes, the other from row to row.
        let (is_row_down, column_step) = match (down, across) {
            (Steps { block: None, .. }, Steps { block: Some((_, outer)), .. }) => (true, outer),
            (Steps { block: Some((_, outer)), .. }, Steps { block: None, .. }) => (false, outer),
            _ => bail!("{src} isn't in fractals of L1"),
        };
        let Some(column_step) = column_step.as_const() else { bail!("{src} has no constant height") };
        let (own, k) = if is_left { (rows, columns) } else { (columns, rows) };
        // Along the contracted axis L1 runs from row to row if the matrix is stored that way.
        let k_is_down = if is_left { !is_row_down } else { is_row_down };
        let is_transposed = if is_left { k_is_down } else { is_row_down };
        let (along, from_column) = (16 * fractal, column_step * size / 512);
        let (n_outer, n_inner, dst_step, src_step, stride) = match (is_left, is_transposed) {
            // Left: a row of fractals holds all of the contracted axis.
            (true, false) => (own / 16, k / fractal, 16 * k, along, from_column),
            (true, true) => (own / fractal, k / 16, 16 * k, column_step, 1),
            // Right: a row of fractals holds all columns.
            (false, true) => (k / 16, own / fractal, 16 * own, along, from_column),
            (false, false) => (k / fractal, own / 16, fractal * own, column_step, 1),
        };
        let params = format!("LoadData2DParams(0, {n_inner}, {stride}, 0, 0, {is_transposed}, 0)");
        let at = |step: i64| if n_outer == 1 { String::new() } else { format!("i * {step}") };
        let from = match (first.as_str(), at(src_step)) {
            ("0", i) if i.is_empty() => src,
            ("0", i) => format!("{src}[{i}]"),
            (f, i) if i.is_empty() => format!("{src}[{f}]"),
            (f, i) => format!("{src}[{f} + {i}]"),
        };
        if n_outer == 1 {
            self.text.line(format!("LoadData({dst}, {from}, {params});"));
        } else {
            self.text.open(format!("for (int64_t i = 0; i < {n_outer}; ++i) {{"));
            self.text.line(format!("LoadData({dst}[{}], {from}, {params});", at(dst_step)));
            self.text.close();
        }
        self.fill_later(c);
        Ok(())
    }

    pub(super) fn mma(&mut self, m: &Mma) -> Result<()> {
        if self.part != Part::Cube {
            return Ok(());
        }
        let [rows, columns, k] = m.extent;
        let [c, a, b] = [&m.c, &m.a, &m.b].map(|t| name(&t.buffer));
        let fresh = match &m.fresh {
            Some(e) => self.scalar(e)?,
            None => "false".into(),
        };
        self.text
            .line(format!("Mmad({c}, {a}, {b}, MmadParams({rows}, {columns}, {k}, 0, false, {fresh}));"));
        if rows.div_ceil(16) * columns.div_ceil(16) < FEW_FRACTALS {
            self.text.line("PipeBarrier<PIPE_M>();");
        }
        Ok(())
    }

    fn fixpipe(&mut self, c: &Copy) -> Result<()> {
        let sums = self.cube(&c.src)?;
        let (n, ty) = (name(&c.src.buffer), ctype(sums.buffer.dtype)?);
        let Some(to) = self.dtype(&c.dst.buffer) else { bail!("{} isn't declared", c.dst.buffer) };
        let quant = match (sums.buffer.dtype, to) {
            (a, b) if a == b => "NoQuant",
            (DType::F32, DType::F16) => "F322F16",
            (DType::F32, DType::BF16) => "F322BF16",
            (a, b) => bail!("Fixpipe doesn't convert {a} to {b}"),
        };
        let Layout::Steps { columns: Steps { block: Some((_, outer)), .. }, .. } = &c.src.layout else {
            bail!("{n} isn't in fractals")
        };
        let Some(height) = outer.as_const().map(|o| o / 16) else { bail!("{n} has no constant height") };
        let [rows, columns] = [self.extent(&c.extent[0]), self.extent(&c.extent[1])];
        let ld = self.index(&row_step(&c.dst)?);
        let from = self.index(&c.dst.first);
        let place = self.ring(&c.dst.buffer, &from);
        let is_ring = self.local(&c.dst.buffer).is_some_and(|l| l.role == Role::Ring);
        self.text.line(format!("{n}Queue.EnQue({n});"));
        self.text.line(format!("{n} = {n}Queue.DeQue<{ty}>();"));
        self.text.line("FixpipeParamsV220 out;");
        self.text.line(format!("out.mSize = {rows}, out.nSize = {columns};"));
        self.text.line(format!("out.srcStride = {height}, out.dstStride = {ld}, out.quantPre = {quant};"));
        if is_ring {
            self.text.line("if (turn >= RING) CrossCoreWaitFlag(READ);");
        }
        self.text.line(format!("Fixpipe<{}, {ty}, CFG_ROW_MAJOR>({place}, {n}, out);", ctype(to)?));
        if is_ring {
            self.text.line("CrossCoreSetFlag<2, PIPE_FIX>(READY);");
        }
        self.text.line(format!("{n}Queue.FreeTensor({n});"));
        Ok(())
    }
}

fn constants(extent: &[Dim; 2]) -> Result<[i64; 2]> {
    match [extent[0].as_const(), extent[1].as_const()] {
        [Some(r), Some(c)] => Ok([r, c]),
        _ => bail!("tiles of the cube unit have constant extents"),
    }
}

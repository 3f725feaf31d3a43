//! Copies between global memory and the unified buffer, and the queues by which pipes hand buffers over.

use super::roles::{Local, Role};
use super::text::{constant, ctype, name};
use super::writer::{Part, Writer};
use aic_ir::dim::{Dim, Sym};
use aic_ir::error::Result;
use aic_ir::kernel::{Copy, Layout, Scope, Tile};
use aic_ir::scalar::Scalar;
use aic_ir::{bail, ensure};

impl<'a> Writer<'a> {
    pub(super) fn copy(&mut self, c: &'a Copy) -> Result<()> {
        let [dst, src] = [&c.dst, &c.src].map(|t| self.local(&t.buffer));
        let is_ub = |l: Option<&Local>| l.is_some_and(|l| l.buffer.scope == Scope::Ub);
        match (is_ub(dst), is_ub(src)) {
            (true, false) => self.copy_in(c),
            (false, true) => self.copy_out(c),
            (true, true) => bail!("copies within the unified buffer have no form yet"),
            _ => self.cube_copy(c),
        }
    }

    fn copy_in(&mut self, c: &Copy) -> Result<()> {
        let Some(local) = self.local(&c.dst.buffer) else { return Ok(()) };
        ensure!(c.dst.first.is(0), "rows of {} begin within it", c.dst.buffer);
        let (n, t, size) =
            (name(&c.dst.buffer), ctype(local.buffer.dtype)?, local.buffer.dtype.size() as i64);
        let valid = c.valid.as_ref().unwrap_or(&c.extent);
        if *valid != c.extent {
            let zero = constant(local.buffer.dtype, Scalar::zero(local.buffer.dtype))?;
            let len = local.len;
            self.vector(&[], &n, &format!("Duplicate({n}, {zero}, {len});"));
            self.flag("V_MTE2");
        }
        let from = self.index(&c.src.first);
        let [rows, columns] = [self.extent(&valid[0]), self.extent(&valid[1])];
        let (src_row, dst_row) = (row_step(&c.src)?, row_step(&c.dst)?);
        let gap = self.gap(&rows, &columns, src_row, size);
        let skip = self.skip(&rows, &columns, dst_row, size);
        // A single element fills its block, for instructions that take it as a row.
        let is_padded = local.is_spread || columns == "1" && rows != "1" && size < 8;
        let right = if is_padded { 32 / size - 1 } else { 0 };
        let bytes = bytes(&columns, size);
        let place = self.ring(&c.src.buffer, &from);
        // Rows may all lie beyond the end of the matrix.
        let guard = if rows.parse::<i64>().is_err() { format!("if ({rows} > 0) ") } else { String::new() };
        self.text.line(format!(
            "{guard}DataCopyPad({n}, {place}, DataCopyExtParams({rows}, {bytes}, {gap}, {skip}, 0), \
             DataCopyPadExtParams<{t}>({is_padded}, 0, {right}, ({t})0));"
        ));
        match &c.token {
            Some(token) => self.filled.entry(token.clone()).or_default().push(c.dst.buffer.clone()),
            None => self.hand_over(&n, t),
        }
        Ok(())
    }

    /// Bytes between rows in global memory, whose beginnings lie `step` elements apart.
    fn gap(&self, rows: &str, columns: &str, step: Dim, size: i64) -> String {
        match rows {
            "1" => "0".into(),
            _ => format!("{} - {columns} * {size}", self.index(&(step * size.into()))),
        }
    }

    /// Blocks of 32 bytes between rows on the chip, whose beginnings lie `step` elements apart.
    fn skip(&self, rows: &str, columns: &str, step: Dim, size: i64) -> String {
        let row = format!("({columns} * {size} + 31) / 32 * 32");
        match rows {
            "1" => "0".into(),
            _ => format!("({} - {row}) / 32", self.index(&(step * size.into()))),
        }
    }

    /// From the pipe that filled a buffer to the one that uses it.
    pub(super) fn hand_over(&mut self, n: &str, t: &str) {
        self.text.line(format!("{n}Queue.EnQue({n});"));
        self.text.line(format!("{n} = {n}Queue.DeQue<{t}>();"));
    }

    /// A tensor of global memory from an element on; of a ring, the tile at hand.
    pub(super) fn ring(&self, buffer: &Sym, from: &str) -> String {
        let place = match self.local(buffer) {
            Some(l) if l.role == Role::Ring => {
                let at = if from == "0" { String::new() } else { format!(" + {from}") };
                return format!("{}Gm[turn % RING * {}{at}]", name(buffer), l.len);
            }
            _ => self.place(buffer),
        };
        if from == "0" { place } else { format!("{place}[{from}]") }
    }

    fn copy_out(&mut self, c: &Copy) -> Result<()> {
        let Some(local) = self.local(&c.src.buffer) else { return Ok(()) };
        ensure!(c.src.first.is(0), "rows of {} begin within it", c.src.buffer);
        let (n, t, size) =
            (name(&c.src.buffer), ctype(local.buffer.dtype)?, local.buffer.dtype.size() as i64);
        if local.role == Role::Out {
            self.hand_over(&n, t);
        }
        let [rows, columns] = [self.extent(&c.extent[0]), self.extent(&c.extent[1])];
        let (src_row, dst_row) = (row_step(&c.src)?, row_step(&c.dst)?);
        let skip = self.skip(&rows, &columns, src_row, size);
        let gap = self.gap(&rows, &columns, dst_row, size);
        let to = self.index(&c.dst.first);
        let place = self.ring(&c.dst.buffer, &to);
        let bytes = bytes(&columns, size);
        let line =
            format!("DataCopyPad({place}, {n}, DataCopyExtParams({rows}, {bytes}, {skip}, {gap}, 0));");
        // Rows may all lie beyond the end of the matrix.
        if rows.parse::<i64>().is_err() {
            self.text.line(format!("if ({rows} > 0) {line}"));
        } else {
            self.text.line(line);
        }
        Ok(())
    }

    pub(super) fn commit(&mut self, token: &Sym) {
        for b in self.filled.get(token).cloned().unwrap_or_default() {
            let Some(local) = self.local(&b) else { continue };
            if (local.role == Role::Cube) != (self.part == Part::Cube) {
                continue;
            }
            let (n, next) = (name(&b), if local.role == Role::Cube { "Next" } else { "" });
            self.text.line(format!("{n}Queue.EnQue({n}{next});"));
        }
    }

    pub(super) fn wait(&mut self, token: &Sym) -> Result<()> {
        for b in self.filled.get(token).cloned().unwrap_or_default() {
            let Some(local) = self.local(&b) else { continue };
            if (local.role == Role::Cube) != (self.part == Part::Cube) {
                continue;
            }
            let (n, t) = (name(&b), ctype(local.buffer.dtype)?);
            if local.role == Role::Cube {
                self.text.line(format!("LocalTensor<{t}> {n} = {n}Queue.DeQue<{t}>();"));
                if let Some(taken) = self.taken.last_mut() {
                    taken.push(n);
                }
            } else {
                self.text.line(format!("{n} = {n}Queue.DeQue<{t}>();"));
            }
        }
        if self.part != Part::Cube {
            self.filled.remove(token);
        }
        Ok(())
    }
}

fn bytes(columns: &str, size: i64) -> String {
    match columns.parse::<i64>() {
        Ok(n) => (n * size).to_string(),
        Err(_) if size == 1 => columns.into(),
        Err(_) => format!("{columns} * {size}"),
    }
}

/// Elements from row to row of a matrix of consecutive columns.
pub(super) fn row_step(t: &Tile) -> Result<Dim> {
    match &t.layout {
        Layout::Steps { rows, columns }
            if rows.block.is_none() && columns.block.is_none() && columns.step.is(1) =>
        {
            Ok(rows.step.clone())
        }
        _ => bail!("{} isn't a row-major matrix", t.buffer),
    }
}

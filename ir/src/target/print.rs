//! Prints targets as tables.

use super::{Extents, MatrixUnit, Move, ParallelLevel, Space, Target};
use crate::kernel::{LoopKind, Operand};
use std::fmt::{Display, Formatter, Result};

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "{}: {}", self.name, self.about)?;
        write!(f, "vectors: {} bytes", self.vector_bytes)?;
        match self.vector_registers {
            0 => writeln!(f)?,
            n => writeln!(f, ", {n} registers")?,
        }
        let dtypes: Vec<&str> = self.dtypes.iter().map(|t| t.keyword()).collect();
        writeln!(f, "computes with: {}", dtypes.join(" "))?;
        writeln!(f, "memory hierarchy:")?;
        for m in &self.memory {
            let size = if m.bytes == u64::MAX { "-".into() } else { bytes(m.bytes) };
            writeln!(f, "  {:<10} {size:>10} {:>12} lines of {}", m.name, rate(m.bandwidth), m.line)?;
        }
        section(f, "buffers:", &self.spaces)?;
        section(f, "parallel loops:", &self.levels)?;
        section(f, "copies:", &self.moves)?;
        section(f, "matrix instructions:", &self.matrix)?;
        let l = &self.limits;
        let limits = [
            ("threads per block", l.threads),
            ("threads per warp", l.warp),
            ("registers per block", l.registers),
            ("buffers per queue", l.queue_buffers),
            ("buffers per kernel", l.buffers),
            ("bytes of code", l.code_bytes),
        ];
        for (name, limit) in limits.iter().filter(|(_, limit)| *limit > 0) {
            writeln!(f, "{name}: {limit}")?;
        }
        Ok(())
    }
}

fn section(f: &mut Formatter<'_>, title: &str, rows: &[impl Display]) -> Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(f, "{title}")?;
    rows.iter().try_for_each(|row| writeln!(f, "  {row}"))
}

impl Display for Space {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let size = self.bytes.map_or("-".into(), bytes);
        write!(f, "{:<10} {size:>10} aligned to {}", self.scope.keyword(), self.alignment)?;
        if self.is_addressable { Ok(()) } else { f.write_str(", for copies and matrix instructions") }
    }
}

impl Display for ParallelLevel {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let kind = match self.kind {
            LoopKind::Parallel => "parallel".to_owned(),
            LoopKind::Bind(level) => level.to_string(),
            _ => "serial".to_owned(),
        };
        let extent = self.extent.map_or("-".into(), |n| format!("{n}"));
        write!(f, "{kind:<17} {extent:>10}")?;
        match self.units {
            0 => f.write_str(", as many at a time as the machine has"),
            n => write!(f, ", {n} at a time"),
        }
    }
}

impl Display for Move {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let [src, dst] = self.alignment;
        write!(f, "{:<9} -> {:<9} {:>12}", self.from.keyword(), self.to.keyword(), rate(self.bandwidth))?;
        write!(f, ", aligned to {src} and {dst}")?;
        if self.is_async {
            f.write_str(", asynchronous")?;
        }
        if !self.sizes.is_empty() {
            let sizes: Vec<String> = self.sizes.iter().map(u32::to_string).collect();
            write!(f, ", of {} bytes", sizes.join(", "))?;
        }
        if self.columns > 1 {
            write!(f, ", multiples of {} columns", self.columns)?;
        }
        for size in &self.transposes {
            write!(f, ", transposes elements of {size} bytes")?;
        }
        for (k, (from, to)) in self.converts.iter().enumerate() {
            write!(f, "{}{from} to {to}", if k == 0 { ", converts " } else { ", " })?;
        }
        Ok(())
    }
}

impl Display for Extents {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self.step == self.most {
            true => write!(f, "{}", self.step),
            false => write!(f, "{}..{}", self.step, self.most),
        }
    }
}

impl Display for MatrixUnit {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let [m, n, k] = self.extents;
        write!(f, "{:<18} {m} x {n} x {k}:", self.name)?;
        for (operand, sign) in Operand::ALL.into_iter().zip(["", " +=", " *"]) {
            let scopes: Vec<&str> = self.scopes(operand).iter().map(|s| s.keyword()).collect();
            write!(f, "{sign} {} {}", self.dtype(operand), scopes.join("|"))?;
        }
        write!(f, ", {} bits", self.precision)?;
        if self.threads > 1 {
            write!(f, ", {} threads", self.threads)?;
        }
        if self.is_async {
            f.write_str(", asynchronous")?;
        }
        write!(f, ", {:.0} Tops/s", self.peak / 1e12)
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..=1023 => format!("{n} B"),
        1024..=0xF_FFFF => format!("{} KiB", round(n as f64 / 1024.0)),
        _ => format!("{} MiB", round(n as f64 / f64::from(1u32 << 20))),
    }
}

fn round(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn rate(bandwidth: f64) -> String {
    format!("{:.1} GB/s", bandwidth / 1e9)
}

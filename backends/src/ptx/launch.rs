//! How a kernel is launched: read off its loops that are bound to hardware.

use super::SHARED_ALIGNMENT;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Fetch, Kernel, Level, LoopKind, Scope, Stmt};
use aic_ir::{bail, ensure};

/// Bytes that buffers in shared memory begin at multiples of.
const ALIGNMENT: u32 = 128;

/// An array that boxes are copied of: what a tensor map holds (CUDA Driver API, `cuTensorMapEncodeTiled`). All of it is in
/// terms of the kernel's symbols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoxMap {
    /// The number of the buffer among the kernel's parameters.
    pub param: usize,
    /// The type of the elements.
    pub dtype: DType,
    /// The array's first element in the buffer.
    pub first: Dim,
    /// The extent of each axis, the innermost first, and elements from index to index.
    pub axes: Vec<(Dim, Dim)>,
    /// Columns and rows of a box.
    pub extent: [u32; 2],
    buffer: Sym,
}

impl BoxMap {
    /// Whether a copy is of these boxes.
    pub(crate) fn is_of(&self, f: &Fetch) -> bool {
        let axes = f.axes.iter().map(|a| (&a.extent, &a.step));
        let [rows, columns] = f.extent;
        self.buffer == f.src.buffer
            && self.first == f.src.at
            && self.extent == [columns, rows]
            && self.axes.iter().map(|(extent, step)| (extent, step)).eq(axes)
    }
}

/// The grid, the blocks and the shared memory of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along x, y and z, in terms of the kernel's symbols. Nothing is to be launched if one is 0.
    pub grid: [Dim; 3],
    /// Threads of a block along x, y and z; those of a warp are neighbours along x.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// What boxes are copied of.
    pub maps: Vec<BoxMap>,
    /// Where the buffers in shared memory begin.
    pub(crate) shared: Vec<(String, u32)>,
    /// Whether threads are counted in warps.
    pub(crate) has_warps: bool,
}

impl Launch {
    /// The launch of a kernel.
    ///
    /// # Errors
    /// If its loops are none that can be launched: more than one nest of threads, threads of unknown number.
    pub fn of(kernel: &Kernel) -> Result<Launch> {
        let one = || Dim::from(1);
        let mut launch = Launch {
            grid: [one(), one(), one()],
            threads: [1; 3],
            shared_bytes: 0,
            maps: Vec::new(),
            shared: Vec::new(),
            has_warps: false,
        };
        let mut seen = Vec::new();
        launch.block(kernel, &kernel.body, &mut seen)?;
        ensure!(launch.threads[1] == 1 || !launch.has_warps, "warps are along one axis of threads");
        Ok(launch)
    }

    fn block(&mut self, kernel: &Kernel, stmts: &[Stmt], seen: &mut Vec<Level>) -> Result<()> {
        for s in stmts {
            match s {
                Stmt::For { end, kind: LoopKind::Bind(level), body, var, .. } => {
                    ensure!(!seen.contains(level), "loop {var}: a second one is bound to a {level}");
                    seen.push(*level);
                    self.level(*level, end)?;
                    self.block(kernel, body, seen)?;
                }
                Stmt::For { body, .. } | Stmt::While { body, .. } => self.block(kernel, body, seen)?,
                Stmt::If { then, other, .. } => {
                    self.block(kernel, then, seen)?;
                    self.block(kernel, other, seen)?;
                }
                Stmt::Alloc(b) if matches!(b.scope, Scope::Shared | Scope::Swizzled) => self.alloc(b)?,
                Stmt::Fetch(f) => self.map(kernel, f)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn level(&mut self, level: Level, extent: &Dim) -> Result<()> {
        let count = || match extent.as_const() {
            Some(n @ 1..=1024) => Ok(n as u32),
            _ => bail!("a block has a constant number of threads, not {extent}"),
        };
        match level {
            Level::Block(axis @ 0..3) => self.grid[usize::from(axis)] = extent.clone(),
            Level::Warp => {
                self.has_warps = true;
                self.threads[0] *= count()?;
            }
            Level::Thread(axis @ 0..3) => self.threads[usize::from(axis)] *= count()?,
            _ => bail!("a GPU has no {level}"),
        }
        Ok(())
    }

    /// Notes what a box is copied of.
    fn map(&mut self, kernel: &Kernel, f: &Fetch) -> Result<()> {
        if self.maps.iter().any(|m| m.is_of(f)) {
            return Ok(());
        }
        let Some(param) = kernel.params.iter().position(|p| p.buffer.name == f.src.buffer) else {
            bail!("a box is copied of {}, which is no parameter", f.src.buffer)
        };
        let axes: Vec<(Dim, Dim)> = f.axes.iter().map(|a| (a.extent.clone(), a.step.clone())).collect();
        let of_map = axes.iter().flat_map(|(extent, step)| [extent, step]).chain([&f.src.at]);
        let is_known = |d: &Dim| d.symbols().iter().all(|s| kernel.symbols.iter().any(|(k, _)| k == s));
        ensure!(of_map.into_iter().all(is_known), "the array of `{f}` depends on a loop");
        let [rows, columns] = f.extent;
        let Buffer { dtype, name, .. } = &kernel.params[param].buffer;
        let (dtype, buffer, first) = (*dtype, name.clone(), f.src.at.clone());
        self.maps.push(BoxMap { param, dtype, first, axes, extent: [columns, rows], buffer });
        Ok(())
    }

    fn alloc(&mut self, b: &Buffer) -> Result<()> {
        let Some(len) = b.len.as_const() else {
            bail!("buffer {} has length {}, not a constant", b.name, b.len)
        };
        let size = if b.dtype == DType::Bool { 1 } else { b.dtype.size() as i64 };
        let Ok(bytes) = u32::try_from(len.saturating_mul(size)) else {
            bail!("buffer {} has {len} elements", b.name)
        };
        if self.shared.iter().all(|(name, _)| name != b.name.name()) {
            if b.scope == Scope::Swizzled {
                self.shared_bytes = self.shared_bytes.next_multiple_of(SHARED_ALIGNMENT);
            }
            self.shared.push((b.name.name().to_owned(), self.shared_bytes));
            self.shared_bytes = self.shared_bytes.saturating_add(bytes).next_multiple_of(ALIGNMENT);
        }
        Ok(())
    }
}

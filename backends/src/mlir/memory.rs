//! Loads, stores and copies of a kernel.

use super::loops::Loops;
use super::scalar;
use super::text::{element, extents, vector};
use aic_ir::bail;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Copy, Expr, Layout, LoopKind, Stmt, Tile, VType};
use aic_ir::scalar::{Scalar, ScalarFn};

/// A buffer.
#[derive(Clone)]
pub(crate) struct Array {
    /// The memref.
    pub name: String,
    /// Its type.
    pub ty: String,
    /// The element type in registers.
    pub dtype: DType,
}

impl Array {
    /// A flat buffer.
    pub fn new(name: String, dtype: DType, len: &Dim) -> Array {
        let ty = format!("memref<{}{}>", extents(std::slice::from_ref(len)), element(stored(dtype)));
        Array { name, ty, dtype }
    }
}

/// The element type in memory.
fn stored(dtype: DType) -> DType {
    if dtype == DType::Bool { DType::U8 } else { dtype }
}

/// How an access finds its elements.
enum Place {
    /// One after the other from here.
    Consecutive(String),
    /// Each at its own index.
    Scattered(String),
}

impl Loops {
    fn place(&mut self, index: &Expr) -> Result<Place> {
        if let Some((base, stride, lanes)) = index.as_ramp()
            && (lanes == 1 || stride.is(1))
        {
            return Ok(Place::Consecutive(self.symbols.index(&mut self.w, &base)));
        }
        let (ty, at) = (self.ty(index)?, self.expr(index)?);
        Ok(match ty.lanes {
            1 => Place::Consecutive(self.w.value(format!("arith.index_cast {at} : i64 to index"))),
            _ => Place::Scattered(at),
        })
    }

    /// Elements of a buffer; zero where the mask is false.
    pub fn load(&mut self, from: &Array, index: &Expr, mask: Option<&str>) -> Result<String> {
        let lanes = self.ty(index)?.lanes;
        let ty = VType { dtype: stored(from.dtype), lanes };
        let (t, x, m) = (vector(ty), &from.name, &from.ty);
        let truth = vector(VType { dtype: DType::Bool, lanes });
        let loaded = match (self.place(index)?, mask) {
            (Place::Consecutive(at), None) if lanes == 1 => {
                self.w.effect(format!("memref.load {x}[{at}] : {m}"))
            }
            (Place::Consecutive(at), None) => self.w.effect(format!("vector.load {x}[{at}] : {m}, {t}")),
            (Place::Consecutive(at), Some(mask)) if lanes == 1 => {
                let zero = self.w.scalar(ty, Scalar::zero(ty.dtype));
                let result = self.w.fresh();
                self.w.open(&format!("{result} = scf.if {mask} -> ({t}) {{"));
                let loaded = self.w.effect(format!("memref.load {x}[{at}] : {m}"));
                self.w.line(&format!("scf.yield {loaded} : {t}"));
                self.w.reopen("} else {");
                self.w.line(&format!("scf.yield {zero} : {t}"));
                self.w.close("}");
                result
            }
            (Place::Consecutive(at), Some(mask)) => {
                let zero = self.w.scalar(ty, Scalar::zero(ty.dtype));
                let types = format!("{m}, {truth}, {t} into {t}");
                self.w.effect(format!("vector.maskedload {x}[{at}], {mask}, {zero} : {types}"))
            }
            (Place::Scattered(at), mask) => {
                let mask = mask.map_or_else(|| self.all(lanes), str::to_owned);
                let (zero, first) = (self.w.scalar(ty, Scalar::zero(ty.dtype)), self.w.index(0));
                let types = format!("{m}, vector<{lanes}xi64>, {truth}, {t} into {t}");
                self.w.effect(format!("vector.gather {x}[{first}] [{at}], {mask}, {zero} : {types}"))
            }
        };
        Ok(scalar::cast(&mut self.w, ty, from.dtype, &loaded))
    }

    /// Writes a value of type `ty` to a buffer where the mask is true.
    pub fn store(
        &mut self,
        to: &Array,
        index: &Expr,
        ty: VType,
        value: &str,
        mask: Option<&str>,
    ) -> Result<()> {
        let value = scalar::cast(&mut self.w, ty, stored(to.dtype), value);
        let lanes = ty.lanes;
        let (t, x, m) = (vector(VType { dtype: stored(to.dtype), lanes }), &to.name, &to.ty);
        let truth = vector(VType { dtype: DType::Bool, lanes });
        let place = self.place(index)?;
        match (place, mask) {
            (Place::Consecutive(at), None) if lanes == 1 => {
                self.w.line(&format!("memref.store {value}, {x}[{at}] : {m}"));
            }
            (Place::Consecutive(at), Some(mask)) if lanes == 1 => {
                self.w.open(&format!("scf.if {mask} {{"));
                self.w.line(&format!("memref.store {value}, {x}[{at}] : {m}"));
                self.w.close("}");
            }
            (Place::Consecutive(at), None) => {
                self.w.line(&format!("vector.store {value}, {x}[{at}] : {m}, {t}"));
            }
            (Place::Consecutive(at), Some(mask)) => {
                self.w.line(&format!("vector.maskedstore {x}[{at}], {mask}, {value} : {m}, {truth}, {t}"));
            }
            (Place::Scattered(at), mask) => {
                let mask = mask.map_or_else(|| self.all(lanes), str::to_owned);
                let first = self.w.index(0);
                let types = format!("{m}, vector<{lanes}xi64>, {truth}, {t}");
                self.w.line(&format!("vector.scatter {x}[{first}] [{at}], {mask}, {value} : {types}"));
            }
        }
        Ok(())
    }

    /// A mask that is true in every lane.
    fn all(&mut self, lanes: u32) -> String {
        self.w.scalar(VType { dtype: DType::Bool, lanes }, Scalar::B(true))
    }

    /// A copy of a tile, element by element.
    pub fn copy(&mut self, c: &Copy) -> Result<()> {
        let [row, column] = ["copy row", "copy column"].map(Sym::new);
        let at = |tile: &Tile| match &tile.layout {
            Layout::Steps { rows, columns } => {
                Ok(tile.first.clone() + rows.at(&Dim::sym(&row)) + columns.at(&Dim::sym(&column)))
            }
            Layout::Fragment { intrinsic, .. } => {
                bail!("the operands of the matrix instruction `{intrinsic}` have no form in MLIR")
            }
        };
        let (from, to) = (self.array(&c.src.buffer)?, self.array(&c.dst.buffer)?);
        let mask = c.valid.as_ref().map(|[rows, columns]| {
            let below = |s: &Sym, end: &Dim| {
                Expr::call(ScalarFn::Lt, [Expr::Index(Dim::sym(s)), Expr::Index(end.clone())])
            };
            Expr::call(ScalarFn::And, [below(&row, rows), below(&column, columns)])
        });
        let load = Expr::Load {
            buffer: c.src.buffer.clone(),
            index: Expr::Index(at(&c.src)?).into(),
            mask: mask.map(Box::new),
        };
        let value = if from.dtype == to.dtype { load } else { Expr::Cast(to.dtype, load.into()) };
        let store = Stmt::store(&c.dst.buffer, Expr::Index(at(&c.dst)?), value);
        let [n_rows, n_columns] = c.extent.clone();
        let inner = Stmt::loop_of(&column, n_columns, LoopKind::Serial, vec![store]);
        self.statement(&Stmt::loop_of(&row, n_rows, LoopKind::Serial, vec![inner]))
    }
}

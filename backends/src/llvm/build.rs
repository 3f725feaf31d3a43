//! Instruction building over scalars and vectors alike: a thin layer on inkwell's builder.
//!
//! Everything here takes well typed operands; [`crate::emit`] checks types before it builds, as LLVM doesn't.

use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::VType;
use aic_ir::scalar::Scalar;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::basic_block::BasicBlock;
use inkwell::builder::{Builder, BuilderError};
use inkwell::context::Context;
use inkwell::intrinsics::Intrinsic;
use inkwell::llvm_sys::core::LLVMBuildGEP2;
use inkwell::module::Module;
use inkwell::types::{BasicType, BasicTypeEnum};
use inkwell::values::{
    AsValueRef, BasicMetadataValueEnum, BasicValue, BasicValueEnum, FastMathFlags, FunctionValue,
    InstructionOpcode, IntValue, PointerValue, VectorValue,
};
use inkwell::{FloatPredicate, IntPredicate};

/// An LLVM value: a scalar, a vector or a pointer.
pub(super) type Raw<'c> = BasicValueEnum<'c>;

/// Builds instructions at one place of one module.
pub(super) struct Inkwell<'a, 'c> {
    pub context: &'c Context,
    pub module: &'a Module<'c>,
    pub builder: Builder<'c>,
}

/// A failure of the builder: never the user's fault.
pub(super) fn internal(e: impl std::fmt::Display) -> Error {
    Error::new(format!("LLVM cannot build an instruction: {e}"))
        .help("this is a bug in aic; please report it")
}

impl<'a, 'c> Inkwell<'a, 'c> {
    pub fn new(context: &'c Context, module: &'a Module<'c>) -> Self {
        Inkwell { context, module, builder: context.create_builder() }
    }

    /// The type of values in registers: `bool` is `i1`, 16-bit floats are their bits.
    pub fn ty(&self, t: VType) -> BasicTypeEnum<'c> {
        self.lanes_of(self.element(t.dtype), t.lanes)
    }

    fn element(&self, dtype: DType) -> BasicTypeEnum<'c> {
        match dtype {
            DType::F64 => self.context.f64_type().into(),
            DType::F32 => self.context.f32_type().into(),
            DType::Bool => self.context.bool_type().into(),
            _ => self.int_ty(8 * dtype.size() as u32),
        }
    }

    /// The type of values in memory: as in registers, but `bool` is a byte.
    pub fn memory_ty(&self, t: VType) -> BasicTypeEnum<'c> {
        match t.dtype {
            DType::Bool => self.lanes_of(self.context.i8_type().into(), t.lanes),
            _ => self.ty(t),
        }
    }

    pub fn int_ty(&self, bits: u32) -> BasicTypeEnum<'c> {
        match bits {
            8 => self.context.i8_type(),
            16 => self.context.i16_type(),
            32 => self.context.i32_type(),
            _ => self.context.i64_type(),
        }
        .into()
    }

    /// A vector type of `n` lanes; the element type itself for one lane.
    pub fn lanes_of(&self, element: BasicTypeEnum<'c>, n: u32) -> BasicTypeEnum<'c> {
        match element {
            _ if n == 1 => element,
            BasicTypeEnum::IntType(t) => t.vec_type(n).into(),
            BasicTypeEnum::FloatType(t) => t.vec_type(n).into(),
            other => other,
        }
    }

    pub fn i64(&self, value: i64) -> IntValue<'c> {
        self.context.i64_type().const_int(value as u64, true)
    }

    pub fn i32(&self, value: i32) -> IntValue<'c> {
        self.context.i32_type().const_int(value as u64, true)
    }

    pub fn i1(&self, value: bool) -> IntValue<'c> {
        self.context.bool_type().const_int(value.into(), false)
    }

    /// A constant of the element type, in every lane.
    pub fn constant(&self, t: VType, value: Scalar) -> Result<Raw<'c>> {
        let scalar: Raw = match t.dtype {
            DType::F64 => self.context.f64_type().const_float(value.cast(DType::F64).as_f64()).into(),
            DType::F32 => self.context.f32_type().const_float(value.cast(DType::F32).as_f64()).into(),
            DType::Bool => self.i1(value.as_bool()).into(),
            dtype => {
                let mut bytes = Vec::new();
                aic_ir::tensor::write_scalar(dtype, value, &mut bytes);
                let bits = bytes.iter().rev().fold(0, |bits, b| bits << 8 | u64::from(*b));
                self.element(dtype).into_int_type().const_int(bits, false).into()
            }
        };
        self.splat(scalar, t.lanes)
    }

    /// An integer constant of the given type's element width, in every lane.
    pub fn int_like(&self, like: Raw<'c>, value: i64) -> Result<Raw<'c>> {
        match like {
            Raw::VectorValue(v) => {
                let element = v.get_type().get_element_type().into_int_type();
                self.splat(element.const_int(value as u64, true).into(), v.get_type().get_size())
            }
            Raw::IntValue(v) => Ok(v.get_type().const_int(value as u64, true).into()),
            _ => Err(internal("an integer was expected")),
        }
    }

    pub fn bin(&self, op: InstructionOpcode, a: Raw<'c>, b: Raw<'c>) -> Result<Raw<'c>> {
        self.builder.build_binop(op, a, b, "").map_err(internal)
    }

    pub fn cast(&self, op: InstructionOpcode, a: Raw<'c>, to: BasicTypeEnum<'c>) -> Result<Raw<'c>> {
        if a.get_type() == to {
            return Ok(a);
        }
        self.builder.build_cast(op, a, to, "").map_err(internal)
    }

    /// The same bits as another type of the same size.
    pub fn bitcast(&self, a: Raw<'c>, to: BasicTypeEnum<'c>) -> Result<Raw<'c>> {
        self.cast(InstructionOpcode::BitCast, a, to)
    }

    pub fn icmp(&self, p: IntPredicate, a: Raw<'c>, b: Raw<'c>) -> Result<Raw<'c>> {
        let result: std::result::Result<Raw, BuilderError> = match (a, b) {
            (Raw::VectorValue(a), Raw::VectorValue(b)) => {
                self.builder.build_int_compare(p, a, b, "").map(Into::into)
            }
            (Raw::IntValue(a), Raw::IntValue(b)) => {
                self.builder.build_int_compare(p, a, b, "").map(Into::into)
            }
            _ => return Err(internal("integers were expected")),
        };
        result.map_err(internal)
    }

    pub fn fcmp(&self, p: FloatPredicate, a: Raw<'c>, b: Raw<'c>) -> Result<Raw<'c>> {
        let result: std::result::Result<Raw, BuilderError> = match (a, b) {
            (Raw::VectorValue(a), Raw::VectorValue(b)) => {
                self.builder.build_float_compare(p, a, b, "").map(Into::into)
            }
            (Raw::FloatValue(a), Raw::FloatValue(b)) => {
                self.builder.build_float_compare(p, a, b, "").map(Into::into)
            }
            _ => return Err(internal("floats were expected")),
        };
        result.map_err(internal)
    }

    pub fn fneg(&self, a: Raw<'c>) -> Result<Raw<'c>> {
        match a {
            Raw::VectorValue(a) => self.builder.build_float_neg(a, "").map(Into::into),
            Raw::FloatValue(a) => self.builder.build_float_neg(a, "").map(Into::into),
            _ => return Err(internal("a float was expected")),
        }
        .map_err(internal)
    }

    pub fn select(&self, cond: Raw<'c>, a: Raw<'c>, b: Raw<'c>) -> Result<Raw<'c>> {
        match cond {
            Raw::VectorValue(c) => self.builder.build_select(c, a, b, ""),
            Raw::IntValue(c) => self.builder.build_select(c, a, b, ""),
            _ => return Err(internal("a condition was expected")),
        }
        .map_err(internal)
    }

    /// Calls an intrinsic without a result.
    pub fn intrinsic_void(
        &self,
        name: &str,
        overloads: &[BasicTypeEnum<'c>],
        args: &[Raw<'c>],
    ) -> Result<()> {
        self.call_raw(self.intrinsic_decl(name, overloads)?, args).map(drop)
    }

    /// Calls an intrinsic, with the given liberties for floats.
    pub fn intrinsic(
        &self,
        name: &str,
        overloads: &[BasicTypeEnum<'c>],
        args: &[Raw<'c>],
        flags: FastMathFlags,
    ) -> Result<Raw<'c>> {
        let value = self.call(self.intrinsic_decl(name, overloads)?, args)?;
        if let (false, Some(i)) = (flags.is_empty(), value.as_instruction_value()) {
            i.set_fast_math_flags(flags).map_err(internal)?;
        }
        Ok(value)
    }

    fn intrinsic_decl(&self, name: &str, overloads: &[BasicTypeEnum<'c>]) -> Result<FunctionValue<'c>> {
        Intrinsic::find(name)
            .and_then(|i| i.get_declaration(self.module, overloads))
            .ok_or_else(|| internal(format!("no intrinsic `{name}`")))
    }

    /// Calls a function that gives a value.
    pub fn call(&self, function: FunctionValue<'c>, args: &[Raw<'c>]) -> Result<Raw<'c>> {
        self.call_raw(function, args)?
            .try_as_basic_value()
            .basic()
            .ok_or_else(|| internal("the function has no result"))
    }

    fn call_raw(
        &self,
        function: FunctionValue<'c>,
        args: &[Raw<'c>],
    ) -> Result<inkwell::values::CallSiteValue<'c>> {
        let args: Vec<BasicMetadataValueEnum> = args.iter().map(|a| (*a).into()).collect();
        self.builder.build_call(function, &args, "").map_err(internal)
    }

    /// Sets the alignment of the pointer that is argument `at` of the intrinsic just called.
    pub fn aligned_intrinsic(
        &self,
        name: &str,
        overloads: &[BasicTypeEnum<'c>],
        args: &[Raw<'c>],
        at: u32,
        align: u32,
    ) -> Result<Option<Raw<'c>>> {
        let call = self.call_raw(self.intrinsic_decl(name, overloads)?, args)?;
        let kind = Attribute::get_named_enum_kind_id("align");
        call.add_attribute(AttributeLoc::Param(at), self.context.create_enum_attribute(kind, align.into()));
        Ok(call.try_as_basic_value().basic())
    }

    /// The scalar in each of `n` lanes; the scalar itself for one lane.
    pub fn splat(&self, scalar: Raw<'c>, n: u32) -> Result<Raw<'c>> {
        if n == 1 {
            return Ok(scalar);
        }
        let vector = self.lanes_of(scalar.get_type(), n).into_vector_type();
        let zeros = self.context.i32_type().vec_type(n).const_zero();
        let one = self.builder.build_insert_element(vector.get_poison(), scalar, self.i32(0), "");
        let one = one.map_err(internal)?;
        let all = self.builder.build_shuffle_vector(one, vector.get_poison(), zeros, "").map_err(internal)?;
        Ok(all.into())
    }

    pub fn extract(&self, v: Raw<'c>, lane: u32) -> Result<Raw<'c>> {
        match v {
            Raw::VectorValue(v) => {
                self.builder.build_extract_element(v, self.i32(lane as i32), "").map_err(internal)
            }
            scalar => Ok(scalar),
        }
    }

    fn insert(&self, v: VectorValue<'c>, x: Raw<'c>, lane: u32) -> Result<VectorValue<'c>> {
        self.builder.build_insert_element(v, x, self.i32(lane as i32), "").map_err(internal)
    }

    /// A vector of scalars; of one scalar the scalar.
    pub fn join(&self, lanes: &[Raw<'c>]) -> Result<Raw<'c>> {
        let [first, _, ..] = lanes else {
            return lanes.first().copied().ok_or_else(|| internal("a vector without lanes"));
        };
        let mut out = self.lanes_of(first.get_type(), lanes.len() as u32).into_vector_type().get_poison();
        for (lane, x) in lanes.iter().enumerate() {
            out = self.insert(out, *x, lane as u32)?;
        }
        Ok(out.into())
    }

    /// The lanes in the opposite order.
    pub fn reverse(&self, v: Raw<'c>) -> Result<Raw<'c>> {
        let Raw::VectorValue(vector) = v else { return Ok(v) };
        let lanes: Vec<u32> = (0..vector.get_type().get_size()).rev().collect();
        self.shuffle(v, v, &lanes)
    }

    /// The given lanes of two vectors, those of the second numbered after those of the first.
    pub fn shuffle(&self, a: Raw<'c>, b: Raw<'c>, lanes: &[u32]) -> Result<Raw<'c>> {
        let (Raw::VectorValue(a), Raw::VectorValue(b)) = (a, b) else {
            return Err(internal("vectors were expected"));
        };
        let lanes: Vec<IntValue> = lanes.iter().map(|i| self.i32(*i as i32)).collect();
        let mask = inkwell::types::VectorType::const_vector(&lanes);
        Ok(self.builder.build_shuffle_vector(a, b, mask, "").map_err(internal)?.into())
    }

    /// `0, 1, ..` as integers of the given width; the scalar 0 for one lane.
    pub fn iota(&self, bits: u32, n: u32) -> Raw<'c> {
        let t = self.int_ty(bits).into_int_type();
        if n == 1 {
            return t.const_zero().into();
        }
        let lanes: Vec<IntValue> = (0..n).map(|i| t.const_int(i.into(), false)).collect();
        inkwell::types::VectorType::const_vector(&lanes).into()
    }

    /// The address of element `index` of an array of `element`s; a vector of addresses for a vector of indices.
    pub fn gep(&self, element: BasicTypeEnum<'c>, base: PointerValue<'c>, index: Raw<'c>) -> Raw<'c> {
        let mut indices = [index.as_value_ref()];
        // SAFETY: builder, type and values belong to one live context, and the element type is sized.
        unsafe {
            Raw::new(LLVMBuildGEP2(
                self.builder.as_mut_ptr(),
                inkwell::types::AsTypeRef::as_type_ref(&element),
                base.as_value_ref(),
                indices.as_mut_ptr(),
                1,
                c"".as_ptr(),
            ))
        }
    }

    pub fn load(&self, ty: BasicTypeEnum<'c>, from: PointerValue<'c>, align: u32) -> Result<Raw<'c>> {
        let value = self.builder.build_load(ty, from, "").map_err(internal)?;
        if let Some(i) = value.as_instruction_value() {
            i.set_alignment(align).map_err(internal)?;
        }
        Ok(value)
    }

    pub fn store(&self, to: PointerValue<'c>, value: Raw<'c>, align: u32) -> Result<()> {
        let i = self.builder.build_store(to, value).map_err(internal)?;
        i.set_alignment(align).map_err(internal).map(drop)
    }

    pub fn phi<T: BasicType<'c>>(&self, ty: T) -> Result<inkwell::values::PhiValue<'c>> {
        self.builder.build_phi(ty, "").map_err(internal)
    }

    pub fn jump(&self, to: BasicBlock<'c>) -> Result<()> {
        self.builder.build_unconditional_branch(to).map_err(internal).map(drop)
    }

    pub fn branch(&self, cond: IntValue<'c>, then: BasicBlock<'c>, other: BasicBlock<'c>) -> Result<()> {
        self.builder.build_conditional_branch(cond, then, other).map_err(internal).map(drop)
    }

    /// The block that instructions are being added to.
    pub fn here(&self) -> Result<BasicBlock<'c>> {
        self.builder.get_insert_block().ok_or_else(|| internal("no place to build at"))
    }
}

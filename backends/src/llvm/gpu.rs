//! What only a GPU has, as intrinsics of NVPTX; and modules of kernels for GPUs.

use super::build::{Inkwell, Raw, internal};
use super::code::Code;
use super::target::{Machine, Target};
use super::{failed, kernel};
use crate::emit::build::{Blocks, V, Value};
use crate::ptx::{self, Launch};
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::{Kernel, Level, Operand, VType};
use aic_ir::target::MatrixUnit;
use aic_ir::{bail, ensure};
use inkwell::AddressSpace;
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::FileType;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{FastMathFlags, InstructionOpcode as I, PointerValue};

/// Numbers of NVPTX's address spaces.
pub(super) const GLOBAL: u16 = 1;
pub(super) const SHARED: u16 = 3;

/// Threads of a warp.
const WARP: i32 = 32;

/// LLVM's passes for a GPU's kernel: those for CPUs, and what finds out about ranges and alignments.
const PASSES: &str = "function(nvvm-intr-range,sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,\
    correlated-propagation,reassociate,loop-mssa(licm),loop(loop-idiom,indvars,loop-deletion),gvn,dse,\
    correlated-propagation,instcombine<no-verify-fixpoint>,simplifycfg,infer-alignment)";

/// The module of kernels after LLVM's passes, as bitcode.
pub(crate) fn gpu_bitcode(
    kernels: &[Kernel],
    launches: &[Launch],
    target: &aic_ir::target::Target,
) -> Result<Vec<u8>> {
    crate::compile::check_names(kernels)?;
    let machine = Machine::gpu(&target.name)?;
    let context = Context::create();
    let module = context.create_module("aic");
    machine.describe(&module);
    for (k, launch) in kernels.iter().zip(launches) {
        let of = Target::gpu(&machine, target, launch);
        kernel::kernel(&context, &module, &of, k)?;
    }
    module.verify().map_err(|e| internal(format!("{e}")))?;
    module.run_passes(PASSES, &machine.machine, PassBuilderOptions::create()).map_err(failed)?;
    Ok(module.write_bitcode_to_memory().as_slice().to_vec())
}

fn read<'c>(context: &'c Context, bitcode: &[u8]) -> Result<Module<'c>> {
    let buffer = MemoryBuffer::create_from_memory_range_copy(bitcode, "aic");
    Module::parse_bitcode_from_buffer(&buffer, context).map_err(failed)
}

/// PTX of a module.
pub(crate) fn gpu_assembly(bitcode: &[u8], target: &aic_ir::target::Target) -> Result<String> {
    let context = Context::create();
    let module = read(&context, bitcode)?;
    let text = Machine::gpu(&target.name)?.write(&module, FileType::Assembly)?;
    let text = String::from_utf8(text).map_err(failed)?;
    // A name that LLVM doesn't know it takes for a function of somebody else's.
    let unknown = text.lines().find(|l| l.contains("llvm.") || l.contains(".extern .func"));
    ensure!(unknown.is_none(), "PTX has nothing for {}", unknown.unwrap_or_default().trim());
    // The end of a string of C.
    Ok(text.trim_end_matches('\0').to_owned())
}

/// A module as text.
pub(crate) fn gpu_text(bitcode: &[u8]) -> Result<String> {
    let context = Context::create();
    Ok(read(&context, bitcode)?.print_to_string().to_string())
}

/// How `mma.sync` is named, and the registers of its operands: accumulator, and a register of a factor.
fn instruction(unit: &MatrixUnit) -> Result<&'static str> {
    Ok(match unit.name.as_str() {
        "mma_m16n8k16_f16" => "llvm.nvvm.mma.m16n8k16.row.col.f32.f32",
        "mma_m16n8k16_bf16" => "llvm.nvvm.mma.m16n8k16.row.col.bf16",
        "mma_m16n8k8_tf32" => "llvm.nvvm.mma.m16n8k8.row.col.tf32",
        "mma_m16n8k32_s8" => "llvm.nvvm.mma.m16n8k32.row.col.s8",
        name => bail!("there is no code for `{name}`"),
    })
}

impl<'c> Code<'_, 'c> {
    pub(super) fn launch(&self) -> Result<&Launch> {
        self.target.launch.ok_or_else(|| Error::new("a CPU has no blocks and threads"))
    }

    fn special(&self, name: &str) -> Result<Raw<'c>> {
        self.b.intrinsic(&format!("llvm.nvvm.read.ptx.sreg.{name}"), &[], &[], FastMathFlags::empty())
    }

    pub(super) fn gpu_level(&mut self, level: Level) -> Result<V<Self>> {
        let axis = |axis: u8| ["x", "y", "z"][usize::from(axis.min(2))];
        let has_warps = self.launch()?.has_warps;
        let number = match level {
            Level::Block(at) => self.special(&format!("ctaid.{}", axis(at)))?,
            Level::Warp => {
                let thread = self.special("tid.x")?;
                self.b.bin(I::LShr, thread, self.b.i32(WARP.trailing_zeros() as i32).into())?
            }
            Level::Thread(0) if has_warps => {
                let thread = self.special("tid.x")?;
                self.b.bin(I::And, thread, self.b.i32(WARP - 1).into())?
            }
            Level::Thread(at) => self.special(&format!("tid.{}", axis(at)))?,
            Level::Core | Level::VectorCore => bail!("a GPU has no {level}"),
        };
        let ty = VType::scalar(DType::I64);
        Ok(Value { raw: self.b.cast(I::ZExt, number, self.b.ty(ty))?, ty })
    }

    /// The part of shared memory that a buffer is.
    pub(super) fn shared(&self, name: &str) -> Result<PointerValue<'c>> {
        let at = self.launch()?.shared.iter().find(|(n, _)| n == name).map(|(_, at)| *at);
        let Some(at) = at else { bail!("buffer {name} has no place in shared memory") };
        let bytes = self.b.context.i8_type();
        let space = AddressSpace::from(SHARED);
        let all = self.b.module.get_global(ptx::SHARED).unwrap_or_else(|| {
            let all = self.b.module.add_global(bytes.array_type(0), Some(space), ptx::SHARED);
            all.set_alignment(ptx::SHARED_ALIGNMENT);
            all
        });
        let base = all.as_pointer_value();
        Ok(self.b.gep(bytes.into(), base, self.b.i32(at as i32).into()).into_pointer_value())
    }

    pub(super) fn gpu_barrier(&mut self) -> Result<()> {
        self.b.intrinsic_void("llvm.nvvm.barrier.cta.sync.aligned.all", &[], &[self.b.i32(0).into()])
    }

    /// Values of 32 bits, or two halves of them.
    pub(super) fn gpu_shuffle(&mut self, x: V<Self>, lane: V<Self>) -> Result<V<Self>> {
        let word: BasicTypeEnum = self.b.int_ty(32);
        let lane = self.b.cast(I::Trunc, lane.raw, word)?;
        ensure!(x.ty.lanes == 1, "vectors are not shuffled");
        let bits = 8 * x.ty.dtype.size() as u32;
        let whole = self.b.int_ty(bits);
        let raw = match x.ty.dtype {
            DType::Bool => self.b.cast(I::ZExt, x.raw, word)?,
            _ => self.b.bitcast(x.raw, whole)?,
        };
        let one = |raw: Raw<'c>| -> Result<Raw<'c>> {
            let args = [self.b.i32(-1).into(), raw, lane, self.b.i32(31).into()];
            self.b.intrinsic("llvm.nvvm.shfl.sync.idx.i32", &[], &args, FastMathFlags::empty())
        };
        let taken = match bits {
            64 => {
                let shift: Raw = self.b.context.i64_type().const_int(32, false).into();
                let low = one(self.b.cast(I::Trunc, raw, word)?)?;
                let high = one(self.b.cast(I::Trunc, self.b.bin(I::LShr, raw, shift)?, word)?)?;
                let (low, high) = (self.b.cast(I::ZExt, low, whole)?, self.b.cast(I::ZExt, high, whole)?);
                self.b.bin(I::Or, low, self.b.bin(I::Shl, high, shift)?)?
            }
            32 => one(raw)?,
            _ => {
                let taken = one(self.b.cast(I::ZExt, raw, word)?)?;
                self.b.cast(
                    I::Trunc,
                    taken,
                    if x.ty.dtype == DType::Bool { self.b.ty(x.ty) } else { whole },
                )?
            }
        };
        Ok(Value { raw: self.b.bitcast(taken, self.b.ty(x.ty))?, ..x })
    }

    /// `cp.async`: past the first level cache where it can be.
    pub(super) fn gpu_copy_async(
        &mut self,
        to: PointerValue<'c>,
        from: PointerValue<'c>,
        bytes: u32,
        valid: Option<V<Self>>,
    ) -> Result<()> {
        let cache = if bytes == 16 { "cg" } else { "ca" };
        let name = format!("llvm.nvvm.cp.async.{cache}.shared.global.{bytes}");
        let mut args: Vec<Raw> = vec![to.into(), from.into()];
        let Some(valid) = valid else { return self.b.intrinsic_void(&name, &[], &args) };
        args.push(self.b.cast(I::Trunc, valid.raw, self.b.int_ty(32))?);
        self.b.intrinsic_void(&format!("{name}.s"), &[], &args)
    }

    pub(super) fn gpu_commit(&mut self) -> Result<()> {
        self.b.intrinsic_void("llvm.nvvm.cp.async.commit.group", &[], &[])
    }

    pub(super) fn gpu_wait(&mut self, pending: u32) -> Result<()> {
        let pending = self.b.i32(pending as i32).into();
        self.b.intrinsic_void("llvm.nvvm.cp.async.wait.group", &[], &[pending])
    }

    /// `ldmatrix`
    pub(super) fn gpu_load_matrix(
        &mut self,
        to: PointerValue<'c>,
        row: PointerValue<'c>,
        blocks: Blocks,
    ) -> Result<()> {
        let trans = if blocks.transposed { ".trans" } else { "" };
        let name = format!("llvm.nvvm.ldmatrix.sync.aligned.m8n8.x{}{trans}.b16", blocks.count);
        let registers =
            self.b.intrinsic_struct(&name, &[row.get_type().into()], &[row.into()], blocks.count)?;
        self.put(to, &registers)
    }

    /// `mma.sync`
    pub(super) fn gpu_mma(&mut self, unit: &MatrixUnit, [c, a, b]: [PointerValue<'c>; 3]) -> Result<()> {
        let extents = unit.extents.map(|e| e.step);
        let word = self.b.int_ty(32);
        let half: BasicTypeEnum = self.b.context.f16_type().vec_type(2).into();
        let single: BasicTypeEnum = self.b.context.f32_type().into();
        let factor = if unit.dtype(Operand::A) == DType::F16 { half } else { word };
        let sum = if unit.dtype(Operand::C) == DType::F32 { single } else { word };
        let count =
            |operand: Operand| unit.elements(operand.extent(extents)) * unit.dtype(operand).size() as u32 / 4;
        let mut args = Vec::new();
        for (at, ty, operand) in [(a, factor, Operand::A), (b, factor, Operand::B), (c, sum, Operand::C)] {
            let registers = self.take(at, ty, count(operand))?;
            match unit.dtype(operand) {
                DType::F32 if operand != Operand::C => {
                    args.extend(registers.into_iter().map(|r| self.rounded(r)).collect::<Result<Vec<_>>>()?)
                }
                _ => args.extend(registers),
            }
        }
        let sums = self.b.intrinsic_struct(instruction(unit)?, &[], &args, count(Operand::C))?;
        self.put(c, &sums)
    }

    /// A number in 32 bits as the nearest `tf32`.
    fn rounded(&self, x: Raw<'c>) -> Result<Raw<'c>> {
        let single = self.b.context.f32_type().into();
        self.b.intrinsic("llvm.nvvm.f2tf32.rna", &[], &[self.b.bitcast(x, single)?], FastMathFlags::empty())
    }

    /// Registers that hold a part of a fragment.
    pub(super) fn take(
        &self,
        at: PointerValue<'c>,
        ty: BasicTypeEnum<'c>,
        count: u32,
    ) -> Result<Vec<Raw<'c>>> {
        let register = |k: u32| {
            let at = self.b.gep(ty, at, self.b.i64(k.into()).into()).into_pointer_value();
            self.b.load(ty, at, 4)
        };
        (0..count).map(register).collect()
    }

    pub(super) fn put(&self, at: PointerValue<'c>, registers: &[Raw<'c>]) -> Result<()> {
        for (k, r) in registers.iter().enumerate() {
            let at = self.b.gep(r.get_type(), at, self.b.i64(k as i64).into()).into_pointer_value();
            self.b.store(at, *r, 4)?;
        }
        Ok(())
    }
}

impl<'c> Inkwell<'_, 'c> {
    /// The members of the structure that an intrinsic gives.
    fn intrinsic_struct(
        &self,
        name: &str,
        overloads: &[BasicTypeEnum<'c>],
        args: &[Raw<'c>],
        members: u32,
    ) -> Result<Vec<Raw<'c>>> {
        let all = self.intrinsic(name, overloads, args, FastMathFlags::empty())?;
        let Raw::StructValue(all) = all else { return Ok(vec![all]) };
        let member = |k| self.builder.build_extract_value(all, k, "").map_err(internal);
        (0..members).map(member).collect()
    }
}

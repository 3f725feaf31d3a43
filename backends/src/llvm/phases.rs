//! Barriers of phases (PTX ISA, "mbarrier") and copies of boxes (PTX ISA, "cp.async.bulk.tensor").

use super::build::{Raw, internal};
use super::code::Code;
use super::memory::Address;
use crate::emit::build::{V, Value};
use aic_ir::dtype::DType;
use aic_ir::ensure;
use aic_ir::error::Result;
use aic_ir::kernel::{Fetch, VType};
use inkwell::AddressSpace;
use inkwell::values::{FastMathFlags, InstructionOpcode as I};

/// The number of the address space of a cluster's shared memory.
const CLUSTER: u16 = 7;

/// Registers that all threads of a block have together, and those of a thread at most.
const REGISTERS: u32 = 65536;
const MOST: u32 = 255;

impl<'c> Code<'_, 'c> {
    /// From here on the threads of the warp group have so many registers each.
    pub(super) fn gpu_registers(&mut self, count: u32) -> Result<()> {
        let threads: u32 = self.launch()?.threads.iter().product();
        let given = (REGISTERS / threads.max(1) / 8 * 8).min(MOST);
        let what = if count > given { "inc" } else { "dec" };
        let args = [self.b.i32(count as i32).into()];
        self.b.intrinsic_void(&format!("llvm.nvvm.setmaxnreg.{what}.sync.aligned.u32"), &[], &args)
    }

    fn asked(&self, name: &str, args: &[Raw<'c>]) -> Result<Raw<'c>> {
        self.b.intrinsic(&format!("llvm.nvvm.{name}"), &[], args, FastMathFlags::empty())
    }

    /// One thread of the warp.
    pub(super) fn gpu_elect(&mut self) -> Result<V<Self>> {
        let all = self.asked("elect.sync", &[self.b.i32(-1).into()])?.into_struct_value();
        let raw = self.b.builder.build_extract_value(all, 1, "").map_err(internal)?;
        Ok(Value { raw, ty: VType::scalar(DType::Bool) })
    }

    pub(super) fn gpu_phase_begin(&mut self, at: Address<'c>, arrivals: u32) -> Result<()> {
        let args = [at.at.into(), self.b.i32(arrivals as i32).into()];
        self.b.intrinsic_void("llvm.nvvm.mbarrier.init.shared", &[], &args)
    }

    pub(super) fn gpu_phase_arrive(&mut self, at: Address<'c>, bytes: u32) -> Result<()> {
        match bytes {
            0 => self.asked("mbarrier.arrive.shared", &[at.at.into()]).map(drop),
            _ => {
                let args = [at.at.into(), self.b.i32(bytes as i32).into()];
                self.asked("mbarrier.arrive.expect.tx.scope.cta.space.cta", &args).map(drop)
            }
        }
    }

    pub(super) fn gpu_phase_is_over(&mut self, at: Address<'c>, parity: V<Self>) -> Result<V<Self>> {
        let parity = self.b.cast(I::Trunc, parity.raw, self.b.int_ty(32))?;
        let raw = self.asked("mbarrier.try.wait.parity.scope.cta.space.cta", &[at.at.into(), parity])?;
        Ok(Value { raw, ty: VType::scalar(DType::Bool) })
    }

    pub(super) fn gpu_fetch(
        &mut self,
        f: &Fetch,
        to: Address<'c>,
        barrier: Address<'c>,
        at: &[V<Self>],
    ) -> Result<()> {
        let maps = &self.launch()?.maps;
        let number = maps.iter().position(|m| m.is_of(f));
        let first = self.function.count_params() as usize - maps.len();
        let map = number.and_then(|k| self.function.get_nth_param((first + k) as u32));
        ensure!(map.is_some(), "a box of {} has no tensor map", f.src.buffer);
        let cluster = self.b.context.ptr_type(AddressSpace::from(CLUSTER));
        let to = self.b.builder.build_address_space_cast(to.at, cluster, "").map_err(internal)?;
        let mut args: Vec<Raw> = vec![to.into(), barrier.at.into()];
        args.extend(map);
        for x in at {
            args.push(self.b.cast(I::Trunc, x.raw, self.b.int_ty(32))?);
        }
        // For this block only, cached as usual.
        let (short, long) = (self.b.context.i16_type().const_zero(), self.b.i64(0));
        let no: Raw = self.b.i1(false).into();
        let rest: [Raw; 5] = [short.into(), long.into(), no, no, self.b.i32(0).into()];
        args.extend(rest);
        let name = format!("llvm.nvvm.cp.async.bulk.tensor.g2s.tile.{}d", at.len());
        self.b.intrinsic_void(&name, &[], &args)
    }
}

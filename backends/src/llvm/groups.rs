//! Products of warp groups: `wgmma`, which LLVM has no intrinsic for (PTX ISA, "Asynchronous Warpgroup Level Matrix
//! Instructions").
//!
//! Accumulators are operands that are tied to results, of the products and of the waits for them alike: what uses them comes
//! after these.

use super::build::{Raw, internal};
use super::code::Code;
use super::memory::Address;
use crate::emit::build::Matrices;
use aic_ir::bail;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::Operand;
use aic_ir::target::MatrixUnit;
use inkwell::values::{AnyValue, BasicMetadataValueEnum, InstructionOpcode as I, PointerValue};

/// Bits of an address that a descriptor holds; it counts units of 16 bytes.
const WINDOW: i64 = (1 << 18) - 1;

impl<'c> Code<'_, 'c> {
    pub(super) fn gpu_mma_async(
        &mut self,
        unit: &MatrixUnit,
        extent: [u32; 3],
        c: PointerValue<'c>,
        factors: [Matrices<Address<'c>>; 2],
    ) -> Result<()> {
        let t = match unit.dtype(Operand::A) {
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            _ => bail!("there is no code for `{}`", unit.name),
        };
        let [m, n, k] = extent;
        let count = unit.elements(Operand::C.extent(extent));
        let [a, b] = factors.map(|f| u8::from(f.is_transposed));
        let text = format!(
            "wgmma.mma_async.sync.aligned.m{m}n{n}k{k}.f32.{t}.{t} {{{}}}, ${}, ${}, 1, 1, 1, {a}, {b};",
            list(count, |r| format!("${r}")),
            2 * count,
            2 * count + 1
        );
        let descriptors = [self.descriptor(&factors[0])?, self.descriptor(&factors[1])?];
        self.tied(&text, &[(c, count)], &descriptors)
    }

    pub(super) fn gpu_wait_products(
        &mut self,
        pending: u32,
        accumulators: &[(Address<'c>, u32)],
    ) -> Result<()> {
        let accumulators: Vec<_> = accumulators.iter().map(|(at, n)| (at.at, *n)).collect();
        self.tied(&format!("wgmma.wait_group.sync.aligned {pending};"), &accumulators, &[])
    }

    /// Assembly with accumulators of `f32`, each an operand tied to a result, and other operands of 64 bits.
    fn tied(&mut self, text: &str, accumulators: &[(PointerValue<'c>, u32)], rest: &[Raw<'c>]) -> Result<()> {
        let single: inkwell::types::BasicTypeEnum<'c> = self.b.context.f32_type().into();
        let mut args = Vec::new();
        for (at, count) in accumulators {
            args.extend(self.take(*at, single, *count)?);
        }
        let count = args.len() as u32;
        args.extend(rest);
        let results = self.b.context.struct_type(&vec![single; count as usize], false);
        let types: Vec<_> = args.iter().map(|x| x.get_type().into()).collect();
        let function = results.fn_type(&types, false);
        let mut constraints = list(count, |_| "=f".into()) + "," + &list(count, |r| r.to_string());
        rest.iter().for_each(|_| constraints += ",l");
        constraints += ",~{memory}";
        let assembly =
            self.b.context.create_inline_asm(function, text.into(), constraints, true, false, None, false);
        let args: Vec<BasicMetadataValueEnum> = args.into_iter().map(Into::into).collect();
        let call = self.b.builder.build_indirect_call(function, assembly, &args, "").map_err(internal)?;
        let all = call.as_any_value_enum().into_struct_value();
        let mut registers = (0..count).map(|r| self.b.builder.build_extract_value(all, r, ""));
        for (at, count) in accumulators {
            let own: Vec<Raw> = registers
                .by_ref()
                .take(*count as usize)
                .collect::<std::result::Result<_, _>>()
                .map_err(internal)?;
            self.put(*at, &own)?;
        }
        Ok(())
    }

    /// Where a factor is ("Matrix Descriptor Format"): without swizzling, or in spans of 128 bytes.
    fn descriptor(&mut self, f: &Matrices<Address<'c>>) -> Result<Raw<'c>> {
        let long = self.b.context.i64_type();
        let at = self.b.builder.build_ptr_to_int(f.first.at, long, "").map_err(internal)?;
        let at = self.b.bin(I::And, at.into(), self.b.i64(WINDOW).into())?;
        let at = self.b.bin(I::LShr, at, self.b.i64(4).into())?;
        let [leading, stride] = f.steps.map(|bytes| i64::from(bytes / 16));
        let swizzle = i64::from(f.is_swizzled) << 62;
        self.b.bin(I::Or, at, self.b.i64(leading << 16 | stride << 32 | swizzle).into())
    }
}

fn list(count: u32, item: impl Fn(u32) -> String) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(",")
}

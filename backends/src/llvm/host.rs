//! A module for a GPU compiled for this machine: what is changed of it, and nothing else is.
//!
//! - Intrinsics and inline assembly become calls of [`OPERATION`], by functions that put operands and results into slots
//!   of 64 bits.
//! - Before every access to global and shared memory stands a call of [`CHECK`].
//! - Shared variables become external ones, for whoever loads the code to place.
//! - Each kernel gets a function that takes its arguments from slots.
//!
//! Address spaces are one on this machine, so pointers stay as they are.

use super::build::{Inkwell, internal};
use super::target::Machine;
use crate::emulate::host::{CHECK, Call, HostModule, OPERATION, entry_name};
use crate::{CpuOptions, Object};
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};
use inkwell::AddressSpace;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::llvm_sys::core::{
    LLVMGetCalledFunctionType, LLVMGetCalledValue, LLVMGetInlineAsmAsmString,
    LLVMGetInlineAsmConstraintString, LLVMIsAInlineAsm, LLVMSetOperand,
};
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::{Linkage, Module};
use inkwell::targets::{FileType, TargetData};
use inkwell::types::{BasicTypeEnum, FunctionType};
use inkwell::values::{
    AsValueRef, BasicValue, BasicValueEnum, FunctionValue, GlobalValue, InstructionOpcode as I,
    InstructionValue, PointerValue,
};
use std::collections::BTreeMap;

/// The calling convention of kernels (LLVM's `PTX_Kernel`).
const KERNEL: u32 = 71;
/// Address spaces (NVPTX usage guide, "Address Spaces").
const GLOBAL: u32 = 1;
const SHARED: u32 = 3;
const CLUSTER: u32 = 7;

/// The most bytes of variables of a thread.
const MAX_STACK: usize = 8 << 20;

/// Compiles the text of a module for a CPU.
pub(crate) fn module(ir: &str, cpu: &str) -> Result<HostModule> {
    let context = Context::create();
    let buffer = MemoryBuffer::create_from_memory_range_copy(ir.as_bytes(), "kernels");
    let module = context.create_module_from_ir(buffer).map_err(refused)?;
    let machine = Machine::new(&CpuOptions { cpu: cpu.into(), opt_level: 1, ..CpuOptions::default() })?;
    machine.describe(&module);
    let data = machine.machine.get_target_data();
    let mut host = Host { context: &context, module: &module, data, calls: Vec::new() };
    let mut kernels = BTreeMap::new();
    for f in functions(&module).filter(|f| f.count_basic_blocks() > 0) {
        if f.get_call_conventions() == KERNEL {
            kernels.insert(name(&f), f.count_params() as usize);
        }
        host.adopt(f);
    }
    let stack_bytes = host.stack_bytes()?;
    host.accesses()?;
    host.assembly()?;
    host.intrinsics()?;
    let (variables, shared_bytes) = host.variables()?;
    for k in kernels.keys() {
        host.entry(k)?;
    }
    let calls = std::mem::take(&mut host.calls);
    module.verify().map_err(refused)?;
    let object = Object { bytes: machine.write(&module, FileType::Object)? };
    Ok(HostModule { object, calls, kernels, variables, shared_bytes, stack_bytes })
}

fn refused(e: impl std::fmt::Display) -> Error {
    Error::new(format!("LLVM refuses the module for this machine: {e}"))
}

fn functions<'c>(module: &Module<'c>) -> impl Iterator<Item = FunctionValue<'c>> + use<'c> {
    module.get_functions().collect::<Vec<_>>().into_iter()
}

fn instructions<'c>(f: FunctionValue<'c>) -> impl Iterator<Item = InstructionValue<'c>> {
    f.get_basic_block_iter().flat_map(|b| b.get_instructions().collect::<Vec<_>>())
}

fn name(f: &FunctionValue) -> String {
    f.get_name().to_string_lossy().into_owned()
}

/// The module in the making.
struct Host<'a, 'c> {
    context: &'c Context,
    module: &'a Module<'c>,
    data: TargetData,
    calls: Vec<Call>,
}

impl<'c> Host<'_, 'c> {
    fn build(&self) -> Inkwell<'_, 'c> {
        Inkwell::new(self.context, self.module)
    }

    fn code(&self) -> impl Iterator<Item = InstructionValue<'c>> + use<'c> {
        functions(self.module).flat_map(instructions)
    }

    /// Makes a function one of this machine.
    fn adopt(&self, f: FunctionValue<'c>) {
        f.set_call_conventions(0);
        f.set_linkage(Linkage::Internal);
        for key in ["target-cpu", "target-features"] {
            f.remove_string_attribute(AttributeLoc::Function, key);
        }
        // A parameter by value is an address here.
        let by_value = Attribute::get_named_enum_kind_id("byval");
        for k in 0..f.count_params() {
            f.remove_enum_attribute(AttributeLoc::Param(k), by_value);
        }
    }

    /// What a thread needs on its stack.
    fn stack_bytes(&self) -> Result<usize> {
        let allocated = self.code().filter(|i| i.get_opcode() == I::Alloca);
        let sizes = allocated
            .filter_map(|i| i.get_allocated_type().ok())
            .map(|t| self.data.get_abi_size(&t) as usize + 64);
        let bytes: usize = sizes.sum();
        ensure!(
            bytes <= MAX_STACK,
            "the kernels' threads have {bytes} bytes of variables, more than {MAX_STACK}"
        );
        Ok(bytes)
    }

    fn pointer(&self) -> BasicTypeEnum<'c> {
        self.context.ptr_type(AddressSpace::default()).into()
    }

    /// A function that this process has.
    fn outside(&self, name: &str, params: &[BasicTypeEnum<'c>]) -> FunctionValue<'c> {
        self.module.get_function(name).unwrap_or_else(|| {
            let params: Vec<_> = params.iter().map(|t| (*t).into()).collect();
            self.module.add_function(name, self.context.void_type().fn_type(&params, false), None)
        })
    }

    /// Puts a check before each access to memory that others see.
    fn accesses(&self) -> Result<()> {
        let i64_type: BasicTypeEnum = self.context.i64_type().into();
        let check = self.outside(CHECK, &[self.pointer(), i64_type, i64_type, i64_type]);
        let b = self.build();
        for i in self.code() {
            let Some((address, ty, is_write)) = accessed(&i) else { continue };
            if is_private(address) {
                continue;
            }
            b.builder.position_before(&i);
            let pointer = self.context.ptr_type(AddressSpace::default());
            let address = match address.get_type().get_address_space() == AddressSpace::default() {
                true => address,
                false => b.builder.build_address_space_cast(address, pointer, "").map_err(internal)?,
            };
            let bytes = self.data.get_store_size(&ty) as i64;
            let alignment = i.get_alignment().map_or(1, i64::from);
            let args =
                [address.into(), b.i64(bytes).into(), b.i64(alignment).into(), b.i64(is_write.into()).into()];
            b.builder.build_call(check, &args, "").map_err(internal)?;
        }
        Ok(())
    }

    /// Makes inline assembly calls.
    fn assembly(&mut self) -> Result<()> {
        for i in self.code().filter(|i| i.get_opcode() == I::Call) {
            // SAFETY: it is a call, and what is asked of its callee is asked of inline assembly only.
            let (ty, text, constraints) = unsafe {
                let callee = LLVMGetCalledValue(i.as_value_ref());
                if LLVMIsAInlineAsm(callee).is_null() {
                    continue;
                }
                let read = |f: unsafe extern "C" fn(_, *mut usize) -> *const std::ffi::c_char| {
                    let mut len = 0;
                    let text = f(callee, &mut len);
                    String::from_utf8_lossy(std::slice::from_raw_parts(text.cast::<u8>(), len)).into_owned()
                };
                let ty = FunctionType::new(LLVMGetCalledFunctionType(i.as_value_ref()));
                (ty, read(LLVMGetInlineAsmAsmString), read(LLVMGetInlineAsmConstraintString))
            };
            let function = self.call_of(Call::Assembly(text, constraints), ty)?;
            // SAFETY: the callee is the last operand of a call, and the function has its type.
            unsafe {
                LLVMSetOperand(i.as_value_ref(), i.get_num_operands() - 1, function.as_value_ref());
            }
        }
        Ok(())
    }

    /// Makes intrinsics of the GPU functions that call the runtime.
    fn intrinsics(&mut self) -> Result<()> {
        for f in functions(self.module) {
            let name = name(&f);
            let Some(short) = name.strip_prefix("llvm.nvvm.") else { continue };
            let function = self.call_of(Call::Intrinsic(short.to_owned()), f.get_type())?;
            f.replace_all_uses_with(function);
            // SAFETY: nothing uses it any more.
            unsafe { f.delete() };
        }
        Ok(())
    }

    /// A function of the type that hands its operands to the runtime.
    fn call_of(&mut self, call: Call, ty: FunctionType<'c>) -> Result<FunctionValue<'c>> {
        let number = self.calls.len();
        self.calls.push(call);
        let function = self.module.add_function(&format!("operation.{number}"), ty, Some(Linkage::Internal));
        let b = self.build();
        b.builder.position_at_end(self.context.append_basic_block(function, "entry"));
        let params = function.get_params();
        let results = match ty.get_return_type() {
            None => Vec::new(),
            Some(BasicTypeEnum::StructType(s)) => s.get_field_types(),
            Some(one) => vec![one],
        };
        let i64_type = self.context.i64_type();
        let slots = |n: usize| {
            let pointer = self.context.ptr_type(AddressSpace::default());
            match n {
                0 => Ok(pointer.const_null()),
                _ => b.builder.build_alloca(i64_type.array_type(n as u32), "").map_err(internal),
            }
        };
        let (operands, given) = (slots(params.len())?, slots(results.len())?);
        let at = |base: PointerValue<'c>, k: usize| {
            b.gep(i64_type.into(), base, b.i64(k as i64).into()).into_pointer_value()
        };
        for (k, p) in params.iter().enumerate() {
            b.store(at(operands, k), self.to_slot(&b, *p)?, 8)?;
        }
        let runtime = self.outside(
            OPERATION,
            &[self.context.i32_type().into(), self.pointer(), i64_type.into(), self.pointer()],
        );
        let args =
            [b.i32(number as i32).into(), operands.into(), b.i64(params.len() as i64).into(), given.into()];
        b.builder.build_call(runtime, &args, "").map_err(internal)?;
        let value = |k: usize, ty: BasicTypeEnum<'c>| {
            let slot = b.load(i64_type.into(), at(given, k), 8)?;
            self.of_slot(&b, slot, ty)
        };
        let returned: Option<BasicValueEnum> = match ty.get_return_type() {
            None => None,
            Some(BasicTypeEnum::StructType(s)) => {
                let mut all = s.get_poison();
                for (k, ty) in results.iter().enumerate() {
                    let next =
                        b.builder.build_insert_value(all, value(k, *ty)?, k as u32, "").map_err(internal)?;
                    all = next.into_struct_value();
                }
                Some(all.into())
            }
            Some(one) => Some(value(0, one)?),
        };
        b.builder.build_return(returned.as_ref().map(|v| v as &dyn BasicValue)).map_err(internal)?;
        Ok(function)
    }

    /// A value of at most 64 bits as an `i64`.
    fn to_slot(&self, b: &Inkwell<'_, 'c>, x: BasicValueEnum<'c>) -> Result<BasicValueEnum<'c>> {
        let i64_type = self.context.i64_type();
        let bits = match x {
            BasicValueEnum::PointerValue(p) => {
                return b.builder.build_ptr_to_int(p, i64_type, "").map(Into::into).map_err(internal);
            }
            BasicValueEnum::IntValue(_) => x,
            _ => b.bitcast(x, self.integer(x.get_type())?)?,
        };
        b.cast(I::ZExt, bits, i64_type.into())
    }

    fn of_slot(
        &self,
        b: &Inkwell<'_, 'c>,
        slot: BasicValueEnum<'c>,
        ty: BasicTypeEnum<'c>,
    ) -> Result<BasicValueEnum<'c>> {
        match ty {
            BasicTypeEnum::PointerType(p) => {
                b.builder.build_int_to_ptr(slot.into_int_value(), p, "").map(Into::into).map_err(internal)
            }
            BasicTypeEnum::IntType(_) => b.cast(I::Trunc, slot, ty),
            _ => {
                let bits = b.cast(I::Trunc, slot, self.integer(ty)?)?;
                b.bitcast(bits, ty)
            }
        }
    }

    /// The integer of as many bits.
    fn integer(&self, ty: BasicTypeEnum<'c>) -> Result<BasicTypeEnum<'c>> {
        let bits = 8 * self.data.get_store_size(&ty) as u32;
        ensure!(bits <= 64, "an operand of {bits} bits");
        Ok(self
            .context
            .custom_width_int_type(std::num::NonZero::new(bits).ok_or_else(|| internal("no bits"))?)
            .map_err(internal)?
            .into())
    }

    /// Makes shared variables external, and lays them out: those of unknown size last.
    fn variables(&self) -> Result<(BTreeMap<String, usize>, usize)> {
        let shared: Vec<GlobalValue> =
            self.module.get_globals().filter(|g| space(g.as_pointer_value()) == SHARED).collect();
        let size = |g: &GlobalValue<'c>| match BasicTypeEnum::try_from(g.get_value_type()) {
            Ok(ty) => Ok((ty, self.data.get_abi_size(&ty) as usize)),
            Err(()) => Err(internal("a shared variable of no size")),
        };
        let (mut places, mut end) = (BTreeMap::new(), 0usize);
        let (mut known, mut unknown) = (Vec::new(), Vec::new());
        for g in shared {
            let (ty, bytes) = size(&g)?;
            if bytes > 0 { known.push((g, ty, bytes)) } else { unknown.push((g, ty, bytes)) }
        }
        for (g, ty, bytes) in known.into_iter().chain(unknown) {
            end = end.next_multiple_of(g.get_alignment().max(16) as usize);
            let own = format!("shared.{}", places.len());
            let outside = self.module.add_global(ty, Some(AddressSpace::from(SHARED as u16)), &own);
            g.as_pointer_value().replace_all_uses_with(outside.as_pointer_value());
            // SAFETY: nothing uses it any more.
            unsafe { g.delete() };
            places.insert(own, end);
            end += bytes;
        }
        Ok((places, end))
    }

    /// `void NAME.entry(const uint64_t *arguments)`.
    fn entry(&self, kernel: &str) -> Result<()> {
        let Some(function) = self.module.get_function(kernel) else { bail!("there is no kernel {kernel}") };
        let ty = self.context.void_type().fn_type(&[self.pointer().into()], false);
        let entry = self.module.add_function(&entry_name(kernel), ty, None);
        let b = self.build();
        b.builder.position_at_end(self.context.append_basic_block(entry, "entry"));
        let slots = entry.get_nth_param(0).ok_or_else(|| internal("no such parameter"))?.into_pointer_value();
        let i64_type = self.context.i64_type();
        let mut args = Vec::new();
        for (k, p) in function.get_params().into_iter().enumerate() {
            let at = b.gep(i64_type.into(), slots, b.i64(k as i64).into()).into_pointer_value();
            let slot = b.load(i64_type.into(), at, 8)?;
            args.push(self.of_slot(&b, slot, p.get_type())?.into());
        }
        b.builder.build_call(function, &args, "").map_err(internal)?;
        b.builder.build_return(None).map_err(internal).map(drop)
    }
}

fn space(p: PointerValue) -> u32 {
    (0..=CLUSTER)
        .find(|s| p.get_type().get_address_space() == AddressSpace::from(*s as u16))
        .unwrap_or(u32::MAX)
}

/// The address of an access, the type of what is accessed, and whether it is written.
fn accessed<'c>(i: &InstructionValue<'c>) -> Option<(PointerValue<'c>, BasicTypeEnum<'c>, bool)> {
    let operand = |k: u32| i.get_operand(k).and_then(|o| o.value());
    let pointer = |k: u32| operand(k).filter(|v| v.is_pointer_value()).map(|v| v.into_pointer_value());
    match i.get_opcode() {
        I::Load => Some((pointer(0)?, BasicTypeEnum::try_from(i.get_type()).ok()?, false)),
        I::Store => Some((pointer(1)?, operand(0)?.get_type(), true)),
        I::AtomicRMW | I::AtomicCmpXchg => Some((pointer(0)?, operand(1)?.get_type(), true)),
        _ => None,
    }
}

/// Whether an address is visibly one of a local variable, of a constant, or of an argument.
fn is_private(address: PointerValue) -> bool {
    if matches!(space(address), GLOBAL | SHARED | CLUSTER) {
        return false;
    }
    let mut at = address;
    while let Some(i) = at.as_instruction_value() {
        let next = i.get_operand(0).and_then(|o| o.value()).filter(|v| v.is_pointer_value());
        match (i.get_opcode(), next) {
            (I::Alloca, _) => return true,
            (I::GetElementPtr | I::AddrSpaceCast, Some(next)) => at = next.into_pointer_value(),
            _ => return false,
        }
    }
    at.is_const()
}

//! Objects loaded into this process.
//!
//! A small linker: the sections of all objects are laid out in one mapping, relocated, and made executable; nothing
//! else is done to them, so the code is exactly that of the objects. Functions of the C library may be farther away
//! than a call instruction reaches, so each has its address in a table and a jump through it.

use crate::{KernelFn, Object};
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};
use memmap2::{Mmap, MmapMut};
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionKind, elf};
use std::collections::{BTreeMap, HashMap};

/// The code of objects in this process. It lives as long as this value; functions got from it must not be called
/// afterwards.
#[derive(Debug)]
pub struct Library {
    code: Mmap,
    /// Where each kernel's code begins.
    kernels: HashMap<String, usize>,
}

/// Bytes of an entry of the table of addresses, and of a jump through it.
const ENTRY: usize = 8;

type Elf<'a> = ElfFile64<'a>;

/// Addresses of symbols that no object defines.
type Given<'a> = &'a dyn Fn(&str) -> Option<usize>;

/// Where everything will be.
#[derive(Default)]
struct Layout {
    /// By object and section.
    sections: HashMap<(usize, usize), usize>,
    /// Symbols that objects define for others.
    defined: HashMap<String, usize>,
    /// Table entries of the C library's functions, which are followed by as many jumps.
    outside: BTreeMap<String, usize>,
    len: usize,
}

impl Library {
    /// Loads objects that were compiled for this machine. No two may define the same symbol.
    pub fn load(objects: &[Object]) -> Result<Library> {
        Library::load_with(objects, &|_| None)
    }

    /// As [`Library::load`], with symbols that are given rather than this process's.
    pub(crate) fn load_with(objects: &[Object], given: Given) -> Result<Library> {
        link(objects, given).map_err(|e| e.context("cannot load compiled code"))
    }

    /// The address of a function.
    pub(crate) fn address(&self, name: &str) -> Result<*const u8> {
        let Some(at) = self.kernels.get(name) else { bail!("cannot find the code of kernel {name}") };
        // SAFETY: it is an offset within the code.
        Ok(unsafe { self.code.as_ptr().add(*at) })
    }

    /// The code of a kernel.
    pub fn get(&self, name: &str) -> Result<KernelFn> {
        let address = self.address(name)?;
        // SAFETY: every symbol that an object defines for others is a kernel's function with this signature.
        Ok(unsafe { std::mem::transmute::<*const u8, KernelFn>(address) })
    }
}

fn link(objects: &[Object], given: Given) -> Result<Library> {
    let files = objects.iter().map(|o| Elf::parse(&*o.bytes)).collect::<std::result::Result<Vec<_>, _>>();
    let files = files.map_err(|e| Error::new(format!("not an ELF file of a 64-bit machine: {e}")))?;
    let layout = Layout::of(&files)?;
    let mut memory = MmapMut::map_anon(layout.len.max(1)).map_err(|e| Error::new(e.to_string()))?;
    for (i, file) in files.iter().enumerate() {
        for section in file.sections() {
            if let Some(&at) = layout.sections.get(&(i, section.index().0)) {
                let data = section.data().map_err(bad)?;
                memory[at..at + data.len()].copy_from_slice(data);
                layout.relocate(&mut memory, i, file, &section, at)?;
            }
        }
    }
    layout.write_jumps(&mut memory, given)?;
    let code = memory.make_exec().map_err(|e| Error::new(e.to_string()))?;
    Ok(Library { code, kernels: layout.defined })
}

impl Layout {
    fn of(files: &[Elf]) -> Result<Layout> {
        let mut layout = Layout::default();
        for (i, file) in files.iter().enumerate() {
            for section in file.sections().filter(is_loaded) {
                let at = layout.reserve(section.size(), section.align())?;
                layout.sections.insert((i, section.index().0), at);
            }
            for symbol in file.symbols().filter(|s| s.is_global()) {
                let name = symbol.name().map_err(bad)?.to_string();
                let Some(section) = symbol.section_index() else {
                    layout.outside.insert(name, 0);
                    continue;
                };
                let Some(base) = layout.sections.get(&(i, section.0)) else { continue };
                let twice = layout.defined.insert(name.clone(), base + symbol.address() as usize);
                ensure!(twice.is_none(), "`{name}` is defined twice");
            }
        }
        layout.outside.retain(|name, _| !layout.defined.contains_key(name));
        let table = layout.reserve((2 * ENTRY * layout.outside.len()) as u64, ENTRY as u64)?;
        layout.outside.values_mut().enumerate().for_each(|(i, at)| *at = table + ENTRY * i);
        Ok(layout)
    }

    fn reserve(&mut self, bytes: u64, align: u64) -> Result<usize> {
        let at = (self.len as u64).checked_next_multiple_of(align.max(1));
        let end = at.and_then(|at| at.checked_add(bytes)).filter(|end| *end < 1 << 31);
        let (Some(at), Some(end)) = (at, end) else { bail!("it doesn't fit 2 GB") };
        self.len = end as usize;
        Ok(at as usize)
    }

    /// The jump to a function outside, which follows the table.
    fn jump_of(&self, entry: usize) -> usize {
        entry + ENTRY * self.outside.len()
    }

    fn write_jumps(&self, memory: &mut [u8], given: Given) -> Result<()> {
        let process = libloading::os::unix::Library::this();
        for (name, &entry) in &self.outside {
            let address = match given(name) {
                Some(address) => address,
                None => {
                    // SAFETY: it is not called here; kernels call it as the function of the C library that it names.
                    let found = unsafe { process.get::<*const u8>(name.as_bytes()) };
                    found.map_err(|_| Error::new(format!("this process has no `{name}`")))?.into_raw()
                        as usize
                }
            };
            memory[entry..entry + 8].copy_from_slice(&(address as u64).to_le_bytes());
            let jump = self.jump_of(entry);
            // jmp *[rip + distance]
            memory[jump..jump + 2].copy_from_slice(&[0xff, 0x25]);
            let distance = entry as i64 - (jump as i64 + 6);
            memory[jump + 2..jump + 6].copy_from_slice(&(distance as i32).to_le_bytes());
        }
        Ok(())
    }

    fn relocate<'d>(
        &self,
        memory: &mut MmapMut,
        i: usize,
        file: &Elf<'d>,
        section: &impl ObjectSection<'d>,
        base: usize,
    ) -> Result<()> {
        for (offset, relocation) in section.relocations() {
            let RelocationFlags::Elf { r_type } = relocation.flags() else { bail!("not an ELF relocation") };
            let (at, addend) = (base + offset as usize, relocation.addend());
            let size = if r_type == elf::R_X86_64_64 { 8 } else { 4 };
            ensure!(at + size <= memory.len(), "a relocation lies outside of its section");
            let (target, entry) = self.target(i, file, relocation.target())?;
            let value = match r_type {
                elf::R_X86_64_64 => {
                    let absolute = (memory.as_ptr() as i64).wrapping_add(target + addend);
                    memory[at..at + 8].copy_from_slice(&absolute.to_le_bytes());
                    continue;
                }
                elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => target + addend - at as i64,
                elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => {
                    let Some(entry) = entry else { bail!("an address is wanted that isn't in the table") };
                    entry as i64 + addend - at as i64
                }
                other => bail!("relocations of type {other} are unknown"),
            };
            memory[at..at + 4].copy_from_slice(&(value as i32).to_le_bytes());
        }
        Ok(())
    }

    /// Where a relocation's target is, and its entry in the table if it is outside.
    fn target(&self, i: usize, file: &Elf, target: RelocationTarget) -> Result<(i64, Option<usize>)> {
        let section_at = |section: object::SectionIndex| match self.sections.get(&(i, section.0)) {
            Some(at) => Ok(*at as i64),
            None => bail!("a section is wanted that isn't loaded"),
        };
        let symbol = match target {
            RelocationTarget::Section(section) => return Ok((section_at(section)?, None)),
            RelocationTarget::Symbol(symbol) => file.symbol_by_index(symbol).map_err(bad)?,
            _ => bail!("a relocation without a symbol"),
        };
        if let Some(section) = symbol.section_index() {
            return Ok((section_at(section)? + symbol.address() as i64, None));
        }
        let name = symbol.name().map_err(bad)?;
        match (self.defined.get(name), self.outside.get(name)) {
            (Some(at), _) => Ok((*at as i64, None)),
            (None, Some(entry)) => Ok((self.jump_of(*entry) as i64, Some(*entry))),
            _ => bail!("`{name}` isn't defined"),
        }
    }
}

/// Code and constants; unwinding never passes through a kernel.
fn is_loaded<'d>(section: &impl ObjectSection<'d>) -> bool {
    let kind = section.kind();
    let constant = matches!(kind, SectionKind::ReadOnlyData | SectionKind::ReadOnlyString);
    (constant || kind == SectionKind::Text) && section.name() != Ok(".eh_frame") && section.size() > 0
}

fn bad(e: object::Error) -> Error {
    Error::new(e.to_string())
}

//! The object file of a model: plan, weights, and the tables that tie them to the kernels and the runtime.
//!
//! Three sections. `.rodata` holds the plan and the texts. `.data.rel.ro` holds what has addresses in it: the
//! `aic_program` of `runtime/runtime.h` under the name `aic_artifact`, the tables of kernels and constants, the
//! `aic_model_info` of `aic.h`. `.lrodata` holds the weights, at multiples of 64 bytes and equal ones once; it is a
//! section of the large code model, reached by 64-bit addresses only, so it may exceed 2 GB and is placed where it
//! doesn't part code from data. Weights go from the tensors' memory to the file directly.

use crate::plan::Plan;
use aic_ir::error::{Error, Result};
use aic_ir::program::{Port, Program};
use aic_ir::tensor::Tensor;
use object::elf;
use object::endian::Endianness;
use object::write::StreamingBuffer;
use object::write::elf::{FileHeader, Rel, SectionHeader, SinglePhaseWriter, Sym};
use std::collections::HashMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, BufWriter, Seek, Write};
use std::path::Path;

/// The name of the `aic_program`.
const PROGRAM: &str = "aic_artifact";
/// Alignment of weights in bytes.
const ALIGN: u64 = 64;
/// `SHF_X86_64_LARGE`: a section that is not within reach of 32-bit addresses.
const LARGE: u64 = 0x1000_0000;

/// Writes the object file.
///
/// # Errors
/// The file can't be written.
pub fn write(path: &Path, program: &Program, plan: &Plan) -> Result<()> {
    let failed = |error: io::Error| Error::new(format!("{}: cannot be written: {error}", path.display()));
    let weights = Weights::new(&plan.constants);
    let tables = Tables::new(program, plan, &weights);
    let mut file = File::create(path).map_err(failed)?;
    let mut stream = StreamingBuffer::new(BufWriter::new(&file));
    let header =
        write_elf(&mut stream, program, &weights, &tables).map_err(|e| failed(io::Error::other(e)))?;
    stream.flush().map_err(failed)?;
    drop(stream);
    file.rewind().and_then(|()| file.write_all(&header)).map_err(failed)
}

/// Where weights lie: each of the distinct ones at its offset.
pub(super) struct Weights<'a> {
    pub distinct: Vec<(u64, &'a [u8])>,
    /// Of every constant.
    pub offsets: Vec<u64>,
    pub size: u64,
}

impl<'a> Weights<'a> {
    pub fn new(constants: &'a [Tensor]) -> Weights<'a> {
        let mut weights = Weights { distinct: Vec::new(), offsets: Vec::new(), size: 0 };
        let mut seen: HashMap<u64, Vec<usize>> = HashMap::new();
        for bytes in constants.iter().map(|t| &t.bytes()[..]) {
            let alike = seen.entry(fingerprint(bytes)).or_default();
            let offset = match alike.iter().find(|&&k| weights.distinct[k].1 == bytes) {
                Some(&k) => weights.distinct[k].0,
                None => {
                    let offset = weights.size.next_multiple_of(ALIGN);
                    alike.push(weights.distinct.len());
                    weights.distinct.push((offset, bytes));
                    weights.size = offset + bytes.len() as u64;
                    offset
                }
            };
            weights.offsets.push(offset);
        }
        weights
    }
}

/// A hash of the size and of samples: equal for equal contents, and cheap for large ones.
fn fingerprint(bytes: &[u8]) -> u64 {
    const SAMPLES: usize = 16;
    const SAMPLE: usize = 64;
    let mut hasher = DefaultHasher::new();
    hasher.write_usize(bytes.len());
    if bytes.len() <= SAMPLES * SAMPLE {
        hasher.write(bytes);
    } else {
        for k in 0..SAMPLES {
            let at = (bytes.len() - SAMPLE) / (SAMPLES - 1) * k;
            hasher.write(&bytes[at..at + SAMPLE]);
        }
    }
    hasher.finish()
}

/// What an address refers to.
#[derive(Clone, Copy)]
enum Target {
    Data,
    Tables,
    Weights,
    Kernel(usize),
}

/// The contents of `.rodata` and `.data.rel.ro`.
struct Tables {
    data: Vec<u8>,
    tables: Vec<u8>,
    /// Addresses in `tables`: where, of what, and how far from its start.
    addresses: Vec<(u64, Target, u64)>,
}

impl Tables {
    fn new(program: &Program, plan: &Plan, weights: &Weights) -> Tables {
        let mut t = Tables { data: Vec::new(), tables: Vec::new(), addresses: Vec::new() };
        t.data.extend(plan.words.iter().flat_map(|w| w.to_le_bytes()));
        let (kernels, constants) = (program.kernels.len(), weights.offsets.len());
        const POINTER: u64 = 8;
        let kernels_at = 7 * POINTER;
        let constants_at = kernels_at + kernels as u64 * POINTER;
        let info_at = constants_at + constants as u64 * POINTER;
        // aic_program: plan, kernels, constants, info, host, host_context, flags.
        t.address(Target::Data, 0);
        t.address(Target::Tables, kernels_at);
        t.address(Target::Tables, constants_at);
        t.address(Target::Tables, info_at);
        t.words(&[0, 0, 0]);
        (0..kernels).for_each(|k| t.address(Target::Kernel(k), 0));
        weights.offsets.iter().for_each(|&offset| t.address(Target::Weights, offset));
        t.info(program, weights.size);
        t
    }

    /// `aic_model_info`, and the `aic_port_info`s behind it.
    fn info(&mut self, program: &Program, constant_bytes: u64) {
        const INFO_BYTES: u32 = 64;
        const PORT_BYTES: u64 = 32;
        let (inputs, outputs) = (&program.inputs, &program.outputs);
        let inputs_at = self.tables.len() as u64 + u64::from(INFO_BYTES);
        self.halves([INFO_BYTES, inputs.len() as u32, outputs.len() as u32, 0]);
        self.text(&program.name);
        self.text(env!("CARGO_PKG_VERSION"));
        self.address(Target::Tables, inputs_at);
        self.address(Target::Tables, inputs_at + inputs.len() as u64 * PORT_BYTES);
        self.words(&[program.arena_bytes.as_const().unwrap_or(-1), constant_bytes as i64]);
        inputs.iter().chain(outputs).for_each(|port| self.port(port));
    }

    fn port(&mut self, port: &Port) {
        self.text(&port.name);
        self.text(&port.ty.to_string());
        let dims = port.ty.dims.iter().map(|d| d.as_const().unwrap_or(-1));
        self.data.resize(self.data.len().next_multiple_of(8), 0);
        self.address(Target::Data, self.data.len() as u64);
        self.data.extend(dims.flat_map(i64::to_le_bytes));
        self.halves([port.ty.rank() as u32, port.ty.dtype.onnx().cast_unsigned()]);
    }

    fn text(&mut self, text: &str) {
        self.address(Target::Data, self.data.len() as u64);
        self.data.extend(text.bytes().filter(|b| *b != 0));
        self.data.push(0);
    }

    fn address(&mut self, target: Target, offset: u64) {
        self.addresses.push((self.tables.len() as u64, target, offset));
        self.words(&[0]);
    }

    fn words(&mut self, words: &[i64]) {
        self.tables.extend(words.iter().flat_map(|w| w.to_le_bytes()));
    }

    fn halves<const N: usize>(&mut self, halves: [u32; N]) {
        self.tables.extend(halves.iter().flat_map(|h| h.to_le_bytes()));
    }
}

// Sections and symbols in the order in which they are written.
const DATA_SECTION: u32 = 1;
const TABLES_SECTION: u32 = 2;
const WEIGHTS_SECTION: u32 = 3;
const N_LOCAL_SYMBOLS: u32 = 4;

/// Writes everything with a preliminary file header; gives the final one.
fn write_elf(
    stream: &mut StreamingBuffer<BufWriter<&File>>,
    program: &Program,
    weights: &Weights,
    tables: &Tables,
) -> object::write::Result<Vec<u8>> {
    let mut w = SinglePhaseWriter::new_single_phase(Endianness::Little, true, stream);
    w.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_REL,
        e_machine: elf::EM_X86_64,
        e_entry: 0,
        e_flags: elf::FileFlags(0),
    })?;
    let data_at = w.write_align(ALIGN);
    w.write(&tables.data);
    let tables_at = w.write_align(ALIGN);
    w.write(&tables.tables);
    let weights_at = w.write_align(ALIGN);
    for (offset, bytes) in &weights.distinct {
        w.pad_until(weights_at + offset);
        w.write(bytes);
    }
    let addresses_at = write_addresses(&mut w, tables);
    write_symbols(&mut w, program);

    let alloc = elf::SHF_ALLOC;
    let sections: [(&[u8], _, _, u64); 3] = [
        (b".rodata.aic", alloc, data_at, tables.data.len() as u64),
        (
            b".data.rel.ro.aic",
            elf::SectionFlags(alloc.0 | elf::SHF_WRITE.0),
            tables_at,
            tables.tables.len() as u64,
        ),
        (b".lrodata.aic", elf::SectionFlags(alloc.0 | LARGE), weights_at, weights.size),
    ];
    let names = sections.map(|(name, ..)| w.add_section_name(name));
    let stack = w.add_section_name(b".note.GNU-stack");
    let addresses = w.add_section_name(b".rela.data.rel.ro.aic");
    w.write_strtab()?;
    w.write_shstrtab()?;
    w.write_null_section_header();
    for ((_, sh_flags, sh_offset, sh_size), name) in sections.into_iter().zip(names) {
        let sh_name = w.section_name_offset(Some(name));
        let (sh_type, sh_addralign) = (elf::SHT_PROGBITS, ALIGN);
        w.write_section_header(&SectionHeader {
            sh_name,
            sh_type,
            sh_flags,
            sh_offset,
            sh_size,
            sh_addralign,
            ..SectionHeader::default()
        });
    }
    // Its presence says that no code needs an executable stack.
    let sh_name = w.section_name_offset(Some(stack));
    w.write_section_header(&SectionHeader {
        sh_name,
        sh_type: elf::SHT_PROGBITS,
        sh_addralign: 1,
        ..SectionHeader::default()
    });
    w.write_strtab_section_header();
    w.write_symtab_section_header(N_LOCAL_SYMBOLS);
    let symtab = object::write::elf::SectionIndex(6);
    let tables_index = object::write::elf::SectionIndex(TABLES_SECTION);
    w.write_relocation_section_header(
        addresses,
        tables_index,
        symtab,
        addresses_at,
        tables.addresses.len(),
        true,
    );
    w.write_shstrtab_section_header();
    let mut header = Vec::new();
    w.write_file_header_to(&mut header)?;
    Ok(header)
}

/// Relocations; gives their position.
fn write_addresses(w: &mut SinglePhaseWriter, tables: &Tables) -> u64 {
    let at = w.write_align_relocation();
    for &(r_offset, target, offset) in &tables.addresses {
        let r_sym = match target {
            Target::Data => DATA_SECTION,
            Target::Tables => TABLES_SECTION,
            Target::Weights => WEIGHTS_SECTION,
            Target::Kernel(k) => N_LOCAL_SYMBOLS + 1 + k as u32,
        };
        let r_type = elf::R_X86_64_64;
        w.write_relocation(true, &Rel { r_offset, r_sym, r_type, r_addend: offset as i64 });
    }
    at
}

/// A symbol for each section, the program, and the kernels, which other objects define.
fn write_symbols<'a>(w: &mut SinglePhaseWriter<'a>, program: &'a Program) {
    let symbol = |st_name, st_info, section: Option<u32>| Sym {
        section,
        st_name,
        st_info,
        st_other: elf::SymbolOther::default(),
        st_shndx: elf::SHN_UNDEF,
        st_value: 0,
        st_size: 0,
    };
    w.write_null_symbol();
    let local = elf::SymbolInfo::new(elf::STB_LOCAL, elf::STT_SECTION);
    for section in [DATA_SECTION, TABLES_SECTION, WEIGHTS_SECTION] {
        w.write_symbol(&symbol(0, local, Some(section)));
    }
    let hidden = elf::SymbolOther(elf::STV_HIDDEN.0);
    let name = w.add_string(PROGRAM.as_bytes());
    let st_name = w.string_offset(Some(name));
    let object = elf::SymbolInfo::new(elf::STB_GLOBAL, elf::STT_OBJECT);
    w.write_symbol(&Sym { st_other: hidden, ..symbol(st_name, object, Some(TABLES_SECTION)) });
    for kernel in &program.kernels {
        let name = w.add_string(kernel.name.as_bytes());
        let st_name = w.string_offset(Some(name));
        let undefined = elf::SymbolInfo::new(elf::STB_GLOBAL, elf::STT_NOTYPE);
        w.write_symbol(&Sym { st_other: hidden, ..symbol(st_name, undefined, None) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_are_stored_once() {
        let tensor = |n: usize, f: fn(usize) -> u8| {
            Tensor::from_vec(vec![n], &(0..n).map(f).collect::<Vec<u8>>()).unwrap()
        };
        let one_differs = |i| u8::from(i == 4097);
        let constants = [
            tensor(5000, |_| 0),
            tensor(10, |_| 1),
            tensor(5000, one_differs),
            tensor(10, |_| 1),
            tensor(5000, |_| 0),
        ];
        let weights = Weights::new(&constants);
        assert_eq!(weights.offsets, [0, 5056, 5120, 5056, 0]);
        assert_eq!(weights.size, 10120);
        let empty = [tensor(0, |_| 0), tensor(0, |_| 0)];
        assert_eq!(Weights::new(&empty).size, 0);
    }
}

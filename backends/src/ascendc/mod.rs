//! Ascend C: kernels for NPUs of the Atlas A2 series as C++ sources in the dialect of CANN 8, and a model of its API that
//! runs such kernels on any machine.
//!
//! A kernel is printed from its loop IR. Buffers filled by copies become queues, as do those copied out; others are
//! temporaries ([`roles`]). A loop over a row of the unified buffer is one instruction for each function in it
//! ([`values`]); tiles of the cube unit are moves of fractals ([`cube`]). Capacities and the numbers of buffers are
//! checked before anything is printed.

mod cube;
pub mod emulator;
pub mod host;
mod moves;
mod roles;
mod scalar;
mod text;
mod values;
mod writer;

use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::kernel::{Kernel, Level, LoopKind, Scope, Stmt};
use aic_ir::target::Target;
use roles::{Local, Role};
use text::{ctype, name};
use writer::{Part, Writer, has_vector_cores, letter};

/// The model: C++20 headers by their names. `kernel_operator.h` is what kernels include.
pub const MODEL: &[(&str, &str)] = &[
    ("kernel_operator.h", include_str!("model/kernel_operator.h")),
    ("numbers.h", include_str!("model/numbers.h")),
    ("report.h", include_str!("model/report.h")),
    ("memory.h", include_str!("model/memory.h")),
    ("machine.h", include_str!("model/machine.h")),
    ("tensor.h", include_str!("model/tensor.h")),
    ("sync.h", include_str!("model/sync.h")),
    ("queue.h", include_str!("model/queue.h")),
    ("copy.h", include_str!("model/copy.h")),
    ("vector.h", include_str!("model/vector.h")),
    ("reduce.h", include_str!("model/reduce.h")),
    ("select.h", include_str!("model/select.h")),
    ("cube.h", include_str!("model/cube.h")),
    ("project.h", include_str!("model/project.h")),
    ("register/tilingdata_base.h", "#include \"project.h\"\n"),
    ("driver.h", include_str!("model/driver.h")),
];

/// The cores of a block of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskType {
    /// A vector core.
    Vector,
    /// A vector core that may wait for others.
    MixedVector,
    /// A cube unit.
    Cube,
    /// A cube unit that may wait for others.
    MixedCube,
    /// A cube unit and one vector core.
    OneVector,
    /// A cube unit and two vector cores.
    TwoVectors,
}

impl TaskType {
    /// Each with the vendor's name of it.
    pub const ALL: [(TaskType, &'static str); 6] = [
        (TaskType::Vector, "AIV_ONLY"),
        (TaskType::MixedVector, "MIX_AIV_1_0"),
        (TaskType::Cube, "AIC_ONLY"),
        (TaskType::MixedCube, "MIX_AIC_1_0"),
        (TaskType::OneVector, "MIX_AIC_1_1"),
        (TaskType::TwoVectors, "MIX_AIC_1_2"),
    ];

    /// The vendor's name.
    pub fn keyword(self) -> &'static str {
        TaskType::ALL.iter().find(|(t, _)| *t == self).map_or("", |(_, name)| name)
    }
}

/// A kernel as C++.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The function.
    pub name: String,
    /// The cores of a block.
    pub task: TaskType,
    /// How many blocks it is launched on.
    pub blocks: u32,
    /// Bytes of memory that it is given behind its other arguments; 0 for no such argument.
    pub workspace: u64,
    /// The file.
    pub text: String,
}

/// Tiles between the cube unit and its vector cores.
const RING: i64 = 2;

/// Prints a kernel; `about` are lines for the comment at its beginning.
///
/// # Errors
/// It has symbols, or something that the chip hasn't, or its buffers don't fit.
pub fn kernel(k: &Kernel, target: &Target, about: &[String]) -> Result<Source> {
    emit(k, target, about).map_err(|e| e.context(format!("kernel {}", k.name)))
}

fn emit(k: &Kernel, target: &Target, about: &[String]) -> Result<Source> {
    if let Some((s, _)) = k.symbols.first() {
        bail!("Ascend C kernels have known shapes, but {s} is any number");
    }
    let locals = roles::locals(k)?;
    let is_cube = locals.iter().any(|l| l.role == Role::Cube);
    let is_mixed = is_cube && has_vector_cores(&k.body);
    let task = match (is_cube, is_mixed) {
        (_, true) => TaskType::TwoVectors,
        (true, _) => TaskType::Cube,
        _ => TaskType::Vector,
    };
    let cores = cores(&k.body)?;
    let blocks = if task == TaskType::Vector { 2 * cores } else { cores };
    let ring: i64 =
        locals.iter().filter(|l| l.role == Role::Ring).map(|l| l.len * l.buffer.dtype.size() as i64).sum();
    let workspace = (ring * RING) as u64 * u64::from(cores);
    let parts: &[(Part, &str)] = match task {
        TaskType::TwoVectors => &[(Part::Cube, "Multiply"), (Part::Finish, "Finish")],
        TaskType::Cube => &[(Part::Cube, "")],
        _ => &[(Part::Vector, "")],
    };
    let bodies: Vec<String> =
        parts.iter().map(|(part, _)| part_text(k, &locals, *part, target)).collect::<Result<_>>()?;
    let mut params: Vec<String> =
        k.params.iter().map(|p| format!("GM_ADDR {}", name(&p.buffer.name))).collect();
    if workspace > 0 {
        params.push("GM_ADDR workspace".into());
    }
    let arguments: String = params.iter().map(|p| p.replace("GM_ADDR ", ", ")).collect();
    let params = params.join(", ");
    let mut out: String = about.iter().map(|l| format!("// {l}\n")).collect();
    out.push_str("#include \"kernel_operator.h\"\nusing namespace AscendC;\n\n");
    out.push_str(&text::helpers(&bodies.concat()));
    let head = format!(
        "extern \"C\" __global__ __aicore__ void {}({params}) {{\n    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_{});\n    TPipe pipe;\n",
        k.name,
        task.keyword()
    );
    match &bodies[..] {
        [cube, vector] => {
            out.push_str("// Tiles between the cube unit and its vector cores, and the flags that say they are there, and read.\n");
            out.push_str(&format!("constexpr uint32_t RING = {RING}, READY = 0, READ = 1;\n\n"));
            for (what, part, body) in
                [("The cube unit's part", "Multiply", cube), ("A vector core's part", "Finish", vector)]
            {
                out.push_str(&format!(
                    "// {what}.\n__aicore__ inline void {part}(TPipe& pipe, {params}) {{\n{body}}}\n\n"
                ));
            }
            out.push_str(&head);
            out.push_str(&format!("    if ASCEND_IS_AIC {{\n        Multiply(pipe{arguments});\n    }} else {{\n        Finish(pipe{arguments});\n    }}\n}}\n"));
        }
        _ => {
            out.push_str(&head);
            bodies.iter().for_each(|b| out.push_str(b));
            out.push_str("}\n");
        }
    }
    Ok(Source { name: k.name.clone(), task, blocks, workspace, text: out })
}

/// The cores that the outermost loop is bound to.
fn cores(body: &[Stmt]) -> Result<u32> {
    let mut found = 1;
    roles::visit(body, &mut |s| {
        if let Stmt::For { end, kind: LoopKind::Bind(Level::Core), .. } = s {
            found = end.as_const().unwrap_or(0);
        }
    });
    match u32::try_from(found) {
        Ok(n) if n > 0 => Ok(n),
        _ => bail!("the number of cores isn't known"),
    }
}

/// Declarations and statements of the part for some units.
fn part_text(k: &Kernel, locals: &[Local], part: Part, target: &Target) -> Result<String> {
    let mut w = Writer::new(k, locals, part);
    for s in &k.body {
        w.block(std::slice::from_ref(s))?;
    }
    let is_ring = locals.iter().any(|l| l.role == Role::Ring);
    let mut out = text::Text::new(1);
    declare_buffers(&w, &mut out, target)?;
    for p in &k.params {
        let (n, t) = (name(&p.buffer.name), ctype(p.buffer.dtype)?);
        if w.text.lines.contains(&format!("{n}Gm")) {
            let Some(len) = p.buffer.len.as_const() else { bail!("{n} has no constant length") };
            out.line(format!("GlobalTensor<{t}> {n}Gm;"));
            out.line(format!("{n}Gm.SetGlobalBuffer((__gm__ {t}*){n}, {len});"));
        }
    }
    for l in locals.iter().filter(|l| l.role == Role::Ring) {
        let (n, t) = (name(&l.buffer.name), ctype(l.buffer.dtype)?);
        let core = if part == Part::Cube { "GetBlockIdx()" } else { "GetBlockIdx() / 2" };
        out.line(format!("GlobalTensor<{t}> {n}Gm;"));
        out.line(format!(
            "{n}Gm.SetGlobalBuffer((__gm__ {t}*)workspace + {core} * RING * {}, RING * {});",
            l.len, l.len
        ));
    }
    for event in &w.events {
        out.line(format!("const int32_t event{event} = pipe.AllocEventID<HardEvent::{event}>();"));
    }
    if is_ring {
        out.line("uint32_t turn = 0;");
    }
    let mut lines = out.lines + &w.text.lines;
    if is_ring && part == Part::Cube {
        lines.push_str("    for (uint32_t k = 0; k < RING && k < turn; ++k) CrossCoreWaitFlag(READ);\n");
    }
    Ok(lines)
}

/// A buffer of a part: its declaration, its place, how many, and bytes of each.
struct Declared {
    name: String,
    kind: &'static str,
    place: &'static str,
    scope: Scope,
    number: u64,
    bytes: u64,
}

fn declare_buffers(w: &Writer, out: &mut text::Text, target: &Target) -> Result<()> {
    let mut all: Vec<Declared> = Vec::new();
    for l in w.locals {
        let bytes = (l.len * l.buffer.dtype.size().max(1) as i64) as u64;
        let (kind, place) = match (l.role, l.buffer.scope) {
            (Role::In, _) => ("TQue", "VECIN"),
            (Role::Out, _) => ("TQue", "VECOUT"),
            (Role::Through, _) => ("TQueBind", "VECIN"),
            (Role::Temporary | Role::Scalar, _) => ("TBuf", "VECCALC"),
            (Role::Cube, Scope::L1) if name(&l.buffer.name).starts_with('a') => ("TQue", "A1"),
            (Role::Cube, Scope::L1) => ("TQue", "B1"),
            (Role::Cube, Scope::L0A) => ("TQue", "A2"),
            (Role::Cube, Scope::L0B) => ("TQue", "B2"),
            (Role::Cube, _) => ("TQue", "CO1"),
            (Role::Ring, _) => continue,
        };
        if (l.role == Role::Cube) != (w.part == Part::Cube) {
            continue;
        }
        let turns = l.turns.max(1) as u64;
        let (number, bytes) = match l.role {
            Role::Cube => (turns, bytes / turns),
            Role::In | Role::Out | Role::Through => (2, bytes),
            _ => (1, bytes),
        };
        all.push(Declared { name: name(&l.buffer.name), kind, place, scope: l.buffer.scope, number, bytes });
    }
    for (ty, n) in w.temporaries() {
        let size: u64 = match ty {
            "float" | "int32_t" => 4,
            "half" | "bfloat16_t" | "int16_t" => 2,
            "int64_t" => 8,
            _ => 1,
        };
        for k in 0..n {
            let bytes = w.width() as u64 * size;
            let name = format!("{}{k}", letter(ty));
            all.push(Declared { name, kind: "TBuf", place: "VECCALC", scope: Scope::Ub, number: 1, bytes });
        }
    }
    let strides = w.steps.iter().map(|step| format!("offsets{step}"));
    all.extend(strides.map(|name| Declared {
        name,
        kind: "TBuf",
        place: "VECCALC",
        scope: Scope::Ub,
        number: 1,
        bytes: 4 * w.width() as u64,
    }));
    fit(&mut all, target)?;
    for d in &all {
        let n = &d.name;
        let bytes = d.bytes.div_ceil(32) * 32;
        match d.kind {
            "TBuf" => {
                let local = w.locals.iter().find(|l| name(&l.buffer.name) == *n);
                let t = match local {
                    Some(l) => ctype(l.buffer.dtype)?,
                    None if n.starts_with("offsets") => "int32_t",
                    None => {
                        w.temporaries().map(|(t, _)| t).find(|t| n.starts_with(letter(t))).unwrap_or("float")
                    }
                };
                out.line(format!("TBuf<TPosition::VECCALC> {n}Buf;"));
                out.line(format!("pipe.InitBuffer({n}Buf, {bytes});"));
                out.line(format!("LocalTensor<{t}> {n} = {n}Buf.Get<{t}>();"));
            }
            kind => {
                let places = if kind == "TQueBind" {
                    "TPosition::VECIN, TPosition::VECOUT".into()
                } else {
                    format!("TPosition::{}", d.place)
                };
                out.line(format!("{kind}<{places}, 1> {n}Queue;"));
                out.line(format!("pipe.InitBuffer({n}Queue, {}, {bytes});", d.number));
            }
        }
    }
    for step in &w.steps {
        let (n, width) = (format!("offsets{step}"), w.width());
        out.line(format!("CreateVecIndex({n}, (int32_t)0, {width});"));
        out.line("PipeBarrier<PIPE_V>();");
        out.line(format!("Muls({n}, {n}, (int32_t){step}, {width});"));
        out.line("PipeBarrier<PIPE_V>();");
    }
    Ok(())
}

/// Two buffers for each queue of the vector cores where they fit, and the limits of the chip.
fn fit(all: &mut [Declared], target: &Target) -> Result<()> {
    let of_place = |all: &[Declared], place: &str| -> u64 {
        all.iter().filter(|d| d.kind != "TBuf" && d.place == place).map(|d| d.number).sum()
    };
    let bytes = |all: &[Declared], scope: Scope| -> u64 {
        all.iter().filter(|d| d.scope == scope).map(|d| d.number * d.bytes.div_ceil(32) * 32).sum()
    };
    let capacity = |scope: Scope| target.space(scope).and_then(|s| s.bytes).unwrap_or(u64::MAX);
    let most = u64::from(target.limits.queue_buffers.max(1));
    for k in 0..all.len() {
        let is_over = of_place(all, all[k].place) > most || bytes(all, Scope::Ub) > capacity(Scope::Ub);
        if is_over && all[k].scope == Scope::Ub && all[k].number > 1 {
            all[k].number = 1;
        }
    }
    for place in ["VECIN", "VECOUT", "A1", "B1", "A2", "B2", "CO1"] {
        let n = of_place(all, place);
        if n > most {
            bail!("{n} buffers of queues at {place}; the chip has events for {most}");
        }
    }
    for scope in [Scope::Ub, Scope::L1, Scope::L0A, Scope::L0B, Scope::L0C] {
        let (n, most) = (bytes(all, scope), capacity(scope));
        if n > most {
            bail!("{n} bytes of {scope} memory, of {most}");
        }
    }
    let n: u64 = all.iter().map(|d| d.number).sum();
    if n > u64::from(target.limits.buffers) {
        bail!("{n} buffers, of {}", target.limits.buffers);
    }
    Ok(())
}

//! Kernels compiled against the model into a program of their own, which runs jobs: whatever a kernel does, it doesn't
//! happen in this process.

use super::{Contents, Job, KernelFile, Outcome, Settings};
use crate::ascendc::MODEL;
use crate::ascendc::host::{self, HostFunction};
use aic_ir::error::{Error, Result};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};
use tempfile::TempDir;

/// Translation units that are compiled beside each other.
const UNITS: usize = 2;

/// Kernels that can be run.
pub struct Emulator {
    folder: TempDir,
    program: PathBuf,
}

impl Emulator {
    /// Compiles kernels and functions of the host, whose names differ.
    ///
    /// # Errors
    /// There is no C++ compiler, or it refuses a kernel, whose file and line its message names.
    pub fn build(sources: &[KernelFile], functions: &[HostFunction]) -> Result<Emulator> {
        let folder =
            tempfile::tempdir().map_err(|e| Error::new(format!("no folder for temporary files: {e}")))?;
        let model = folder.path().join("model");
        make_folder(&model)?;
        make_folder(&model.join("register"))?;
        for (name, text) in MODEL {
            write(&model.join(name), text.as_bytes())?;
        }
        let per_unit = sources.len().div_ceil(UNITS).max(1);
        let mut units = vec![folder.path().join("main.cpp")];
        write(&units[0], main_text(functions).as_bytes())?;
        for (unit, group) in sources.chunks(per_unit).enumerate() {
            let path = folder.path().join(format!("kernels{unit}.cpp"));
            write(&path, unit_text(folder.path(), unit, group)?.as_bytes())?;
            units.push(path);
        }
        compile_all(&units, &model, &folders(sources))?;
        let program = folder.path().join("program");
        let objects: Vec<PathBuf> = units.iter().map(|u| u.with_extension("o")).collect();
        run(Command::new(compiler()?).arg("-o").arg(&program).args(objects), &model)?;
        Ok(Emulator { folder, program })
    }

    /// Runs a job, for at most so long.
    ///
    /// # Errors
    /// The program crashes, doesn't end in time, or a file can't be written or read.
    pub fn run(&self, job: &Job, settings: &Settings, limit: Duration) -> Result<Outcome> {
        let folder = tempfile::tempdir_in(self.folder.path())
            .map_err(|e| Error::new(format!("no folder for temporary files: {e}")))?;
        let input = |k: usize| folder.path().join(format!("in{k}"));
        let output = |k: usize| folder.path().join(format!("out{k}"));
        for (k, (_, contents)) in job.buffers.iter().enumerate() {
            if let (Contents::Bytes(bytes), false) = (contents, settings.is_timing_only) {
                write(&input(k), bytes)?;
            }
        }
        let name = |path: PathBuf| path.to_string_lossy().into_owned();
        let text = job.text(settings, &|k| name(input(k)), &|k| name(output(k)));
        let path = folder.path().join("job");
        write(&path, text.as_bytes())?;
        let answer = folder.path().join("answer");
        self.execute(&path, &answer, limit)?;
        let said = fs::read_to_string(&answer).map_err(|e| unreadable(&answer, &e))?;
        let mut outcome = Outcome::parse(&said)?;
        if !settings.is_timing_only {
            for k in &job.outputs {
                outcome.outputs.push(fs::read(output(*k)).map_err(|e| unreadable(&output(*k), &e))?);
            }
        }
        Ok(outcome)
    }

    fn execute(&self, job: &Path, answer: &Path, limit: Duration) -> Result<()> {
        let failed = |e: &dyn std::fmt::Display| Error::new(format!("the kernels can't be run: {e}"));
        let file = fs::File::create(answer).map_err(|e| failed(&e))?;
        let mut child = Command::new(&self.program)
            .arg(job)
            .stdout(file)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(&e))?;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|e| failed(&e))? {
                break status;
            }
            if start.elapsed() > limit {
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(&format!("they don't end within {} s", limit.as_secs())));
            }
            thread::sleep(Duration::from_millis(2));
        };
        if status.success() {
            return Ok(());
        }
        let mut said = String::new();
        if let Some(mut pipe) = child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut pipe, &mut said);
        }
        Err(failed(&format!("{status} {}", said.trim())))
    }
}

/// The program's `main`, and the functions of the host.
fn main_text(functions: &[HostFunction]) -> String {
    let mut text = String::from("#include \"kernel_operator.h\"\n#include \"driver.h\"\n");
    if !functions.is_empty() {
        text += host::FUNCTIONS;
        text += "namespace host_functions {\n";
        functions.iter().for_each(|f| text += &f.text);
        text += "}\n";
    }
    for (k, f) in functions.iter().enumerate() {
        let _ = writeln!(
            text,
            "static const aic_model::RegisterHost host_{k}{{{{\"{0}\", {1}, {2}, host_functions::{0}}}}};",
            f.name, f.n_inputs, f.n_outputs
        );
    }
    text + "int main(int n, char** args) { return n > 1 ? aic_model::Driver().run(args[1]) : 2; }\n"
}

/// A file that includes kernels, each in a namespace of its own, and registers them.
fn unit_text(folder: &Path, unit: usize, group: &[KernelFile]) -> Result<String> {
    // By this name kernels know that they aren't compiled for the chip, where they have launchers of their own.
    let mut text =
        String::from("#define __CCE_KT_TEST__ 1\n#include \"kernel_operator.h\"\n#include \"driver.h\"\n");
    for (k, s) in group.iter().enumerate() {
        let inner = folder.join(format!("{unit}_{k}"));
        make_folder(&inner)?;
        let file = s.file.file_name().unwrap_or_default();
        write(&inner.join(file), s.text.as_bytes())?;
        let (space, name) = (format!("kernel_{unit}_{k}"), &s.name);
        let args: Vec<String> = (0..s.args.len()).map(|a| format!("a[{a}]")).collect();
        let _ = writeln!(
            text,
            "namespace {space} {{\n#include \"{unit}_{k}/{}\"\n}}\n\
             static const aic_model::Register register_{k}{{{{\"{name}\", {}, [](uint8_t* const* a) {{ {space}::{name}({}); }}}}}};",
            file.to_string_lossy(),
            args.len(),
            args.join(", ")
        );
    }
    Ok(text)
}

/// The folders of kernels' files, where they may have headers.
fn folders(sources: &[KernelFile]) -> Vec<PathBuf> {
    let folder = |s: &KernelFile| s.file.parent().filter(|p| p.is_dir()).and_then(|p| p.canonicalize().ok());
    let mut all: Vec<PathBuf> = sources.iter().filter_map(folder).collect();
    all.dedup();
    all
}

fn compile_all(units: &[PathBuf], model: &Path, folders: &[PathBuf]) -> Result<()> {
    let cxx = compiler()?;
    let one = |unit: &PathBuf| {
        let mut command = Command::new(&cxx);
        command.args(["-std=c++20", "-O1", "-w", "-c", "-I"]).arg(model);
        for folder in folders {
            command.arg("-I").arg(folder);
        }
        run(command.arg(unit).arg("-o").arg(unit.with_extension("o")), model)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = units.iter().map(|u| scope.spawn(move || one(u))).collect();
        let all: Vec<Result<()>> = threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(Error::new("a thread panicked"))))
            .collect();
        all.into_iter().collect()
    })
}

/// `$CXX`, or the first C++ compiler that there is.
fn compiler() -> Result<String> {
    let given = std::env::var("CXX").ok().filter(|c| !c.trim().is_empty());
    let all = given.into_iter().chain(["c++", "g++", "clang++"].map(str::to_owned));
    let works = |c: &String| {
        let mut command = Command::new(c);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|s| s.success())
    };
    all.into_iter().find(works).ok_or_else(|| {
        Error::new("there is no C++ compiler to run Ascend C kernels with")
            .help("install g++ 12 or later, or clang++, or name one in the environment variable CXX")
    })
}

fn run(command: &mut Command, model: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| Error::new(format!("{program} can't be started: {e}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // Where the files lie for the moment says nothing to the reader.
    let folder = model.parent().unwrap_or(model).to_string_lossy().into_owned() + "/";
    let lines: Vec<String> =
        said.lines().filter(|l| l.contains("error")).take(5).map(|l| l.replace(&folder, "")).collect();
    Err(Error::new(format!("{program} refuses the kernel: {}", lines.join("\n"))))
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::new(format!("{}: cannot be made: {e}", path.display())))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(|e| Error::new(format!("{}: cannot be written: {e}", path.display())))
}

fn unreadable(path: &Path, e: &std::io::Error) -> Error {
    Error::new(format!("{}: cannot be read: {e}", path.display()))
}

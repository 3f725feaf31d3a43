//! What the machine has to have: LLVM 22, for the tests also rustfmt, clippy, a Python with the `onnx` package, and
//! NVIDIA's assembler.
//!
//! Each part looks first and costs next to nothing where it finds everything. LLVM comes from the distribution's own
//! packages; the Python packages go into a virtual environment in the target folder, not into the system.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::process::{cargo, command, root, run, show, succeeds, target_dir};

/// Where Debian's packages put LLVM; `.cargo/config.toml` says the same to the build scripts.
const DEFAULT_PREFIX: &str = "/usr/lib/llvm-22";

/// A file that the build or the tests need (relative to LLVM's prefix unless absolute), and the package it is in.
const LLVM_FILES: [(&str, &str); 8] = [
    ("bin/llvm-config", "llvm-22-dev"),
    ("bin/FileCheck", "llvm-22-tools"),
    ("bin/clang", "clang-22"),
    ("bin/mlir-opt", "mlir-22-tools"),
    ("include/mlir-c/IR.h", "libmlir-22-dev"),
    ("lib/libPolly.a", "libpolly-22-dev"),
    ("/usr/include/zlib.h", "zlib1g-dev"),
    ("/usr/include/zstd.h", "libzstd-dev"),
];

/// Finds LLVM 22, or installs it with the system's package manager.
///
/// # Errors
/// It is missing and can't be installed from here; the message says what to run.
pub fn llvm() -> Result<()> {
    let prefix = env::var_os("LLVM_SYS_221_PREFIX").map_or_else(|| DEFAULT_PREFIX.into(), PathBuf::from);
    let missing = missing_packages(&prefix);
    if !missing.is_empty() {
        install_llvm(&prefix, &missing)?;
    }
    let version = llvm_version(&prefix)?;
    println!("LLVM {version} in {}", prefix.display());
    if version.starts_with("22.") {
        Ok(())
    } else {
        Err(format!("expected LLVM 22, found {version}; set LLVM_SYS_221_PREFIX to the folder of LLVM 22"))
    }
}

/// Installs Debian's packages; they go to `DEFAULT_PREFIX`, so they don't help where the user chose another folder.
fn install_llvm(prefix: &Path, missing: &[&str]) -> Result<()> {
    let packages = missing.join(" ");
    println!("{} lacks what belongs to {packages}", prefix.display());
    let installed = if prefix == Path::new(DEFAULT_PREFIX) {
        install(missing)
    } else {
        Err("LLVM_SYS_221_PREFIX names a folder of your own".to_owned())
    };
    let checked = installed.and_then(|()| match missing_packages(prefix)[..] {
        [] => Ok(()),
        _ => Err("the packages were installed, but files are still missing".to_owned()),
    });
    checked.map_err(|error| {
        format!(
            "{error}\n\
             aic needs LLVM 22 in {}. Install these packages (or their counterparts on another system, with \
             LLVM_SYS_221_PREFIX set to LLVM's folder) and run this command again:\n  \
             apt-get update && apt-get install {packages}\n\
             Without LLVM, `cargo build -p aic --no-default-features --features cranelift` builds the rest.",
            prefix.display(),
        )
    })
}

fn missing_packages(prefix: &Path) -> Vec<&'static str> {
    let missing = LLVM_FILES.iter().filter(|(file, _)| !prefix.join(file).exists());
    missing.map(|(_, package)| *package).collect()
}

fn llvm_version(prefix: &Path) -> Result<String> {
    let config = prefix.join("bin/llvm-config");
    let output = command(&config, &["--version"])
        .output()
        .map_err(|error| format!("can't run {}: {error}", config.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Installs packages with apt, as root or by sudo.
fn install(packages: &[&str]) -> Result<()> {
    if !succeeds(command("apt-get", &["--version"])) {
        return Err("there is no apt-get on this machine".to_owned());
    }
    let options = ["install", "--yes", "--no-install-recommends"];
    run(apt_get(&["update"])?)?;
    run(apt_get(&[&options, packages].concat())?)
}

fn apt_get(args: &[&str]) -> Result<Command> {
    let is_root = command("id", &["-u"]).output().is_ok_and(|output| output.stdout == b"0\n");
    let words = [&["DEBIAN_FRONTEND=noninteractive", "apt-get"], args].concat();
    let command = if is_root {
        command("env", &words)
    } else if succeeds(command("sudo", &["--version"])) {
        command("sudo", &[&["env"], &words[..]].concat())
    } else {
        return Err("installing packages needs root, and there is no sudo".to_owned());
    };
    println!("$ {}", show(&command));
    Ok(command)
}

/// Adds rustfmt and clippy to the toolchain where they are missing.
///
/// # Errors
/// They are missing and rustup can't add them.
pub fn rust_components() -> Result<()> {
    if succeeds(cargo(&["fmt", "--version"])) && succeeds(cargo(&["clippy", "--version"])) {
        return Ok(());
    }
    run(command("rustup", &["component", "add", "rustfmt", "clippy"]))
}

/// A Python with the packages of `tools/requirements.txt`, in a virtual environment in the target folder.
///
/// # Errors
/// There is no Python 3 that can make one, or the packages can't be installed.
pub fn python() -> Result<PathBuf> {
    environment("venv", "tools/requirements.txt")
}

/// NVIDIA's assembler and disassembler of GPU code, from the packages of `tools/ptx-requirements.txt`, in a virtual
/// environment in the target folder, where the tests look for them. Their licence lets them be installed, not passed on.
///
/// # Errors
/// As of [`python`].
pub fn ptx() -> Result<()> {
    environment("ptx", "tools/ptx-requirements.txt").map(drop)
}

/// A virtual environment in the target folder with the packages that a file lists; those for PTX without what they
/// depend on, which is the rest of CUDA.
fn environment(name: &str, requirements: &str) -> Result<PathBuf> {
    let requirements = root().join(requirements);
    let wanted = fs::read_to_string(&requirements)
        .map_err(|error| format!("can't read {}: {error}", requirements.display()))?;
    let venv = target_dir()?.join(name);
    let python = venv.join("bin/python");
    let stamp = venv.join("installed.txt");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    if !succeeds(command("python3", &["-c", "import ensurepip, venv"])) {
        install(&["python3-venv"]).map_err(|error| {
            format!("{error}\nthe tests need Python 3 with venv: apt-get install python3-venv")
        })?;
    }
    println!("Python packages for the tests, in {}", venv.display());
    run(command("python3", &["-m", "venv", "--clear", &venv.to_string_lossy()]))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    let alone: &[&str] = if name == "ptx" { &["--no-deps"] } else { &[] };
    let list = requirements.to_string_lossy();
    run(command(&python, &[&pip[..], alone, &["-r", &list]].concat()))?;
    fs::write(&stamp, wanted).map_err(|error| format!("can't write {}: {error}", stamp.display()))?;
    Ok(python)
}

//! NVIDIA's assembler, where there is one: PTX to the code of a card, and what it says about it.

use aic_ir::ensure;
use aic_ir::error::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An assembler found on this machine.
#[derive(Clone, Debug)]
pub struct Ptxas {
    path: PathBuf,
}

/// What one kernel takes, as the assembler says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The kernel.
    pub name: String,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of registers that are kept in memory, written and read.
    pub spilled: u32,
    /// Bytes of a thread's stack.
    pub stack: u32,
    /// Bytes of shared memory of a block, those given at the launch not included.
    pub shared: u32,
}

impl Ptxas {
    /// The assembler at a path.
    pub fn at(path: &Path) -> Option<Ptxas> {
        path.is_file().then(|| Ptxas { path: path.to_owned() })
    }

    /// The assembler that `AIC_PTXAS` names, or that of the search path, or of CUDA where it is usually installed.
    pub fn find() -> Option<Ptxas> {
        let named = std::env::var_os("AIC_PTXAS").map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = std::env::split_paths(&path).map(|folder| folder.join("ptxas"));
        let usual = PathBuf::from("/usr/local/cuda/bin/ptxas");
        named.into_iter().chain(on_path).chain([usual]).find_map(|p| Ptxas::at(&p))
    }

    /// Assembles PTX for a card. Gives the code, and what each kernel takes.
    ///
    /// # Errors
    /// If it refuses the PTX, or can't be run.
    pub fn assemble(&self, ptx: &Path, card: &str, cubin: &Path) -> Result<Vec<Usage>> {
        let output = Command::new(&self.path)
            .args(["-v", "-O3", &format!("-arch={card}"), "-o"])
            .args([cubin, ptx])
            .output()
            .map_err(|e| Error::new(format!("cannot run {}: {e}", self.path.display())))?;
        let said =
            String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "ptxas refuses {}: {}", ptx.display(), said.trim());
        let warning = said.lines().find(|l| l.contains("warning") || l.contains("(C75"));
        ensure!(warning.is_none(), "ptxas on {}: {}", ptx.display(), warning.unwrap_or_default());
        Ok(usages(&said))
    }

    /// The text of a card's code, if NVIDIA's disassembler is beside the assembler.
    ///
    /// # Errors
    /// It refuses the code, or can't be run.
    pub fn disassemble(&self, cubin: &Path) -> Result<Option<String>> {
        let path = self.path.with_file_name("nvdisasm");
        if !path.is_file() {
            return Ok(None);
        }
        let failed = |why: String| Error::new(format!("{} on {}: {why}", path.display(), cubin.display()));
        let output = Command::new(&path).arg("-c").arg(cubin).output().map_err(|e| failed(e.to_string()))?;
        match output.status.success() {
            true => Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned())),
            false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        }
    }
}

/// Reads what `-v` prints of each kernel.
fn usages(said: &str) -> Vec<Usage> {
    let mut all: Vec<Usage> = Vec::new();
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            let name = rest.split('\'').next().unwrap_or_default().to_owned();
            all.push(Usage { name, ..Usage::default() });
        }
        let Some(last) = all.last_mut() else { continue };
        let before = |what: &str| -> u32 {
            let words = line.split(what).next().filter(|_| line.contains(what));
            words.and_then(|w| w.split_whitespace().last()).and_then(|n| n.parse().ok()).unwrap_or(0)
        };
        last.registers += before(" registers");
        last.stack += before(" bytes stack frame");
        last.shared += before(" bytes smem");
        last.spilled += before(" bytes spill stores") + before(" bytes spill loads");
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_kernels() {
        let said = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'relu' for 'sm_80'
ptxas info    : Function properties for relu
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 18 registers, used 1 barriers, 368 bytes cmem[0]
ptxas info    : Compile time = 1.700 ms";
        let relu = Usage { name: "relu".into(), registers: 18, spilled: 28, stack: 8, shared: 0 };
        assert_eq!(usages(said), [relu]);
    }
}

//! `cargo xtask gpu`: a folder of compiled kernels and `tools/gpu.py`, for a machine that has a GPU and PyTorch but not this
//! repository.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use crate::Result;
use crate::process::{cargo, command, root, run, show, target_dir};
use crate::setup;

/// The cards that cases are compiled for.
const TARGETS: [&str; 2] = ["sm_80", "sm_90a"];

/// Builds `aic`, compiles each case for both cards, and says what to do with the folder.
///
/// # Errors
/// There is no LLVM or Python, or a case doesn't compile.
pub fn gpu() -> Result<()> {
    setup::llvm()?;
    run(cargo(&["build", "--workspace", "--bin", "aic"]))?;
    let (aic, folder) = (target_dir()?.join("debug/aic"), target_dir()?.join("gpu"));
    // What an earlier version made is not to pass for this one's. There may be none.
    let _ = fs::remove_dir_all(&folder);
    let graphs = folder.join("graphs");
    for (case, numerics) in cases(&graphs)? {
        for target in TARGETS {
            let graph = graphs.join(format!("{case}.aic"));
            let out = folder.join(target).join(&case);
            let (graph, out) = (graph.to_string_lossy(), out.to_string_lossy());
            let target = format!("ptx:{target}");
            run(command(
                &aic,
                &["compile", &graph, "--target", &target, "--numerics", &numerics, "-o", &out],
            ))?;
        }
    }
    fs::copy(root().join("tools/gpu.py"), folder.join("gpu.py"))
        .map_err(|error| format!("can't copy gpu.py: {error}"))?;
    println!("copy {} to a machine with a GPU and PyTorch; in it: python3 gpu.py run", folder.display());
    Ok(())
}

/// Writes the graphs of all cases; gives their names and classes of numerics.
fn cases(graphs: &Path) -> Result<Vec<(String, String)>> {
    let mut python = command("python3", &["tools/gpu.py", "cases", &graphs.to_string_lossy()]);
    let output = python.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("can't start {}: {error}", show(&python)))?;
    if !output.status.success() {
        return Err(format!("{} failed: {}", show(&python), output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let pair = |line: &str| line.split_once(' ').map(|(name, n)| (name.to_owned(), n.to_owned()));
    Ok(text.lines().filter_map(pair).collect())
}

//! What a module asks of the GPU: intrinsics and inline assembly by name.
//!
//! A name is read once, when the module is compiled. Names of intrinsics are LLVM's, without `llvm.nvvm.`; those of
//! instructions are the PTX ISA's.

use super::barrier::BlockOp;
use super::copy::CopyOp;
use super::mbarrier::MbarrierOp;
use super::scalar::{self, Function};
use super::warp::WarpOp;
use super::wgmma::WgmmaOp;
use aic_ir::bail;
use aic_ir::error::Result;

/// An operation with operands and results in slots of 64 bits.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// Hints, and fences between proxies: what is executed here is in order.
    Nothing,
    /// A special register.
    Register(Register),
    /// A function of its operands.
    Scalar(Function),
    /// By the threads of a warp together.
    Warp(WarpOp),
    /// By the threads of a block together.
    Block(BlockOp),
    /// All threads of a cluster arrive, and later wait.
    ClusterArrive,
    ClusterWait,
    /// The same place in another block of the cluster.
    Map,
    /// The block that a place in shared memory belongs to.
    Rank,
    Mbarrier(MbarrierOp),
    Copy(CopyOp),
    Wgmma(WgmmaOp),
}

/// Special registers (PTX ISA, section "Special Registers"). Numbers are axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Thread(usize),
    Threads(usize),
    Block(usize),
    Blocks(usize),
    Lane,
    Warp,
    Warps,
    WarpSize,
    LaneMask(LaneMask),
    ClusterBlock(usize),
    ClusterBlocks(usize),
    Cluster(usize),
    Clusters(usize),
    ClusterRank,
    ClusterSize,
    IsCluster,
    /// Clocks, of which only the order counts.
    Clock,
}

/// Lanes whose numbers compare so with the thread's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LaneMask {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

impl Op {
    /// The operation of an intrinsic, named without `llvm.nvvm.`.
    pub fn of_intrinsic(name: &str) -> Result<Op> {
        let parsed = register(name)
            .map(Op::Register)
            .or_else(|| scalar::function(name).map(Op::Scalar))
            .or_else(|| WarpOp::parse(name).map(Op::Warp))
            .or_else(|| BlockOp::parse(name).map(Op::Block))
            .or_else(|| MbarrierOp::parse(name).map(Op::Mbarrier))
            .or_else(|| CopyOp::parse(name).map(Op::Copy))
            .or_else(|| WgmmaOp::of_intrinsic(name).map(Op::Wgmma))
            .or_else(|| cluster(name))
            .or_else(|| is_hint(name).then_some(Op::Nothing));
        match parsed {
            Some(op) => Ok(op),
            None => bail!("the emulator has no intrinsic `llvm.nvvm.{name}`"),
        }
    }

    /// The operation of inline assembly with so many operands.
    pub fn of_assembly(text: &str, constraints: &str) -> Result<Op> {
        let text = text.trim();
        let parsed = WgmmaOp::of_assembly(text, constraints)?
            .map(Op::Wgmma)
            .or_else(|| scalar::instruction(text).map(Op::Scalar));
        match parsed {
            Some(op) => Ok(op),
            None => bail!("the emulator has no instruction `{text}`"),
        }
    }
}

fn axis(name: &str) -> Option<usize> {
    ["x", "y", "z"].iter().position(|a| *a == name)
}

fn register(name: &str) -> Option<Register> {
    if name == "is_explicit_cluster" {
        return Some(Register::IsCluster);
    }
    let name = name.strip_prefix("read.ptx.sreg.")?;
    let fixed = [
        ("laneid", Register::Lane),
        ("warpid", Register::Warp),
        ("nwarpid", Register::Warps),
        ("warpsize", Register::WarpSize),
        ("lanemask.eq", Register::LaneMask(LaneMask::Eq)),
        ("lanemask.lt", Register::LaneMask(LaneMask::Lt)),
        ("lanemask.le", Register::LaneMask(LaneMask::Le)),
        ("lanemask.gt", Register::LaneMask(LaneMask::Gt)),
        ("lanemask.ge", Register::LaneMask(LaneMask::Ge)),
        ("cluster.ctarank", Register::ClusterRank),
        ("cluster.nctarank", Register::ClusterSize),
        ("clock", Register::Clock),
        ("clock64", Register::Clock),
        ("globaltimer", Register::Clock),
    ];
    if let Some((_, r)) = fixed.iter().find(|(n, _)| *n == name) {
        return Some(*r);
    }
    let (stem, last) = name.rsplit_once('.')?;
    let axis = axis(last)?;
    Some(match stem {
        "tid" => Register::Thread(axis),
        "ntid" => Register::Threads(axis),
        "ctaid" => Register::Block(axis),
        "nctaid" => Register::Blocks(axis),
        "cluster.ctaid" => Register::ClusterBlock(axis),
        "cluster.nctaid" => Register::ClusterBlocks(axis),
        "clusterid" => Register::Cluster(axis),
        "nclusterid" => Register::Clusters(axis),
        _ => return None,
    })
}

fn cluster(name: &str) -> Option<Op> {
    Some(match name {
        "mapa" | "mapa.shared.cluster" => Op::Map,
        "getctarank" | "getctarank.shared.cluster" => Op::Rank,
        "barrier.cluster.wait" | "barrier.cluster.wait.aligned" => Op::ClusterWait,
        _ if name.starts_with("barrier.cluster.arrive") => Op::ClusterArrive,
        _ => return None,
    })
}

/// What has no effect on values where everything is executed in order.
fn is_hint(name: &str) -> bool {
    let starts =
        ["fence.", "membar.", "setmaxnreg.", "griddepcontrol.", "prefetch", "discard.", "applypriority"];
    starts.iter().any(|s| name.starts_with(s))
        || name == "nanosleep"
        || name.starts_with("cp.async.bulk.tensor.prefetch.")
        || name.starts_with("cp.async.bulk.prefetch.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_registers() {
        assert_eq!(register("read.ptx.sreg.tid.y"), Some(Register::Thread(1)));
        assert_eq!(register("read.ptx.sreg.cluster.nctaid.z"), Some(Register::ClusterBlocks(2)));
        assert_eq!(register("read.ptx.sreg.lanemask.lt"), Some(Register::LaneMask(LaneMask::Lt)));
        assert_eq!(register("read.ptx.sreg.pm0"), None);
    }

    #[test]
    fn unknown_names_are_refused() {
        let e = Op::of_intrinsic("suld.1d.i8.clamp").map(drop);
        assert!(e.is_err_and(|e| e.to_string().contains("llvm.nvvm.suld")));
    }
}

//! Fusion: nodes that one kernel computes become one `fused` node.
//!
//! Groups grow along post-dominators by the kinds of their operators; whether a group may be is asked of the
//! scheduler, which says how many kernels its composed compute becomes. What combinations of kinds there are (after
//! DNNFusion: Niu et al., arXiv 2108.13342):
//!
//! | first \ second | elementwise | broadcast | injective | reduction | contraction |
//! |---|---|---|---|---|---|
//! | elementwise | one map | one map | one map | in the summand | if the scheduler has a place for it |
//! | broadcast | one map | one map | one map | in the summand | likewise |
//! | injective | one map | one map | one map | in the addresses | in the addresses |
//! | reduction | by rows | by rows | in the addresses | by rows | no |
//! | contraction | epilogue | epilogue | in the addresses | if it leaves little | no |

mod cost;
mod flow;
mod group;
mod grow;
mod kind;
mod rebuild;

pub use kind::{Kind, kind};

/// What becomes of a map that several kernels read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplication {
    /// Whichever of the two costs less.
    #[default]
    Cheapest,
    /// It is computed in each of them, where they have a place for it.
    Always,
    /// It is computed once, and stored.
    Never,
}

use crate::runner::Context;
use aic_ir::error::Result;
use aic_ir::graph::Graph;

/// Groups nodes. Every fused node keeps the source names of all its members.
///
/// # Errors
/// None but those that are the compiler's own.
pub fn run(g: &Graph, cx: &mut Context) -> Result<Graph> {
    let flow = flow::Flow::new(g);
    let groups = {
        let mut groups = grow::Groups::new(&flow, cx);
        groups.grow();
        groups.finish()
    };
    rebuild::rebuild(&flow, &groups, cx)
}

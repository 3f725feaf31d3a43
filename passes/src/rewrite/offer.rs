//! Terms offered to the rules: products of one operand by several constant weights as one, of which each is a slice.
//!
//! No rule with one left side can find that three products share an operand (queries, keys and values; the branches of
//! an Inception block). The terms added here claim nothing: the rules for slices prove that each slice equals its
//! product, and extraction takes them where that is cheaper.

use super::lang::{Attribute, EGraph, ENode, Keyword};
use super::rule::MAX_REST;
use aic_ir::dim::Dim;
use aic_ir::op::{Attr, AttrValue, Op};
use egg::Id;
use std::collections::BTreeMap;

/// What products that can be made as one have in common: the operand, and the attributes.
type Shared = (&'static str, Id, Vec<Id>);

/// Adds the merged products of an e-graph, which must be clean, and is afterwards.
pub fn offer(g: &mut EGraph) {
    let mut found: BTreeMap<Shared, Vec<Id>> = BTreeMap::new();
    let mut ids: Vec<Id> = g.classes().map(|c| c.id).collect();
    ids.sort_unstable();
    for id in ids {
        for node in &g[id].nodes {
            if let Some((shared, weight)) = product(g, node) {
                let weights = found.entry(shared).or_default();
                if !weights.contains(&weight) {
                    weights.push(weight);
                }
            }
        }
    }
    for (shared, mut weights) in found {
        weights.sort_unstable();
        let first = weights[0];
        weights.retain(|w| fits(g, shared.0, *w, first));
        if (2..=MAX_REST).contains(&weights.len()) {
            merged(g, &shared, &weights);
        }
    }
    g.rebuild();
}

/// A product by a constant matrix, or a convolution in one group by a constant.
fn product(g: &EGraph, node: &ENode) -> Option<(Shared, Id)> {
    let ENode::Op(Keyword(keyword), children) = node else { return None };
    let (x, w) = (g.find(*children.first()?), g.find(*children.get(1)?));
    let is_alone = || g[*children.last()?].data.as_attr().map(|v| *v == AttrValue::Dim(1.into()));
    let fits = match *keyword {
        "matmul" => g[w].data.dims()?.len() == 2,
        "conv" => is_alone()?,
        _ => false,
    };
    let attrs = children[2..].iter().map(|a| g.find(*a)).collect();
    (fits && g[w].data.is_const && !g[x].data.is_const).then_some(((*keyword, x, attrs), w))
}

/// The axis of the weights that becomes the axis of results which is cut.
fn axes(keyword: &str, result_rank: usize) -> (usize, usize) {
    if keyword == "conv" { (0, 1) } else { (1, result_rank - 1) }
}

/// Whether two weights differ at most along the axis along which they are joined.
fn fits(g: &EGraph, keyword: &str, a: Id, b: Id) -> bool {
    let (Some(a), Some(b)) = (g[a].data.ty(), g[b].data.ty()) else { return false };
    let axis = axes(keyword, 2).0;
    a.dtype == b.dtype && a.rank() == b.rank() && (0..a.rank()).all(|k| k == axis || a.dims[k] == b.dims[k])
}

fn merged(g: &mut EGraph, (keyword, x, attrs): &Shared, weights: &[Id]) {
    let Some(signature) = Op::signature(keyword) else { return };
    let axis = attr(g, axes(keyword, 2).0.to_value());
    let concat = [weights, &[axis]].concat();
    let joined = g.add(ENode::op(Keyword("concat"), concat));
    let whole = g.add(ENode::op(Keyword(signature.keyword), [&[*x, joined][..], attrs].concat()));
    let Some(dims) = g[whole].data.dims().map(<[Dim]>::to_vec) else { return };
    let (from, to) = axes(keyword, dims.len());
    let mut start = Dim::from(0);
    for w in weights {
        let Some(extent) = g[*w].data.dims().map(|d| d[from].clone()) else { return };
        let (mut starts, mut sizes) = (vec![Dim::from(0); dims.len()], dims.clone());
        (starts[to], sizes[to]) = (start.clone(), extent.clone());
        let attrs = [starts.to_value(), sizes.to_value(), vec![1i64; dims.len()].to_value()];
        let attrs = attrs.map(|v| attr(g, v));
        g.add(ENode::op(Keyword("slice"), [&[whole], &attrs[..]].concat()));
        start = start + extent;
    }
}

fn attr(g: &mut EGraph, value: AttrValue) -> Id {
    g.add(ENode::Attr(Attribute::new(value)))
}

//! Phases that one kernel evaluates: the axes that they have in common.
//!
//! An axis is common to phases if whatever one of them loads of another it loads at its own value of the axis. Loops
//! over common axes can then stand around all phases, and what lies between phases is needed for one iteration only.

use super::nest::Arrays;
use super::phase::{Phase, phases};
use aic_ir::compute::{Compute, Expr, Source};
use aic_ir::dim::{Dim, Sym};
use aic_ir::types::Type;
use std::collections::HashMap;

/// The phases of a compute.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// Types of the operands.
    pub inputs: Vec<Type>,
    /// Types of the results of stages.
    pub stages: Vec<Type>,
    /// The stages that are results.
    pub outputs: Vec<usize>,
    /// All arrays, each as a whole.
    pub arrays: Arrays,
    /// In an order of execution.
    pub phases: Vec<Phase>,
    /// In the order of the last phase's axes.
    pub common: Vec<Common>,
}

/// An axis that phases have in common.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// Its extent.
    pub extent: Dim,
    /// What it is called in each phase; `None` in phases without it.
    pub vars: Vec<Option<Sym>>,
}

impl Common {
    /// Whether every phase has it.
    pub fn is_total(&self) -> bool {
        self.vars.iter().all(Option::is_some)
    }
}

impl Group {
    /// The phases of a compute and what they have in common.
    pub fn new(c: &Compute) -> Group {
        let phases = phases(c);
        let common = common(&phases);
        let mut group = Group {
            inputs: c.inputs.clone(),
            stages: c.stages.iter().map(|s| s.ty()).collect(),
            outputs: c.outputs.clone(),
            arrays: Arrays::whole(c),
            phases,
            common,
        };
        while group.merge_kept() {}
        group
    }

    /// The arrays in memory, each as a whole: operands and results.
    pub fn passed(&self) -> Arrays {
        let mut arrays = Arrays::default();
        for (k, ty) in self.inputs.iter().enumerate() {
            arrays.push(Source::Input(k), &format!("x{k}"), ty);
        }
        for (k, stage) in self.outputs.iter().enumerate() {
            let name = if self.outputs.len() == 1 { "y".into() } else { format!("y{k}") };
            arrays.push(Source::Stage(*stage), &name, &self.stages[*stage]);
        }
        arrays
    }

    /// The phase that stores a stage's array.
    pub fn writer(&self, stage: usize) -> Option<usize> {
        let stores = |p: &Phase| p.result == stage || p.kept.as_ref().is_some_and(|(k, _)| *k == stage);
        self.phases.iter().position(stores)
    }

    /// Evaluates a map in the loop of the reduction of exactly its elements, and stores them there if they are wanted
    /// elsewhere too. Gives whether there was one.
    fn merge_kept(&mut self) -> bool {
        let reads = |p: &Phase, stage: usize| {
            let mut n = 0;
            p.visit_stages(&mut |k, _| n += usize::from(k == stage));
            n
        };
        let found = self.phases.iter().enumerate().find_map(|(q, reduction)| {
            let Expr::Load(Source::Stage(map), at) = &reduction.value else { return None };
            let m = self.writer(*map)?;
            let position: Vec<Sym> = at
                .iter()
                .map(|e| match e {
                    Expr::Index(d) => d.as_sym().cloned(),
                    _ => None,
                })
                .collect::<Option<_>>()?;
            let axes: Vec<&Sym> = reduction.axes.iter().chain(reduction.over()).map(|a| &a.var).collect();
            let is_whole = position.len() == axes.len() && axes.iter().all(|v| position.contains(v));
            let combines = reduction.reduction.as_ref().is_some_and(|(op, _)| op.combine().is_some());
            let is_map = self.phases[m].reduction.is_none() && self.phases[m].kept.is_none();
            let early = self.phases[m + 1..q].iter().any(|p| reads(p, *map) > 0);
            let fits = is_whole && combines && is_map && !early && reads(reduction, *map) == 1;
            (fits && reduction.kept.is_none()).then_some((m, q, *map, position))
        });
        let Some((m, q, stage, position)) = found else { return false };
        let map = self.phases.remove(m);
        self.common.iter_mut().for_each(|c| drop(c.vars.remove(m)));
        let names: HashMap<&Sym, Dim> =
            map.axes.iter().map(|a| &a.var).zip(position.iter().map(Dim::sym)).collect();
        let q = q - 1;
        self.phases[q].value = map.value.subst(&|s| names.get(s).cloned());
        let wanted = self.outputs.contains(&stage) || self.phases.iter().any(|p| reads(p, stage) > 0);
        if wanted {
            self.phases[q].kept = Some((stage, position.iter().map(Dim::sym).collect()));
        }
        true
    }
}

/// Classes of axes that are one axis of several phases.
struct Classes {
    parents: Vec<usize>,
    /// Classes that a load links to something else.
    broken: Vec<usize>,
}

impl Classes {
    fn root(&self, mut k: usize) -> usize {
        while self.parents[k] != k {
            k = self.parents[k];
        }
        k
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b)] = a.min(b);
    }
}

/// The common axes of phases.
fn common(phases: &[Phase]) -> Vec<Common> {
    let mut first = 0;
    let starts: Vec<usize> = phases
        .iter()
        .map(|p| {
            first += p.axes.len();
            first - p.axes.len()
        })
        .collect();
    let mut classes = Classes { parents: (0..first).collect(), broken: Vec::new() };
    let axis = |p: usize, v: Option<&Sym>| phases[p].axes.iter().position(|a| Some(&a.var) == v);
    let mut linked = vec![phases.len() == 1; phases.len()];
    for (q, reader) in phases.iter().enumerate() {
        reader.visit_stages(&mut |stage, at| {
            let Some(p) = phases.iter().position(|p| p.result == stage) else { return };
            (linked[p], linked[q]) = (true, true);
            for (to, from) in phases[p].at.iter().zip(at) {
                let Some(a) = axis(p, to.as_sym()) else { continue };
                let b = match from {
                    Expr::Index(d) => axis(q, d.as_sym()),
                    _ => None,
                };
                match b.filter(|b| reader.axes[*b].extent == phases[p].axes[a].extent) {
                    Some(b) => classes.join(starts[p] + a, starts[q] + b),
                    None => classes.broken.push(starts[p] + a),
                }
            }
        });
    }
    let Some(last) = phases.last() else { return Vec::new() };
    // What no load links has its leading axes in common as far as their extents are equal.
    for p in (0..phases.len() - 1).filter(|p| !linked[*p] || !linked[phases.len() - 1]) {
        let pairs = phases[p].axes.iter().zip(&last.axes).enumerate();
        for (k, _) in pairs.take_while(|(_, (a, b))| a.extent == b.extent) {
            classes.join(starts[p] + k, starts[phases.len() - 1] + k);
        }
    }
    let broken: Vec<usize> = classes.broken.iter().map(|k| classes.root(*k)).collect();
    let of_class = |p: usize, class: usize| {
        let members = || (0..phases[p].axes.len()).filter(|k| classes.root(starts[p] + k) == class);
        (members().count() <= 1).then(|| members().next().map(|k| phases[p].axes[k].var.clone()))
    };
    let class_of_last = |k: usize| classes.root(starts[phases.len() - 1] + k);
    (0..last.axes.len())
        .filter(|k| !broken.contains(&class_of_last(*k)))
        .filter_map(|k| {
            let vars = (0..phases.len()).map(|p| of_class(p, class_of_last(k))).collect::<Option<_>>()?;
            Some(Common { extent: last.axes[k].extent.clone(), vars })
        })
        // A single iteration needs no loop, and simplified expressions don't mention it.
        .filter(|c: &Common| !c.extent.is(1) || c.is_total())
        .collect()
}

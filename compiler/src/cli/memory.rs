//! `aic info --memory`: the memory plan of a program, after the checker has been through it.

use super::info::{at_one, bytes, type_bytes};
use super::print;
use aic_ir::error::Result;
use aic_ir::kernel::Scope;
use aic_ir::program::{Place, Program, Step};
use aic_passes::memory::{self, Life};
use std::collections::{BTreeMap, BTreeSet};

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// Static: there before the first run.
    Constants,
    /// Static: the caller's inputs and outputs.
    Ports,
    /// Dynamic: results of steps.
    Results,
    /// Dynamic: what a kernel needs while it runs.
    Workspace,
}

impl Class {
    fn text(self) -> &'static str {
        match self {
            Class::Constants => "static: constants",
            Class::Ports => "static: inputs and outputs",
            Class::Results => "dynamic: results of steps",
            Class::Workspace => "dynamic: workspace",
        }
    }
}

/// A row for each array: what it is, its class, bytes, offset in the arena, first and last step. Then the sums by class
/// and the arena beside the least that is possible; symbols count as 1.
///
/// # Errors
/// The plan is wrong, which is a bug.
pub fn plan(p: &Program) -> Result<String> {
    memory::check(p)?;
    let lives: BTreeMap<usize, Life> = memory::lifetimes(p).into_iter().map(|l| (l.buffer, l)).collect();
    let workspace = workspace(p);
    let mut rows = vec![["buffer", "class", "type", "bytes", "place", "steps"].map(str::to_owned).to_vec()];
    let mut sums: BTreeMap<Class, f64> = BTreeMap::new();
    for (b, decl) in p.buffers.iter().enumerate() {
        let size = at_one(&type_bytes(&decl.ty)) as f64;
        let (class, place) = match &decl.place {
            Place::Input(k) => (Class::Ports, format!("input {:?}", p.inputs[*k].name)),
            Place::Output(k) => (Class::Ports, format!("output {:?}", p.outputs[*k].name)),
            Place::Constant(_) => (Class::Constants, "constant".to_owned()),
            Place::Alias(of) => (Class::Results, format!("buffer {of}")),
            Place::Heap => (Class::Results, "allocated when its size is known".to_owned()),
            Place::Arena(at) if workspace.contains(&b) => (Class::Workspace, format!("arena + {at}")),
            Place::Arena(at) => (Class::Results, format!("arena + {at}")),
        };
        if !matches!(decl.place, Place::Alias(_)) {
            *sums.entry(class).or_default() += size;
        }
        let steps = lives.get(&b).map_or(String::new(), |l| format!("{}..={}", l.first, l.last));
        rows.push(vec![
            b.to_string(),
            class.text().to_owned(),
            decl.ty.to_string(),
            type_bytes(&decl.ty).to_string(),
            place,
            steps,
        ]);
    }
    let sums = sums.into_iter().map(|(class, sum)| vec![class.text().to_owned(), bytes(sum)]);
    let least = memory::least_bytes(p, &at_one);
    let arena = at_one(&p.arena_bytes);
    let totals = [("arena", arena), ("needed at a time", least)];
    let totals = totals.map(|(title, n)| vec![title.to_owned(), bytes(n as f64)]);
    let ratio = arena as f64 / (least.max(1)) as f64;
    let sums: Vec<Vec<String>> = sums.chain(totals).collect();
    Ok(format!(
        "{}\n{}the plan was checked: no step touches what another was written over; {ratio:.3} times the least\n",
        print::table(&rows),
        print::table(&sums)
    ))
}

/// The buffers that kernels have as their workspace.
fn workspace(p: &Program) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for step in &p.steps {
        if let Step::Launch { kernel, args, .. } = step {
            let params = p.kernels[*kernel].params.iter().zip(args);
            found.extend(params.filter(|(q, _)| q.buffer.scope == Scope::Workspace).map(|(_, b)| *b));
        }
    }
    found
}

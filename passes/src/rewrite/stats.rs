//! What the rewriter did, as plain data and as a table.

use super::cost::Cost;
use super::saturate::{Counts, Outcome, Stop};
use std::collections::BTreeMap;
use std::fmt;

/// What the rewriter did in a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// By rule.
    pub rules: BTreeMap<String, RuleStats>,
    /// Regions in the order in which they were met, those found in the cache too.
    pub regions: Vec<RegionStats>,
}

/// What a rule did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleStats {
    /// Times that its left side was found and times that it made something equal.
    pub counts: Counts,
    /// Parts of results that it made, in saturated regions.
    pub used: u64,
}

/// What happened to a region.
#[derive(Clone, Debug, PartialEq)]
pub struct RegionStats {
    /// Nodes before.
    pub nodes: usize,
    /// E-nodes in the end.
    pub enodes: usize,
    /// Rounds of applying rules.
    pub rounds: usize,
    /// Why it ended.
    pub stop: Stop,
    /// Whether the result was that of an equal region before.
    pub is_cached: bool,
    /// The cost before.
    pub before: Cost,
    /// The cost of the result.
    pub after: Cost,
}

impl Stats {
    /// Adds a saturation's counts of rules, and how often each made a part of the result.
    pub fn count(&mut self, outcome: &Outcome, used: &BTreeMap<String, u64>) {
        for (rule, counts) in &outcome.rules {
            let stats = self.rules.entry(rule.clone()).or_default();
            stats.counts.matches += counts.matches;
            stats.counts.applications += counts.applications;
        }
        for (rule, n) in used {
            self.rules.entry(rule.clone()).or_default().used += n;
        }
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rules.keys().map(String::len).max().unwrap_or(0).max(4);
        writeln!(f, "{:width$}  {:>8} {:>12} {:>6}", "rule", "matches", "applications", "used")?;
        for (rule, s) in &self.rules {
            let (matches, applications) = (s.counts.matches, s.counts.applications);
            writeln!(f, "{rule:width$}  {matches:>8} {applications:>12} {:>6}", s.used)?;
        }
        writeln!(f, "\n{:>6}  {:>8} {:>6}  {:9}  cost", "nodes", "e-nodes", "rounds", "ended")?;
        for r in &self.regions {
            let ended = if r.is_cached { "cached" } else { r.stop.word() };
            let (before, after) = (r.before, r.after);
            writeln!(f, "{:>6}  {:>8} {:>6}  {ended:9}  {before} -> {after}", r.nodes, r.enodes, r.rounds)?;
        }
        Ok(())
    }
}

//! A finding as a golden test.

use super::Finding;
use crate::graph_file;

/// The file: a comment, the command, the graph. `flags` are those of the command line that matter. Large constants
/// are pseudo-random.
pub fn golden(finding: &Finding, flags: &str) -> String {
    let passes = if finding.pass == "lower" { "''" } else { &finding.pass };
    let rewrites = match finding.rewrites.is_empty() {
        true => String::new(),
        false => format!(", by {}", finding.rewrites.join("; ")),
    };
    let comment = format!("Pass {} makes this graph wrong{rewrites}.\n{}", finding.pass, finding.comparison);
    let comment: String = comment.lines().map(|l| format!("// {}\n", l.trim())).collect();
    let graph = graph_file::seeded(&finding.graph);
    format!("{comment}// RUN: aic verify %s --passes {passes}{flags} | FileCheck %s\n// CHECK: ok\n{graph}")
}

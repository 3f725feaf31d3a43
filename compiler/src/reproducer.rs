//! A pass that failed leaves a file that is already a golden test: the graph that it was given, and the command that
//! runs it again.
//!
//! Large constants are replaced by pseudo-random ones if the pass fails on these too; else their contents lie beside
//! the file.

use crate::driver::Options;
use crate::graph_file;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::text;
use aic_passes::pipeline::{self, Pass};
use aic_passes::runner::{self, Context, Failure};
use std::path::{Path, PathBuf};

/// Leaves a reproducer in `options.reproducers`, or the folder for temporary files, and gives the error, which says
/// where it is. `passes` are those that ran.
pub fn leave(failure: Failure, passes: &[&Pass], options: &Options) -> Error {
    let folder = options.reproducers.clone().unwrap_or_else(std::env::temp_dir);
    let help = match write(&failure, passes, options, &folder) {
        Ok(path) => format!(
            "this is a bug in aic, whatever the model is. {} shows it, and is a golden test already",
            path.display()
        ),
        Err(error) => {
            format!("this is a bug in aic; the graph that shows it can't be saved: {}", error.message)
        }
    };
    failure.into_error().help(help)
}

fn write(failure: &Failure, passes: &[&Pass], options: &Options, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::new(format!("{}: cannot be made: {e}", folder.display())))?;
    let stem = format!("aic-reproducer-{}", failure.pass);
    let path = folder.join(format!("{stem}.aic"));
    let mut flags = flags(failure, options);
    if !options.rules.is_empty() {
        let rules: Vec<&str> = options.rules.iter().map(|r| &*r.text).collect();
        graph_file::write_text(&folder.join(format!("{stem}.rules")), &rules.join("\n"))?;
        flags += &format!(" --rules {stem}.rules");
    }
    let head = head(failure, &flags);
    let seeded = graph_file::seeded(&failure.before);
    let is_seen = text::parse_graph(&seeded).is_ok_and(|graph| fails(failure, graph, passes, options));
    match is_seen {
        true => graph_file::write_text(&path, &(head + &seeded))?,
        false => {
            graph_file::write(&path, &failure.before)?;
            graph_file::write_text(&path, &(head + &failure.before.to_string()))?;
        }
    }
    Ok(path)
}

/// The comments above the graph, the command among them.
fn head(failure: &Failure, flags: &str) -> String {
    let message: Vec<String> =
        failure.error.message.lines().map(|l| format!("// {}\n", l.trim_start())).collect();
    let (command, check) = match &*failure.pass {
        "lower" => ("compile %s -o - --emit kernels -O0".to_owned(), "kernel"),
        pass => (format!("opt %s --passes {pass}"), "graph"),
    };
    format!(
        "// Pass {} failed on this graph:\n{}// RUN: aic {command}{flags} | FileCheck %s\n// CHECK: {check}\n",
        failure.pass,
        message.concat()
    )
}

fn flags(failure: &Failure, options: &Options) -> String {
    let numerics = match options.numerics {
        runner::Numerics::Exact => " --numerics exact",
        runner::Numerics::Reassociate => "",
        runner::Numerics::Fast => " --numerics fast",
    };
    let fuel = failure.fuel.map(|n| format!(" --fuel {n}")).unwrap_or_default();
    format!("{numerics}{fuel}")
}

/// Whether the pass fails on this graph too.
fn fails(failure: &Failure, graph: Graph, passes: &[&Pass], options: &Options) -> bool {
    let Ok(mut options) = options.pipeline() else { return false };
    options.fuel = failure.fuel;
    match passes.iter().find(|p| p.name == failure.pass) {
        Some(pass) => {
            let mut cx = Context::new(&options);
            runner::run_watched(graph, &[pass], &mut cx, true, &mut |_| {}).is_err()
        }
        None => pipeline::lower(graph, &options).is_err(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "graph(%0: f32[2,65]) -> f32[2,3] {
      %1 = const f32[65,3] seed 9 %2 = matmul %0 %1 %3 = neg %2 return %3 }";

    fn reproducer(run: fn(&Graph, &mut Context) -> Result<Graph>) -> (String, tempfile::TempDir, Error) {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { reproducers: Some(folder.path().into()), ..Options::default() };
        let pass = Pass { name: "broken", help: "", run };
        let graph = text::parse_graph(TEXT).unwrap();
        let mut cx = Context::new(&options.pipeline().unwrap());
        let failure = runner::run_watched(graph, &[&pass], &mut cx, true, &mut |_| {}).unwrap_err();
        let error = leave(*failure, &[&pass], &options);
        let text = std::fs::read_to_string(folder.path().join("aic-reproducer-broken.aic")).unwrap();
        (text, folder, error)
    }

    #[test]
    fn a_reproducer_is_a_golden_test() {
        let (text, folder, error) = reproducer(|_, _| Err(Error::new("no\n  because")));
        assert!(text.starts_with(
            "// Pass broken failed on this graph:\n// no\n// because\n\
             // RUN: aic opt %s --passes broken | FileCheck %s\n// CHECK: graph\ngraph("
        ));
        assert!(text.contains("const f32[65,3] seed 0"), "{text}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(error.help.is_some_and(|help| help.contains("aic-reproducer-broken.aic")));
    }

    #[test]
    fn constants_that_matter_are_kept() {
        let (text, folder, _) = reproducer(|g, _| {
            let original = text::parse_graph(TEXT)?;
            aic_ir::ensure!(*g != original, "the weights are the model's");
            Ok(g.clone())
        });
        assert!(text.contains("const f32[65,3] #"), "{text}");
        let path = folder.path().join("aic-reproducer-broken.aic");
        assert_eq!(graph_file::read(&path).unwrap(), text::parse_graph(TEXT).unwrap());
    }
}

//! Certificates of whole runs of the passes, as files.
//!
//! A certificate names the passes and holds, for each run of the rewriter, the graph that it made and the proof that
//! this equals the one it was given (`aic_passes::rewrite::certificate`). Replaying it runs the other passes again and
//! checks the proofs; nothing is searched for. Graphs are held as texts, whose large constants are the model's.

use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure, text, verify};
use aic_passes::pipeline::{self, Pass};
use aic_passes::rewrite::certificate::{Certificate, Certified};
use aic_passes::rewrite::check::check;
use aic_passes::rewrite::rule::{self, Rule};
use aic_passes::rewrite::rules;
use aic_passes::runner::{self, Context, Numerics};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The pass that is certified.
const REWRITE: &str = "rewrite";

/// What a replay has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Runs of the rewriter.
    pub runs: usize,
    /// Instances of rules that were checked.
    pub instances: usize,
    /// The rules.
    pub rules: BTreeSet<String>,
    /// Passes that were run again.
    pub again: Vec<String>,
}

/// The certificate of a run, as JSON: from `imported` by `passes` to `result`.
pub fn to_json(
    imported: &Graph,
    passes: &[&Pass],
    numerics: Numerics,
    certified: &[Certified],
    result: &Graph,
) -> Value {
    let rewrite = |c: &Certified| json!({ "graph": c.after.to_string(), "proof": c.certificate.to_json() });
    json!({
        "passes": passes.iter().map(|p| p.name).collect::<Vec<_>>(),
        "numerics": word(numerics),
        "imported": hash(imported),
        "rewrites": certified.iter().map(rewrite).collect::<Vec<_>>(),
        "result": hash(result),
    })
}

/// Checks a certificate for a model's graph. Rules beside the built-in ones, and the target, are the context's.
///
/// # Errors
/// The first thing that isn't proved.
pub fn replay(json: &Value, imported: &Graph, cx: &Context) -> Result<Replayed> {
    let names: Vec<&str> = list(json, "passes")?.iter().filter_map(Value::as_str).collect();
    let passes = pipeline::passes(&names)?;
    let Some(numerics) = json["numerics"].as_str().and_then(numerics) else {
        bail!("the certificate doesn't say under which numerics")
    };
    let mut cx = Context { numerics, ..cx.clone() };
    let added: Vec<Rule> =
        cx.rules.iter().map(|r| rule::parse(&r.name, &r.text)).collect::<Result<Vec<_>>>()?.concat();
    let known: Vec<&Rule> = rules::all()?.iter().chain(&added).filter(|r| r.class <= numerics).collect();
    let help = "it must be the same model, imported with the same --dim";
    ensure_hash(json, "imported", imported).map_err(|e| e.help(help))?;
    let mut rewrites = list(json, "rewrites")?.iter();
    let (mut graph, mut replayed) = (imported.clone(), Replayed::default());
    for pass in passes {
        if pass.name != REWRITE {
            replayed.again.push(pass.name.to_owned());
            graph = runner::run(graph, &[pass.name], &mut cx)?;
            continue;
        }
        let Some(rewrite) = rewrites.next() else { bail!("the proof of a run of {REWRITE} is missing") };
        graph = proved(rewrite, &graph, &known, numerics, &mut replayed)?;
    }
    ensure_hash(json, "result", &graph)?;
    Ok(replayed)
}

/// The graph that a run of the rewriter made, which is proved to equal `before`.
fn proved(
    rewrite: &Value,
    before: &Graph,
    rules: &[&Rule],
    numerics: Numerics,
    replayed: &mut Replayed,
) -> Result<Graph> {
    let constants = text::large_constants(before);
    let src = rewrite["graph"].as_str().unwrap_or_default();
    let after = text::parse_graph_with(src, &|hash| constants.get(hash).cloned())
        .map_err(|e| e.context("the graph in the certificate"))?;
    verify::report("the graph in the certificate", &verify::graph(&after))?;
    let proof = Certificate::from_json(&rewrite["proof"], &|hash| constants.get(hash).cloned())?;
    check(&proof, before, &after, rules, numerics)?;
    replayed.runs += 1;
    replayed.instances += proof.instances.len();
    replayed.rules.extend(proof.instances.into_iter().map(|i| i.rule));
    Ok(after)
}

fn list<'a>(json: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    json[name].as_array().ok_or_else(|| Error::new(format!("a certificate has a list of {name}")))
}

fn ensure_hash(json: &Value, name: &str, graph: &Graph) -> Result<()> {
    let (wanted, found) = (json[name].as_str().unwrap_or("nothing"), hash(graph));
    ensure!(
        wanted == found,
        "the certificate is for another graph ({name}): expected {wanted}, found {found}"
    );
    Ok(())
}

fn hash(graph: &Graph) -> String {
    let text = graph.to_string().into_bytes();
    match Tensor::new(DType::U8, vec![text.len()], text.into()) {
        Ok(bytes) => text::content_hash(&bytes),
        Err(error) => error.message,
    }
}

fn word(numerics: Numerics) -> &'static str {
    match numerics {
        Numerics::Exact => "exact",
        Numerics::Reassociate => "reassociate",
        Numerics::Fast => "fast",
    }
}

fn numerics(word: &str) -> Option<Numerics> {
    [Numerics::Exact, Numerics::Reassociate, Numerics::Fast].into_iter().find(|n| self::word(*n) == word)
}

//! Every rule, by family.

use super::rule::{self, Rule};
use aic_ir::error::Result;
use std::sync::OnceLock;

/// The files, in the order in which their rules are applied.
pub const FILES: &[(&str, &str)] = &[
    ("arithmetic.rules", include_str!("arithmetic.rules")),
    ("shape.rules", include_str!("shape.rules")),
    ("reduce.rules", include_str!("reduce.rules")),
    ("contract.rules", include_str!("contract.rules")),
    ("activation.rules", include_str!("activation.rules")),
    ("norm.rules", include_str!("norm.rules")),
    ("attention.rules", include_str!("attention.rules")),
];

/// The rules of all files.
pub fn all() -> Result<&'static [Rule]> {
    static RULES: OnceLock<Result<Vec<Rule>>> = OnceLock::new();
    let rules = RULES.get_or_init(|| {
        let files = FILES.iter().map(|(file, text)| rule::parse(file, text));
        Ok(files.collect::<Result<Vec<_>>>()?.concat())
    });
    rules.as_deref().map_err(Clone::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_and_named_once() {
        let rules = all().unwrap_or_else(|e| panic!("{e}"));
        let mut names: Vec<(&str, &str)> = rules.iter().map(|r| (&r.name[..], &r.place[..])).collect();
        names.dedup();
        names.sort_unstable();
        let twice: Vec<_> = names.windows(2).filter(|w| w[0].0 == w[1].0).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}

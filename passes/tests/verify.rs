//! Random instances of every operator are lowered; the kernels must satisfy the verifier, and read back from their
//! text.

use aic_ir::dim::Dim;
use aic_ir::graph::Graph;
use aic_ir::op::{Op, Operand, Rng, Sample};
use aic_ir::target::Target;
use aic_ir::text::parse_kernel;
use aic_ir::types::Type;
use aic_ir::{error::Result, verify};

/// A graph of the sample's operator. With `symbolic` every extent is a symbol, the same for equal extents.
fn one_node(s: &Sample, symbolic: bool) -> Result<Graph> {
    let ty = |o: &Operand| match symbolic {
        true => Type::new(o.dtype, o.shape.iter().map(|d| Dim::named(&format!("d{d}"))).collect()),
        false => Type::of(o.dtype, &o.shape),
    };
    let mut g = Graph::new("g");
    let x: Vec<_> = s.operands.iter().map(|o| g.add_input("", ty(o))).collect();
    let y = g.add(s.op.clone(), &x, &[])?;
    y.iter().for_each(|y| g.add_output("", *y));
    Ok(g)
}

fn check(symbolic: bool) {
    let (mut n_kernels, mut failures) = (0, Vec::new());
    for (name, sample) in Op::SAMPLERS {
        // A slice's bounds are the caller's promise about the symbols, and so is that a window of symbolic extents
        // fits into the image: nothing within the kernel implies it.
        if symbolic && ["slice", "conv"].contains(name) {
            continue;
        }
        for seed in 0..30 {
            let s = sample(&mut Rng::new(seed));
            let Ok(graph) = one_node(&s, symbolic) else { continue };
            for target in [Target::x86_avx512(), Target::x86_avx2()] {
                let Ok(program) = aic_passes::pipeline::compile(graph.clone(), &target) else { continue };
                for k in &program.kernels {
                    n_kernels += 1;
                    let text = k.to_string();
                    assert_eq!(parse_kernel(&text).as_ref(), Ok(k), "{text}");
                    let found = verify::kernel(k);
                    if !found.is_empty() {
                        failures.push(format!(
                            "{name} seed {seed} {:?}:\n  {}\n{text}",
                            s.op,
                            found.join("\n  ")
                        ));
                    }
                }
            }
        }
    }
    for f in failures.iter().take(12) {
        eprintln!("{}", f.chars().take(3000).collect::<String>());
    }
    assert!(failures.is_empty(), "{} of {n_kernels} kernels do not verify", failures.len());
    assert!(n_kernels > 500, "only {n_kernels} kernels were made");
}

#[test]
fn kernels_verify() {
    check(false);
}

#[test]
fn kernels_of_symbolic_extents_verify() {
    check(true);
}

//! The table of backends in the README is that of [`BACKENDS`]; `AIC_BLESS=1` writes it anew.
#![allow(clippy::unwrap_used)]

use aic_backends::BACKENDS;

const BEGIN: &str = "<!-- backends -->\n";
const END: &str = "<!-- end of backends -->\n";

fn table() -> String {
    let mut table =
        String::from("| backend | machine code for | needs LLVM | vectors, bits | what it can't do |\n");
    table += "|---|---|---|---|---|\n";
    for b in BACKENDS {
        let needs_llvm = if b.needs_llvm { "yes" } else { "no" };
        let widths: Vec<String> = b.vector_bytes.iter().map(|n| (8 * n).to_string()).collect();
        table += &format!(
            "| `{}` | {} | {needs_llvm} | {} | {} |\n",
            b.name,
            b.machines,
            widths.join(", "),
            b.lacks
        );
    }
    table + "| `reference` | none: it interprets | no | any | be fast; make artifacts |\n"
}

#[test]
fn the_table_of_backends_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the README has a place for the table");
    let (found, after) = rest.split_once(END).expect("the table ends");
    if std::env::var_os("AIC_BLESS").is_some() {
        std::fs::write(path, [before, BEGIN, &table(), END, after].concat()).unwrap();
    } else {
        assert_eq!(found, table(), "run this test with AIC_BLESS=1");
    }
}

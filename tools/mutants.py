"""Seeds faults one by one and says which of them the tests catch.

    tools/mutants.py [--only TEXT] [--out TABLE.md]

`tools/mutants.toml` lists the faults: a rule, a guard or a lowering with one thing wrong. They are put into a copy of the
working tree (under `target/mutants`), the tests of the crates that each can reach run there, and a fault that every test
passes has survived.

Two builds are enough for most. Rules are checked one by one: faults named `rule NAME ...` are put in together, and a test
that fails must name the rule; where none does, the fault is tried alone. All others are compiled in beside what is right, and the environment variable `AIC_FAULT`
names the one that is in force. The tests must pass while it names none. The exit status is 1 when more than
`ALLOWED_SURVIVORS` survive.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants"
ALLOWED_SURVIVORS = 2
TIMEOUT_S = 1800

# Without MLIR, which takes long to link and which no fault here can reach.
AIC = ["-p", "aic", "--no-default-features", "--features", "llvm"]

# The quickest tests first: one that fails ends the run.
SUITES = {
    "rules": ["-p", "aic-passes", "--test", "rules"],
    "ir": ["-p", "aic-ir"],
    "lowering": ["-p", "aic-passes", "--test", "lowering"],
    "fuse": ["-p", "aic-passes", "--test", "fuse"],
    "staged": ["-p", "aic-passes", "--test", "staged"],
    "passes": ["-p", "aic-passes"],
    "golden": [*AIC, "--test", "golden"],
    "levels": [*AIC, "--test", "levels"],
}

# What runs where a fault names no suites of its own.
EVERY_SUITE = ["rules", "ir", "passes", "golden", "levels"]

FAULT = """
/// Whether a seeded fault is in force.
pub fn fault(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("AIC_FAULT").ok()).as_deref() == Some(name)
}
"""


def cargo(*args, fault=""):
    env = {**os.environ, "AIC_FAULT": fault}
    return subprocess.run(["cargo", *args], cwd=COPY, capture_output=True, text=True, timeout=TIMEOUT_S, env=env)


def copy_tree():
    """The files that git knows, as they are in the working tree; build outputs of an earlier run stay."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in names.stdout.splitlines():
        source, copy = ROOT / name, COPY / name
        if source.is_file() and not (copy.is_file() and copy.read_bytes() == source.read_bytes()):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def edit(mutant, find, replace):
    path = COPY / mutant["file"]
    text = path.read_text()
    count = text.count(find)
    if count != 1:
        sys.exit(f"{mutant['name']}: {find!r} occurs {count} times in {mutant['file']}, expected once")
    path.write_text(text.replace(find, replace))


def compile_in(mutant):
    """Puts the fault of a piece of code in, to be in force when `AIC_FAULT` names it."""
    find = mutant["find"] if "{{" in mutant["find"] else "{{" + mutant["find"] + "}}"
    before, expr, after = re.fullmatch(r"(.*?)\{\{(.*)\}\}(.*)", find, re.DOTALL).groups()
    ir = "crate" if mutant["file"].startswith("ir/") else "aic_ir"
    switch = f'(if {ir}::fault("{mutant["name"]}") {{ {mutant["replace"]} }} else {{ {expr} }})'
    edit(mutant, before + expr + after, before + switch + after)


def outcome(suites, fault=""):
    """The first suite that fails, or None."""
    for suite in suites:
        try:
            if cargo("test", "-q", *SUITES[suite], fault=fault).returncode != 0:
                return suite
        except subprocess.TimeoutExpired:
            return f"{suite} (no end)"
    return None


def faulty_rules(mutants):
    """Puts all faults of rules in at once; gives those whose rule a failing test names."""
    for m in mutants:
        edit(m, m["find"], m["replace"])
    said = cargo("test", *SUITES["rules"]).stdout if mutants else ""
    copy_tree()
    return [m for m in mutants if re.search(rf"\b{re.escape(m['name'].split()[1])}[\s:\"]", said)]


def alone(mutant):
    """The first suite that fails with a rule's fault, if that says nothing of the rule."""
    edit(mutant, mutant["find"], mutant["replace"])
    caught = outcome(mutant.get("suites", EVERY_SUITE))
    copy_tree()
    return caught


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose names match this regular expression")
    parser.add_argument("--out", type=Path, help="where to write the table")
    args = parser.parse_args()
    mutants = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text())["mutant"]
    mutants = [m for m in mutants if re.search(args.only, m["name"])]
    of_rules = [m for m in mutants if m["name"].startswith("rule ")]
    of_code = [m for m in mutants if m not in of_rules]
    suites = {name for m in of_code for name in m.get("suites", EVERY_SUITE)}
    copy_tree()
    rows, survivors = [], []

    def tell(mutant, caught, seconds=None):
        if caught is None:
            survivors.append(mutant["name"])
        rows.append((mutant["name"], caught or f"survives: {mutant.get('why', 'no test sees it')}"))
        print(f"{mutant['name']}: {rows[-1][1]}" + (f" ({seconds:.0f} s)" if seconds else ""), flush=True)

    named = faulty_rules(of_rules)
    for mutant in of_rules:
        caught = "rules" if mutant in named else alone(mutant)
        tell(mutant, caught)
    for mutant in of_code:
        compile_in(mutant)
    lib = COPY / "ir" / "src" / "lib.rs"
    lib.write_text(lib.read_text() + FAULT)
    for suite in sorted(suites):
        built = cargo("test", "-q", *SUITES[suite], "--no-run")
        if built.returncode != 0:
            sys.exit(f"does not compile:\n{built.stderr}")
    if (failed := outcome([s for s in SUITES if s in suites])) is not None:
        sys.exit(f"without any fault: {failed} fails")
    for mutant in of_code:
        start = time.monotonic()
        tell(mutant, outcome(mutant.get("suites", EVERY_SUITE), mutant["name"]), time.monotonic() - start)
    if args.out:
        args.out.write_text("| fault | caught by |\n|---|---|\n" + "".join(f"| {n} | {c} |\n" for n, c in rows))
    print(f"{len(rows) - len(survivors)} of {len(rows)} caught; survivors: {', '.join(survivors) or 'none'}")
    sys.exit(len(survivors) > ALLOWED_SURVIVORS)


if __name__ == "__main__":
    main()

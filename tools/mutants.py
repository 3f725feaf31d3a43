"""Seeds faults one by one and says which of them the tests catch.

    tools/mutants.py [--only TEXT] [--table TABLE.md]

`tools/mutants.toml` lists the faults: a rule, a guard or a lowering with one thing wrong. All of them are compiled into
a copy of the working tree (under `target/mutants`) beside what is right, and the environment variable `AIC_FAULT` names
those that are in force: one build is enough. A suite that catches any must pass while it names none.

A fault is caught by the first of its suites that fails. Rules are checked one by one, so that faults named `rule NAME ...`
are tried together first: a test that fails and names the rule has caught it.

What is found is added to the table as it is found, and faults in the table are not tried again: a run that was stopped
goes on where it was. The exit status is 1 when more than `ALLOWED_SURVIVORS` survive.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "target" / "mutants"
ALLOWED_SURVIVORS = 2
TIMEOUT_S = 1800

# Tests, and which of them: those with this in their names. The quickest first: one that fails ends the run.
SUITES = {
    "rules": (["passes/rules"], ""),
    "rewrite": (["passes/rewrite", "passes/rewrite_networks"], ""),
    "fuse": (["passes/fuse"], ""),
    "staged": (["passes/staged"], ""),
    "lowering": (["passes/lowering"], ""),
    "ops": (["ir/ops", "ir/fused"], ""),
    "golden canonicalize": (["compiler/golden"], "passes/canonicalize"),
    "golden fold": (["compiler/golden"], "passes/fold"),
    "golden fuse": (["compiler/golden"], "passes/fuse"),
    "golden common": (["compiler/golden"], "passes/rewrite/common"),
    "golden rewrite": (["compiler/golden"], "passes/rewrite"),
    "golden kernels": (["compiler/golden"], "kernels/"),
}

# What runs where a fault names no suites of its own.
REWRITING = ["rules", "rewrite", "golden rewrite"]

# A tenth of the cases on which rules are tried otherwise: what they catch, ten times as many do.
RULE_CASES = "1000"

# Which faults are in force, for all crates; and the rules with those of them that are rules'.
FAULT = """
/// Whether a seeded fault is in force.
pub fn fault(name: &str) -> bool {
    static NAMES: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    let read = || std::env::var("AIC_FAULT").unwrap_or_default().split(';').map(String::from).collect();
    NAMES.get_or_init(read).iter().any(|n| n == name)
}
"""
READ_RULES = "files = FILES.iter().map(|(file, text)| rule::parse(file, text));"
READ_FAULTY_RULES = "files = FILES.iter().map(|(file, text)| rule::parse(file, &faulty(file, text)));"
FAULTY_RULES = """
/// The text of a file of rules with the faults that are in force.
fn faulty(file: &str, text: &str) -> String {
    let mut text = text.to_string();
    for (name, of, find, replace) in FAULTS {
        if *of == file && aic_ir::fault(name) {
            text = text.replace(find, replace);
        }
    }
    text
}
"""


class Tree:
    """The files that git knows, with faults compiled in, in a copy whose build outputs are kept."""

    def __init__(self):
        names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
        self.files = {n: (ROOT / n).read_bytes() for n in names.stdout.splitlines() if (ROOT / n).is_file()}

    def edit(self, file, find, replace, what):
        text = self.files[file].decode()
        if (count := text.count(find)) != 1:
            sys.exit(f"{what}: {find!r} occurs {count} times in {file}, expected once")
        self.files[file] = text.replace(find, replace).encode()

    def append(self, file, text):
        self.files[file] += text.encode()

    def write(self):
        """Writes what differs, so that cargo builds no more than that."""
        for name, content in self.files.items():
            copy = COPY / name
            if not (copy.is_file() and copy.read_bytes() == content):
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)


def compile_in(tree, mutant):
    """Puts the fault of a piece of code in, beside what is right."""
    find = mutant["find"] if "{{" in mutant["find"] else "{{" + mutant["find"] + "}}"
    before, expr, after = re.fullmatch(r"(.*?)\{\{(.*)\}\}(.*)", find, re.DOTALL).groups()
    ir = "crate" if mutant["file"].startswith("ir/") else "aic_ir"
    switch = f'(if {ir}::fault("{mutant["name"]}") {{ {mutant["replace"]} }} else {{ {expr} }})'
    tree.edit(mutant["file"], before + expr + after, before + switch + after, mutant["name"])


def compile_in_rules(tree, mutants):
    """Puts the faults of rules in: their text is replaced when it is read."""
    rows = []
    for m in mutants:
        if (count := tree.files[m["file"]].decode().count(m["find"])) != 1:
            sys.exit(f"{m['name']}: {m['find']!r} occurs {count} times in {m['file']}, expected once")
        rows.append("(" + ", ".join(json.dumps(s) for s in (m["name"], Path(m["file"]).name, m["find"], m["replace"])) + "),")
    file = "passes/src/rewrite/rules/mod.rs"
    tree.edit(file, READ_RULES, READ_FAULTY_RULES, "reading rules")
    tree.append(file, FAULTY_RULES + "const FAULTS: &[(&str, &str, &str, &str)] = &[\n" + "\n".join(rows) + "\n];\n")


def build(suites):
    """The executables of the suites, each with the folder where it runs."""
    tests = sorted({test for s in suites for test in SUITES[s][0]})
    named = [arg for test in tests for arg in ("--test", test.split("/")[1])]
    command = ["cargo", "test", "--workspace", "--no-run", "--message-format=json", *named]
    built = subprocess.run(command, cwd=COPY, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        sys.exit("the faults don't compile")
    found = {}
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["profile"]["test"]:
            folder = Path(message["manifest_path"]).parent
            found[f"{folder.name}/{message['target']['name']}"] = (message["executable"], folder)
    return found


def failure(suite, executables, fault):
    """What the tests of a suite print if one of them fails, or None."""
    env = {**os.environ, "AIC_FAULT": fault, "AIC_RULE_CASES": RULE_CASES}
    tests, which = SUITES[suite]
    for executable, folder in (executables[test] for test in tests):
        command = [executable, "-q", *([which] if which else [])]
        try:
            run = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S)
            if run.returncode != 0:
                return run.stdout + run.stderr
        except subprocess.TimeoutExpired:
            return f"no end within {TIMEOUT_S} s"
    return None


def suites_of(mutant):
    return mutant.get("suites", REWRITING)


def known(table):
    """The faults in a table, with what caught them."""
    rows = table.read_text().splitlines()[2:] if table.is_file() else []
    return dict(row.strip("| ").split(" | ") for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose names match this regular expression")
    parser.add_argument("--table", type=Path, default=ROOT / "target" / "mutants.md", help="where the table is kept")
    args = parser.parse_args()
    every = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text())["mutant"]
    of_rules = [m for m in every if m["name"].startswith("rule ")]
    tree = Tree()
    compile_in_rules(tree, of_rules)
    for m in every:
        if m not in of_rules:
            compile_in(tree, m)
    tree.append("ir/src/lib.rs", FAULT)
    tree.write()
    executables = build({suite for m in every for suite in suites_of(m)})

    done = known(args.table)
    asked = [m for m in every if re.search(args.only, m["name"])]
    todo = [m for m in asked if m["name"] not in done]
    if not args.table.is_file():
        args.table.write_text("| fault | caught by |\n|---|---|\n")
    sound = set()

    def caught(suite, fault):
        """What a suite prints that fails with a fault and passes without."""
        said = failure(suite, executables, fault)
        if said is not None and suite not in sound:
            if (alone := failure(suite, executables, "")) is not None:
                sys.exit(f"without any fault {suite} fails:\n{alone}")
            sound.add(suite)
        return said

    def tell(mutant, suite, since):
        done[mutant["name"]] = suite or f"survives: {mutant.get('why', 'no test sees it')}"
        with args.table.open("a") as table:
            table.write(f"| {mutant['name']} | {done[mutant['name']]} |\n")
        print(f"{mutant['name']}: {done[mutant['name']]} ({time.monotonic() - since:.0f} s)", flush=True)

    start = time.monotonic()
    together = [m for m in todo if m in of_rules]
    said = caught("rules", ";".join(m["name"] for m in together)) if together else None
    for m in together:
        if said and re.search(rf'(?m)(^|rules:\d+ |"){re.escape(m["name"].split()[1])}[ :"]', said):
            tell(m, "rules", start)
    for m in (m for m in todo if m["name"] not in done):
        start = time.monotonic()
        tell(m, next((s for s in suites_of(m) if caught(s, m["name"]) is not None), None), start)

    survivors = [m["name"] for m in asked if done[m["name"]].startswith("survives")]
    print(f"{len(asked) - len(survivors)} of {len(asked)} caught; survivors: {', '.join(survivors) or 'none'}")
    sys.exit(len(survivors) > ALLOWED_SURVIVORS)


if __name__ == "__main__":
    main()

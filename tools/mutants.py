"""Seeds faults one by one and says which of them the tests catch.

    tools/mutants.py [--only TEXT] [--out TABLE.md]

`tools/mutants.toml` lists the faults: a rule, a guard or a lowering with one thing wrong. Each is put into a copy of the
working tree (under `target/mutants`), the tests of the crates that it can reach run there, and a fault that every test
passes has survived. Rules are checked one by one: faults named `rule NAME ...` are put in together, and a test that
fails must name the rule. A fault that doesn't compile is an error of the list, not a catch. The exit status is 1 when
more than `ALLOWED_SURVIVORS` survive.
"""

import argparse
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
TIMEOUT_S = 900

# The quickest tests first: one that fails ends the run.
SUITES = {
    "rules": ["-p", "aic-passes", "--test", "rules"],
    "ir": ["-p", "aic-ir"],
    "lowering": ["-p", "aic-passes", "--test", "lowering"],
    "fuse": ["-p", "aic-passes", "--test", "fuse"],
    "staged": ["-p", "aic-passes", "--test", "staged"],
    "passes": ["-p", "aic-passes"],
    "golden": ["-p", "aic", "--test", "golden"],
    "levels": ["-p", "aic", "--test", "levels"],
}

# What runs where a fault names no suites of its own.
EVERY_SUITE = ["rules", "ir", "passes", "golden", "levels"]


def cargo(*args):
    return subprocess.run(["cargo", *args], cwd=COPY, capture_output=True, text=True, timeout=TIMEOUT_S)


def copy_tree():
    """The files that git knows, as they are in the working tree; build outputs of an earlier run stay."""
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in names.stdout.splitlines():
        source, copy = ROOT / name, COPY / name
        if source.is_file() and not (copy.is_file() and copy.read_bytes() == source.read_bytes()):
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)


def seed(mutant):
    """Puts the fault in; gives what takes it out again."""
    path = COPY / mutant["file"]
    text = path.read_text()
    count = text.count(mutant["find"])
    if count != 1:
        sys.exit(f"{mutant['name']}: {mutant['find']!r} occurs {count} times in {mutant['file']}, expected once")
    path.write_text(text.replace(mutant["find"], mutant["replace"]))
    return lambda: path.write_text(text)


def outcome(suites):
    """The first suite that fails, or None."""
    for suite in suites:
        built = cargo("test", "-q", *SUITES[suite], "--no-run")
        if built.returncode != 0:
            return f"does not compile: {built.stderr.strip().splitlines()[:1]}"
        try:
            if cargo("test", "-q", *SUITES[suite]).returncode != 0:
                return suite
        except subprocess.TimeoutExpired:
            return f"{suite} (no end)"
    return None


def rules_named():
    """What the tests of the rules say, all of them."""
    return cargo("test", *SUITES["rules"]).stdout


def faulty_rules(mutants):
    """Puts all faults of rules in at once; gives those whose rule a failing test names."""
    restores = [seed(m) for m in mutants]
    try:
        said = rules_named() if mutants else ""
    finally:
        # Several faults may be in one file: the first text is the one without any.
        for restore in reversed(restores):
            restore()
    return [m["name"] for m in mutants if re.search(rf"\b{re.escape(m['name'].split()[1])}[\s:\"]", said)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose names match this regular expression")
    parser.add_argument("--trust", action="store_true", help="don't run the tests without any fault first")
    parser.add_argument("--out", type=Path, help="where to write the table")
    args = parser.parse_args()
    mutants = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text())["mutant"]
    mutants = [m for m in mutants if re.search(args.only, m["name"])]
    copy_tree()
    if not args.trust and (failed := outcome(EVERY_SUITE)) is not None:
        sys.exit(f"without any fault: {failed} fails")
    rows, survivors, broken = [], [], []
    of_rules = [m for m in mutants if m["name"].startswith("rule ")]
    named = faulty_rules(of_rules)
    rows += [(name, "rules") for name in named]
    print("\n".join(f"{name}: rules" for name in named), flush=True)
    for mutant in mutants:
        if mutant["name"] in named:
            continue
        start = time.monotonic()
        restore = seed(mutant)
        try:
            caught = outcome(mutant.get("suites", EVERY_SUITE))
        finally:
            restore()
        if caught is None:
            survivors.append(mutant["name"])
        elif caught.startswith("does not compile"):
            broken.append(mutant["name"])
        rows.append((mutant["name"], caught or f"survives: {mutant.get('why', 'no test sees it')}"))
        print(f"{mutant['name']}: {rows[-1][1]} ({time.monotonic() - start:.0f} s)", flush=True)
    if args.out:
        args.out.write_text("| fault | caught by |\n|---|---|\n" + "".join(f"| {n} | {c} |\n" for n, c in rows))
    print(f"{len(rows) - len(survivors) - len(broken)} of {len(rows)} caught; survivors: {', '.join(survivors) or 'none'}")
    if broken:
        sys.exit(f"these don't compile: {', '.join(broken)}")
    sys.exit(len(survivors) > ALLOWED_SURVIVORS)


if __name__ == "__main__":
    main()

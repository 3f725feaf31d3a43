#!/usr/bin/env python3
"""Writes the tables of docs/performance.md from measurements of several runners.

    python tools/performance.py RESULTS.json [MORE.json ...] [--page docs/performance.md]

Measure where the models run alone: every runner in a process of its own, taking turns, outputs compared. A file holds

    {"models": {NAME: {"flops": N, "t": {THREADS: {RUNNER: {"median_ms": X, "correct": true}}}}}}

with "error" in place of "median_ms" for a runner that fails. Later files add to, and replace, what earlier ones say.
"""
import argparse
import datetime
import json
import math
import os
import pathlib
import platform

OURS = "aic"
NAMES = {
    "aic": "aic",
    "ort": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch": "torch inductor",
    "iree": "IREE",
    "tract": "tract",
}
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


def merged(files):
    """The models of all files: name -> (flops, threads -> runner -> result)."""
    models = {}
    for file in files:
        for name, model in json.loads(pathlib.Path(file).read_text())["models"].items():
            flops, threads = models.setdefault(name.split("/")[-1], (model["flops"], {}))
            for n, runners in model["t"].items():
                threads.setdefault(int(n), {}).update(runners)
    return models


def time_of(result):
    """Milliseconds of a right answer; None where there is none."""
    return result["median_ms"] if result and "median_ms" in result and result.get("correct") else None


def cell(result, best):
    if result is None:
        return ""
    if "median_ms" not in result:
        return "fails"
    if not result.get("correct"):
        return "wrong"
    text = f"{result['median_ms']:.{1 if result['median_ms'] >= 100 else 2}f}"
    return f"**{text}**" if result["median_ms"] == best else text


def table(models, n_threads):
    """The table for a number of threads, and what it says in one sentence."""
    measured = {m: (flops, t[n_threads]) for m, (flops, t) in models.items() if n_threads in t}
    present = [r for r in NAMES if any(r in runners for _, runners in measured.values())]
    lines = [
        f"| model | GFLOP | {' | '.join(NAMES[r] for r in present)} | best other / aic | aic, GFLOP/s |",
        "|---" * (len(present) + 4) + "|",
    ]
    gains = []
    for model, (flops, runners) in sorted(measured.items()):
        times = {r: time_of(runners.get(r)) for r in present}
        known = [t for t in times.values() if t]
        others = [t for r, t in times.items() if t and r != OURS]
        ours = times.get(OURS)
        gain = min(others) / ours if ours and others else None
        gains += [gain] if gain else []
        cells = [cell(runners.get(r), min(known, default=None)) for r in present]
        rate = f"{flops / ours / 1e6:.0f}" if ours and flops else ""
        row = [model, f"{flops / 1e9:.2f}", *cells, f"{gain:.2f}" if gain else "", rate]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines), summary(gains)


def summary(gains):
    if not gains:
        return "Nothing to compare."
    won = sum(g > 1 for g in gains)
    mean = math.exp(sum(map(math.log, gains)) / len(gains))
    return (
        f"aic is the fastest on {won} of {len(gains)} models; the least ratio is {min(gains):.2f}, "
        f"their geometric mean {mean:.2f}."
    )


def cpu():
    """The CPU's name, and how many cores may be used."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "SSE"
    return f"{(names or [platform.machine()])[0]}, {vectors}, {len(os.sched_getaffinity(0))} cores"


def figures(models):
    parts = [f"{datetime.date.today():%d %B %Y}; {cpu()}. Milliseconds a run, medians; the best in bold.\n"]
    for n in sorted({n for _, threads in models.values() for n in threads}):
        text, says = table(models, n)
        parts.append(f"### {n} thread{'s' if n > 1 else ''}\n\n{text}\n\n{says}\n")
    return "\n".join(parts)


def put(page, begin, end, text):
    """Writes text between two marks of a page."""
    before, rest = page.read_text().split(begin)
    page.write_text(before + begin + text + end + rest.split(end)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--page", default=pathlib.Path(__file__).parent.parent / "docs/performance.md", type=pathlib.Path)
    args = parser.parse_args()
    put(args.page, BEGIN, END, figures(merged(args.results)))


if __name__ == "__main__":
    main()

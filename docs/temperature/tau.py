#!/usr/bin/env python3
"""What came of the contrast in a finished `tauten compare`: the pairing's top-1; the temperatures' spread over training as SVG and their
rank correlation between seeds and, on a simulated log, with the true unrelatedness; paired tests against any variant.

    python docs/temperature/tau.py --compare DIR --log LOG --split train --svg docs/temperature/spread.svg
    python docs/temperature/tau.py --compare DIR --rows test.parquet --against aligned-contrast.temperature-0.2

DIR is the comparison's folder; the temperatures are those of the rows in --rows, or of --split of LOG, a folder of `tauten simulate`;
without either there are no correlations. --against and --only name variants by their folders. Needs numpy and pyarrow, --against scipy."""

import argparse
import itertools
import json
import pathlib
import subprocess
import tempfile

import numpy as np
import pyarrow.parquet as pq

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
COLOURS = ["#1b6ca8", "#c8553d", "#2a9d8f", "#8d5a97", "#7a6a00", "#444444"]


def ranks(x):
    """Ranks, ties by their mean."""
    _, inverse, count = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return (last - (count - 1) / 2)[inverse]


def spearman(a, b):
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def temperatures(tauten, run, rows):
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/p.parquet"
        command = [tauten, "predict", str(run), str(rows), "--out", out, "--device", "cpu", "-q"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return pq.read_table(out, columns=["tau"])["tau"].to_numpy()


def svg(spreads, path):
    """5th, 50th and 95th percentile of tau on valid over training, a panel a variant; thin lines are seeds."""
    width, height, left, top = 300, 190, 44, 34
    parts = []
    for n, (name, runs) in enumerate(spreads.items()):
        x0, y0 = left + (n % 2) * (width + left), top + (n // 2) * (height + 2 * top)
        steps = max(step for run in runs for step, *_ in run)
        x = lambda step: x0 + width * step / steps
        y = lambda tau: y0 + height * (1 - tau)
        title = name.replace("contrast.", "")
        parts.append(f'<text x="{x0}" y="{y0 - 10}" font-size="10">tau: {title}</text>')
        for tau in (0, 0.25, 0.5, 0.75, 1):
            parts.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{y(tau):.1f}" y2="{y(tau):.1f}" stroke="#dddddd"/>')
            parts.append(f'<text x="{x0 - 6}" y="{y(tau) + 4:.1f}" font-size="10" text-anchor="end">{tau}</text>')
        parts.append(f'<text x="{x0 + width}" y="{y0 + height + 14}" font-size="10" text-anchor="end">step {steps}</text>')
        for seed, run in enumerate(runs):
            for column, dash in ((1, "2 3"), (2, "none"), (3, "2 3")):
                points = " ".join(f"{x(line[0]):.1f},{y(line[column]):.1f}" for line in run)
                colour = COLOURS[seed % len(COLOURS)]
                parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-dasharray="{dash}"/>')
    rows = (len(spreads) + 1) // 2
    size = f'width="{2 * (width + left) + 20}" height="{rows * (height + 2 * top) + 10}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    path.write_text("\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n")


def read(run):
    """Lines of metrics, and the evaluation on the suite's split, of a run that has both."""
    lines = [json.loads(line) for line in open(run / "metrics.jsonl")]
    result = run / "result.json"
    return (lines, json.loads(result.read_text())["evaluation"]) if lines and result.exists() else None


def against(runs, name):
    """AUC of every variant less that of variant `name` under the same seed, with the p of a two-sided paired t test."""
    from scipy import stats

    print(f"AUC less that of {name}: CTR, CVR, CTCVR")
    for variant, own in runs.items():
        seeds = sorted(own.keys() & runs[name].keys())
        auc = lambda run: [run[1][task]["auc"] for task in ("ctr", "cvr", "ctcvr")]
        differences = np.array([auc(own[seed]) for seed in seeds]) - np.array([auc(runs[name][seed]) for seed in seeds])
        if variant != name and len(seeds) > 1:
            p = stats.ttest_1samp(differences, 0.0).pvalue
            print(f"  {variant}: " + ", ".join(f"{d:+.4f} (p = {p:.2g})" for d, p in zip(differences.mean(axis=0), p)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", required=True, type=pathlib.Path)
    parser.add_argument("--log", type=pathlib.Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--rows", type=pathlib.Path)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--against", metavar="VARIANT")
    parser.add_argument("--svg", type=pathlib.Path)
    parser.add_argument("--tauten", default=str(ROOT / "target/release/tauten"))
    args = parser.parse_args()
    rows, true = args.rows, None
    if args.log:
        rows = args.log / f"{args.split}.parquet"
        truth = pq.read_table(args.log / f"truth_{args.split}.parquet", columns=["relatedness"])
        true = 1 - truth["relatedness"].to_numpy()
    runs = {}
    for folder in sorted((args.compare / "runs").iterdir()):
        done = {run.name: read(run) for run in sorted(folder.iterdir())}
        done = {seed: run for seed, run in done.items() if run}
        if done and (not args.only or folder.name in args.only):
            runs[folder.name] = done
    spreads = {}
    for name, own in runs.items():
        print(name)
        best = [max(lines, key=lambda line: line["monitor"] or 0.0)["train"] for lines, _ in own.values()]
        if best[0]["tau"] == 0.0:
            continue  # no contrast
        listed = lambda values, form: ", ".join(format(value, form) for value in values)
        print(f"  pairing top-1 before the best evaluation: {listed((train['pairing_top1'] for train in best), '.2f')}")
        if own[next(iter(own))][0][0]["valid"]["tau"] is None:
            print(f"  tau: {listed((train['tau'] for train in best), '.3f')}")
            continue
        spreads[name] = [
            [(line["step"], *(line["valid"]["tau"][p] for p in ("p5", "p50", "p95"))) for line in lines] for lines, _ in own.values()
        ]
        last = [evaluation["tau"] for _, evaluation in own.values()]
        print(f"  median tau: {listed((t['p50'] for t in last), '.3f')}; at a bound: {listed((t['at_bound'] for t in last), '.0%')}")
        print(f"  with pCVR: {listed((t['spearman_pcvr'] or 0.0 for t in last), '+.2f')}")
        if not rows:
            continue
        taus = [temperatures(args.tauten, args.compare / "runs" / name / seed, rows) for seed in own]
        if true is not None:
            print(f"  with the true unrelatedness: {listed((spearman(tau, true) for tau in taus), '+.2f')}")
        seeds = [spearman(a, b) for a, b in itertools.combinations(taus, 2)]
        if seeds:
            print(f"  between seeds: {np.nanmean(seeds):+.2f} ({np.nanmin(seeds):+.2f} to {np.nanmax(seeds):+.2f})")
    if args.against:
        against(runs, args.against)
    if args.svg and spreads:
        svg(spreads, args.svg)


if __name__ == "__main__":
    main()

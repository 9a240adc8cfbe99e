#!/usr/bin/env python3
"""What the temperatures of a finished `tauten compare` on a simulated log have learned: their spread over training as SVG, their rank
correlation with the true unrelatedness and between seeds.

    python docs/temperature/tau.py --compare DIR --log LOG --split train --svg docs/temperature/spread.svg

DIR is the comparison's folder, LOG that of `tauten simulate`; --split is the log's split that the suite measured on. Needs numpy and
pyarrow."""

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


def temperatures(tauten, run, log, split):
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/p.parquet"
        command = [tauten, "predict", str(run), str(log / f"{split}.parquet"), "--out", out, "--device", "cpu", "-q"]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", required=True, type=pathlib.Path)
    parser.add_argument("--log", required=True, type=pathlib.Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--svg", type=pathlib.Path)
    parser.add_argument("--tauten", default=str(ROOT / "target/release/tauten"))
    args = parser.parse_args()
    true = 1 - pq.read_table(args.log / f"truth_{args.split}.parquet", columns=["relatedness"])["relatedness"].to_numpy()
    spreads = {}
    for variant in sorted((args.compare / "runs").iterdir()):
        taus, spread, bound = [], [], []
        for run in sorted(variant.iterdir()):
            lines = [json.loads(line) for line in open(run / "metrics.jsonl")]
            if not lines or lines[0]["valid"]["tau"] is None:
                continue
            spread.append([(line["step"], *(line["valid"]["tau"][p] for p in ("p5", "p50", "p95"))) for line in lines])
            bound.append(json.loads((run / "result.json").read_text())["evaluation"]["tau"]["at_bound"])
            taus.append(temperatures(args.tauten, run, args.log, args.split))
        if not taus:
            continue
        truth = [spearman(tau, true) for tau in taus]
        seeds = [spearman(a, b) for a, b in itertools.combinations(taus, 2)]
        last = [run[-1] for run in spread]
        middle = ", ".join(f"{line[2]:.3f}" for line in last)
        print(f"{variant.name}\n  median tau at the end: {middle}; at a bound: {', '.join(f'{b:.0%}' for b in bound)}")
        print(f"  with the true unrelatedness: {', '.join(f'{c:+.2f}' for c in truth)}")
        if seeds:
            print(f"  between seeds: {np.nanmean(seeds):+.2f} ({np.nanmin(seeds):+.2f} to {np.nanmax(seeds):+.2f})")
        spreads[variant.name] = spread
    if args.svg and spreads:
        svg(spreads, args.svg)


if __name__ == "__main__":
    main()

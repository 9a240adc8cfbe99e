#!/usr/bin/env python3
"""Trains assets/kuairand.toml over several seeds and prints mean +- std of the test AUCs, beside those of PyTorch.

    cargo build --release
    python benches/kuairand.py --data DIR --out benches/results/kuairand-tauten.json [--set KEY=VALUE ...]

DIR holds KuaiRand-Pure as benches/peers/kuairand.py takes it. Needs no package. Differences are given to the figures of
benches/results/kuairand-pytorch.json, which that script makes."""

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--tauten", default=ROOT / "target/release/tauten", type=pathlib.Path)
    args = parser.parse_args()
    sets = [f"data.root={args.data.resolve()}", *args.set]
    flags = [flag for s in sets for flag in ("--set", s)]
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = f"{folder}/dataset"
        tauten = [str(args.tauten)]
        config = str(ROOT / "assets/kuairand.toml")
        subprocess.run([*tauten, "prepare", config, "--out", dataset, "-q", *flags], check=True, stdout=subprocess.DEVNULL)
        for seed in args.seeds:
            run = f"{folder}/{seed}"
            start = time.time()
            train = [*tauten, "train", config, "--data", dataset, "--out", run, "--device", args.device, "-q"]
            subprocess.run([*train, "--seed", str(seed), *flags], check=True, stdout=subprocess.DEVNULL)
            seconds = time.time() - start
            test = subprocess.run([*tauten, "evaluate", run, "--json", "-q", "--device", args.device], check=True, stdout=subprocess.PIPE)
            test = json.loads(test.stdout)
            lines = [json.loads(line) for line in open(f"{run}/metrics.jsonl")]
            best = max(lines, key=lambda line: line["monitor"])
            runs.append({
                "seed": seed,
                "test": {task: test[task]["auc"] for task in ("ctr", "cvr", "ctcvr")},
                "valid_monitor": best["monitor"],
                "best_epoch": best["epoch"],
                "epochs": lines[-1]["epoch"],
                "seconds": round(seconds, 1),
            })
            print(json.dumps(runs[-1]), flush=True)
    mean = {t: statistics.fmean(r["test"][t] for r in runs) for t in ("ctr", "cvr", "ctcvr")}
    std = {t: statistics.stdev(r["test"][t] for r in runs) if len(runs) > 1 else 0.0 for t in ("ctr", "cvr", "ctcvr")}
    for task in mean:
        print(f"{task:6} {mean[task]:.4f} +- {std[task]:.4f}")
    result = {
        "config": "assets/kuairand.toml",
        "set": args.set,
        "device": args.device,
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "mean": mean,
        "std": std,
        "runs": runs,
    }
    if args.out:
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

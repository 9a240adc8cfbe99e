#!/usr/bin/env python3
"""The design shape's training step (`cargo bench --bench steps -- design`) in PyTorch, float32: what Tauten's step times are held
against.

    python benches/peers/design.py --threads 2 --rows 2048 8192 --out design-pytorch.json
    python benches/peers/design.py --device cuda --rows 2048 8192

20 categorical features of width 16 over 1,000,000 table rows, MMoE of four experts 128-64, towers of 64, click and entire-space
loss and the conversion loss over clicked rows, in-batch contrast of width 64 with a temperature an instance, Adam. The model is that
of kuairand.py, its experts batched, its optimizers fused; ids follow Zipf's law with exponent 1.

Each combination of embedding gradient (sparse, lazy, dense: kuairand.py) and allocator runs in a process of its own, one after the
other; the fastest by its median is PyTorch's best. Allocators: glibc's own, glibc's told to keep its memory, and jemalloc where the library is
(Debian: libjemalloc2). Needs torch and numpy."""

import argparse
import ctypes.util
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np
import torch

import kuairand as peer

FEATURES, TABLE_ROWS, BATCHES, WARM_UP = 20, 1_000_000, 32, 5
ALLOCATORS = {
    "glibc": {},
    "glibc, tuned": {"MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_MMAP_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "67108864"},
}
if jemalloc := ctypes.util.find_library("jemalloc"):
    ALLOCATORS["jemalloc"] = {"LD_PRELOAD": jemalloc, "MALLOC_CONF": "dirty_decay_ms:-1,muzzy_decay_ms:-1"}

peer.CATEGORICAL, peer.NUMERIC, peer.TOWER = [f"c{i}" for i in range(FEATURES)], [], (64,)


class Model(peer.Model):
    """Both logarithms of the contrast's sums straight from S, with as few passes over it as there are."""

    def contrast(self, a):
        o, tau = self.options, self.temperature(a)
        z = peer.F.normalize(torch.bmm(a, self.p["projection.weight"]), dim=2, eps=1e-6)
        s, inverse = z[0] @ z[1].T, 1 / tau
        own = s.diagonal() * inverse
        total = 0.0
        for lse in (torch.logsumexp(s * inverse[:, None], dim=1), torch.logsumexp(s * inverse, dim=0)):
            total = total + (tau * (lse - own - np.log(s.shape[0])) + o.rho * tau).mean()
        return total / 2


def settings(mode):
    return argparse.Namespace(
        encoder="mmoe", experts=4, init_std=0.01, ctr_weight=1.0, ctcvr_weight=1.0, cvr_weight=0.5, cvr_kind="clicked",
        contrast="instance", contrast_weight=0.05, objective="robust", rho=1.0, width=64, tau_min=0.05, tau_max=1.0, tau_init=0.2,
        embedding_gradient=mode, lr=1e-3, embedding_lr=1e-3)  # fmt: skip


def measure(options, rows, mode):
    """Seconds of each training step of one combination, in this process."""
    torch.set_num_threads(options.threads)
    torch.set_default_device(options.device)
    generator = torch.Generator(options.device).manual_seed(1)
    model = Model(TABLE_ROWS, settings(mode), generator)
    trainer = peer.Trainer(model, model.options)
    random, most = np.random.default_rng(1), TABLE_ROWS // FEATURES
    batches = []
    for _ in range(max(2, min(BATCHES, 65_536 // rows))):
        ids = np.floor(most ** random.random((rows, FEATURES))).astype(np.int64).clip(max=most) - 1 + np.arange(FEATURES) * most
        u = random.random(rows)
        labels = np.stack([u < 0.4, u < 0.1], axis=1).astype(np.float32)
        batches.append((torch.tensor(ids), torch.zeros(rows, 0), torch.tensor(labels)))
    seconds, end = [], None
    for step in range(100_000):
        start = time.perf_counter()
        total, _ = trainer.step(*batches[step % len(batches)])
        total.item()
        if step >= WARM_UP:
            seconds.append(time.perf_counter() - start)
            end = end or time.perf_counter() + options.seconds
            if time.perf_counter() > end and len(seconds) >= 5:
                break
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if options.device != "cpu":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return dict(steps=len(seconds), median_ms=1e3 * float(np.median(seconds)), best_ms=1e3 * min(seconds), peak_mib=peak,
                last_loss=total.item())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=10.0, help="for one combination")
    parser.add_argument("--modes", nargs="+", default=["lazy", "sparse", "dense"])
    parser.add_argument("--allocators", nargs="+", choices=list(ALLOCATORS), default=list(ALLOCATORS))
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options, options.rows[0], options.modes[0])))
        return
    if options.device != "cpu":
        options.allocators = options.allocators[:1]
    results = dict(machine=dict(peer.machine(options.threads), device=options.device))
    if options.device != "cpu":
        results["machine"]["device"] = torch.cuda.get_device_name()
    for rows in options.rows:
        found = []
        for allocator in options.allocators:
            for mode in options.modes:
                command = [sys.executable, __file__, "--one", "--rows", str(rows), "--modes", mode, "--threads", str(options.threads),
                           "--device", options.device, "--seconds", str(options.seconds)]  # fmt: skip
                done = subprocess.run(command, env={**os.environ, **ALLOCATORS[allocator]}, check=True, capture_output=True, text=True)
                found.append(dict(mode=mode, allocator=allocator, **json.loads(done.stdout)))
                r = found[-1]
                print(f"B = {rows}, {mode}, {allocator}: median {r['median_ms']:.1f} ms, best {r['best_ms']:.1f} ms, "
                      f"peak {r['peak_mib']:.0f} MiB", flush=True)
        best = min(found, key=lambda r: r["median_ms"])
        print(f"B = {rows}: PyTorch's best is {best['mode']} with {best['allocator']}: median {best['median_ms']:.1f} ms", flush=True)
        results[f"B = {rows}"] = dict(best=best, all=found)
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""The KuaiRand configuration (assets/kuairand.toml) in PyTorch, float32 on the CPU: what Tauten's figures are held against.

    python benches/peers/kuairand.py --data DIR --seeds 1 2 3 4 5 --threads 2 --out benches/results/kuairand-pytorch.json
    python benches/peers/kuairand.py --data DIR --threads 2 --throughput 100

DIR holds train, valid and test.parquet. Needs torch, numpy, pyarrow, scikit-learn and, for --export, safetensors.

36 categorical features of width 16 in one stacked table, five numeric ones (sign(x) ln(1 + |x|), then standardised), a
mixture of 4 experts 128-64, towers 64-32, minibatches of 1024, Adam at 1e-3, click loss and entire-space loss of weight 1;
after each epoch the mean of CTR and CTCVR AUC on valid; training stops at the first epoch without a better one and the best
epoch's parameters are tested. Vocabularies and statistics are of train only; id 0 is 'missing or unseen', an empty string
counts as missing. Initial embeddings N(0, --init-std), linear weights and biases uniform within 1/sqrt(fan-in).

--embedding-gradient
    lazy    Adam on the minibatch's rows only, each row with its own step count (Tauten's rule)
    sparse  torch.optim.SparseAdam: the minibatch's rows only, one step count for all
    dense   torch.optim.Adam over the whole table

--export DIR writes the initial parameters of the first seed under Tauten's names, `vocabulary.json` (value -> id of every
feature) and, per step of the order file (--order FILE, one row number of train a line; row order of the files without it),
the losses of the first 20 minibatches to `losses.json`, then stops.
"""

import argparse
import contextlib
import datetime
import json
import math
import multiprocessing
import pathlib
import platform
import resource
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score

CATEGORICAL = (
    "user item item_author tab hour weekday item_video_type item_upload_type item_music_type item_tag item_duration_bucket "
    "user_active_degree user_is_live_streamer user_is_video_author user_follow_num_range user_fans_num_range "
    "user_friend_num_range user_register_days_range"
).split() + [f"user_onehot_feat{i}" for i in range(18)]
NUMERIC = "video_duration_s user_follow_num user_fans_num user_friend_num user_register_days".split()
DIM, EXPERTS, HIDDEN, TOWER, BATCH = 16, 4, (128, 64), (64, 32), 1024
CTR, CVR = 0, 1


# ---------------------------------------------------------------------------------------------------------------------- data


class Data:
    """The three splits, encoded: ids are rows of the stacked table."""

    def __init__(self, folder, conversion="conversion"):
        names = CATEGORICAL + NUMERIC + ["click", conversion]
        tables = {s: pq.read_table(folder / f"{s}.parquet", columns=names) for s in ("train", "valid", "test")}
        columns = {s: [] for s in tables}
        self.vocabulary, self.offsets, self.rows = {}, [], 0
        for name in CATEGORICAL:
            values = self.text(tables["train"][name])
            distinct = pc.drop_null(pc.unique(values))
            self.vocabulary[name] = distinct
            self.offsets.append(self.rows)
            for split, table in tables.items():
                ids = pc.fill_null(pc.add(pc.index_in(self.text(table[name]), distinct), 1), 0).to_numpy()
                columns[split].append(ids.astype(np.int64) + self.rows)
            self.rows += 1 + len(distinct)
        numeric = {s: [] for s in tables}
        for name in NUMERIC:
            raw = {s: t[name].combine_chunks().cast(pa.float64()).to_numpy(zero_copy_only=False) for s, t in tables.items()}
            scaled = {s: np.sign(v) * np.log1p(np.abs(v)) for s, v in raw.items()}
            mean, std = np.nanmean(scaled["train"]), np.nanstd(scaled["train"])
            for split, v in scaled.items():
                numeric[split].append(np.nan_to_num((v - mean) / (std if std > 0 else 1.0), nan=0.0))
        self.splits = {}
        for split, table in tables.items():
            labels = [table[n].to_numpy().astype(np.float32) for n in ("click", conversion)]
            self.splits[split] = (
                torch.from_numpy(np.ascontiguousarray(np.stack(columns[split], axis=1))),
                torch.from_numpy(np.stack(numeric[split], axis=1).astype(np.float32)),
                torch.from_numpy(np.stack(labels, axis=1)),
            )

    @staticmethod
    def text(column):
        column = column.combine_chunks()
        if pa.types.is_large_string(column.type) or pa.types.is_string(column.type):
            return pc.if_else(pc.equal(column, ""), None, column)
        return column


# --------------------------------------------------------------------------------------------------------------------- model


class Model:
    """Parameters by name (the stacked table aside) and the forward pass."""

    def __init__(self, rows, options, generator):
        self.options = options
        x = DIM * len(CATEGORICAL) + len(NUMERIC)
        self.p = {}

        def uniform(name, shape, fan_in):
            bound = 1.0 / math.sqrt(fan_in)
            self.p[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)

        self.table = torch.empty(rows, DIM).normal_(0.0, options.init_std, generator=generator)
        uniform("experts.0.weight", (x, EXPERTS * HIDDEN[0]), x)
        uniform("experts.0.bias", (EXPERTS * HIDDEN[0],), x)
        for layer in range(1, len(HIDDEN)):
            k, n = HIDDEN[layer - 1], HIDDEN[layer]
            uniform(f"experts.{layer}.weight", (EXPERTS, k, n), k)
            uniform(f"experts.{layer}.bias", (EXPERTS * n,), k)
        uniform("gates.weight", (x, 2 * EXPERTS), x)
        uniform("gates.bias", (2 * EXPERTS,), x)
        k = HIDDEN[-1]
        for layer, n in enumerate(TOWER):
            uniform(f"towers.{layer}.weight", (2, k, n), k)
            uniform(f"towers.{layer}.bias", (2 * n,), k)
            k = n
        uniform("heads.weight", (2, k, 1), k)
        uniform("heads.bias", (2,), k)
        if options.contrast != "off":
            uniform("projection.weight", (2, k, options.width), k)
            raw = math.log((options.tau_init - options.tau_min) / (options.tau_max - options.tau_init))
            if options.contrast == "instance":
                for layer, (i, n) in enumerate([(3 * k, 32), (32, 1)]):
                    uniform(f"relatedness.{layer}.weight", (i, n), i)
                    uniform(f"relatedness.{layer}.bias", (n,), i)
                self.p["relatedness.1.bias"].fill_(raw)
            elif options.contrast == "task":
                self.p["temperature"] = torch.full((1,), raw)
        for value in self.p.values():
            value.requires_grad_()

    def forward(self, embedded, numeric):
        """Logits [B, 2] and the last hidden layers [2, B, H] from the gathered rows [B, F, DIM]."""
        p, rows = self.p, embedded.shape[0]
        x = torch.cat([embedded.reshape(rows, -1), numeric], dim=1)
        h = torch.relu(torch.addmm(p["experts.0.bias"], x, p["experts.0.weight"]))
        h = h.view(rows, EXPERTS, -1).transpose(0, 1)
        for layer in range(1, len(HIDDEN)):
            bias = p[f"experts.{layer}.bias"].view(EXPERTS, 1, -1)
            h = torch.relu(torch.baddbmm(bias, h, p[f"experts.{layer}.weight"]))
        gates = torch.softmax(torch.addmm(p["gates.bias"], x, p["gates.weight"]).view(rows, 2, EXPERTS), dim=2)
        a = torch.bmm(gates, h.transpose(0, 1)).transpose(0, 1)  # [2, B, H]
        for layer in range(len(TOWER)):
            a = torch.relu(torch.baddbmm(p[f"towers.{layer}.bias"].view(2, 1, -1), a, p[f"towers.{layer}.weight"]))
        logits = torch.baddbmm(p["heads.bias"].view(2, 1, 1), a, p["heads.weight"])
        return logits.squeeze(2).T, a

    def loss(self, logits, a, labels):
        """Weighted total and its parts."""
        o = self.options
        y, v = labels[:, 0], labels[:, 1]
        ctr = F.binary_cross_entropy_with_logits(logits[:, CTR], y)
        log_p = F.logsigmoid(logits[:, CTR]) + F.logsigmoid(logits[:, CVR])
        negative = torch.stack([-logits[:, CTR], -logits[:, CVR], -logits[:, CTR] - logits[:, CVR]])
        log_not_p = torch.logsumexp(negative, dim=0) + log_p
        both = y * v
        ctcvr = -(both * log_p + (1 - both) * log_not_p).mean()
        total = o.ctr_weight * ctr + o.ctcvr_weight * ctcvr
        parts = dict(ctr=ctr, ctcvr=ctcvr)
        if o.cvr_weight:
            each = F.binary_cross_entropy_with_logits(logits[:, CVR], v, reduction="none")
            parts["cvr"] = (each * y).sum() / y.sum().clamp(min=1.0)
            total = total + o.cvr_weight * parts["cvr"]
        if o.contrast != "off":
            parts["contrast"] = self.contrast(a)
            total = total + o.contrast_weight * parts["contrast"]
        return total, parts

    def temperature(self, a):
        o, p = self.options, self.p
        if o.contrast == "task":
            r = p["temperature"]
        elif o.contrast == "instance":
            u = torch.cat([a[CTR], a[CVR], a[CTR] * a[CVR]], dim=1).detach()
            u = torch.relu(torch.addmm(p["relatedness.0.bias"], u, p["relatedness.0.weight"]))
            r = torch.addmm(p["relatedness.1.bias"], u, p["relatedness.1.weight"])[:, 0]
        else:
            return torch.full((a.shape[1],), float(o.contrast))
        return (o.tau_min + (o.tau_max - o.tau_min) * torch.sigmoid(r)).expand(a.shape[1])

    def contrast(self, a):
        """In-batch negatives, the mean of both directions."""
        o = self.options
        tau = self.temperature(a)
        z = F.normalize(torch.bmm(a, self.p["projection.weight"]), dim=2, eps=1e-6)
        s = z[CTR] @ z[CVR].T
        total = 0.0
        for similarity in (s, s.T):
            own = similarity.diagonal()
            lse = torch.logsumexp((similarity - own[:, None]) / tau[:, None], dim=1)
            if o.objective == "robust":
                lse = tau * (lse - math.log(s.shape[0])) + o.rho * tau
            total = total + lse.mean()
        return total / 2


# ----------------------------------------------------------------------------------------------------------------- optimizer


class Trainer:
    """One training step: gather, forward, backward, update."""

    def __init__(self, model, options, fused=True):
        self.model, self.mode = model, options.embedding_gradient
        dense = list(model.p.values())
        table = model.table
        self.optimizers = []
        if self.mode == "dense":
            table.requires_grad_()
            dense = [table] + dense
        elif self.mode == "sparse":
            table.requires_grad_()
            self.optimizers.append(torch.optim.SparseAdam([table], lr=options.embedding_lr))
        else:
            self.lr, self.steps = options.embedding_lr, torch.zeros(table.shape[0], 1)
            self.m, self.v = torch.zeros_like(table), torch.zeros_like(table)
        self.optimizers.append(torch.optim.Adam(dense, lr=options.lr, fused=fused))

    def step(self, ids, numeric, labels):
        model = self.model
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.mode == "lazy":
            embedded = model.table[ids].requires_grad_()
        else:
            embedded = F.embedding(ids, model.table, sparse=self.mode == "sparse")
        logits, a = model.forward(embedded, numeric)
        total, parts = model.loss(logits, a, labels)
        total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        if self.mode == "lazy":
            self.lazy_adam(ids.reshape(-1), embedded.grad.reshape(-1, DIM))
        return total, parts

    @torch.no_grad()
    def lazy_adam(self, ids, gradient):
        rows, inverse = torch.unique(ids, return_inverse=True)
        g = torch.zeros(rows.numel(), DIM).index_add_(0, inverse, gradient)
        t = self.steps[rows] + 1
        m = self.m[rows].mul_(0.9).add_(g, alpha=0.1)
        v = self.v[rows].mul_(0.999).addcmul_(g, g, value=0.001)
        self.steps[rows], self.m[rows], self.v[rows] = t, m, v
        denominator = (v / (1 - 0.999**t)).sqrt_().add_(1e-8)
        self.model.table[rows] -= self.lr * (m / (1 - 0.9**t)) / denominator


# ------------------------------------------------------------------------------------------------------------------- running


@torch.no_grad()
def evaluate(model, split):
    ids, numeric, labels = split
    logits = torch.cat([
        model.forward(model.table[ids[i : i + 4096]], numeric[i : i + 4096])[0] for i in range(0, len(ids), 4096)
    ]).double()
    y, v = labels[:, 0].numpy(), labels[:, 1].numpy()
    ctr, cvr = torch.sigmoid(logits[:, CTR]).numpy(), torch.sigmoid(logits[:, CVR]).numpy()
    clicked = y > 0
    return dict(ctr=roc_auc_score(y, ctr), cvr=roc_auc_score(v[clicked], cvr[clicked]), ctcvr=roc_auc_score(y * v, ctr * cvr))


def train(data, seed, options):
    generator = torch.Generator().manual_seed(seed)
    model = Model(data.rows, options, generator)
    trainer = Trainer(model, options)
    ids, numeric, labels = data.splits["train"]
    best, best_test, history, step_seconds, epoch_seconds = -1.0, None, [], [], []
    for epoch in range(1, options.epochs + 1):
        order = torch.randperm(len(ids), generator=generator)
        begin = time.perf_counter()
        for at in range(0, len(ids), BATCH):
            start = time.perf_counter()
            rows = order[at : at + BATCH]
            trainer.step(ids[rows], numeric[rows], labels[rows])
            if len(rows) == BATCH:
                step_seconds.append(time.perf_counter() - start)
        epoch_seconds.append(time.perf_counter() - begin)
        valid = evaluate(model, data.splits["valid"])
        history.append(valid)
        score = (valid["ctr"] + valid["ctcvr"]) / 2
        if score <= best:
            break
        best, best_test = score, evaluate(model, data.splits["test"])
    if options.contrast != "off":
        with torch.no_grad():
            sample = slice(0, 4096)
            tau = model.temperature(model.forward(model.table[data.splits["test"][0][sample]], data.splits["test"][1][sample])[1])
            best_test["tau_mean"], best_test["tau_std"] = tau.mean().item(), tau.std().item()
    return dict(seed=seed, epochs=len(history), best_epoch=int(np.argmax([h["ctr"] + h["ctcvr"] for h in history])) + 1,
                valid_metric=best, test=best_test, valid=history,
                seconds_per_epoch=float(np.mean(epoch_seconds)), median_step_ms=1e3 * float(np.median(step_seconds)),
                best_step_ms=1e3 * min(step_seconds), rows_per_second=BATCH / float(np.median(step_seconds)))


def throughput(folder, mode, steps, warm_up, options):
    """Rows a second of training steps alone: the minibatches' rows are gathered before each step's clock starts."""
    torch.set_num_threads(options.threads)
    data = Data(folder, options.conversion)
    options.embedding_gradient = mode
    model = Model(data.rows, options, torch.Generator().manual_seed(1))
    trainer = Trainer(model, options)
    ids, numeric, labels = data.splits["train"]
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(2))
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = []
    for step in range(warm_up + steps):
        at = step * BATCH % (len(ids) - BATCH)
        rows = order[at : at + BATCH]
        batch = ids[rows], numeric[rows], labels[rows]
        start = time.perf_counter()
        trainer.step(*batch)
        if step >= warm_up:
            seconds.append(time.perf_counter() - start)
    return dict(mode=mode, steps=steps, rows_per_second=BATCH / float(np.median(seconds)),
                best_rows_per_second=BATCH / min(seconds), mean_rows_per_second=BATCH / float(np.mean(seconds)),
                median_step_ms=1e3 * float(np.median(seconds)), loaded_mib=loaded,
                peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def export(data, options):
    from safetensors.torch import save_file

    out = options.export
    out.mkdir(parents=True, exist_ok=True)
    model = Model(data.rows, options, torch.Generator().manual_seed(options.seeds[0]))
    tensors = {name: value.detach().clone() for name, value in model.p.items()}
    for name, start in zip(CATEGORICAL, data.offsets):
        tensors[f"embedding.{name}"] = model.table[start : start + 1 + len(data.vocabulary[name])].clone()
    save_file(tensors, out / "parameters.safetensors")
    vocabulary = {n: {str(v): i + 1 for i, v in enumerate(d.to_pylist())} for n, d in data.vocabulary.items()}
    (out / "vocabulary.json").write_text(json.dumps(vocabulary))
    trainer = Trainer(model, options)
    ids, numeric, labels = data.splits["train"]
    if options.order:
        order = torch.from_numpy(np.loadtxt(options.order, dtype=np.int64))
    else:
        order = torch.arange(len(ids))
    losses = []
    for at in range(0, min(20 * BATCH, len(order)), BATCH):
        rows = order[at : at + BATCH]
        total, parts = trainer.step(ids[rows], numeric[rows], labels[rows])
        losses.append(dict(total=total.item(), **{k: v.item() for k, v in parts.items()}))
    (out / "losses.json").write_text(json.dumps(losses, indent=1))


def machine(threads):
    model = platform.processor()
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return dict(cpu=model, cores=multiprocessing.cpu_count(), threads=threads, torch=torch.__version__,
                python=platform.python_version(), date=datetime.date.today().isoformat())


def mean_std(values):
    return dict(mean=float(np.mean(values)), std=float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


def write(options, entry):
    if not options.out:
        return
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results[options.label] = dict(machine=machine(options.threads), **entry)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--embedding-lr", type=float, help="with lazy and sparse; --lr if not given")
    parser.add_argument("--conversion", default="conversion", help="label column")
    parser.add_argument("--embedding-gradient", choices=["lazy", "sparse", "dense"], default="lazy")
    parser.add_argument("--init-std", type=float, default=0.05)
    parser.add_argument("--ctr-weight", type=float, default=1.0)
    parser.add_argument("--ctcvr-weight", type=float, default=1.0)
    parser.add_argument("--cvr-weight", type=float, default=0.0)
    parser.add_argument("--contrast", default="off", help="off, instance, task or a fixed temperature")
    parser.add_argument("--contrast-weight", type=float, default=0.05)
    parser.add_argument("--objective", choices=["robust", "infonce"], default="robust")
    parser.add_argument("--rho", type=float, default=1.0)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--tau-min", type=float, default=0.05)
    parser.add_argument("--tau-max", type=float, default=1.0)
    parser.add_argument("--tau-init", type=float, default=0.2)
    parser.add_argument("--throughput", type=int, metavar="STEPS", help="time training steps only")
    parser.add_argument("--modes", nargs="+", default=["dense", "sparse", "lazy"], help="embedding gradients that --throughput times")
    parser.add_argument("--export", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--order", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--label", default="default", help="name of the figures in --out")
    options = parser.parse_args()
    options.embedding_lr = options.embedding_lr or options.lr
    torch.set_num_threads(options.threads)

    if options.throughput:
        results = []
        for mode in options.modes:  # a process of its own each: peak memory
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                r = pool.apply(throughput, (options.data, mode, options.throughput, 10, options))
            results.append(r)
            print(f"{mode}: {r['rows_per_second']:.0f} rows/s by the median step ({r['median_step_ms']:.1f} ms), best "
                  f"{r['best_rows_per_second']:.0f}, mean {r['mean_rows_per_second']:.0f}; peak {r['peak_mib']:.0f} MiB "
                  f"({r['loaded_mib']:.0f} with the data read and the model made)", flush=True)
        write(options, dict(throughput=results))
        return

    data = Data(options.data, options.conversion)
    if options.export:
        export(data, options)
        return
    runs = []
    for seed in options.seeds:
        r = train(data, seed, options)
        runs.append(r)
        t = r["test"]
        tau = f", tau {t['tau_mean']:.3f} +- {t['tau_std']:.3f}" if "tau_mean" in t else ""
        print(f"seed {seed}: test CTR {t['ctr']:.4f}, CVR {t['cvr']:.4f}, CTCVR {t['ctcvr']:.4f}; valid {r['valid_metric']:.4f} "
              f"in epoch {r['best_epoch']}; {r['seconds_per_epoch']:.1f} s an epoch, {r['rows_per_second']:.0f} rows/s by the "
              f"median step ({r['median_step_ms']:.1f} ms, best {r['best_step_ms']:.1f} ms){tau}", flush=True)
    summary = {k: mean_std([r["test"][k] for r in runs]) for k in ("ctr", "cvr", "ctcvr")}
    summary["valid_metric"] = mean_std([r["valid_metric"] for r in runs])
    print("mean: " + ", ".join(f"{k} {v['mean']:.4f} +- {v['std']:.4f}" for k, v in summary.items()), flush=True)
    settings = {k: v for k, v in vars(options).items()
                if k not in ("data", "out", "label", "export", "order", "throughput", "modes", "threads")}
    write(options, dict(settings=settings, summary=summary, runs=runs))


if __name__ == "__main__":
    main()

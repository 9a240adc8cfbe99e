#!/usr/bin/env python3
"""The KuaiRand configuration (assets/kuairand.toml) in PyTorch, float32 on the CPU: what Tauten's figures are held against.

    python benches/peers/kuairand.py --data DIR --seeds 1 2 3 4 5 --threads 2 --out benches/results/kuairand-pytorch.json
    python benches/peers/kuairand.py --data DIR --threads 2 --throughput 100

DIR holds train, valid and test.parquet. Needs torch, numpy, pyarrow, scikit-learn and, for --export, safetensors.

36 categorical features of width 16 in one stacked table, five numeric ones (sign(x) ln(1 + |x|), then standardised), an
encoder of layers 128-64, towers 64-32, minibatches of 1024, Adam at 1e-3, click loss and entire-space loss of weight 1;
after each epoch the mean of CTR and CTCVR AUC on valid; training stops at the first epoch without a better one and the best
epoch's parameters are tested. Vocabularies and statistics are of train only; id 0 is 'missing or unseen', an empty string
counts as missing. Initial embeddings N(0, --init-std), linear weights and biases uniform within 1/sqrt(fan-in), stitches
0.9 on the diagonal and 0.1 off it.

--encoder
    single-task    a network and a set of embeddings for each task
    esmm           a network for each task
    shared-bottom  one network
    mmoe           --experts experts, a gate for each task
    ple            --levels levels of --experts shared experts and --task-experts of each task's own
    cross-stitch   a network for each task, mixed after each layer by a 2 x 2 matrix
    aitm           a network for each task; CVR's attends to itself and to what CTR's passes on. The second logit is CTCVR's:
                   its loss adds 0.6 mean(max(pCTCVR - pCTR, 0)), and pCVR is pCTCVR / pCTR, capped just below 1

--embedding-gradient
    lazy             Adam on the minibatch's rows only, each row with its own step count (Tauten's `adam`)
    rowwise-adagrad  Adagrad on the minibatch's rows only, one accumulator a row, which adds the mean square of its gradient
                     (Tauten's rule of that name; assets/kuairand.toml has --embedding-lr 0.05)
    sparse           torch.optim.SparseAdam: the minibatch's rows only, one step count for all
    dense            torch.optim.Adam over the whole table

--cvr-kind, with --cvr-weight: `clicked`, the mean over clicked rows; `ipw` and `dr`, estimates over all rows by the inverse of
pCTR, at least --propensity-floor, and for `dr` a network that imputes the error.

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
DIM, HIDDEN, TOWER, BATCH = 16, (128, 64), (64, 32), 1024
CTR, CVR = 0, 1
CALIBRATOR, LEAST = 0.6, 1e-6  # aitm: weight of pCTCVR above pCTR; log pCTR - log pCTCVR is at least this where pCVR is wanted


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


class Parameters(dict):
    """Dense parameters under Tauten's names, and the layers made of them. Activations are [groups, B, columns] or [B, columns]."""

    def __init__(self, generator):
        super().__init__()
        self.generator, self.groups, self.depth = generator, {}, {}

    def uniform(self, name, shape, fan_in):
        bound = 1.0 / math.sqrt(fan_in)
        self[name] = torch.empty(shape).uniform_(-bound, bound, generator=self.generator)

    def layer(self, name, groups, inputs, outputs, own=False):
        """`groups` layers, each with an input of its `own` or side by side over one."""
        self.groups[name] = groups
        self.uniform(f"{name}.weight", (groups, inputs, outputs) if own else (inputs, groups * outputs), inputs)
        self.uniform(f"{name}.bias", (groups * outputs,), inputs)

    def stack(self, name, groups, inputs, widths, own=False):
        """`groups` stacks of layers; returns their last width."""
        self.depth[name] = len(widths)
        for i, width in enumerate(widths):
            self.layer(f"{name}.{i}", groups, inputs, width, own or (i > 0 and groups > 1))
            inputs = width
        return inputs

    def linear(self, name, h):
        weight, bias, groups = self[f"{name}.weight"], self[f"{name}.bias"], self.groups[name]
        if weight.dim() == 3:
            return torch.baddbmm(bias.view(groups, 1, -1), h, weight)
        rows = h.shape[-2]
        return torch.addmm(bias, h.reshape(rows, -1), weight).view(rows, groups, -1).transpose(0, 1)

    def network(self, name, h):
        for i in range(self.depth[name]):
            h = torch.relu(self.linear(f"{name}.{i}", h))
        return h


def mix(scores, h):
    """[T, B, H]: the softmax of scores [T, B, E] mixes h [E, B, H]."""
    gates = torch.softmax(scores, dim=2)
    return torch.bmm(gates.transpose(0, 1), h.transpose(0, 1)).transpose(0, 1)


class TaskNetworks:
    """single-task (x [2, B, X]) and esmm (x [B, X])."""

    def __init__(self, p, x, options):
        self.p, self.groups = p, 2
        self.width = p.stack("networks", 2, x, HIDDEN, own=options.encoder == "single-task")

    def __call__(self, x):
        return self.p.network("networks", x)


class SharedBottom:
    def __init__(self, p, x, options):
        self.p, self.groups = p, 1
        self.width = p.stack("bottom", 1, x, HIDDEN)

    def __call__(self, x):
        return self.p.network("bottom", x)


class Mmoe:
    def __init__(self, p, x, options):
        self.p, self.groups = p, 2
        self.width = p.stack("experts", options.experts, x, HIDDEN)
        p.layer("gates", 2, x, options.experts)

    def __call__(self, x):
        return mix(self.p.linear("gates", x), self.p.network("experts", x))


class Ple:
    """Experts and gates read x side by side in level 0, above it their own group's mixture of the level below."""

    def __init__(self, p, x, options):
        own, shared = options.task_experts, options.experts
        all_experts = own + shared + own
        self.p, self.groups, self.width = p, 2, HIDDEN[-1]
        members = dict(ctr=range(own + shared), shared=range(all_experts), cvr=range(own, all_experts))
        tasks = {group: members[group] for group in ("ctr", "cvr")}
        self.counts = dict(ctr=own, shared=shared, cvr=own)
        self.levels = [members] * (options.levels - 1) + [tasks]  # which experts each mixture of a level takes
        p.stack("levels.0.experts", all_experts, x, HIDDEN)
        p.layer("levels.0.gates", 1, x, sum(map(len, self.levels[0].values())))
        for level, mixtures in enumerate(self.levels[1:], 1):
            for group, count in self.counts.items():
                p.stack(f"levels.{level}.{group}", count, self.width, HIDDEN)
            for group, experts in mixtures.items():
                p.layer(f"levels.{level}.gates.{group}", 1, self.width, len(experts))

    def __call__(self, x):
        p, mixed = self.p, {}
        for level, mixtures in enumerate(self.levels):
            if level == 0:
                h = p.network("levels.0.experts", x)
                scores = p.linear("levels.0.gates", x).split([len(experts) for experts in mixtures.values()], dim=2)
            else:
                h = torch.cat([p.network(f"levels.{level}.{group}", mixed[group]) for group in self.counts])
                scores = [p.linear(f"levels.{level}.gates.{group}", mixed[group]) for group in mixtures]
            mixed = {group: mix(s, h[e.start : e.stop]) for (group, e), s in zip(mixtures.items(), scores)}
        return torch.cat([mixed["ctr"], mixed["cvr"]])


class CrossStitch:
    def __init__(self, p, x, options):
        self.p, self.groups = p, 2
        self.width = p.stack("networks", 2, x, HIDDEN)
        for i in range(len(HIDDEN)):
            p[f"stitches.{i}"] = torch.tensor([[0.9, 0.1], [0.1, 0.9]])

    def __call__(self, x):
        for i in range(len(HIDDEN)):
            h = torch.relu(self.p.linear(f"networks.{i}", x))
            x = torch.einsum("ts,sbh->tbh", self.p[f"stitches.{i}"], h)
        return x


class Aitm:
    def __init__(self, p, x, options):
        self.p, self.groups = p, 2
        self.width = d = p.stack("networks", 2, x, HIDDEN)
        p.layer("transfer", 1, d, d)
        p.uniform("attention.weight", (d, 3 * d), d)

    def __call__(self, x):
        q = self.p.network("networks", x)
        items = torch.cat([torch.relu(self.p.linear("transfer", q[CTR])), q[CVR:]])
        h1, h2, h3 = (items @ self.p["attention.weight"]).chunk(3, dim=2)
        weights = torch.softmax((h2 * h3).sum(dim=2, keepdim=True) / math.sqrt(self.width), dim=0)
        return torch.stack([q[CTR], (weights * h1).sum(dim=0)])


ENCODERS = {
    "single-task": TaskNetworks,
    "esmm": TaskNetworks,
    "shared-bottom": SharedBottom,
    "mmoe": Mmoe,
    "ple": Ple,
    "cross-stitch": CrossStitch,
    "aitm": Aitm,
}


class Model:
    """The stacked table, the dense parameters and the forward pass."""

    def __init__(self, rows, options, generator):
        self.options = options
        self.sets = 2 if options.encoder == "single-task" else 1  # of embeddings, one below the other in the table
        self.set_rows = rows
        self.direct = options.encoder == "aitm"  # the second logit is CTCVR's
        self.table = torch.empty(self.sets * rows, DIM).normal_(0.0, options.init_std, generator=generator)
        self.p = p = Parameters(generator)
        self.encoder = ENCODERS[options.encoder](p, DIM * len(CATEGORICAL) + len(NUMERIC), options)
        k = p.stack("towers", 2, self.encoder.width, TOWER, own=self.encoder.groups == 2)
        p.layer("heads", 2, k, 1, own=True)
        self.imputes = options.cvr_weight > 0 and options.cvr_kind == "dr"
        if self.imputes:
            p.layer(f"imputation.{len(TOWER)}", 1, p.stack("imputation", 1, self.encoder.width, TOWER), 1)
        if options.contrast != "off":
            p.uniform("projection.weight", (2, k, options.width), k)
            raw = math.log((options.tau_init - options.tau_min) / (options.tau_max - options.tau_init))
            if options.contrast == "instance":
                p.layer("relatedness.0", 1, 3 * k, 32)
                p.layer("relatedness.1", 1, 32, 1)
                p["relatedness.1.bias"].fill_(raw)
            elif options.contrast == "task":
                p["temperature"] = torch.full((1,), raw)
        for value in p.values():
            value.requires_grad_()

    def rows(self, ids):
        """Rows of the table [B, sets * F] that ids [B, F] stand for."""
        return ids if self.sets == 1 else torch.cat([ids, ids + self.set_rows], dim=1)

    def forward(self, embedded, numeric):
        """Logits [B, 2], the last hidden layers [2, B, H] and the encoder's output from the gathered rows [B, sets * F, DIM]."""
        embedded = embedded.reshape(len(embedded), self.sets, -1)
        x = torch.cat([embedded, numeric[:, None].expand(-1, self.sets, -1)], dim=2).transpose(0, 1)
        t = self.encoder(x if self.sets == 2 else x[0])
        a = self.p.network("towers", t)
        return self.p.linear("heads", a).squeeze(2).T, a, t

    @torch.no_grad()
    def predict(self, ids, numeric):
        """pCTR and pCVR in double precision."""
        batches = zip(ids.split(4096), numeric.split(4096))
        logits = torch.cat([self.forward(self.table[self.rows(i)], n)[0] for i, n in batches]).double()
        a, b = logits[:, CTR], logits[:, CVR]
        cvr = torch.exp(-(F.softplus(-b) - F.softplus(-a)).clamp(min=LEAST)) if self.direct else torch.sigmoid(b)
        return torch.sigmoid(a), cvr

    def loss(self, logits, a, t, labels):
        """Weighted total and its parts."""
        o = self.options
        y, v = labels[:, 0], labels[:, 1]
        ctr = F.binary_cross_entropy_with_logits(logits[:, CTR], y)
        ctcvr = self.ctcvr_loss(logits, y * v)
        total = o.ctr_weight * ctr + o.ctcvr_weight * ctcvr
        parts = dict(ctr=ctr, ctcvr=ctcvr)
        if o.cvr_weight:
            parts["cvr"] = self.cvr_loss(logits, t, y, v)
            total = total + o.cvr_weight * parts["cvr"]
        if o.contrast != "off":
            parts["contrast"] = self.contrast(a)
            total = total + o.contrast_weight * parts["contrast"]
        return total, parts

    def ctcvr_loss(self, logits, both):
        if self.direct:
            ctr, ctcvr = torch.sigmoid(logits).unbind(dim=1)
            return F.binary_cross_entropy_with_logits(logits[:, CVR], both) + CALIBRATOR * torch.relu(ctcvr - ctr).mean()
        log_p = F.logsigmoid(logits[:, CTR]) + F.logsigmoid(logits[:, CVR])
        negative = torch.stack([-logits[:, CTR], -logits[:, CVR], -logits[:, CTR] - logits[:, CVR]])
        log_not_p = torch.logsumexp(negative, dim=0) + log_p
        return -(both * log_p + (1 - both) * log_not_p).mean()

    def cvr_loss(self, logits, t, y, v):
        o = self.options
        error = F.binary_cross_entropy_with_logits(logits[:, CVR], v, reduction="none")
        if o.cvr_kind == "clicked":
            return (error * y).sum() / y.sum().clamp(min=1.0)
        inverse = y / torch.sigmoid(logits[:, CTR]).detach().clamp(min=o.propensity_floor)
        if o.cvr_kind == "ipw":
            return (inverse * error).mean()
        h = self.p.network("imputation", t[-1])
        guess = F.softplus(self.p.linear(f"imputation.{len(TOWER)}", h)[0, :, 0])
        miss = error - guess
        return (guess + inverse * (miss + miss * miss)).mean()

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
        self.update = None  # of the minibatch's rows, where no optimizer of torch's has the table
        dense = list(model.p.values())
        table = model.table
        self.optimizers = []
        if self.mode == "dense":
            table.requires_grad_()
            dense = [table] + dense
        elif self.mode == "sparse":
            table.requires_grad_()
            self.optimizers.append(torch.optim.SparseAdam([table], lr=options.embedding_lr))
        elif self.mode == "lazy":
            self.update = self.lazy_adam
            self.lr, self.steps = options.embedding_lr, torch.zeros(table.shape[0], 1)
            self.m, self.v = torch.zeros_like(table), torch.zeros_like(table)
        else:
            self.update = self.rowwise_adagrad
            self.lr, self.sum = options.embedding_lr, torch.zeros(table.shape[0], 1)
        self.optimizers.append(torch.optim.Adam(dense, lr=options.lr, fused=fused))

    def step(self, ids, numeric, labels):
        model = self.model
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        rows = model.rows(ids)
        if self.update:
            embedded = model.table[rows].requires_grad_()
        else:
            embedded = F.embedding(rows, model.table, sparse=self.mode == "sparse")
        total, parts = model.loss(*model.forward(embedded, numeric), labels)
        total.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        if self.update:
            with torch.no_grad():
                rows, inverse = torch.unique(rows.reshape(-1), return_inverse=True)
                gradient = torch.zeros(rows.numel(), DIM).index_add_(0, inverse, embedded.grad.reshape(-1, DIM))
                self.update(rows, gradient)
        return total, parts

    def lazy_adam(self, rows, g):
        t = self.steps[rows] + 1
        m = self.m[rows].mul_(0.9).add_(g, alpha=0.1)
        v = self.v[rows].mul_(0.999).addcmul_(g, g, value=0.001)
        self.steps[rows], self.m[rows], self.v[rows] = t, m, v
        denominator = (v / (1 - 0.999**t)).sqrt_().add_(1e-8)
        self.model.table[rows] -= self.lr * (m / (1 - 0.9**t)) / denominator

    def rowwise_adagrad(self, rows, g):
        self.sum[rows] = total = self.sum[rows] + (g * g).mean(dim=1, keepdim=True)
        self.model.table[rows] -= self.lr * g / (total.sqrt() + 1e-8)


# ------------------------------------------------------------------------------------------------------------------- running


def evaluate(model, split):
    ids, numeric, labels = split
    ctr, cvr = (p.numpy() for p in model.predict(ids, numeric))
    y, v = labels[:, 0].numpy(), labels[:, 1].numpy()
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
            ids, numeric = (part[:4096] for part in data.splits["test"][:2])
            tau = model.temperature(model.forward(model.table[model.rows(ids)], numeric)[1])
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
    for i, task in enumerate([""] if model.sets == 1 else ["ctr.", "cvr."]):
        for name, start in zip(CATEGORICAL, data.offsets):
            start += i * data.rows
            tensors[f"embedding.{task}{name}"] = model.table[start : start + 1 + len(data.vocabulary[name])].clone()
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
    parser.add_argument("--embedding-lr", type=float, help="with all but dense; --lr if not given")
    parser.add_argument("--conversion", default="conversion", help="label column")
    parser.add_argument("--encoder", choices=list(ENCODERS), default="mmoe")
    parser.add_argument("--experts", type=int, default=4, help="with mmoe and ple")
    parser.add_argument("--task-experts", type=int, default=2, help="with ple")
    parser.add_argument("--levels", type=int, default=1, help="with ple")
    parser.add_argument("--embedding-gradient", choices=["lazy", "rowwise-adagrad", "sparse", "dense"], default="lazy")
    parser.add_argument("--init-std", type=float, default=0.05)
    parser.add_argument("--ctr-weight", type=float, default=1.0)
    parser.add_argument("--ctcvr-weight", type=float, default=1.0)
    parser.add_argument("--cvr-weight", type=float, default=0.0)
    parser.add_argument("--cvr-kind", choices=["clicked", "ipw", "dr"], default="clicked")
    parser.add_argument("--propensity-floor", type=float, default=0.05)
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
    if options.encoder == "aitm" and options.cvr_weight:
        parser.error("aitm has no logit of CVR: --cvr-weight must be 0")
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

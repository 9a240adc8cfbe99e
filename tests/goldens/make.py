#!/usr/bin/env python3
"""Reference results of Tauten's whole-model computation, in PyTorch float64.

    python tests/goldens/make.py            # writes every case beside this file
    python tests/goldens/make.py --check    # holds the committed files against a fresh computation
    python tests/goldens/make.py --only mmoe_off ...

Needs torch, numpy and safetensors. Nothing of Tauten is used: the losses are written from the mathematics (the matrix S of
similarities is formed explicitly), gradients are autograd's, dense updates are torch.optim's.

A case is one safetensors file. Its metadata:

    config      TOML text of [model], [contrast], [loss], [optimizer.dense], [optimizer.embedding], [optimizer.schedule]; Tauten's
                keys, those left out that are None
    features    JSON list of the categorical features' names
    dims        JSON list of their embedding widths
    vocabulary  JSON list of their vocabulary sizes, id 0 (missing or unseen) counted
    numeric     number of numeric columns
    what        what the case is there for

Its tensors, all row-major:

    input.ids [B, F] i32 (a feature's own ids), input.numeric [B, N] f32, input.click [B] f32, input.conversion [B] f32,
    input.mask [B] i32 (with contrast.mask: that feature's ids), input.offsets [K] i32 (with negatives = K)
    param.<name> f32    the parameters; see `shapes`
    logits [B, 2]       CTR, CVR
    tau [B]             with contrast on: the temperature of each row, the same in every row under "task" and a fixed one
    loss.ctr, loss.ctcvr, loss.cvr, loss.contrast [1]   before their weights, whatever the weight; loss.contrast 0 with contrast off
    loss.relatedness [1]  where the relatedness network is supervised, before its weight
    pairing_top1 [1]    in the cases made for it: the share of anchors with another candidate, over all directions, whose own S_ii is
                        above S_ij of every other candidate
    loss.total [1]      weighted
    grad.<name>         gradient of loss.total, dense for embeddings
    updated.<name>      parameters after one optimizer step
    updated2.<name>     and after a second: on the same batch, or on input2.* where the case has it
                        (same tensors as input.*, B may differ)
    evaluated [B, 2]    with norm = "batch": CTR and CVR logits of input.* after both steps, by the running moments

With norm = "batch" param.*, updated.* and updated2.* have the running moments too; they have no grad.*.

Results are f64, computed from the f32 parameters; real numbers of the configuration are rounded to f32 first, as Tauten keeps
them so. Parameters are drawn again until no pre-activation of either step lies within 1e-4 of relu's kink, no pairing within 1e-4 of a
tie and, under Adam and Adagrad, no gradient other than exact zeros is below 1e-5 (their first step depends on its sign alone).
"""

import argparse
import json
import math
import pathlib
import re
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.numpy import save_file

HERE = pathlib.Path(__file__).resolve().parent
CTR, CVR = 0, 1

# Tauten's defaults of the keys that the computation depends on.
DEFAULTS = {
    # None: left to Tauten's default, which OPTIONAL holds.
    "model": dict(encoder="mmoe", experts=4, task_experts=None, levels=None, hidden=[128, 64], tower=[64, 32], activation="relu",
                  norm=None, dropout=None),
    "contrast": dict(
        temperature="instance", weight=0.05, width=32, projection=None, negatives="in-batch", direction="both", objective="robust", rho=1.0,
        tau_min=0.05, tau_max=1.0, tau_init=0.2, input="towers", hidden=[32], stop_gradient=True, mask=None,
        temperature_lr_scale=None, anchors="all", warmup_steps=None, relatedness_supervision=None, temperature_gradient=None,
    ),
    "loss": dict(weighting=None, ctr=1.0, ctcvr=1.0, cvr=0.0, cvr_kind=None, propensity_floor=None, calibrator=None),
    "dense": dict(kind="adamw", lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, clip_norm=None),
    "embedding": dict(kind="adam", lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, l2=None),
    "schedule": dict(kind=None, warmup_steps=None, total_steps=None, final_fraction=None, every=None, gamma=None),
}

OPTIONAL = dict(projection=[], relatedness_supervision=0.0, temperature_gradient=True, task_experts=2, levels=1, cvr_kind="clicked", propensity_floor=float(np.float32(0.05)),
                calibrator=float(np.float32(0.6)))


class Case:
    """A configuration, its schema and how its batch is drawn."""

    def __init__(self, name, what, *, model=None, contrast=None, loss=None, dense=None, embedding=None, schedule=None, rows=16, second_rows=0,
                 dims=(4, 4, 4), vocabulary=(9, 7, 12), numeric=2, clicks="some", ids="uniform", head_scale=1.0, tower_shift=0.0,
                 pairing=False):
        self.name, self.what = name, what
        given = dict(model=model, contrast=contrast, loss=loss, dense=dense, embedding=embedding, schedule=schedule)
        for section, defaults in DEFAULTS.items():
            keys = {**defaults, **(given[section] or {})}
            assert keys.keys() == defaults.keys(), (name, section, keys.keys() - defaults.keys())
            rounded = {k: float(np.float32(v)) if isinstance(v, float) else v for k, v in keys.items()}
            rounded = {k: OPTIONAL.get(k) if v is None else v for k, v in rounded.items()}
            setattr(self, section, rounded)
            setattr(self, section + "_text", keys)
        self.rows, self.second_rows = rows, second_rows
        self.dims, self.vocabulary, self.numeric = list(dims), list(vocabulary), numeric
        self.features = ["user", "item", "tab", "hour", "author"][: len(dims)]
        self.clicks, self.ids, self.head_scale, self.tower_shift, self.pairing = clicks, ids, head_scale, tower_shift, pairing

    def tables(self):
        """Name and feature of every embedding table: one set for both tasks, or one each."""
        sets = ["ctr.", "cvr."] if self.model["encoder"] == "single-task" else [""]
        return [(f"embedding.{prefix}{feature}", at) for prefix in sets for at, feature in enumerate(self.features)]

    @property
    def contrast_on(self):
        return self.contrast["temperature"] != "off"

    def toml(self):
        sections = [("model", self.model_text), ("contrast", self.contrast_text), ("loss", self.loss_text),
                    ("optimizer.dense", self.dense_text), ("optimizer.embedding", self.embedding_text)]
        if self.schedule["kind"] is not None:
            sections.append(("optimizer.schedule", self.schedule_text))
        lines = []
        for section, keys in sections:
            lines.append(f"[{section}]")
            for key, value in keys.items():
                if value is not None:
                    lines.append(f"{key} = {json.dumps(value)}".replace("e-0", "e-"))
            lines.append("")
        return "\n".join(lines)

    def metadata(self):
        return dict(config=self.toml(), features=json.dumps(self.features), dims=json.dumps(self.dims),
                    vocabulary=json.dumps(self.vocabulary), numeric=str(self.numeric), what=self.what)


# ---------------------------------------------------------------------------------------------------------------- parameters


def shapes(case):
    """Every parameter's shape, in a fixed order, and the fan-in that its random scale goes by (None: an embedding table).

    Linear weights are [in, out]; several of the same layer are stacked in front, or side by side as columns where they share
    their input. Task-major and expert-major: ctr's columns come before cvr's, expert 0's before expert 1's.
    """
    m, c = case.model, case.contrast
    out = {}
    for name, at in case.tables():
        out[name] = ((case.vocabulary[at], case.dims[at]), None)
    x = sum(case.dims) + case.numeric
    fan_in = x
    if m["encoder"] == "shared-bottom":
        for layer, width in enumerate(m["hidden"]):
            out[f"bottom.{layer}.weight"] = ((fan_in, width), fan_in)
            out[f"bottom.{layer}.bias"] = ((width,), fan_in)
            fan_in = width
    elif m["encoder"] == "mmoe":
        e = m["experts"]
        for layer, width in enumerate(m["hidden"]):
            out[f"experts.{layer}.weight"] = ((fan_in, e * width) if layer == 0 else (e, fan_in, width), fan_in)
            out[f"experts.{layer}.bias"] = ((e * width,), fan_in)
            fan_in = width
        out["gates.weight"] = ((x, 2 * e), x)
        out["gates.bias"] = ((2 * e,), x)
    elif m["encoder"] == "ple":
        own, shared, width = m["task_experts"], m["experts"], m["hidden"][-1]
        mixed = dict(ctr=own + shared, shared=2 * own + shared, cvr=own + shared)
        for level in range(m["levels"]):
            gates = {k: n for k, n in mixed.items() if k != "shared" or level + 1 < m["levels"]}
            groups = dict(experts=2 * own + shared) if level == 0 else dict(ctr=own, shared=shared, cvr=own)
            for group, count in groups.items():
                fan_in = x if level == 0 else width
                for layer, n in enumerate(m["hidden"]):
                    stacked = layer > 0 and count > 1
                    out[f"levels.{level}.{group}.{layer}.weight"] = ((count, fan_in, n) if stacked else (fan_in, count * n), fan_in)
                    out[f"levels.{level}.{group}.{layer}.bias"] = ((count * n,), fan_in)
                    fan_in = n
            if level == 0:
                out["levels.0.gates.weight"] = ((x, sum(gates.values())), x)
                out["levels.0.gates.bias"] = ((sum(gates.values()),), x)
            else:
                for group, n in gates.items():
                    out[f"levels.{level}.gates.{group}.weight"] = ((width, n), width)
                    out[f"levels.{level}.gates.{group}.bias"] = ((n,), width)
        fan_in = width
    else:
        for layer, width in enumerate(m["hidden"]):
            side_by_side = layer == 0 and m["encoder"] != "single-task"
            out[f"networks.{layer}.weight"] = ((fan_in, 2 * width) if side_by_side else (2, fan_in, width), fan_in)
            out[f"networks.{layer}.bias"] = ((2 * width,), fan_in)
            fan_in = width
            if m["encoder"] == "cross-stitch":
                out[f"stitches.{layer}"] = ((2, 2), 2)
        if m["encoder"] == "aitm":
            out["transfer.weight"] = ((fan_in, fan_in), fan_in)
            out["transfer.bias"] = ((fan_in,), fan_in)
            out["attention.weight"] = ((fan_in, 3 * fan_in), fan_in)
    encoded = fan_in
    for layer, width in enumerate(m["tower"]):
        shared = layer == 0 and (m["encoder"] == "shared-bottom" or m["encoder"] == "esmm" and not m["hidden"])
        out[f"towers.{layer}.weight"] = ((fan_in, 2 * width) if shared else (2, fan_in, width), fan_in)
        out[f"towers.{layer}.bias"] = ((2 * width,), fan_in)
        fan_in = width
    h = fan_in
    out["heads.weight"] = ((2, h, 1), h)
    out["heads.bias"] = ((2,), h)
    if case.contrast_on:
        fan_in = h
        for layer, width in enumerate(c["projection"]):
            out[f"projection.{layer}.weight"] = ((2, fan_in, width), fan_in)
            out[f"projection.{layer}.bias"] = ((2 * width,), fan_in)
            fan_in = width
        out[projection(c)] = ((2, fan_in, c["width"]), fan_in)
        if c["temperature"] == "instance":
            fan_in = 3 * h if c["input"] == "towers" else x * (2 if m["encoder"] == "single-task" else 1)
            for layer, width in enumerate(c["hidden"] + [1]):
                out[f"relatedness.{layer}.weight"] = ((fan_in, width), fan_in)
                out[f"relatedness.{layer}.bias"] = ((width,), fan_in)
                fan_in = width
        elif c["temperature"] == "task":
            out["temperature"] = ((1,), 1)
    if case.loss["cvr"] > 0 and case.loss["cvr_kind"] == "dr":
        fan_in = encoded
        for layer, width in enumerate(m["tower"] + [1]):
            out[f"imputation.{layer}.weight"] = ((fan_in, width), fan_in)
            out[f"imputation.{layer}.bias"] = ((width,), fan_in)
            fan_in = width
    if case.loss["weighting"] is not None:
        assert case.loss["weighting"] == "uncertainty"
        out["uncertainty"] = ((3,), 1)
    if m["norm"] is not None:
        assert m["norm"] in ("layer", "batch")
        for name in hidden_layers(case, out):
            columns = out[f"{name}.bias"][0]
            if m["norm"] == "batch":
                del out[f"{name}.bias"]  # the norm would take it out again
            out[f"{name}.norm.weight"] = out[f"{name}.norm.bias"] = (columns, 1)
    return out


def running_moments(case):
    """Name and length of each running mean and variance."""
    if case.model["norm"] != "batch":
        return {}
    gains = {n: shape for n, (shape, _) in shapes(case).items() if n.endswith("norm.weight")}
    return {n.removesuffix("weight") + part: shape for n, shape in gains.items() for part in ("running_mean", "running_var")}


def projection(contrast):
    """Name of the last projection's weight."""
    layers = len(contrast["projection"])
    return f"projection.{layers}.weight" if layers else "projection.weight"


def hidden_layers(case, parameters):
    """Names of the layers of encoder and towers that have an activation, the imputation tower's too."""
    pattern = r"(bottom|experts|networks|towers|imputation|levels\.\d+\.(experts|ctr|shared|cvr))\.\d+|transfer"
    names = [name.removesuffix(".bias") for name in parameters if name.endswith(".bias")]
    return [name for name in names if re.fullmatch(pattern, name) and name != f"imputation.{len(case.model['tower'])}"]


def draw_parameters(case, generator):
    c = case.contrast
    raw = lambda tau: math.log((tau - c["tau_min"]) / (c["tau_max"] - tau))
    parameters = {}
    for name, (shape, fan_in) in shapes(case).items():
        if fan_in is None:
            value = generator.normal(0.0, 0.7, shape)
        elif name.endswith("norm.weight"):
            value = 1.0 + generator.normal(0.0, 0.3, shape)
        elif name.endswith("weight"):
            value = generator.normal(0.0, 1.3 / math.sqrt(fan_in), shape)
        else:
            value = generator.normal(0.0, 0.3, shape)
        if name.startswith("stitches"):
            value = generator.normal(0.0, 0.3, shape) + np.eye(2) * 0.8
        if name == "heads.weight":
            value *= case.head_scale
        if name == f"towers.{len(case.model['tower']) - 1}.bias":
            value -= case.tower_shift
        if name in ("temperature", f"relatedness.{len(c['hidden'])}.bias"):
            value = value * 0.1 + raw(c["tau_init"])
        if name == f"relatedness.{len(c['hidden'])}.weight":
            value *= 2.5  # a temperature that differs from row to row
        parameters[name] = value.astype(np.float32)
    for name, shape in running_moments(case).items():
        value = generator.normal(0.0, 0.3, shape)
        parameters[name] = (value if name.endswith("mean") else 0.5 + value**2).astype(np.float32)
    return parameters


def draw_batch(case, rows, generator):
    """Inputs of one minibatch; conversions only where there is a click."""
    columns = []
    for vocabulary in case.vocabulary:
        if case.ids == "hot":  # one id in most rows
            column = generator.integers(0, vocabulary, rows)
            column[generator.permutation(rows)[: rows * 9 // 10]] = 3
        else:
            column = generator.integers(0, vocabulary, rows)
        columns.append(column)
    mask = case.contrast["mask"]
    if mask is not None:
        at = case.features.index(mask)
        if case.ids == "one-user":
            columns[at] = np.full(rows, 2)
        else:  # few users, and two rows at least whose user is unknown: they mask nothing
            columns[at] = generator.integers(1, 5, rows)
            columns[at][[1, rows - 2]] = 0
    click = (generator.random(rows) < 0.55).astype(np.float32)
    if rows > 1:
        click[:2] = [1, 0]
    if case.clicks == "none":
        click[:] = 0
    conversion = click * (generator.random(rows) < 0.5)
    if case.clicks != "none" and rows > 2:
        click[1:3], conversion[1:3] = 1, [1, 0]
    batch = {
        "ids": np.stack(columns, axis=1).astype(np.int32),
        "numeric": generator.normal(0.0, 1.0, (rows, case.numeric)).astype(np.float32),
        "click": click,
        "conversion": conversion.astype(np.float32),
    }
    if mask is not None:
        batch["mask"] = batch["ids"][:, case.features.index(mask)].copy()
    if case.contrast_on and case.contrast["negatives"] != "in-batch":
        offsets = 1 + generator.permutation(rows - 1)[: case.contrast["negatives"]]
        batch["offsets"] = offsets.astype(np.int32)
    return batch


# ------------------------------------------------------------------------------------------------------------------- forward


class Forward:
    """The forward pass and its losses; `kinks` gathers the pre-activations, `norms` the norms before normalisation.

    In training the running moments among `p` move by the minibatch's.
    """

    def __init__(self, case, p, batch, step=0, training=True):
        self.case, self.p, self.step, self.training = case, p, step, training
        self.kinks, self.norms, self.margins = [], [], []
        ids = torch.from_numpy(batch["ids"]).long()
        numeric = torch.from_numpy(batch["numeric"]).double()
        sets = ["ctr.", "cvr."] if case.model["encoder"] == "single-task" else [""]
        xs = [self.features(ids, numeric, prefix) for prefix in sets]
        x = torch.cat(xs, dim=1)
        t = self.encode(xs)
        a = self.towers(t)
        p = self.p
        self.logits = torch.stack([a[k] @ p["heads.weight"][k, :, 0] + p["heads.bias"][k] for k in (CTR, CVR)], dim=1)

        y = torch.from_numpy(batch["click"]).double()
        v = torch.from_numpy(batch["conversion"]).double()
        self.losses = dict(ctr=self.loss_ctr(y), ctcvr=self.loss_ctcvr(y * v), cvr=self.loss_cvr(y, v, t))
        self.tau = None
        contrast = torch.zeros((), dtype=torch.float64)
        if case.contrast_on:
            self.tau = self.temperature(x, a)
            z = [self.project(a[k], k) for k in (CTR, CVR)]
            contrast = self.loss_contrast(z, self.tau, batch)
        self.losses["contrast"] = contrast
        supervision = case.contrast["relatedness_supervision"]
        if supervision > 0:
            self.losses["relatedness"] = F.binary_cross_entropy_with_logits(self.r, (y != v).double())
        warmup = case.contrast["warmup_steps"]
        factor = min(1.0, (step + 1) / warmup) if warmup else 1.0
        total = case.contrast["weight"] * factor * contrast if case.contrast_on else 0.0
        for k, name in enumerate(("ctr", "ctcvr", "cvr")):
            loss = self.losses[name]
            if case.loss["weighting"] is not None:
                s = p["uncertainty"][k]
                loss = torch.exp(-s) * loss + s / 2
            total = total + case.loss[name] * loss
        if supervision > 0:
            total = total + supervision * self.losses["relatedness"]
        self.losses["total"] = total

    def activate(self, x):
        smooth = {"identity": lambda x: x, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu}  # F.gelu: exact, by erf
        if self.case.model["activation"] in smooth:
            return smooth[self.case.model["activation"]](x)
        self.kinks.append(x.detach().abs().min().item())
        return torch.relu(x)

    def hidden(self, z, name, columns=slice(None)):
        """What follows the product and bias of hidden layer `name`, of which z is `columns`: norm and activation."""
        if self.case.model["norm"] is not None:
            gain, offset = (self.p[f"{name}.norm.{part}"][columns] for part in ("weight", "bias"))
            if self.case.model["norm"] == "layer":
                z = F.layer_norm(z, gain.shape, gain, offset, eps=1e-5)
            elif self.training and len(z) == 1:  # which PyTorch refuses
                z = gain * (z - z) + offset
            else:
                mean, variance = (self.p[f"{name}.norm.running_{part}"][columns] for part in ("mean", "var"))
                z = F.batch_norm(z, mean, variance, gain, offset, self.training, momentum=0.1, eps=1e-5)
        return self.activate(z)

    def drop(self, h, layer, first=0, columns=None):
        """Dropout of the output of `layer`, numbered through encoder and towers, of which h is `columns` columns from `first` on.

        By Philox4x32-10 (Salmon et al., SC 2011) under the seed 1: element i is dropped where the upper 24 bits of word i % 4 of
        counter (i // 4, 6 | layer << 8, step, 0) lie below the rate.
        """
        rate = self.case.model["dropout"]
        if rate is None or not self.training:
            return h
        rows, width = h.shape
        columns = columns or width
        i = np.arange(rows)[:, None] * columns + first + np.arange(width)[None, :]
        word = np.take_along_axis(philox(i // 4, 6 | layer << 8, self.step), (i % 4)[None], axis=0)[0]
        kept = (word >> 8) / 2.0**24 >= rate
        return h * torch.from_numpy(kept / (1 - rate))

    def features(self, ids, numeric, prefix):
        """Columns of x: features grouped by width, widths by first appearance; then the numeric columns."""
        widths = list(dict.fromkeys(self.case.dims))
        order = [f for w in widths for f, dim in enumerate(self.case.dims) if dim == w]
        columns = [self.p[f"embedding.{prefix}{self.case.features[f]}"][ids[:, f]] for f in order]
        return torch.cat(columns + [numeric], dim=1)

    def layer(self, h, name, weight=slice(None), columns=slice(None), activate=True):
        """One linear layer: `weight` picks of a stack, `columns` of what lies side by side."""
        w = self.p[f"{name}.weight"]
        w = w[:, columns] if w.dim() == 2 else w[weight]
        h = h @ w
        if f"{name}.bias" in self.p:
            h = h + self.p[f"{name}.bias"][columns]
        return self.hidden(h, name, columns) if activate else h

    def network(self, h, name, number, widths):
        """Stack number `number` of several side by side."""
        for layer, width in enumerate(widths):
            h = self.layer(h, f"{name}.{layer}", number, slice(number * width, (number + 1) * width))
        return h

    def encode_ple(self, x):
        m, p = self.case.model, self.p
        own, shared = m["task_experts"], m["experts"]
        inputs = dict(ctr=x, shared=x, cvr=x)
        for level in range(m["levels"]):
            experts = []
            for group, count in (("ctr", own), ("shared", shared), ("cvr", own)):
                for i in range(count):
                    name = f"levels.{level}.experts" if level == 0 else f"levels.{level}.{group}"
                    number = len(experts) if level == 0 else i
                    experts.append(self.network(inputs[group], name, number, m["hidden"]))
            experts = torch.stack(experts, dim=1)
            ranges = dict(ctr=slice(0, own + shared), shared=slice(0, 2 * own + shared), cvr=slice(own, 2 * own + shared))
            if level + 1 == m["levels"]:
                del ranges["shared"]
            mixed, at = {}, 0
            for group, members in ranges.items():
                n = members.stop - members.start
                if level == 0:
                    scores = self.layer(x, "levels.0.gates", columns=slice(at, at + n), activate=False)
                    at += n
                else:
                    scores = self.layer(inputs[group], f"levels.{level}.gates.{group}", activate=False)
                mixed[group] = torch.einsum("be,beh->bh", torch.softmax(scores, dim=1), experts[:, members])
            inputs = mixed
        return [inputs["ctr"], inputs["cvr"]]

    def encode(self, xs):
        """[t_ctr, t_cvr]."""
        p, m = self.p, self.case.model
        depth = len(m["hidden"])
        x = xs[0]
        if m["encoder"] == "ple":
            return self.encode_ple(x)
        if m["encoder"] in ("single-task", "esmm"):
            return [self.network(xs[k if len(xs) > 1 else 0], "networks", k, m["hidden"]) for k in (CTR, CVR)]
        if m["encoder"] == "cross-stitch":
            h = [x, x]
            for layer, width in enumerate(m["hidden"]):
                h = [self.layer(h[k], f"networks.{layer}", k, slice(k * width, (k + 1) * width)) for k in (CTR, CVR)]
                s = p[f"stitches.{layer}"]
                h = [s[k, CTR] * h[CTR] + s[k, CVR] * h[CVR] for k in (CTR, CVR)]
            return h
        if m["encoder"] == "aitm":
            q = [self.network(x, "networks", k, m["hidden"]) for k in (CTR, CVR)]
            items = [self.layer(q[CTR], "transfer"), q[CVR]]
            h = [torch.chunk(u @ p["attention.weight"], 3, dim=1) for u in items]
            scores = torch.stack([(h2 * h3).sum(1) / math.sqrt(h2.shape[1]) for _, h2, h3 in h], dim=1)
            w = torch.softmax(scores, dim=1)
            return [q[CTR], w[:, :1] * h[0][0] + w[:, 1:] * h[1][0]]
        if m["encoder"] == "shared-bottom":
            h = x
            for layer in range(depth):
                h = self.drop(self.layer(h, f"bottom.{layer}"), layer)
            return [h, h]
        e = m["experts"]
        outputs = []
        for expert in range(e):
            h = x
            for layer, width in enumerate(m["hidden"]):
                columns = slice(expert * width, (expert + 1) * width)
                h = self.drop(self.layer(h, f"experts.{layer}", expert, columns), layer, columns.start, e * width)
            outputs.append(h)
        outputs = torch.stack(outputs, dim=1)  # [B, E, H]
        scores = (x @ p["gates.weight"] + p["gates.bias"]).reshape(-1, 2, e)
        gates = torch.softmax(scores, dim=2)
        return [torch.einsum("be,beh->bh", gates[:, k], outputs) for k in (CTR, CVR)]

    def towers(self, t):
        m = self.case.model
        a = []
        for k in (CTR, CVR):
            h = t[k]
            for layer, width in enumerate(m["tower"]):
                columns = slice(k * width, (k + 1) * width)
                h = self.layer(h, f"towers.{layer}", k, columns)
                h = self.drop(h, len(m["hidden"]) + layer, columns.start, 2 * width)
            a.append(h)
        return a

    def loss_ctr(self, y):
        return F.binary_cross_entropy_with_logits(self.logits[:, CTR], y)

    def loss_ctcvr(self, target):
        """Cross-entropy of pCTCVR = s(a) s(b) over all rows, from the logits a, b."""
        a, b = self.logits[:, CTR], self.logits[:, CVR]
        if self.case.model["encoder"] == "aitm":  # b is the logit of CTCVR itself
            excess = torch.sigmoid(b) - torch.sigmoid(a)
            self.kinks.append(excess.detach().abs().min().item())
            return F.binary_cross_entropy_with_logits(b, target) + self.case.loss["calibrator"] * torch.relu(excess).mean()
        log_p = -F.softplus(-a) - F.softplus(-b)
        # 1 - s(a) s(b) = (e^-a + e^-b + e^-(a+b)) s(a) s(b)
        log_not_p = torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0) + log_p
        return -(target * log_p + (1 - target) * log_not_p).mean()

    def loss_cvr(self, y, v, t):
        """Cross-entropy of pCVR over clicked rows (0 where there is none), or its estimates over all rows (ESCM2)."""
        kind = self.case.loss["cvr_kind"]
        if kind != "clicked":
            e = F.binary_cross_entropy_with_logits(self.logits[:, CVR], v, reduction="none")
            p = torch.sigmoid(self.logits[:, CTR]).detach().clamp(min=self.case.loss["propensity_floor"])
            if kind == "ipw":
                return (y * e / p).mean()
            if self.case.loss["cvr"] == 0.0:
                return torch.zeros((), dtype=torch.float64)
            h, layers = t[CVR], len(self.case.model["tower"]) + 1
            for layer in range(layers):
                h = self.layer(h, f"imputation.{layer}", activate=layer + 1 < layers)
            guess = F.softplus(h[:, 0])
            return (guess + y * (e - guess) / p).mean() + (y * (e - guess) ** 2 / p).mean()
        clicked = y > 0
        if not clicked.any():
            return torch.zeros((), dtype=torch.float64)
        return F.binary_cross_entropy_with_logits(self.logits[clicked, CVR], v[clicked])

    def project(self, a, k):
        c = self.case.contrast
        for layer, width in enumerate(c["projection"]):
            weight, bias = self.p[f"projection.{layer}.weight"], self.p[f"projection.{layer}.bias"]
            a = self.activate(a @ weight[k] + bias[k * width : (k + 1) * width])
        projected = a @ self.p[projection(c)][k]
        self.norms.append(projected.detach().norm(dim=1).min().item())
        return F.normalize(projected, dim=1, eps=1e-6)

    def temperature(self, x, a):
        c = self.case.contrast
        rows = x.shape[0]
        if isinstance(c["temperature"], float):
            return torch.full((rows,), c["temperature"], dtype=torch.float64)
        if c["temperature"] == "task":
            r = self.p["temperature"].expand(rows)
        else:
            u = x if c["input"] == "embedding" else torch.cat([a[CTR], a[CVR], a[CTR] * a[CVR]], dim=1)
            if c["stop_gradient"]:
                u = u.detach()
            for layer in range(len(c["hidden"]) + 1):
                u = u @ self.p[f"relatedness.{layer}.weight"] + self.p[f"relatedness.{layer}.bias"]
                if layer < len(c["hidden"]):
                    u = self.activate(u)
            r = self.r = u[:, 0]
        tau = c["tau_min"] + (c["tau_max"] - c["tau_min"]) * torch.sigmoid(r)
        return tau if c["temperature_gradient"] else tau.detach()

    def loss_contrast(self, z, tau, batch):
        c = self.case.contrast
        member = candidates(c, batch)
        s = z[CTR] @ z[CVR].T  # S_ij = <z_ctr,i , z_cvr,j>
        ways = {"ctr-to-cvr": [s], "cvr-to-ctr": [s.T], "both": [s, s.T]}[c["direction"]]
        anchor = torch.from_numpy(batch["click"]).bool() if c["anchors"] == "clicked" else torch.ones(len(tau), dtype=torch.bool)
        anchor = anchor & (member.sum(dim=1) > 1)  # the others have nothing to be told apart from
        rival = [w.detach().masked_fill(~member | torch.eye(len(tau), dtype=torch.bool), -math.inf).max(dim=1).values for w in ways]
        margins = torch.cat([(w.detach().diagonal() - other)[anchor] for w, other in zip(ways, rival)])
        self.margins.append(margins.abs().min().item() if len(margins) else math.inf)
        self.pairing = (margins > 0).double().mean() if len(margins) else torch.zeros((), dtype=torch.float64)
        total = 0.0
        for similarity in ways:
            own = similarity.diagonal()[:, None]
            if c["objective"] == "infonce":
                scaled = (similarity / tau[:, None]).masked_fill(~member, -math.inf)
                loss = torch.logsumexp(scaled, dim=1) - similarity.diagonal() / tau
            else:
                scaled = ((similarity - own) / tau[:, None]).masked_fill(~member, -math.inf)
                count = member.sum(dim=1).double()
                loss = tau * (torch.logsumexp(scaled, dim=1) - torch.log(count)) + c["rho"] * tau
            if c["anchors"] == "clicked":
                loss = loss * torch.from_numpy(batch["click"]).double()
            total = total + loss.mean()
        return total / len(ways)


def philox(index, purpose, step):
    """Words [4, ...] of the counter (index, purpose, step, 0) under the key (1, 0)."""
    low = 0xFFFFFFFF
    c = [index.astype(np.uint64)] + [np.full(index.shape, x, dtype=np.uint64) for x in (purpose, step, 0)]
    key = [1, 0]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        high = np.uint64(32)
        c = [b >> high ^ c[1] ^ np.uint64(key[0]), b & np.uint64(low), a >> high ^ c[3] ^ np.uint64(key[1]), a & np.uint64(low)]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    return np.stack(c).astype(np.int64)


def candidates(contrast, batch):
    """Boolean [B, B]: whether j is in N(i)."""
    rows = len(batch["click"])
    member = torch.zeros(rows, rows, dtype=torch.bool)
    if contrast["negatives"] == "in-batch":
        member[:] = True
    else:
        for i in range(rows):
            for offset in batch["offsets"]:
                member[i, (i + int(offset)) % rows] = True
    if contrast["mask"] is not None:
        key = torch.from_numpy(batch["mask"])
        member &= ~((key[:, None] == key[None, :]) & (key[:, None] != 0))
    member.fill_diagonal_(True)
    return member


# ---------------------------------------------------------------------------------------------------------------- optimizers


class EmbeddingOptimizer:
    """Updates of the rows that a minibatch holds; all other rows and their state stay as they are."""

    def __init__(self, keys, table):
        self.keys, self.table = keys, table
        self.m = torch.zeros_like(table)
        self.v = torch.zeros_like(table)  # Adam's second moment or Adagrad's accumulator
        self.row = torch.zeros(table.shape[0], dtype=torch.float64)  # row-wise Adagrad's accumulator
        self.steps = [0] * table.shape[0]

    @torch.no_grad()
    def step(self, gradient, ids):
        k = self.keys
        for i in sorted(set(ids.tolist())):
            g = gradient[i]
            if k["l2"] is not None:
                g = g + k["l2"] * self.table[i]
            if k["kind"] == "adam":
                self.steps[i] += 1
                t = self.steps[i]
                self.m[i] = k["beta1"] * self.m[i] + (1 - k["beta1"]) * g
                self.v[i] = k["beta2"] * self.v[i] + (1 - k["beta2"]) * g * g
                m_hat = self.m[i] / (1 - k["beta1"] ** t)
                v_hat = self.v[i] / (1 - k["beta2"] ** t)
                self.table[i] -= k["lr"] * m_hat / (v_hat.sqrt() + k["eps"])
            elif k["kind"] == "adagrad":
                self.v[i] += g * g
                self.table[i] -= k["lr"] * g / (self.v[i].sqrt() + k["eps"])
            elif k["kind"] == "rowwise-adagrad":
                self.row[i] += (g * g).mean()
                self.table[i] -= k["lr"] * g / (self.row[i].sqrt() + k["eps"])
            else:
                assert k["kind"] == "sgd"
                self.table[i] -= k["lr"] * g


def dense_optimizer(keys, parameters):
    if keys["kind"] == "adamw":
        return torch.optim.AdamW(parameters, lr=keys["lr"], betas=(keys["beta1"], keys["beta2"]), eps=keys["eps"],
                                 weight_decay=keys["weight_decay"])
    assert keys["weight_decay"] == 0.0  # torch's Adagrad and SGD couple it with the gradient
    if keys["kind"] == "adagrad":
        return torch.optim.Adagrad(parameters, lr=keys["lr"], eps=keys["eps"])
    assert keys["kind"] == "sgd"
    return torch.optim.SGD(parameters, lr=keys["lr"])


def schedule_of(keys, optimizer):
    """The factor of both learning rates, as torch's schedulers have it for `optimizer`, whose groups start at rate 1."""
    from torch.optim import lr_scheduler

    warmup = keys["warmup_steps"]
    if keys["kind"] == "cosine":
        after = lr_scheduler.CosineAnnealingLR(optimizer, keys["total_steps"] - warmup, keys["final_fraction"])
    else:
        assert keys["kind"] == "step"
        after = lr_scheduler.StepLR(optimizer, keys["every"], keys["gamma"])
    if not warmup:
        return after
    before = lr_scheduler.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1)
    return lr_scheduler.SequentialLR(optimizer, [before, after], [warmup])


# --------------------------------------------------------------------------------------------------------------------- cases


def compute(case, parameters, batches):
    """All tensors of the case, and how close it comes to where float32 could go another way: (kink, norm, gradient)."""
    p = {name: torch.from_numpy(value).double().requires_grad_() for name, value in parameters.items()}
    running = {name: p.pop(name).detach() for name in running_moments(case)}
    tables = {name: (EmbeddingOptimizer(case.embedding, p[name]), at) for name, at in case.tables()}
    temperature = [n for n in p if n.startswith("relatedness.") or n == "temperature"]
    others = [n for n in p if not n.startswith("embedding.") and n not in temperature]
    dense = dense_optimizer(case.dense, [p[n] for n in others + temperature])
    if case.contrast["temperature_lr_scale"] is not None:
        dense = dense_optimizer(case.dense, [dict(params=[p[n] for n in others]), dict(
            params=[p[n] for n in temperature], lr=case.dense["lr"] * case.contrast["temperature_lr_scale"])])
    schedule = None
    if case.schedule["kind"] is not None:
        rates = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        schedule = schedule_of(case.schedule, rates)
    out = {}
    kink = norm = smallest = math.inf
    for step, batch in enumerate(batches):
        forward = Forward(case, p | running, batch, step)
        gradients = torch.autograd.grad(forward.losses["total"], list(p.values()), allow_unused=True)
        gradients = {n: torch.zeros_like(p[n]) if g is None else g for n, g in zip(p, gradients)}
        kink = min([kink] + forward.kinks + (forward.margins if case.pairing else []))
        norm = min([norm] + forward.norms)
        for g in gradients.values():
            nonzero = g[g != 0].abs()
            smallest = min(smallest, nonzero.min().item() if nonzero.numel() else math.inf)
        if step == 0:
            out["logits"] = forward.logits
            if forward.tau is not None:
                out["tau"] = forward.tau
            for name, loss in forward.losses.items():
                out[f"loss.{name}"] = loss.reshape(1)
            if case.pairing:
                out["pairing_top1"] = forward.pairing.reshape(1)
            for name, g in gradients.items():
                out[f"grad.{name}"] = g
        for name, g in gradients.items():
            p[name].grad = g.clone()
        if case.dense["clip_norm"] is not None:
            norm_before = torch.nn.utils.clip_grad_norm_([p[n] for n in others + temperature], case.dense["clip_norm"])
            assert norm_before > case.dense["clip_norm"], (case.name, norm_before)
        if schedule is not None:
            factor = rates.param_groups[0]["lr"]
            for group in dense.param_groups:
                group["lr"] = group.setdefault("own", group["lr"]) * factor
            for table, _ in tables.values():
                table.keys = {**case.embedding, "lr": case.embedding["lr"] * factor}
            rates.step()
            schedule.step()
        dense.step()
        for name, (table, at) in tables.items():
            table.step(gradients[name], batch["ids"][:, at])
        prefix = "updated" if step == 0 else "updated2"
        for name, value in (p | running).items():
            out[f"{prefix}.{name}"] = value.detach().clone()
    if running:
        out["evaluated"] = Forward(case, p | running, batches[0], training=False).logits
    out = {name: np.ascontiguousarray(t.detach().numpy()) for name, t in out.items()}
    return out, (kink, norm, smallest)


def make(case):
    """Draws parameters and batches until the case stays clear of kinks, and computes it."""
    by_sign = case.dense["kind"] != "sgd" or case.embedding["kind"] != "sgd"
    for attempt in range(2000):
        generator = np.random.default_rng([attempt, *case.name.encode()])
        parameters = draw_parameters(case, generator)
        batches = [draw_batch(case, case.rows, generator)]
        if case.second_rows:
            batches.append(draw_batch(case, case.second_rows, generator))
        out, (kink, norm, smallest) = compute(case, parameters, batches + batches[:1] if not case.second_rows else batches)
        if kink < 1e-4 or (norm < 1e-2 and not case.tower_shift) or (by_sign and smallest < 1e-5):
            continue
        if case.pairing and out["pairing_top1"] == 0:
            continue
        if case.tower_shift and (norm > 0 or (out["grad.projection.weight"] != 0).mean() < 0.7):
            continue  # the case is there for some rows without representation, not for all
        break
    else:
        sys.exit(f"{case.name}: no draw is clear of kinks")
    tensors = {f"param.{n}": v for n, v in parameters.items()}
    for prefix, batch in zip(("input", "input2"), batches):
        tensors |= {f"{prefix}.{n}": v for n, v in batch.items()}
    return tensors | out, attempt, (kink, norm, smallest)


INSTANCE = dict(temperature="instance", width=4, hidden=[5])
SMALL = dict(experts=3, hidden=[6, 5], tower=[5, 4])
BOTTOM = dict(encoder="shared-bottom", hidden=[8, 6], tower=[5, 4])
SGD = dict(kind="sgd", lr=0.1)
ADAM = dict(lr=0.01)

CASES = [
    Case("shared_bottom_off", "shared bottom, entire-space loss, AdamW with decay, lazy Adam",
         model=BOTTOM, contrast=dict(temperature="off"), dense=dict(ADAM, weight_decay=0.01), embedding=ADAM),
    Case("mmoe_off_clicked", "mixture of experts, all three supervised losses, plain gradient descent",
         model=SMALL, contrast=dict(temperature="off"), loss=dict(ctr=0.9, ctcvr=1.1, cvr=0.5), dense=SGD, embedding=SGD),
    Case("mmoe_clicked_only", "click and clicked conversion losses without the entire-space one",
         model=SMALL, contrast=dict(temperature="off"), loss=dict(ctcvr=0.0, cvr=1.0), dense=dict(kind="adagrad", lr=0.02),
         embedding=dict(kind="adagrad", lr=0.03)),
    Case("mmoe_instance_robust", "the defaults' contrast: temperature of each row, robust, in-batch, both directions",
         model=SMALL, contrast=dict(INSTANCE, weight=0.5), dense=dict(ADAM, weight_decay=0.01), embedding=ADAM),
    Case("mmoe_instance_infonce_mask", "infonce from CTR to CVR, user mask, gradient through the relatedness network's input",
         model=SMALL, contrast=dict(INSTANCE, weight=0.5, objective="infonce", direction="ctr-to-cvr", mask="user",
                                    stop_gradient=False),
         dense=SGD, embedding=dict(kind="rowwise-adagrad", lr=0.05)),
    Case("mmoe_instance_infonce_sampled", "infonce from CVR to CTR over three sampled rows",
         model=SMALL, contrast=dict(INSTANCE, weight=0.5, objective="infonce", direction="cvr-to-ctr", negatives=3),
         dense=dict(kind="adagrad", lr=0.02), embedding=SGD),
    Case("mmoe_task_robust_sampled_mask", "one learned temperature, robust, five sampled rows, user mask",
         model=SMALL, contrast=dict(temperature="task", weight=0.5, width=4, negatives=5, mask="user", rho=0.5, tau_init=0.4),
         dense=SGD, embedding=SGD),
    Case("mmoe_fixed_infonce", "fixed temperature, infonce both ways; x is embeddings alone",
         model=SMALL, contrast=dict(temperature=0.1, weight=0.3, width=4, objective="infonce"), dense=ADAM, embedding=ADAM,
         numeric=0),
    Case("mmoe_fixed_robust_ctr_to_cvr", "fixed temperature, robust one way, unequal weights of the losses",
         model=SMALL, contrast=dict(temperature=0.3, weight=0.7, width=3, direction="ctr-to-cvr"), loss=dict(ctr=0.5, ctcvr=2.0),
         dense=SGD, embedding=SGD, rows=13),
    Case("shared_bottom_instance_embedding", "relatedness read off the features, its gradient reaching the embeddings",
         model=BOTTOM, contrast=dict(INSTANCE, weight=0.5, input="embedding", stop_gradient=False), dense=SGD,
         embedding=dict(kind="adagrad", lr=0.05)),
    Case("mmoe_instance_embedding_stopped", "relatedness read off the features, stopped; two hidden layers, cvr to ctr, masked samples",
         model=SMALL, contrast=dict(INSTANCE, weight=0.5, input="embedding", hidden=[6, 4], direction="cvr-to-ctr", negatives=4,
                                    mask="item"),
         dense=SGD, embedding=SGD),
    Case("mmoe_no_clicks", "no clicked row: the clicked loss is exactly 0 and so is its gradient",
         model=SMALL, contrast=dict(temperature="off"), loss=dict(ctr=1.0, ctcvr=0.0, cvr=1.0), dense=SGD, embedding=SGD,
         clicks="none"),
    Case("mmoe_one_user", "every row masks every other: contrast rho * tau, no gradient to the representations",
         model=SMALL, contrast=dict(INSTANCE, weight=0.5, mask="user"), dense=SGD, embedding=SGD, ids="one-user", rows=12),
    Case("mmoe_two_widths", "tables of two widths, interleaved: columns grouped by width",
         model=SMALL, contrast=dict(INSTANCE, weight=0.2), dense=ADAM, embedding=ADAM, dims=(3, 5, 3, 5), vocabulary=(9, 7, 12, 6)),
    Case("mmoe_matrices", "layers of 16 and more inputs and outputs, one after the other",
         model=dict(experts=2, hidden=[32, 32], tower=[16, 16], activation="gelu"), contrast=dict(INSTANCE, weight=0.2), dense=SGD,
         embedding=SGD, dims=(3, 5, 3, 5), vocabulary=(9, 7, 12, 6)),
    Case("mmoe_deep", "three layers in experts, towers and relatedness network",
         model=dict(experts=2, hidden=[6, 5, 4], tower=[6, 5, 4]), contrast=dict(INSTANCE, weight=0.5, hidden=[5, 4],
                                                                                 objective="infonce"),
         dense=dict(ADAM, weight_decay=0.01), embedding=dict(kind="rowwise-adagrad", lr=0.05)),
    Case("shared_bottom_shallow", "one layer in bottom and towers; relatedness without hidden layer",
         model=dict(encoder="shared-bottom", hidden=[6], tower=[5]), contrast=dict(INSTANCE, weight=0.5, hidden=[]), dense=SGD,
         embedding=SGD),
    Case("mmoe_identity", "no activation anywhere, one layer each",
         model=dict(experts=2, hidden=[5], tower=[4], activation="identity"), contrast=dict(INSTANCE, weight=0.5), dense=SGD,
         embedding=SGD),
    Case("mmoe_gelu", "gelu by the error function in every hidden layer, the relatedness network's too",
         model=dict(SMALL, activation="gelu"), contrast=dict(INSTANCE, weight=0.5), dense=dict(ADAM, weight_decay=0.01),
         embedding=ADAM),
    Case("mmoe_silu", "silu in every hidden layer; 70 rows, so that blocks of rows occur",
         model=dict(SMALL, activation="silu"), contrast=dict(INSTANCE, weight=0.5, input="embedding", stop_gradient=False),
         dense=SGD, embedding=SGD, rows=70, dims=(3, 3), vocabulary=(9, 7)),
    Case("shared_bottom_tanh", "tanh in every hidden layer",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(INSTANCE, weight=0.5), dense=SGD,
         embedding=dict(kind="adagrad", lr=0.05)),
    Case("relatedness_lr", "another learning rate for the relatedness network, and decay that goes by it",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(INSTANCE, weight=0.5, temperature_lr_scale=0.25),
         dense=dict(ADAM, weight_decay=0.01), embedding=dict(kind="rowwise-adagrad", lr=0.05)),
    Case("task_lr", "another learning rate for the task's temperature",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(temperature="task", weight=0.5, width=4, temperature_lr_scale=5.0),
         dense=SGD, embedding=SGD),
    Case("clip_norm", "dense gradients clipped by their common norm, embeddings' not",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(INSTANCE, weight=0.5), dense=dict(SGD, clip_norm=0.1), embedding=SGD),
    Case("clip_norm_scaled", "clipped gradients in the moments of AdamW, two learning rates",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(INSTANCE, weight=0.5, temperature_lr_scale=0.5),
         dense=dict(lr=0.01, eps=1e-3, clip_norm=0.05), embedding=SGD),
    Case("embedding_l2_adam", "a penalty of the rows in the minibatch, lazy Adam; hot rows",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(temperature="off"), dense=SGD, embedding=dict(ADAM, l2=0.1),
         dims=(3, 3), vocabulary=(8, 6), rows=80, ids="hot"),
    Case("embedding_l2_rowwise", "a penalty of the rows in the minibatch, row-wise Adagrad; other rows in the second",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(temperature="off"), dense=SGD,
         embedding=dict(kind="rowwise-adagrad", lr=0.05, l2=0.2), rows=8, second_rows=5, vocabulary=(12, 12, 12)),
    Case("embedding_l2_adagrad", "a penalty of the rows in the minibatch, Adagrad",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(temperature="off"), dense=SGD,
         embedding=dict(kind="adagrad", lr=0.05, l2=0.2), rows=8),
    Case("embedding_l2_sgd", "a penalty of the rows in the minibatch, plain gradient descent",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(temperature="off"), dense=SGD, embedding=dict(SGD, l2=0.2), rows=8),
    Case("dropout_mmoe", "dropout in experts and towers; 70 rows, so that blocks of rows occur",
         model=dict(SMALL, activation="tanh", dropout=0.25), contrast=dict(INSTANCE, weight=0.5), dense=SGD, embedding=SGD,
         rows=70, dims=(3, 3), vocabulary=(9, 7)),
    Case("dropout_shared_bottom", "dropout in bottom and towers, relu; another minibatch in the second step",
         model=dict(BOTTOM, dropout=0.5), contrast=dict(temperature="off"), dense=SGD, embedding=SGD, rows=9, second_rows=7),
    Case("norm_mmoe", "layer norm in experts and towers, gelu; dropout behind it; 70 rows, so that blocks of rows occur",
         model=dict(SMALL, norm="layer", dropout=0.25, activation="gelu"), contrast=dict(INSTANCE, weight=0.5), dense=SGD, embedding=SGD,
         rows=70, dims=(3, 3), vocabulary=(9, 7)),
    Case("norm_dr", "layer norm in bottom, towers and imputation tower, relu; AdamW, clipped", model=dict(BOTTOM, norm="layer"),
         contrast=dict(INSTANCE, weight=0.3), loss=dict(cvr=0.8, cvr_kind="dr"), dense=dict(ADAM, weight_decay=0.01, clip_norm=0.05),
         embedding=ADAM),
    Case("norm_aitm", "layer norm of networks, transfer and towers, tanh",
         model=dict(encoder="aitm", hidden=[6, 5], tower=[5, 4], norm="layer", activation="tanh"), contrast=dict(temperature="off"),
         dense=SGD, embedding=SGD),
    Case("norm_ple", "layer norm in each expert of two levels, silu",
         model=dict(encoder="ple", experts=2, task_experts=1, levels=2, hidden=[5], tower=[4], norm="layer", activation="silu"),
         contrast=dict(temperature="off"), dense=SGD, embedding=SGD),
    Case("norm_cross_stitch", "layer norm of each task's layers, no activation",
         model=dict(encoder="cross-stitch", hidden=[6, 5], tower=[5, 4], norm="layer", activation="identity"),
         contrast=dict(temperature="off"), dense=SGD, embedding=SGD),
    Case("batch_norm_mmoe", "batch norm in experts and towers, gelu; dropout behind it; 70 rows, so that blocks of rows occur",
         model=dict(SMALL, norm="batch", dropout=0.25, activation="gelu"), contrast=dict(INSTANCE, weight=0.5), dense=SGD, embedding=SGD,
         rows=70, dims=(3, 3), vocabulary=(9, 7)),
    Case("batch_norm_ple", "batch norm in each expert of two levels, silu; other rows in the second step",
         model=dict(encoder="ple", experts=2, task_experts=1, levels=2, hidden=[5], tower=[4], norm="batch", activation="silu"),
         contrast=dict(temperature="off"), dense=SGD, embedding=SGD, second_rows=9),
    Case("batch_norm_dr", "batch norm in bottom, towers and imputation tower, relu; AdamW with decay, clipped",
         model=dict(BOTTOM, norm="batch"), contrast=dict(INSTANCE, weight=0.3), loss=dict(cvr=0.8, cvr_kind="dr"),
         dense=dict(ADAM, weight_decay=0.01, clip_norm=0.05), embedding=ADAM),
    Case("batch_norm_one_row", "a minibatch of a single row, then one of five: the first leaves the running moments alone",
         model=dict(encoder="esmm", hidden=[6, 5], tower=[5, 4], norm="batch", activation="tanh"), contrast=dict(temperature="off"),
         dense=SGD, embedding=SGD, rows=1, second_rows=5),
    Case("uncertainty", "learned weights of all three supervised losses; contrast by its fixed one",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(INSTANCE, weight=0.5), loss=dict(weighting="uncertainty", ctr=0.9, cvr=0.5),
         dense=SGD, embedding=SGD),
    Case("uncertainty_dr", "learned weights of the click and the doubly robust loss alone: the third has no gradient",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(temperature="off"),
         loss=dict(weighting="uncertainty", ctcvr=0.0, cvr=0.8, cvr_kind="dr"), dense=dict(kind="adagrad", lr=0.02), embedding=SGD),
    Case("projection", "a hidden layer of the projection, relu", model=SMALL, contrast=dict(INSTANCE, weight=0.5, projection=[7]),
         dense=dict(ADAM, weight_decay=0.01), embedding=ADAM, rows=8),
    Case("projection_deep", "two hidden layers of the projection, gelu; layer norm and dropout leave it alone",
         model=dict(BOTTOM, activation="gelu", norm="layer", dropout=0.25),
         contrast=dict(temperature="task", weight=0.5, width=4, projection=[6, 5]), dense=SGD, embedding=SGD, rows=70, dims=(3, 3),
         vocabulary=(9, 7)),
    Case("schedule_cosine", "both rates by a cosine over three steps: 1, then 0.8",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(temperature="off"), dense=dict(ADAM, weight_decay=0.01),
         embedding=ADAM, schedule=dict(kind="cosine", warmup_steps=0, total_steps=3, final_fraction=0.2)),
    Case("schedule_warmup", "the second of four steps of warm-up",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(temperature="off"), dense=SGD, embedding=SGD,
         schedule=dict(kind="step", warmup_steps=4, every=2, gamma=0.5)),
    Case("schedule_step", "a rate that has fallen at the second step",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(temperature="off"), dense=SGD, embedding=SGD,
         schedule=dict(kind="step", warmup_steps=0, every=1, gamma=0.25)),
    Case("one_row", "a minibatch of a single row", model=SMALL, contrast=dict(temperature="off"), dense=SGD, embedding=SGD, rows=1),
    Case("hot_rows", "one id in more than 130 of 150 rows: sums in chunks",
         model=dict(experts=2, hidden=[4, 3], tower=[3, 3]), contrast=dict(INSTANCE, weight=0.2, hidden=[3], width=3), dense=ADAM,
         embedding=ADAM, dims=(3, 3), vocabulary=(8, 6), numeric=2, rows=150, ids="hot"),
    Case("second_batch", "a second step on other rows: each embedding row counts its own steps",
         model=SMALL, contrast=dict(INSTANCE, weight=0.2, negatives=3), dense=dict(ADAM, weight_decay=0.01), embedding=ADAM,
         rows=8, second_rows=5, vocabulary=(12, 12, 12)),
    Case("large_logits", "logits of tens: losses from logits, no probability formed",
         model=SMALL, contrast=dict(temperature="off"), loss=dict(cvr=0.5), dense=dict(kind="sgd", lr=1e-3),
         embedding=dict(kind="sgd", lr=1e-3), head_scale=70.0, rows=24),
    Case("dead_rows", "rows whose last tower layer is all zero: z = 0, no gradient through its norm",
         model=SMALL, contrast=dict(INSTANCE, weight=0.5), dense=SGD, embedding=SGD, tower_shift=0.4),
    Case("mmoe_clicked_anchors", "clicked rows are the only anchors; the weight is warming up", model=SMALL,
         contrast=dict(INSTANCE, weight=0.5, anchors="clicked", warmup_steps=3), dense=SGD, embedding=SGD),
    Case("mmoe_clicked_anchors_sampled", "the same with sampled rows and infonce", model=SMALL,
         contrast=dict(INSTANCE, weight=0.5, anchors="clicked", warmup_steps=2, negatives=4, objective="infonce"), dense=SGD,
         embedding=SGD),
    Case("supervised_relatedness", "the relatedness network learns from the labels' agreement and from the contrast; the weight is warming up",
         model=dict(SMALL, activation="tanh"), contrast=dict(INSTANCE, weight=0.5, relatedness_supervision=0.8, anchors="clicked",
                                                             warmup_steps=3), dense=SGD, embedding=SGD, pairing=True),
    Case("supervised_relatedness_alone", "the labels' agreement alone shapes tau; infonce, sampled rows, a mask, gradient to the towers",
         model=dict(BOTTOM, activation="tanh"), contrast=dict(
             INSTANCE, weight=0.5, relatedness_supervision=0.3, temperature_gradient=False, objective="infonce", negatives=4, mask="user",
             stop_gradient=False), dense=SGD, embedding=SGD, rows=24, pairing=True),
    Case("pairing", "from CVR to CTR: one direction's top-1; a fixed temperature", model=dict(BOTTOM, activation="tanh"),
         contrast=dict(temperature=0.3, weight=0.5, width=4, direction="cvr-to-ctr"), dense=SGD, embedding=SGD, rows=12, pairing=True),
    Case("single_task", "embeddings and networks of each task's own; clicked loss",
         model=dict(encoder="single-task", hidden=[6, 5], tower=[5, 4]), contrast=dict(temperature="off"),
         loss=dict(ctcvr=0.0, cvr=1.0), dense=ADAM, embedding=ADAM, dims=(3, 4, 3)),
    Case("single_task_towers", "towers on each task's own embeddings; relatedness reads both sets",
         model=dict(encoder="single-task", hidden=[], tower=[5, 4]),
         contrast=dict(INSTANCE, weight=0.5, input="embedding", stop_gradient=False), dense=SGD, embedding=SGD),
    Case("esmm", "networks over shared embeddings, contrast", model=dict(encoder="esmm", hidden=[6, 5], tower=[5, 4]),
         contrast=dict(INSTANCE, weight=0.3), dense=ADAM, embedding=dict(kind="rowwise-adagrad", lr=0.05)),
    Case("esmm_towers", "towers on the features themselves", model=dict(encoder="esmm", hidden=[], tower=[5, 4]),
         contrast=dict(temperature="off"), dense=SGD, embedding=SGD),
    Case("ple", "one level, two own and three shared experts",
         model=dict(encoder="ple", experts=3, task_experts=2, hidden=[6, 5], tower=[5, 4]), contrast=dict(INSTANCE, weight=0.3),
         dense=SGD, embedding=SGD),
    Case("ple_levels", "three levels, one own and two shared experts of one layer",
         model=dict(encoder="ple", experts=2, task_experts=1, levels=3, hidden=[5], tower=[4]), contrast=dict(temperature="off"),
         dense=dict(ADAM, weight_decay=0.01), embedding=ADAM),
    Case("ple_deep_levels", "two levels of experts of two layers",
         model=dict(encoder="ple", experts=1, task_experts=2, levels=2, hidden=[5, 4], tower=[4, 3]), contrast=dict(temperature="off"),
         loss=dict(cvr=0.5), dense=SGD, embedding=SGD),
    Case("cross_stitch", "two layers, a matrix after each", model=dict(encoder="cross-stitch", hidden=[6, 5], tower=[5, 4]),
         contrast=dict(INSTANCE, weight=0.3), dense=ADAM, embedding=ADAM),
    Case("aitm", "transfer, CTCVR as the second output, calibrator; contrast",
         model=dict(encoder="aitm", hidden=[6, 5], tower=[5, 4]), contrast=dict(INSTANCE, weight=0.3), dense=SGD, embedding=SGD),
    Case("aitm_calibrator", "a large calibrator, one layer", model=dict(encoder="aitm", hidden=[5], tower=[4]),
         contrast=dict(temperature="off"), loss=dict(ctcvr=0.7, calibrator=3.0), dense=dict(kind="adagrad", lr=0.02),
         embedding=SGD, rows=24),
    Case("ipw", "inverse propensities, some below the floor", model=SMALL, contrast=dict(temperature="off"),
         loss=dict(ctcvr=0.5, cvr=0.8, cvr_kind="ipw", propensity_floor=0.4), dense=SGD, embedding=SGD, rows=24),
    Case("dr", "doubly robust, an imputation tower on the mixture; contrast", model=SMALL, contrast=dict(INSTANCE, weight=0.3),
         loss=dict(cvr=0.8, cvr_kind="dr"), dense=ADAM, embedding=ADAM),
    Case("dr_bottom", "an imputation tower on the shared bottom; no click", model=BOTTOM, contrast=dict(temperature="off"),
         loss=dict(ctcvr=0.0, cvr=1.0, cvr_kind="dr"), dense=SGD, embedding=SGD, clicks="none"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare the files with a fresh computation, write nothing")
    parser.add_argument("--only", nargs="+", metavar="CASE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    for case in CASES:
        if arguments.only and case.name not in arguments.only:
            continue
        path = HERE / f"{case.name}.safetensors"
        tensors, attempt, (kink, norm, smallest) = make(case)
        if arguments.check:
            with safe_open(path, framework="numpy") as f:
                same = set(f.keys()) == set(tensors) and f.metadata() == case.metadata()
                worst = max(float(np.abs(f.get_tensor(n) - t).max(initial=0)) for n, t in tensors.items()) if same else math.inf
            wrong += worst > 1e-9
            print(f"{case.name}: {'differs' if worst > 1e-9 else 'same'} (largest difference {worst:.1e})")
            continue
        save_file(tensors, path, metadata=case.metadata())
        size = path.stat().st_size
        biggest = np.abs(tensors["logits"]).max()
        tau = tensors.get("tau")
        spread = "" if tau is None else f", tau {tau.min():.3f}..{tau.max():.3f}"
        print(f"{case.name}: {size / 1000:.0f} kB, draw {attempt}, kink {kink:.1e}, norm {norm:.1e}, gradient {smallest:.1e}, "
              f"total {tensors['loss.total'][0]:.4f}, logit {biggest:.1f}{spread}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

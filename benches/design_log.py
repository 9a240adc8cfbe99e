#!/usr/bin/env python3
"""Writes a log of the design shape for `tauten profile`: 20 categorical features of 50,000 ids each (1,000,000 table rows with the
one for the missing), every id at least once, the rest by Zipf's law with exponent 1; config.toml beside it.

    python benches/design_log.py DIR
    tauten prepare DIR/config.toml --out DIR/dataset
    tauten profile DIR/config.toml --data DIR/dataset --set train.batch_size=8192

Needs numpy and pyarrow."""

import pathlib
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEATURES, IDS, ROWS = 20, 49_999, 131_072

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
draw = np.random.default_rng(1)


def column(rows):
    ids = np.minimum(np.floor(IDS ** draw.random(rows)), IDS).astype(np.int64) - 1
    if rows > IDS:
        ids[:IDS] = draw.permutation(IDS)
        draw.shuffle(ids)
    return ids


for split, rows in (("train", ROWS), ("valid", 4096)):
    click = draw.random(rows) < 0.4
    columns = {f"c{i}": column(rows) for i in range(FEATURES)}
    columns |= {"click": click.astype(np.int64), "conversion": (click & (draw.random(rows) < 0.25)).astype(np.int64)}
    pq.write_table(pa.table(columns), out / f"{split}.parquet")

names = ", ".join(f'"c{i}"' for i in range(FEATURES))
(out / "config.toml").write_text(f"""[data]
train = ["train.parquet"]
valid = ["valid.parquet"]
click = "click"
conversion = "conversion"

[features]
dim = 16
min_count = 1
categorical = [{names}]

[model]
encoder = "mmoe"
experts = 4
hidden = [128, 64]
tower = [64]

[contrast]
temperature = "instance"
anchors = "all"
width = 64
negatives = "in-batch"

[optimizer.embedding]
kind = "adam"
lr = 0.001

[train]
batch_size = 2048
""")

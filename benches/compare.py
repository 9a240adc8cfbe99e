#!/usr/bin/env python3
"""Two results of `cargo bench --bench steps -- --json FILE` side by side: every figure that is in both, with the ratio of the second to
the first; before them whatever of the machines differs.

    python benches/compare.py OLD.json NEW.json"""

import json
import sys


def figures(value, path=()):
    """Numbers by the keys that lead to them; members of lists by their name and shape, if they have such."""
    if isinstance(value, dict):
        for key, member in value.items():
            if key != "machine":
                yield from figures(member, (*path, key))
    elif isinstance(value, list):
        for i, member in enumerate(value):
            names = [member.get(key) for key in ("name", "op", "kernel", "shape", "constants")] if isinstance(member, dict) else []
            names = [name for name in names if isinstance(name, str) and name]
            yield from figures(member, (*path, " ".join(names) or str(i)))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield " / ".join(path), value


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    old, new = (json.load(open(file)) for file in sys.argv[1:])
    machines = [result.get("machine", {}) for result in (old, new)]
    for key in sorted(machines[0].keys() | machines[1].keys()):
        a, b = (machine.get(key) for machine in machines)
        if a != b:
            print(f"{key}: {a} -> {b}")
    before, after = dict(figures(old)), dict(figures(new))
    common = [key for key in before if key in after]
    if not common:
        sys.exit("the two files have no figure in common")
    width = max(map(len, common))
    for key in common:
        a, b = before[key], after[key]
        ratio = f"{b / a:8.3f}" if a else "     n/a"
        print(f"{key:<{width}}  {a:14.4f}  {b:14.4f}  {ratio}")
    for name, only in (("first", before.keys() - after.keys()), ("second", after.keys() - before.keys())):
        if only:
            print(f"only in the {name}: {', '.join(sorted(only))}")


main()

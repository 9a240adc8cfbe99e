#!/usr/bin/env bash
# What docs/performance.md wants to know of a card, into one folder, in one run: whether its driver is right, kernels and whole steps against its roofs, what its
# compiler makes of the kernels, which tiles are fastest on it, cooperative matrices where it has them, and PyTorch's steps where PyTorch finds it by CUDA.
#
#     bash benches/card.sh DEVICE DIR      # DEVICE as in --device, which `tauten doctor` lists; DIR is made
#
# Needs Python with numpy and pyarrow for the log. The parts go on where one fails; what failed is said at the end, with exit code 1.
# TAUTEN and BENCH name the program and the benchmark where they are built already, without cargo.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

[ $# = 2 ] || { sed -n 's/^#     //p' "${BASH_SOURCE[0]}" >&2; exit 2; }
device="$1"
mkdir -p "$2" || exit 2
out="$(cd "$2" && pwd)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

if [ -z "${TAUTEN:-}" ]; then
    cargo build --release || exit 1
    TAUTEN="${CARGO_TARGET_DIR:-target}/release/tauten"
fi
bench() {
    if [ -n "${BENCH:-}" ]; then "$BENCH" --bench "$@"; else cargo bench --bench steps -- "$@"; fi
}

failed=()
# part FILE COMMAND...: what it prints goes to DIR/FILE, what it says to a .log beside it.
part() {
    local file="$1" log="$out/${1%.*}.log" start=$SECONDS
    shift
    if "$@" >"$out/$file" 2>"$log"; then
        printf '%-28s %4d s\n' "$file" $((SECONDS - start))
    else
        printf '%-28s failed: %s\n' "$file" "$(tail -n 1 "$log")"
        failed+=("$log")
    fi
}

profile() {
    "$TAUTEN" profile "$scratch/log/config.toml" --data "$scratch/dataset" --device "$device" --json --out "$scratch/profile" "$@"
    local code=$?
    rm -rf "$scratch/profile"
    return $code
}

has_matrices() {
    python3 - "$out/doctor.json" <<'PY'
import json, sys
variants = json.load(open(sys.argv[1]))["variants"]
sys.exit(not any(v["cases"] for v in variants if v["variant"] == "products by cooperative matrices"))
PY
}

part doctor.json "$TAUTEN" doctor --device "$device" --json
part steps.txt bench kernels design infer --device "$device" --seconds 3 --json "$out/steps.json"
part registers.txt bench registers --device "$device" --json "$out/registers.json"
part tune.json "$TAUTEN" tune --device "$device" --json --out "$out/tiles.json"
log() {
    python3 benches/design_log.py "$scratch/log" && "$TAUTEN" prepare "$scratch/log/config.toml" --out "$scratch/dataset"
}
part log.txt log
for rows in 2048 8192; do
    part "profile-$rows.json" profile --set "train.batch_size=$rows"
    part "profile-$rows-cheap.json" profile --set "train.batch_size=$rows" --mode cheap
    # Absent on most adapters, which is no failure.
    if has_matrices 2>/dev/null; then
        part "profile-$rows-matrices.json" profile --set "train.batch_size=$rows" --set train.cooperative_matrices=true
    fi
done
if python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    part pytorch.txt python3 benches/peers/design.py --device cuda --seconds 2 --out "$out/pytorch.json"
fi

if [ "${#failed[@]}" != 0 ]; then
    echo "failed; see ${failed[*]}" >&2
    exit 1
fi

#!/usr/bin/env bash
# Has Microsoft's own compilers compile every kernel as DX12 would: the older one (FXC), which Windows has, and the newer one (DXC). On Linux, under Wine; by
# hand, since FXC takes a quarter of an hour.
#
#     bash tests/hlsl/run.sh DLLS [PART]     # PART: only kernels with this in their names
#
# DLLS is a folder with d3dcompiler_47.dll and dxcompiler.dll, of the Windows SDK or of the npm package webgpu:
#
#     npm pack webgpu && tar xzf webgpu-*.tgz     # package/dist/win32-x64
#
# Needs the Debian packages g++-mingw-w64-x86-64 and wine.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,13s/^# \{0,1\}//p' "$0" >&2; exit 2; }
dlls="$(cd "$1" && pwd)"
part="${2:-}"
part="${part// /_}"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target="${CARGO_TARGET_DIR:-target}"
folder="$target/hlsl"
rm -rf "$folder"
mkdir -p "$folder"
folder="$(cd "$folder" && pwd)"

TAUTEN_HLSL="$folder" bash tests/run.sh --test shaders every_kernel_translates_to_every_language >&2
x86_64-w64-mingw32-g++ -std=c++17 -O1 -static tests/hlsl/compile.cpp -o "$folder/compile.exe"

# Wine's own of this name is another compiler.
export WINEDLLOVERRIDES=d3dcompiler_47=n WINEPREFIX="$target/hlsl-wine" WINEDEBUG=-all
WINEPREFIX="$(mkdir -p "$WINEPREFIX" && cd "$WINEPREFIX" && pwd)"
cd "$folder"
files=(*"$part"*.hlsl)
[ -e "${files[0]}" ] || { echo "no kernel has $part in its name" >&2; exit 2; }
wine compile.exe "$(winepath -w "$dlls")" "${files[@]}"

#!/usr/bin/env bash
# Installs what the tests need and runs all of them.
#
#     bash tests/run.sh [arguments of cargo test]     # bash tests/run.sh --test goldens -- --nocapture
#     bash tests/run.sh --install                     # only installs
#
# On Debian and Ubuntu: a C compiler, the Vulkan loader, Mesa's lavapipe and spirv-tools are installed by apt where they are
# missing; on Debian SwiftShader is taken out of the package chromium-common (unpacked under the target folder, not installed).
# The shaders then run on these two software adapters. Elsewhere they run on whatever adapters there are.
#
#     VK_DRIVER_FILES=...          test on the Vulkan drivers that it names instead (colon-separated .json files)
#     TAUTEN_NO_SWIFTSHADER=1      do without SwiftShader
#     TAUTEN_NO_GPU=1              no adapter is expected: the tests that need one are left out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'tests/run.sh: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}

target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target"
target="$(cd "$target" && pwd)"
swiftshader="$target/swiftshader"

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "needs root, and there is no sudo; run this as root: $*"
    fi
}

# Once, and only when something is missing. A source that cannot be reached is no reason to stop: what is needed may still be had.
updated=0
update() {
    if [ "$updated" = 0 ]; then
        updated=1
        as_root apt-get update -q >&2 || say "apt-get update failed; going on with the lists that there are"
    fi
}

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]; }

# install_packages PACKAGE...
install_packages() {
    local missing=() package
    for package in "$@"; do
        is_installed "$package" || missing+=("$package")
    done
    if [ "${#missing[@]}" = 0 ]; then
        return
    fi
    say "installing ${missing[*]}"
    update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2 ||
        die "could not install ${missing[*]}"
}

# SwiftShader's two files out of Debian's chromium-common.
fetch_swiftshader() {
    if [ -f "$swiftshader/libvk_swiftshader.so" ] && [ -f "$swiftshader/vk_swiftshader_icd.json" ]; then
        return
    fi
    say "fetching SwiftShader (package chromium-common)"
    update
    local aside debs
    aside="$(mktemp -d "$target/swiftshader.XXXXXX")"
    local sandbox=()
    if [ "$(id -u)" = 0 ]; then
        # apt's own user may not be able to write here.
        sandbox=(-o APT::Sandbox::User=root)
    fi
    if ! (cd "$aside" && apt-get "${sandbox[@]}" download -q chromium-common >&2); then
        rm -rf "$aside"
        die "could not fetch chromium-common; TAUTEN_NO_SWIFTSHADER=1 does without SwiftShader"
    fi
    debs=("$aside"/chromium-common_*.deb)
    if ! dpkg --fsys-tarfile "${debs[0]}" |
        tar -x -C "$aside" --transform='s,.*/,,' --wildcards '*/libvk_swiftshader.so' '*/vk_swiftshader_icd.json'; then
        rm -rf "$aside"
        die "chromium-common holds no SwiftShader; TAUTEN_NO_SWIFTSHADER=1 does without it"
    fi
    rm -f "${debs[0]}"
    rm -rf "$swiftshader"
    mv "$aside" "$swiftshader"
    chmod 755 "$swiftshader"
}

# Prints lavapipe's driver file for this machine.
lavapipe() {
    local file
    for file in "/usr/share/vulkan/icd.d/lvp_icd.$(uname -m).json" /usr/share/vulkan/icd.d/lvp_icd*.json; do
        if [ -f "$file" ]; then
            printf '%s\n' "$file"
            return
        fi
    done
    die "mesa-vulkan-drivers is installed, but there is no lvp_icd*.json in /usr/share/vulkan/icd.d"
}

system=other
if [ "$(uname -s)" = Linux ] && [ -r /etc/os-release ] && command -v apt-get >/dev/null; then
    # shellcheck source=/dev/null
    system="$(. /etc/os-release && case " ${ID:-} ${ID_LIKE:-} " in
        *" ubuntu "*) echo ubuntu ;;
        *" debian "*) echo debian ;;
        *) echo other ;;
    esac)"
fi

drivers=()
if [ "$system" = other ]; then
    say "not Debian or Ubuntu: nothing is installed, the shaders are tested on the adapters that there are"
else
    packages=()
    command -v cc >/dev/null || packages+=(gcc libc6-dev)
    if [ "${TAUTEN_NO_GPU:-}" != 1 ]; then
        packages+=(libvulkan1 mesa-vulkan-drivers spirv-tools)
    fi
    install_packages "${packages[@]}"
    if [ "${TAUTEN_NO_GPU:-}" = 1 ]; then
        say "TAUTEN_NO_GPU=1: shaders do not run"
    elif [ -n "${VK_DRIVER_FILES:-}" ]; then
        say "VK_DRIVER_FILES is set: the shaders are tested on the drivers that it names"
    else
        drivers=("$(lavapipe)")
        if [ "$system" = ubuntu ]; then
            say "Ubuntu has no package that holds SwiftShader: of the two software adapters only lavapipe is tested"
        elif [ "${TAUTEN_NO_SWIFTSHADER:-}" = 1 ]; then
            say "TAUTEN_NO_SWIFTSHADER=1: of the two software adapters only lavapipe is tested"
        else
            fetch_swiftshader
            drivers+=("$swiftshader/vk_swiftshader_icd.json")
        fi
    fi
fi
if [ "${1:-}" = --install ]; then
    exit
fi

if [ "${#drivers[@]}" -gt 0 ]; then
    VK_DRIVER_FILES="$(
        IFS=:
        printf '%s' "${drivers[*]}"
    )"
    export VK_DRIVER_FILES
fi
if [ -n "${VK_DRIVER_FILES:-}" ]; then
    # The name that loaders before 1.3.207 know.
    export VK_ICD_FILENAMES="$VK_DRIVER_FILES"
    say "Vulkan drivers: $VK_DRIVER_FILES"
fi
# Mesa's layer that reorders devices asks a display server; libwayland complains where there is no runtime folder.
export NODEVICE_SELECT=1
if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR="$(mktemp -d)"
    export XDG_RUNTIME_DIR
    trap 'rm -rf "$XDG_RUNTIME_DIR"' EXIT
fi

if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    export PATH="$HOME/.cargo/bin:$PATH"
fi
command -v cargo >/dev/null || die "there is no cargo; install Rust (https://rustup.rs)"
cargo test --locked "$@"

#!/usr/bin/env bash
# Builds the statically linked binary and writes it as a container image archive, without a container engine:
#   deploy/image.sh [FILE [FLAGS]]        (default: dist/strait.tar; flags as of `strait image`)
# Load it with `docker load -i FILE`, `kind load image-archive FILE` or, on a node,
# `ctr -n k8s.io images import FILE`.
set -euo pipefail
cd "$(dirname "$0")/.."
output=${1:-dist/strait.tar}
target=$(uname -m)-unknown-linux-gnu

# From 2.34 on, glibc resolves names without loading libraries, which an image of one file has not.
glibc=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
if [ "$(printf '%s\n' 2.34 "$glibc" | sort -V | head -n1)" != 2.34 ]; then
  echo "image.sh: glibc $glibc is too old for a static binary that resolves names; 2.34 or newer is needed" >&2
  exit 1
fi

# Proc macros cannot be static: with --target the flag does not reach them.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
  cargo build --locked --profile dist --target "$target" -p strait --bin strait
binary=${CARGO_TARGET_DIR:-target}/$target/dist/strait
mkdir -p "$(dirname "$output")"
"$binary" image --binary "$binary" --output "$output" "${@:2}"

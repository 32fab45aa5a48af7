#!/usr/bin/env bash
# Installs what building and running Offshoot needs, and nothing that is already there. Debian and Ubuntu; elsewhere it
# says what is missing. Sourced by run.sh and test.sh.
set -euo pipefail

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# need COMMAND PACKAGE…: installs the packages when the command is missing.
missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("${@:2}"); }

need cc gcc libc6-dev
need curl curl ca-certificates
need node nodejs
need python3 python3

if [ "${#missing[@]}" -gt 0 ]; then
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "offshoot: please install these with your package manager and run this again: ${missing[*]}" >&2
    exit 3
  fi
  echo "offshoot: installing ${missing[*]}" >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# The Rust that rust-toolchain.toml names: rustup fetches it by itself at the first call of cargo.
[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
if ! command -v cargo >/dev/null 2>&1; then
  echo "offshoot: installing Rust with rustup" >&2
  if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rustup >/dev/null 2>&1; then
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain none
    . "$HOME/.cargo/env"
  fi
fi
if command -v rustup >/dev/null 2>&1; then
  wanted=$(sed -n 's/^channel *= *"\(.*\)"/\1/p' rust-toolchain.toml)
  rustup toolchain list | grep -q "^$wanted" || rustup toolchain install "$wanted" --profile minimal -c clippy -c rustfmt
fi

#!/usr/bin/env bash
# One command that installs what the tests need and runs them all: formatting, lints, unit tests, and the integration
# tests, which start the real server and need root for real boxes (without it they say what they skip).
set -euo pipefail
cd "$(dirname "$0")"
. scripts/setup.sh

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
# One build for all tests; the integration binary runs real processes, so it is not run beside the others.
cargo test --workspace --locked --no-fail-fast

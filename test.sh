#!/usr/bin/env bash
# One command that installs what the tests need and runs them all: formatting, lints, unit tests, and the integration
# tests, which start the real server and need root for real boxes (without it they say what they skip).
set -euo pipefail
cd "$(dirname "$0")"
. scripts/setup.sh
scripts/clients.sh
scripts/aws_server.sh
scripts/ruby.sh
scripts/durable.sh

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
# One build for all tests; the integration binary runs real processes, so it is not run beside the others.
mkdir -p target
status=0
cargo test --workspace --locked --no-fail-fast 2>&1 | tee target/test.log || status=$?
# The sum of all test binaries, last.
awk '/^test result:/ { p += $4; f += $6; i += $8 } END { printf "%d passed, %d failed, %d skipped\n", p, f, i }' target/test.log
exit "$status"

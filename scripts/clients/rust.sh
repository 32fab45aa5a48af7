#!/usr/bin/env bash
# From crates.io: programs on aws-sdk-lambda and on lambda_runtime (tests/clients/rust), and the Lambda Web Adapter, into
# target/clients/rust. Debug builds: they are made once and run a few times.
set -euo pipefail
export CARGO_TARGET_DIR=$PWD/target/clients/rust CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0
cargo build --quiet --locked --manifest-path tests/clients/rust/Cargo.toml
adapter=1.0.0-rc1
[ -x "$CARGO_TARGET_DIR/bin/lambda-adapter" ] ||
  cargo install --quiet lambda_web_adapter --version "$adapter" --locked --debug --root "$CARGO_TARGET_DIR"

#!/usr/bin/env bash
# Installs AWS's SDKs for durable functions, which the test functions bring along, into target/clients/durable, once. Where that
# cannot be done, it says so and the tests that need them say what they skip.
set -euo pipefail
cd "$(dirname "$0")/.."
home=target/clients/durable
pip=target/clients/bin/pip
if [ ! -d "$home/python" ] && [ -x "$pip" ]; then
  echo "offshoot: installing the durable execution SDK for Python into $home" >&2
  "$pip" install -q --target "$home/python.new" aws-durable-execution-sdk-python && mv "$home/python.new" "$home/python" ||
    { rm -rf "$home/python.new"; echo "offshoot: it cannot be installed; durable functions in Python are not tested" >&2; }
fi
if [ ! -d "$home/nodejs" ] && command -v npm >/dev/null 2>&1; then
  echo "offshoot: installing the durable execution SDK for Node.js into $home" >&2
  mkdir -p "$home/nodejs.new"
  (cd "$home/nodejs.new" && npm install --silent --no-audit --no-fund --no-package-lock @aws/durable-execution-sdk-js@2 >/dev/null 2>&1) &&
    mv "$home/nodejs.new" "$home/nodejs" ||
    { rm -rf "$home/nodejs.new"; echo "offshoot: it cannot be installed; durable functions in Node.js are not tested" >&2; }
fi
exit 0

#!/usr/bin/env bash
# From npm: aws-lambda-ric, AWS's runtime client for Node.js, into target/clients/ric. It builds curl and a library in C++ while
# it is installed: cmake, make, g++ and xz, and minutes.
set -euo pipefail
home=target/clients/ric
[ -f "$home/node_modules/aws-lambda-ric/rapid-client.node" ] && exit 0
for tool in npm cmake make g++ xz; do
  command -v "$tool" >/dev/null 2>&1 || { echo "there is no $tool"; exit 1; }
done
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { echo "Node.js $(node --version) is too old: it wants 20"; exit 1; }
rm -rf "$home"
mkdir -p "$home"
echo '{ "private": true }' >"$home/package.json"
# The headers of this very Node.js, where they are on the machine: else node-gyp fetches them.
prefix=$(dirname "$(dirname "$(readlink -f "$(command -v node)")")")
[ -f "$prefix/include/node/node.h" ] && export npm_config_nodedir=$prefix
# It runs a few calls in a test: it need not be fast, and builds in half the time so.
CFLAGS=-O0 CXXFLAGS=-O0 npm install --prefix "$home" --no-audit --no-fund --no-package-lock --foreground-scripts aws-lambda-ric@4.0.2

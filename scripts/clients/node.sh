#!/usr/bin/env bash
# From npm: what tests/clients/node/package.json names (AWS's SDK for JavaScript, Powertools for TypeScript), into target/clients/node.
set -euo pipefail
wanted=tests/clients/node/package.json
home=target/clients/node
cmp -s "$wanted" "$home/package.json" && exit 0
command -v npm >/dev/null 2>&1 || { echo "there is no npm"; exit 1; }
node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || { echo "Node.js $(node --version) is too old: they want 20"; exit 1; }
rm -rf "$home.new"
mkdir -p "$home.new"
cp "$wanted" "$home.new/"
npm install --prefix "$home.new" --no-audit --no-fund --no-package-lock --ignore-scripts
rm -rf "$home"
mv "$home.new" "$home"

#!/bin/sh
# Installs the peers that the benches compare with, by package name, into target/peers. Nothing of them is committed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${BENCH_PEERS:-$here/../../target/peers}
mkdir -p "$to/node" "$to/python"

if command -v npm >/dev/null; then
    (cd "$to/node" && [ -f package.json ] || echo '{"private":true}' > "$to/node/package.json")
    npm install --prefix "$to/node" --no-audit --no-fund --silent '@google-cloud/functions-framework@5'
else
    echo 'npm is missing: no Node peer' >&2
fi

# Shims answer for whatever directory they are called in; the peer needs a program.
python=$(python3 -c 'import sys; print(sys.executable)' 2>/dev/null || true)
if [ -n "$python" ]; then
    [ -x "$to/python/bin/python" ] || "$python" -m venv "$to/python"
    "$to/python/bin/pip" install --quiet --disable-pip-version-check functions-framework
else
    echo 'python3 is missing: no Python peer' >&2
fi

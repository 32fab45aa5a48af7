#!/bin/sh
# Installs the peers that the benches compare with, by package name, into target/peers. Nothing of them is committed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
to=${BENCH_PEERS:-$here/../../target/peers}
mkdir -p "$to/node" "$to/python"

if command -v npm >/dev/null; then
    (cd "$to/node" && [ -f package.json ] || echo '{"private":true}' > "$to/node/package.json")
    npm install --prefix "$to/node" --no-audit --no-fund --silent '@google-cloud/functions-framework@5'
    # Its own step: an older release is built from source and needs a compiler.
    npm install --prefix "$to/node" --no-audit --no-fund --silent 'aws-lambda-ric@4' || echo 'aws-lambda-ric cannot be installed' >&2
else
    echo 'npm is missing: no Node peer' >&2
fi

# Shims answer for whatever directory they are called in; the peer needs a program.
python=$(python3 -c 'import sys; print(sys.executable)' 2>/dev/null || true)
if [ -n "$python" ]; then
    [ -x "$to/python/bin/python" ] || "$python" -m venv "$to/python"
    "$to/python/bin/pip" install --quiet --disable-pip-version-check functions-framework awslambdaric
    # AWS's emulator is a program inside this wheel.
    case $(uname -m) in aarch64 | arm64) machine=arm64 ;; *) machine=x86_64 ;; esac
    if [ ! -x "$to/aws-lambda-rie" ]; then
        "$to/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$to/sam" aws-sam-cli
        "$to/python/bin/python" - "$to" "$machine" <<'TAKE'
import glob, os, sys, zipfile
to, machine = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(f"{to}/sam/aws_sam_cli-*.whl")[0])
with open(f"{to}/aws-lambda-rie", "wb") as program:
    program.write(wheel.read(f"samcli/local/rapid/aws-lambda-rie-{machine}"))
os.chmod(f"{to}/aws-lambda-rie", 0o755)
TAKE
    fi
else
    echo 'python3 is missing: no Python peer' >&2
fi

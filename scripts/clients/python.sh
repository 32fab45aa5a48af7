#!/usr/bin/env bash
# From PyPI: boto3 and the AWS CLI in a virtual environment (target/clients/bin), Powertools for Python as a function packs
# it (target/clients/powertools), and AWS's emulator of the Runtime API, which is a file of the wheel of the SAM CLI
# (target/clients/rie).
set -euo pipefail
home=target/clients
if [ ! -x "$home/bin/aws" ]; then
  python3 -m venv "$home"
  "$home/bin/pip" install -q boto3 awscli
fi
if [ ! -d "$home/powertools" ]; then
  rm -rf "$home/powertools.new"
  "$home/bin/pip" install -q --target "$home/powertools.new" "aws-lambda-powertools[parser,tracer]==3.37.0" boto3
  mv "$home/powertools.new" "$home/powertools"
fi
if [ ! -x "$home/rie" ]; then
  wheel=$(mktemp -d)
  trap 'rm -rf "$wheel"' EXIT
  "$home/bin/pip" download -q --no-deps --dest "$wheel" aws-sam-cli==1.170.0
  machine=$(uname -m); [ "$machine" = aarch64 ] && machine=arm64
  "$home/bin/python" - "$wheel"/*.whl "samcli/local/rapid/aws-lambda-rie-$machine" "$home/rie.new" <<'PY'
import shutil, sys, zipfile
archive, member, target = sys.argv[1:]
with zipfile.ZipFile(archive) as wheel, wheel.open(member) as source, open(target, "wb") as out:
    shutil.copyfileobj(source, out)
PY
  chmod +x "$home/rie.new"
  mv "$home/rie.new" "$home/rie"
fi

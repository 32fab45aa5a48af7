#!/usr/bin/env bash
# Installs the AWS clients that the tests drive (boto3 and the AWS CLI) into target/clients, once. Where that cannot be done,
# it says so and the tests that need them say what they skip.
set -euo pipefail
cd "$(dirname "$0")/.."
home=target/clients
[ -x "$home/bin/aws" ] && exit 0
echo "offshoot: installing boto3 and the AWS CLI into $home" >&2
mkdir -p target
if ! python3 -m venv "$home" 2>/dev/null; then
  # Debian keeps this part of Python in a package of its own.
  if command -v apt-get >/dev/null 2>&1; then
    sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null || true
  fi
  python3 -m venv "$home" || { rm -rf "$home"; echo "offshoot: no virtual environment can be made; AWS clients are not tested" >&2; exit 0; }
fi
if ! "$home/bin/pip" install -q boto3 awscli; then
  rm -rf "$home"
  echo "offshoot: boto3 and the AWS CLI cannot be installed; they are not tested" >&2
fi

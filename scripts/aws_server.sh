#!/usr/bin/env bash
# Installs moto, a server that speaks SQS, Kinesis and DynamoDB streams, with boto3 into target/aws-server, once: the tests of event
# source mappings poll it. Where that cannot be done, it says so and the tests that need it say what they skip.
set -euo pipefail
cd "$(dirname "$0")/.."
home=target/aws-server
[ -x "$home/bin/moto_server" ] && exit 0
echo "offshoot: installing moto into $home" >&2
mkdir -p target
if ! python3 -m venv "$home" 2>/dev/null; then
  # Debian keeps this part of Python in a package of its own.
  if command -v apt-get >/dev/null 2>&1; then
    sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >/dev/null || true
  fi
  python3 -m venv "$home" || { rm -rf "$home"; echo "offshoot: no virtual environment can be made; event source mappings are not tested" >&2; exit 0; }
fi
# What its server needs for these services; all of moto's extras would be several times as much.
if ! "$home/bin/pip" install -q boto3 moto flask flask-cors py-partiql-parser; then
  rm -rf "$home"
  echo "offshoot: moto cannot be installed; event source mappings are not tested" >&2
fi

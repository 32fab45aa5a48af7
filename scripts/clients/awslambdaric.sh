#!/usr/bin/env bash
# From PyPI: awslambdaric, AWS's runtime client for Python, for the Python that every box has (/usr/bin/python3), into
# target/clients/awslambdaric. It builds curl and a library in C++ while it is installed.
set -euo pipefail
home=target/clients/awslambdaric
[ -d "$home/awslambdaric" ] && exit 0
say='import sys; print("%d.%d" % sys.version_info[:2])'
wanted=$(/usr/bin/python3 -c "$say")
# Whoever has pip and the same version can build it.
for python in /usr/bin/python3 python3; do
  [ "$("$python" -c "$say" 2>/dev/null)" = "$wanted" ] && "$python" -m pip --version >/dev/null 2>&1 && break
  python=
done
if [ -z "$python" ]; then
  own=$(mktemp -d)
  trap 'rm -rf "$own"' EXIT
  /usr/bin/python3 -m venv "$own"
  python=$own/bin/python
fi
rm -rf "$home.new"
"$python" -m pip install --quiet --target "$home.new" awslambdaric
rm -rf "$home"
mv "$home.new" "$home"

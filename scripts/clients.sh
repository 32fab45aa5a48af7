#!/usr/bin/env bash
# Installs the clients that the tests drive and that are not ours, each by its package's name, into target/clients, once:
# scripts/clients/*.sh, side by side, each with its own log there. What cannot be had on this machine is said, and the tests
# that need it say what they skip. `scripts/clients.sh python rust` installs only those.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target/clients
parts=("$@")
[ "$#" -gt 0 ] || parts=(python awslambdaric node ric go java rust)

# What Debian keeps in packages of their own: compilers for the clients that are built, pip, npm (if Node.js is new enough for what npm brings).
if [ "$#" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  missing=()
  for pair in cmake:cmake make:make g++:g++ xz:xz-utils autoreconf:autoconf libtoolize:libtool automake:automake; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing+=("${pair#*:}")
  done
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  command -v npm >/dev/null 2>&1 || ! node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' || missing+=(npm)
  if [ "${#missing[@]}" -gt 0 ]; then
    sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
    echo "offshoot: installing ${missing[*]} for the clients" >&2
    { $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
      $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; } ||
      echo "offshoot: ${missing[*]} cannot be installed" >&2
  fi
fi

for part in "${parts[@]}"; do
  (
    began=$SECONDS
    if "scripts/clients/$part.sh" >"target/clients/$part.log" 2>&1; then
      [ $((SECONDS - began)) -lt 2 ] || echo "offshoot: clients: $part, $((SECONDS - began)) s" >&2
    else
      echo "offshoot: clients: $part is not here and not tested: $(tail -n 1 "target/clients/$part.log") (target/clients/$part.log)" >&2
    fi
  ) &
done
wait

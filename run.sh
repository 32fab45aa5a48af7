#!/usr/bin/env bash
# One command from a fresh clone to an answer: installs what is missing, builds, starts the server, deploys an example and
# calls it. In a terminal the server then stays until Ctrl-C; elsewhere it is stopped again.
#   ./run.sh [--listen ADDR:PORT]
set -euo pipefail
cd "$(dirname "$0")"
. scripts/setup.sh

listen=127.0.0.1:9000
[ "${1:-}" = --listen ] && listen=$2
cargo build --release --locked

offshoot=$PWD/target/release/offshoot
export OFFSHOOT_SERVER=http://$listen
# Boxes with users of their own take root (what runs in them never has it).
start=()
if [ "$(id -u)" != 0 ]; then
  echo "offshoot: the server needs root to give each instance a user of its own; sudo may ask for your password" >&2
  start=(sudo)
  sudo -v
fi
"${start[@]}" "$offshoot" serve --listen "$listen" --data-dir "${XDG_DATA_HOME:-$HOME/.local/share}/offshoot" &
server=$!
trap '"${start[@]}" kill $server 2>/dev/null; wait $server 2>/dev/null || true' EXIT
for _ in $(seq 200); do
  curl -fs "$OFFSHOOT_SERVER/health" >/dev/null 2>&1 && break
  kill -0 $server 2>/dev/null || { echo "offshoot: the server did not start; the reason is above" >&2; exit 3; }
  sleep 0.05
done

"$offshoot" deploy examples/hello-js
echo
echo '$ offshoot invoke hello-js -d '"'"'{"name":"Ana"}'"'"
"$offshoot" invoke hello-js -d '{"name":"Ana"}'
echo
"$offshoot" invoke hello-js -d '{"name":"Ana"}' >/dev/null
echo
echo "The same with curl:"
echo "  curl -d '{\"name\":\"Ana\"}' -H 'content-type: application/json' $OFFSHOOT_SERVER/invoke/hello-js"
if [ -t 0 ] && [ -t 1 ]; then
  echo "The server runs at $OFFSHOOT_SERVER until you press Ctrl-C."
  wait $server
fi

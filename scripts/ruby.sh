#!/usr/bin/env bash
# Installs the system's Ruby for the tests of that language, where there is none and apt-get can. Elsewhere it does nothing: Ruby is
# not needed to build or to run Offshoot, and the tests that need it say what they skip.
set -euo pipefail
command -v ruby >/dev/null 2>&1 && exit 0
command -v apt-get >/dev/null 2>&1 || exit 0
echo "offshoot: installing ruby" >&2
sudo=""; [ "$(id -u)" = 0 ] || sudo=sudo
install() { $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ruby >/dev/null; }
install 2>/dev/null || { $sudo apt-get update -qq && install; } || echo "offshoot: Ruby cannot be installed; it is not tested" >&2

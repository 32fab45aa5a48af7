#!/usr/bin/env bash
# From Go's module proxy: aws-lambda-go, and a function on it (tests/clients/go), into target/clients/go.
set -euo pipefail
home=$PWD/target/clients/go
PATH=$PATH:/usr/local/go/bin
[ "$home/bootstrap" -nt tests/clients/go/main.go ] && exit 0
command -v go >/dev/null 2>&1 || { echo "there is no go"; exit 1; }
rm -rf "$home"
mkdir -p "$home"
cp tests/clients/go/* "$home/"
cd "$home"
CGO_ENABLED=0 GOFLAGS=-mod=mod go build -ldflags "-s -w" -o bootstrap .

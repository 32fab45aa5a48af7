#!/bin/sh
# Runs all benches, one after the other, and writes what they print to target/bench-report.md.
# BENCH_QUICK=1: a tenth of the samples. BENCH_STRICT=1: a missed target is a failure.
set -eu
cd "$(dirname "$0")/.."
report=$PWD/target/bench-report.md
mkdir -p target
cargo build --release --quiet
{
    echo "# Benchmarks"
    echo
    echo "$(date -u +%Y-%m-%dT%H:%MZ), $(git describe --always --dirty 2>/dev/null || echo no git), $(uname -sr), $(nproc) processors,"
    echo "load $(cut -d' ' -f1-3 /proc/loadavg). Ratios are within one run; absolute numbers are for an idle machine."
    echo
} > "$report"
failed=0
for bench in ${*:-rest cold warm density burst sigv4 lambda}; do
    BENCH_REPORT=$report cargo bench --quiet --bench "$bench" || failed=1
done
echo "written: $report"
exit $failed

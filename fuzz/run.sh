#!/bin/bash
# Fuzzes a target, or every one, on the nightly toolchain with cargo-fuzz. The seeds are those of seeds/TARGET and the files
# of testdata/ that the target reads; what the fuzzer finds worth keeping stays in corpus/TARGET, which git does not have.
#
#   fuzz/run.sh [TARGET [SECONDS [ARGUMENTS OF libFuzzer]]]        e.g.  fuzz/run.sh ignore 600
#
# A finding is an input in artifacts/TARGET: copy it to seeds/TARGET under a name that says what was wrong.
set -euo pipefail
cd "$(dirname "$0")"

target=${1:-}
seconds=${2:-600}
shift $(($# < 2 ? $# : 2))

if [ -z "$target" ]; then
    for file in fuzz_targets/*.rs; do
        "./run.sh" "$(basename "$file" .rs)" "$seconds"
    done
    exit
fi

dictionary=$target.dict
length=4096
case $target in
    plan | dockerfile) dictionary=dockerfile.dict ;;
    toc) dictionary=tar.dict ;;
    tar) length=16384 ;;
    words) length=512 ;;
    ignore) length=1024 ;;
    reference | rules) length=400 ;;
esac

# testdata/ as seeds: names by content, so that a second run adds nothing.
seeds=corpus/$target
mkdir -p "$seeds"
add() {
    find ../testdata -type f -name "$1" -size "-${length}c" -exec sh -c '
        for file; do cp "$file" "$0/$(sha1sum <"$file" | cut -c1-40)"; done' "$seeds" {} +
}
case $target in
    dockerfile | plan) add '*Dockerfile' ;;
    ignore) add '*.dockerignore' ;;
esac

# Five seconds and 1 GiB for one input are a finding too. Leaks are not looked for: a thread that ends just then, as those of
# the plan do, is taken for one.
exec cargo +nightly fuzz run "$target" "$seeds" "seeds/$target" -- -max_total_time="$seconds" -max_len=$length \
    -timeout=5 -rss_limit_mb=1024 -detect_leaks=0 -dict="$dictionary" -print_final_stats=1 "$@"

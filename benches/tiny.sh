#!/bin/bash
# What strata itself costs, where the work is nothing: a small build cold and cached, a RUN of `true`, and peak memory.
#
#   benches/tiny.sh [RUNS]        RUNS of each, 20 unless given; the table shows medians
#
# Wall-clock milliseconds from start to exit of the process, with the base image in the store and unpacked. Between cold runs the
# result and the build cache are removed, nothing else. Goals, on a quiet machine: cold under 150 ms, cached under 20, a RUN
# under 15, memory under 100 MiB.
#
# $STRATA is the binary (target/release/strata, built if it is not there); $STRATA_TEST_DIR is where the store is made, on a file
# system that overlays can be mounted on. Needs Debian's busybox-static; measures with hyperfine where that is installed.
set -euo pipefail
cd "$(dirname "$0")/.."

RUNS=${1:-20}
STRATA=${STRATA:-${CARGO_TARGET_DIR:-target}/release/strata}
[ -x "$STRATA" ] || cargo build --release --quiet
STRATA=$(realpath "$STRATA")
BUSYBOX=$(command -v busybox) || { echo "busybox is missing: apt-get install busybox-static" >&2 && exit 1; }

WORK=$(mktemp -d "${STRATA_TEST_DIR:-${TMPDIR:-/tmp}}/strata-tiny.XXXXXX")
trap 'rm -rf --one-file-system "$WORK"' EXIT
export STRATA_ROOT=$WORK/store

make_base() {
    mkdir -p "$WORK/rootfs/bin" "$WORK/rootfs/tmp"
    cp "$BUSYBOX" "$WORK/rootfs/bin/busybox"
    for name in sh true echo cat; do ln -s busybox "$WORK/rootfs/bin/$name"; done
    tar -C "$WORK/rootfs" --owner=0 --group=0 -cf "$WORK/rootfs.tar" .
    "$STRATA" import "$WORK/rootfs.tar" -t base >/dev/null
}

# context NAME: a folder with the Dockerfile of standard input.
context() {
    mkdir -p "$WORK/$1"
    cat >"$WORK/$1/Dockerfile"
    echo hello >"$WORK/$1/hello.txt"
}

# runs N: N times RUN true, which change nothing and so show what a RUN costs by itself.
runs() {
    echo FROM base
    for ((i = 0; i < $1; i++)); do echo RUN true; done
}

build() { "$STRATA" build --progress quiet -q -t "bench/$1" "$WORK/$1" >/dev/null; }

forget() {
    "$STRATA" rmi "bench/$1" >/dev/null 2>&1 || true
    "$STRATA" prune -f >/dev/null
}

# median PREPARE COMMAND ARGUMENT: milliseconds.
median() {
    if command -v hyperfine >/dev/null; then
        export -f build forget
        export STRATA WORK
        hyperfine --shell 'bash --norc' -r "$RUNS" -w 1 --prepare "$1 $3" --export-csv "$WORK/times.csv" "$2 $3" >/dev/null 2>&1
        awk -F, 'NR == 2 { print $4 * 1000 }' "$WORK/times.csv"
        return
    fi
    local from run
    for ((run = 0; run <= RUNS; run++)); do
        "$1" "$3"
        from=${EPOCHREALTIME/./}
        "$2" "$3"
        # The first is to warm up.
        [ "$run" = 0 ] || echo $((${EPOCHREALTIME/./} - from))
    done | sort -n | awk '{ all[NR] = $1 } END { print (all[int((NR + 1) / 2)] + all[int(NR / 2) + 1]) / 2000 }'
}

# peak ARGUMENT: the most memory that a build holds, MiB: the kernel's own high-water mark, last seen before the end.
peak() {
    "$STRATA" build --progress quiet -q -t "bench/$1" "$WORK/$1" >/dev/null &
    local pid=$! word kib=0 rest
    while [ -e "/proc/$pid/status" ] && kill -0 $pid 2>/dev/null; do
        while read -r word rest; do
            [ "$word" != VmHWM: ] || kib=${rest% kB}
        done <"/proc/$pid/status" 2>/dev/null || break
        [ "${rest:-}" != zombie ] || break
    done
    wait $pid
    awk -v kib="$kib" 'BEGIN { print kib / 1024 }'
}

row() { printf '%-34s %9.1f %-4s %s\n' "$1" "$2" "$3" "$4"; }

make_base
context tiny <<'EOF'
FROM base
WORKDIR /app
COPY hello.txt .
RUN cat hello.txt hello.txt >twice.txt
ENV GREETING=hello
RUN echo "$GREETING" >>twice.txt
EOF
runs 1 | context one
runs 31 | context many
# The base is unpacked by the first step that needs its files.
build tiny

printf '%-34s %9s %-4s %s\n' "median of $RUNS" value unit goal
row "tiny build, cold" "$(median forget build tiny)" ms '< 150'
build tiny
row "tiny build, cached" "$(median true build tiny)" ms '< 20'
forget tiny
row "tiny build, peak memory" "$(peak tiny)" MiB '< 100'
one=$(median forget build one)
many=$(median forget build many)
row "a RUN, of 31 (31 - 1, by 30)" "$(awk -v a="$one" -v b="$many" 'BEGIN { print (b - a) / 30 }')" ms '< 15'
build many
row "31 RUNs, cached" "$(median true build many)" ms ''
forget many
row "31 RUNs, peak memory" "$(peak many)" MiB '< 100'
row "size of the binary" "$(awk -v b="$(stat -c %s "$STRATA")" 'BEGIN { print b / 1048576 }')" MiB '< 20'

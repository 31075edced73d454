#!/bin/bash
# An image of 1 GB in 10 layers: pulled, changed by one layer, pushed. Time and memory of each; memory has to stay below
# 100 MiB. As root or as an ordinary user.
#
#   LAYERS=10  LAYER_MIB=100  LIMIT_MIB=100  REGISTRY_PORT=5000  examples/big-image.sh
set -euo pipefail
# shellcheck source=examples/common.sh
. "$(dirname "$0")/common.sh"

LAYERS=${LAYERS:-10} LAYER_MIB=${LAYER_MIB:-100} LIMIT_MIB=${LIMIT_MIB:-100}
TIMEFORMAT='(%R seconds)'
worst=0

# step COMMAND...: its time, and the greatest resident size of its processes.
step() {
    prompt "$@"
    time measured "$WORK/rss" "$@"
    local mib=$(($(cat "$WORK/rss") / 1024))
    echo "peak memory: $mib MiB"
    [ "$mib" -le "$worst" ] || worst=$mib
}

build_strata
make_work
start_registry
busybox_tar "$WORK/busybox.tar"
strata import "$WORK/busybox.tar" -t busybox

say "An image of $LAYERS layers of $LAYER_MIB MiB"
# Half of each file is random, half repeats: neither incompressible nor trivial.
mkdir "$WORK/big"
{
    echo FROM busybox
    for ((i = 0; i < LAYERS; i++)); do
        mkdir "$WORK/big/$i"
        for ((j = 0; j < LAYER_MIB; j++)); do
            { head -c 524288 /dev/urandom && head -c 524288 /dev/zero | tr '\0' "$((i % 10))"; } >"$WORK/big/$i/$j"
        done
        echo "COPY $i /data/$i"
    done
} >"$WORK/big/Dockerfile"
step strata build -q -t "$REGISTRY/big:1" "$WORK/big"
step strata push -q "$REGISTRY/big:1"
show du -sh "$WORK/registry"
rm -rf "$WORK/big"

say "Pull it into an empty store, change one layer, push"
export STRATA_ROOT=$WORK/second
step strata pull -q "$REGISTRY/big:1"
mkdir "$WORK/change"
printf 'FROM %s/big:1\nRUN echo changed > /data/0/0 && rm -r /data/1\n' "$REGISTRY" >"$WORK/change/Dockerfile"
step strata build -q -t "$REGISTRY/big:2" "$WORK/change"
step strata push -q "$REGISTRY/big:2"
show strata history "$REGISTRY/big:2"
show strata check

say "Greatest resident size of all: $worst MiB (limit $LIMIT_MIB)"
[ "$worst" -lt "$LIMIT_MIB" ]

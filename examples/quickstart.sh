#!/bin/bash
# A first look at strata: two commands after `git clone` this is the second. Root or not, no daemon, nothing is left behind.
set -euo pipefail
# shellcheck source=examples/common.sh
. "$(dirname "$0")/common.sh"

build_strata
make_work
TIMEFORMAT='(%R seconds)'

say "A base image, from Debian's static busybox"
busybox_tar "$WORK/rootfs.tar"
show strata import "$WORK/rootfs.tar" -t busybox

say "Build examples/quickstart/Dockerfile"
time show strata build -t app examples/quickstart

say "What came out"
show strata images
show strata history app
show strata inspect app

say "Run it"
show strata run --rm app
show strata run --rm -e GREETING=Salut app strata

say "Build again: nothing has changed, so every step is CACHED"
time show strata build -t app examples/quickstart

say "Done: everything was in $WORK, which is gone now"
if [ "$(id -u)" = 0 ]; then store=/var/lib/strata; else store=${XDG_DATA_HOME:-~/.local/share}/strata; fi
echo "Your own images: strata build -t NAME FOLDER. strata is $(command -v strata), and keeps them in $store"

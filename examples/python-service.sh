#!/bin/bash
# A Python service with thousands of installed files: cache mount, .dockerignore, USER, HEALTHCHECK, and what a changed line
# of source costs. As root or as an ordinary user.
#
#   MIRROR=URL  examples/python-service.sh
set -euo pipefail
# shellcheck source=examples/common.sh
. "$(dirname "$0")/common.sh"

MIRROR=${MIRROR:-$(debian_mirror)}
TIMEFORMAT='(%R seconds)'

build_strata
make_work
need mmdebstrap=mmdebstrap newuidmap=uidmap
host_apt "$WORK/apt"

# How this machine reaches its package index; mounted into the step that installs, in no layer.
mkdir "$WORK/pip"
cp /etc/ssl/certs/ca-certificates.crt "$WORK/pip/ca.crt"
{
    echo '[global]'
    [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL"
    python3 -m pip config list 2>/dev/null | sed -n "s/^global\.index-url='\(.*\)'$/index-url = \1/p"
} >"$WORK/pip/pip.conf"

say "A base image with Python"
time show mmdebstrap --quiet --variant=minbase --include=python3,python3-venv --aptopt="$WORK/apt/90host.conf" \
    --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/resolv.conf "$1"/etc/hostname' \
    bookworm "$WORK/python.tar" "$MIRROR"
time show strata import "$WORK/python.tar" -t python:bookworm
rm "$WORK/python.tar"

cp -a examples/service "$WORK/src"
mkdir -p "$WORK/src/notes" "$WORK/src/service/__pycache__"
echo private >"$WORK/src/notes/plans.txt"
echo stale >"$WORK/src/service/__pycache__/x.pyc"
echo noise >"$WORK/src/debug.log"
echo kept >"$WORK/src/keep.log"
build=(strata build -t service --build-arg BASE=python:bookworm --build-context "pip=$WORK/pip" "$WORK/src")

say "First build"
time show "${build[@]}"
say "Nothing changed"
time show "${build[@]}"
say "One line of source changed"
sed -i 's/version 1/version 2/' "$WORK/src/service/__init__.py"
time show "${build[@]}"

say "What it is"
show strata history service
show strata inspect service
echo "files: $(strata run --rm service find /venv /app -type f | wc -l) in /venv and /app"

say "Run it"
said=$(strata run --rm service python3 -m service --check)
echo "$said"
case $said in
    *"version 2"*"uid 1000"*) ;;
    *) echo "FAIL: not the changed source, or not the user" && exit 1 ;;
esac
said=$(strata run --rm service ls -A /app)
echo "$said"
case $said in
    *notes* | *debug.log* | *Dockerfile*) echo "FAIL: .dockerignore was not followed" && exit 1 ;;
    *keep.log*) echo ok ;;
    *) echo "FAIL: an exception of .dockerignore was not followed" && exit 1 ;;
esac

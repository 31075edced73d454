#!/bin/bash
# Debian as a base image, a C program compiled in it, and the result run and read by everybody else's tools:
# podman, runc, skopeo, umoci, docker. As root or as an ordinary user (docker's daemon needs root).
#
#   MIRROR=URL  REGISTRY_PORT=5000  examples/debian-c.sh
set -euo pipefail
# shellcheck source=examples/common.sh
. "$(dirname "$0")/common.sh"

MIRROR=${MIRROR:-$(debian_mirror)}
TIMEFORMAT='(%R seconds)'
WANT='bzip2: 1000000 bytes, packed'
user=$(id -u)

build_strata
make_work
need mmdebstrap=mmdebstrap skopeo=skopeo umoci=umoci podman=podman runc=runc newuidmap=uidmap
[ "$user" != 0 ] || need dockerd=docker.io
host_apt "$WORK/apt"
start_registry

# expect NAME COMMAND...: the command must print what the program says.
expect() {
    local name=$1 said
    shift
    prompt "$@"
    said=$("$@" </dev/null 2>"$WORK/stderr") || { cat "$WORK/stderr" && echo "FAIL $name" && exit 1; }
    case $said in
        "$WANT"*) echo "ok $name: $said" ;;
        *) echo "FAIL $name said: $said" && exit 1 ;;
    esac
}

say "Debian bookworm, imported and pushed to $REGISTRY"
# The mirror list of the image is the plain mirror; this machine's proxies are not in it.
time show mmdebstrap --quiet --variant=minbase --aptopt="$WORK/apt/90host.conf" \
    --customize-hook='rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/resolv.conf "$1"/etc/hostname' \
    bookworm "$WORK/bookworm.tar" "$MIRROR"
time show strata import "$WORK/bookworm.tar" -t "$REGISTRY/debian:bookworm"
rm "$WORK/bookworm.tar"
time show strata push "$REGISTRY/debian:bookworm"
busybox_tar "$WORK/busybox.tar"
strata import "$WORK/busybox.tar" -t "$REGISTRY/busybox"
strata push "$REGISTRY/busybox"
show strata rmi "$REGISTRY/debian:bookworm" "$REGISTRY/busybox"
show strata prune --force

say "Compile in Debian, ship on busybox"
build=(strata build -t "$REGISTRY/bzip2:1.0.8" --build-arg "REGISTRY=$REGISTRY" --build-arg "MIRROR=$MIRROR"
    --build-context "apt=$WORK/apt" examples/debian-c)
time show "${build[@]}"
time show "${build[@]}"
show strata push "$REGISTRY/bzip2:1.0.8"
show strata images

say "Run it"
expect "strata run" strata run --rm "$REGISTRY/bzip2:1.0.8"
podman=(podman --root "$WORK/podman" --runroot "$RUNTIME/podman" --runtime runc)
[ "$user" = 0 ] || export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-$RUNTIME}"
expect "podman run" "${podman[@]}" run --rm -q --tls-verify=false --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network=none "$REGISTRY/bzip2:1.0.8"

say "Read by skopeo and umoci, run by runc"
show skopeo copy -q --src-tls-verify=false "docker://$REGISTRY/bzip2:1.0.8" "oci:$WORK/layout:bzip2"
show skopeo inspect --format '{{.Name}} {{.Digest}} {{len .Layers}} layers' --tls-verify=false "docker://$REGISTRY/bzip2:1.0.8"
rootless=()
[ "$user" = 0 ] || rootless=(--rootless)
show umoci unpack "${rootless[@]}" --image "$WORK/layout:bzip2" "$WORK/bundle"
python3 - "$WORK/bundle/config.json" <<'PY'
# umoci asks for a terminal, and for a network and control groups that a plain machine need not have.
import json, sys
spec = json.load(open(sys.argv[1]))
spec["process"]["terminal"] = False
spec["linux"].pop("resources", None)
json.dump(spec, open(sys.argv[1], "w"))
PY
expect "runc run" runc --root "$RUNTIME/runc" run --bundle "$WORK/bundle" "strata-example-$$"
# The store is an image layout: other tools read it where it is.
show skopeo inspect --format '{{.Digest}} read in place' "oci:$STRATA_ROOT:$REGISTRY/bzip2:1.0.8"

say "Loaded by docker"
if [ "$user" = 0 ]; then
    show strata save -o "$WORK/bzip2.tar" "$REGISTRY/bzip2:1.0.8"
    dockerd --data-root "$WORK/docker" --exec-root "$RUNTIME/docker" --pidfile "$RUNTIME/docker.pid" -H "unix://$RUNTIME/docker.sock" \
        --bridge=none --iptables=false --ip6tables=false >"$WORK/docker.log" 2>&1 &
    STOP+=($!)
    docker=(docker -H "unix://$RUNTIME/docker.sock")
    until "${docker[@]}" version >/dev/null 2>&1; do
        kill -0 "${STOP[-1]}" || { tail -n 20 "$WORK/docker.log" && exit 1; }
        sleep 0.1
    done
    show "${docker[@]}" load -q -i "$WORK/bzip2.tar"
    expect "docker run" "${docker[@]}" run --rm --network none "$REGISTRY/bzip2:1.0.8"
else
    echo "docker's daemon needs root: not tried"
fi
say "Everybody agrees"

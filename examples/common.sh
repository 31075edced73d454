# shellcheck shell=bash
# Sourced by the examples: builds strata, makes a scratch folder with a store, and what they share. All of it is gone when
# the example ends; --root or $STRATA_ROOT is where your own images would be.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
# shellcheck source=tests/scratch.sh
. tests/scratch.sh

STOP=() # processes to end, last started first

if [ -t 1 ]; then BOLD=$'\e[1m' CYAN=$'\e[36m' PLAIN=$'\e[0m'; else BOLD='' CYAN='' PLAIN=''; fi

say() { printf '\n%s== %s%s\n' "$BOLD" "$*" "$PLAIN"; }

# Prints a command as one would type it, with $WORK where its long path is.
prompt() {
    local word line='$'
    for word in "$@"; do
        word=${word//"$WORK"/'$WORK'}
        case $word in
            *[!a-zA-Z0-9_./:=@,+\$-]*) line+=" '$word'" ;;
            *) line+=" $word" ;;
        esac
    done
    printf '%s%s%s\n' "$CYAN" "$line" "$PLAIN"
}

# Shows a command, then runs it.
show() {
    prompt "$@"
    "$@"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n "$@" 2>/dev/null
    fi
}

# need COMMAND=PACKAGE...: installs Debian packages whose commands are missing.
need() {
    local pair missing=()
    for pair in "$@"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    echo "installing ${missing[*]}"
    { as_root apt-get -qq update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null; } ||
        { echo "cannot install them: please run  apt-get install ${missing[*]}  as root" >&2 && exit 1; }
}

# build_strata: strata of this tree, or the finished binary that $STRATA names, first on the path.
build_strata() {
    if [ -n "${STRATA:-}" ]; then
        [ -x "$STRATA" ] || { echo "STRATA=$STRATA: no such program" >&2 && exit 1; }
        PATH=$(cd "$(dirname "$STRATA")" && pwd):$PATH
        strata --version
        return
    fi
    command -v cargo >/dev/null || export PATH="${HOME:-/root}/.cargo/bin:$PATH"
    command -v cargo >/dev/null || { echo "cargo is missing: see https://rustup.rs" >&2 && exit 1; }
    say "Building strata"
    cargo build --release --quiet
    PATH=$PWD/${CARGO_TARGET_DIR:-target}/release:$PATH
    strata --version
}

# A scratch folder in $WORK with an empty store, and a short one for sockets in $RUNTIME.
make_work() {
    local cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}
    mkdir -p "$cache"
    TMPDIR=$cache make_scratch
    WORK=$(mktemp -d "$STRATA_TEST_DIR/example.XXXXXX")
    RUNTIME=$(mktemp -d /tmp/strata.XXXXXX) # sockets and states: podman wants less than 50 characters
    trap clean EXIT
    trap 'exit 130' INT TERM HUP
    export STRATA_ROOT=$WORK/store
    echo "everything is below \$WORK=$WORK, the store is \$WORK/store"
}

clean() {
    local status=$? i
    set +e
    for ((i = ${#STOP[@]} - 1; i >= 0; i--)); do
        kill "${STOP[i]}" 2>/dev/null
        wait "${STOP[i]}" 2>/dev/null
    done
    # What an ordinary user's podman leaves behind to hold its namespaces.
    local pause=$RUNTIME/libpod/tmp/pause.pid
    [ ! -r "$pause" ] || kill "$(cat "$pause")" 2>/dev/null
    # What podman, runc and docker leave mounted when they fail.
    awk -v one="$WORK/" -v two="$RUNTIME/" 'index($2, one) == 1 || index($2, two) == 1 { print $2 }' /proc/self/mounts |
        sort -r | xargs -r -n 1 umount -l
    rm -rf --one-file-system "$RUNTIME" 2>/dev/null || { sleep 1 && rm -rf --one-file-system "$RUNTIME"; }
    # An ordinary user's store has files of subordinate ids.
    rm -rf --one-file-system "$WORK" 2>/dev/null || unshare --map-auto --map-root-user rm -rf "$WORK" 2>/dev/null
    remove_scratch
    exit "$status"
}

# debian_mirror: the mirror that this machine's apt uses.
debian_mirror() {
    local mirror
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m 1 '/debian/*$') || {
        echo "apt knows no Debian mirror: give one with MIRROR=URL" >&2
        return 1
    }
    echo "${mirror%/}"
}

# busybox_tar FILE: a root file system of Debian's static busybox, as a tar.
busybox_tar() {
    local busybox root=$WORK/busybox applet
    for busybox in /bin/busybox /usr/bin/busybox; do
        [ ! -x $busybox ] || break
    done
    if [ ! -x $busybox ]; then
        as_root apt-get -qq install -y busybox-static >/dev/null || {
            # Without root the package can still be fetched and unpacked.
            (cd "$WORK" && apt-get -qq download busybox-static && dpkg-deb -x busybox-static_*.deb bb)
        }
        for busybox in "$WORK/bb/bin/busybox" "$WORK/bb/usr/bin/busybox" /bin/busybox; do
            [ ! -x "$busybox" ] || break
        done
    fi
    mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp,usr/bin,var}
    chmod 1777 "$root/tmp"
    cp "$busybox" "$root/bin/busybox"
    for applet in $("$busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'app:x:1000:1000::/:/bin/sh' >>"$root/etc/passwd"
    printf 'root:x:0:\napp:x:1000:\n' >"$root/etc/group"
    tar -C "$root" --sort=name --owner=0 --group=0 --numeric-owner -cf "$1" .
}

# start_registry: Debian's docker-registry on loopback; its address in $REGISTRY. $REGISTRY_PORT, or a free port.
start_registry() {
    need docker-registry=docker-registry
    cat >"$WORK/registry.yml" <<EOF
version: 0.1
log: {level: info, formatter: json}
storage: {filesystem: {rootdirectory: $WORK/registry}, delete: {enabled: true}}
http: {addr: 127.0.0.1:${REGISTRY_PORT:-0}}
EOF
    : >"$WORK/registry.log"
    docker-registry serve "$WORK/registry.yml" >"$WORK/registry.log" 2>&1 &
    STOP+=($!)
    REGISTRY=
    until REGISTRY=$(sed -n 's/.*listening on \(127[0-9.:]*\).*/\1/p' "$WORK/registry.log") && [ -n "$REGISTRY" ]; do
        kill -0 "${STOP[-1]}" || { cat "$WORK/registry.log" >&2 && exit 1; }
        sleep 0.05
    done
    export REGISTRY
    echo "registry: $REGISTRY"
}

# host_apt FOLDER: how this machine's apt reaches its mirrors (proxies only), for a build that runs apt.
host_apt() {
    mkdir -p "$1"
    apt-config dump 2>/dev/null | grep -E '^Acquire::(http|https|ftp)::([^ ]*::)?Proxy ' >"$1/90host.conf" || true
    echo 'APT::Sandbox::User "root"; // a single-id user namespace has no _apt' >>"$1/90host.conf"
}

# measured FILE COMMAND...: runs it, with the greatest resident size of any of its processes, in KiB, in FILE.
measured() {
    local file=$1
    shift
    python3 - "$file" "$@" <<'PY'
import resource, subprocess, sys
status = subprocess.run(sys.argv[2:]).returncode
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(status)
PY
}

#!/bin/bash
# Everything that has to hold: format, lints, the release build, all tests. On Debian, as root (as an ordinary user the
# privileged parts of the tests are skipped). Installs the Debian packages that the tests need. Quiet where all is well.
#
#   tests/run.sh [ARGUMENTS OF cargo test]        e.g.  STRATA_CASES='copy-*' tests/run.sh --test strata copy::
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tests/scratch.sh
. tests/scratch.sh

# What the tests run as oracles and as fixtures.
PACKAGES=(
    busybox-static                                 # base images
    docker-registry apache2-utils openssl          # registries: plain, TLS, htpasswd
    skopeo umoci podman buildah runc docker.io     # other people's tools, which must accept what strata writes
    mmdebstrap git zstd xz-utils bzip2 python3     # what cases are made with
    openssh-client                                 # agents with keys
    qemu-user-static                               # RUN for another machine
    chromium                                       # pages of reports, looked at without a screen
    tmux                                           # a terminal for explore
    uidmap attr libcap2-bin e2fsprogs mount passwd # rootless builds, attributes, the scratch file system
    xfsprogs btrfs-progs                           # file systems that share blocks
)

# A policy that denies starting services, while packages are installed; Debian's maintainer scripts ask it.
POLICY=/usr/sbin/policy-rc.d
OWN_POLICY=

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

install_packages() {
    local missing=() package
    for package in "${PACKAGES[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    # To be run by the tests, not to start as services of this machine.
    if [ ! -e $POLICY ]; then
        OWN_POLICY=1
        printf '#!/bin/sh\nexit 101\n' | as_root tee $POLICY >/dev/null && as_root chmod 755 $POLICY || return 1
    fi
    local status=0
    as_root apt-get -qq update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" || status=$?
    drop_policy
    return "$status"
}

drop_policy() {
    [ -z "$OWN_POLICY" ] || as_root rm -f $POLICY
    OWN_POLICY=
}

# step NAME COMMAND...: runs it, and shows what it printed only when it fails.
step() {
    local name=$1 from=$SECONDS
    shift
    if "$@" >"$LOG" 2>&1; then
        echo "ok    $name ($((SECONDS - from)) s)"
    else
        # What failed, where a test says so; else the end.
        awk '/^failures:$/ { show = 1 } show; /^test result:/ { show = 0 }' "$LOG" | grep . || tail -n 400 "$LOG"
        echo "FAIL  $name: $*"
        return 1
    fi
}

# The numbers of tests, and of conformance cases in them, from the output of cargo test.
counts() {
    awk '
        /^conformance / { user = $3 ~ /^rootless/ ? "rootless" : "own user"
                          for (i = 2; i < NF; i++) if ($(i + 1) ~ /^(passed|failed|skipped),?$/) cases[user, substr($(i + 1), 1, 4)] += $i
                          seen[user] = 1 }
        /^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END {
            for (user in seen) printf "conformance (%s): %d passed, %d failed, %d skipped\n", user,
                cases[user, "pass"], cases[user, "fail"], cases[user, "skip"]
            if (ignored) printf "%d ignored\n", ignored
            printf "%d passed, %d failed\n", passed, failed
        }' "$1"
}

command -v cargo >/dev/null || export PATH="${HOME:-/root}/.cargo/bin:$PATH"
LOG=$(mktemp)
finish() {
    local status=$?
    drop_policy
    remove_scratch
    rm -f "$LOG"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
step packages install_packages
make_scratch
step format cargo fmt --check
step lints cargo clippy --locked --quiet --all-targets -- -D warnings
step release cargo build --locked --quiet --release
tested=0
step tests cargo test --locked --quiet --no-fail-fast "$@" -- --show-output || tested=1
counts "$LOG"
exit "$tested"

# shellcheck shell=bash
# Sourced: make_scratch gives the tests a folder of their own, remove_scratch takes it away (the caller traps EXIT for it).
#
# As root it is a new ext4 in a sparse file. Overlay mounts need an upper directory that is not an overlay itself, which a
# container's root often is, and a fresh file system removes many small files at the same speed everywhere. Where loop
# devices do not work it is a plain folder.

SCRATCH=
SCRATCH_MOUNT=

make_scratch() {
    [ -z "${STRATA_TEST_DIR:-}" ] || return 0 # the caller's, and the caller's to remove
    SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/strata-scratch.XXXXXX")
    chmod 0711 "$SCRATCH" # the rootless tests pass through it
    local folder=$SCRATCH/t
    mkdir "$folder"
    if [ "$(id -u)" = 0 ] && truncate -s 24G "$SCRATCH/image" &&
        mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 "$SCRATCH/image" >/dev/null 2>&1 &&
        mount -o loop,noatime "$SCRATCH/image" "$folder" 2>/dev/null; then
        SCRATCH_MOUNT=$folder
    else
        rm -f "$SCRATCH/image"
    fi
    chmod 1777 "$folder"
    export STRATA_TEST_DIR=$folder TMPDIR=$folder
}

remove_scratch() {
    if [ -n "$SCRATCH_MOUNT" ]; then
        umount "$SCRATCH_MOUNT" 2>/dev/null || umount -l "$SCRATCH_MOUNT" || true
        SCRATCH_MOUNT=
    fi
    if [ -n "$SCRATCH" ]; then
        rm -rf --one-file-system "$SCRATCH"
        SCRATCH=
    fi
}

//! Stores that cannot be used or are damaged: each case breaks a copy of the good one at `$SPARE`.

use super::{Case, case};

/// Copies the store, with the layers of busybox unpacked, and breaks it.
macro_rules! broken {
    ($how:literal) => {
        concat!(
            "printf 'FROM busybox\\nCOPY Dockerfile /d\\nRUN true\\n' >Dockerfile
             cp -a $STRATA_ROOT $SPARE
             strata --root $SPARE build -q -t app . >/dev/null
             m=$(strata --root $SPARE images --format json --no-trunc | grep -o 'sha256:[0-9a-f]\\{64\\}' | head -n 1 | cut -d: -f2)\n",
            $how
        )
    };
}

pub(super) const CASES: &[Case] = &[
    case(
        "root-is-a-file",
        "echo keep >f",
        "strata --root f images",
        1,
        &["\\bf\\b", "not a directory"],
    ),
    case(
        "root-below-a-file",
        "echo keep >f",
        "strata --root f/store images",
        1,
        &["f/store|\\bf\\b", "not a directory"],
    ),
    case(
        "root-is-something-else",
        "mkdir d; echo keep >d/file",
        "strata --root d images",
        1,
        &["not empty and not a strata store"],
    ),
    case(
        "root-on-nothing",
        "",
        "strata --root /proc/nothing/store images",
        1,
        &["/proc/nothing"],
    ),
    case(
        "root-read-only",
        "",
        "unshare -m sh -euc 'mount -t tmpfs -o ro none /mnt; exec strata --root /mnt/store images'",
        1,
        &["read-only file system", "--root"],
    ),
    case(
        "store-read-only",
        broken!(""),
        "unshare -m sh -euc 'mount --bind $SPARE $SPARE; mount -o remount,bind,ro $SPARE; exec strata --root $SPARE build -t new .'",
        1,
        &["read-only file system", "--root"],
    ),
    case(
        "disk-full",
        "printf 'FROM busybox\\nCOPY big /\\n' >Dockerfile; head -c 20000000 /dev/urandom >big",
        "unshare -m sh -euc 'mount -t tmpfs -o size=6m none /mnt; cp -a $STRATA_ROOT /mnt/store; exec strata --root /mnt/store build -t new .'",
        1,
        &["no space left"],
    ),
    case(
        "newer-format",
        broken!("echo '{\"format\":99}' >$SPARE/strata.json"),
        "strata --root $SPARE images",
        1,
        &["format 99", "reads format 1"],
    ),
    case(
        "bad-header",
        broken!("echo nonsense >$SPARE/strata.json"),
        "strata --root $SPARE images",
        1,
        &["strata\\.json is damaged"],
    ),
    case(
        "empty-header",
        broken!(": >$SPARE/strata.json"),
        "strata --root $SPARE images",
        1,
        &["strata\\.json is damaged"],
    ),
    case(
        "index-damaged",
        broken!("echo '{\"schemaVersion\":2,' >$SPARE/index.json"),
        "strata --root $SPARE images",
        1,
        &["index\\.json"],
    ),
    case(
        "index-empty",
        broken!(": >$SPARE/index.json"),
        "strata --root $SPARE images",
        1,
        &["index\\.json"],
    ),
    case(
        "index-damaged-build",
        broken!("echo '[]' >$SPARE/index.json"),
        "strata --root $SPARE build -t new .",
        1,
        &["index\\.json"],
    ),
    case(
        "index-damaged-prune",
        broken!("echo x >$SPARE/index.json"),
        "strata --root $SPARE prune -f; code=$?; test $(ls $SPARE/blobs/sha256 | wc -l) -gt 3 && exit $code",
        1,
        &["index\\.json"],
    ),
    case(
        "manifest-gone",
        broken!("rm $SPARE/blobs/sha256/$m"),
        "strata --root $SPARE save -o out.tar app",
        1,
        &["not found in the store|not in the store"],
    ),
    case(
        "manifest-damaged",
        broken!("printf X | dd of=$SPARE/blobs/sha256/$m bs=1 seek=3 conv=notrunc 2>/dev/null"),
        "strata --root $SPARE save -o out.tar app",
        1,
        &["does not match its digest"],
    ),
    case(
        "blob-damaged-save",
        broken!(
            "for f in $SPARE/blobs/sha256/*; do s=$(stat -c %s $f); test $s -lt 100000 || printf X | dd of=$f bs=1 seek=9000 conv=notrunc 2>/dev/null; done"
        ),
        "strata --root $SPARE save -o out.tar app",
        1,
        &["does not match its digest"],
    ),
    case(
        "blob-damaged-copy",
        broken!(
            "for f in $SPARE/blobs/sha256/*; do s=$(stat -c %s $f); test $s -lt 100000 || printf X | dd of=$f bs=1 seek=9000 conv=notrunc 2>/dev/null; done"
        ),
        "strata --root $SPARE copy app oci:out",
        1,
        &["does not match its digest"],
    ),
    case(
        "blob-truncated-unpack",
        broken!(
            "rm -r $SPARE/layers/*; for f in $SPARE/blobs/sha256/*; do s=$(stat -c %s $f); test $s -lt 100000 || truncate -s 50000 $f; done"
        ),
        "strata --root $SPARE unpack app out",
        1,
        &["sha256:[0-9a-f]{64}"],
    ),
    case(
        "toc-damaged",
        broken!(
            "for t in $SPARE/layers/*/toc; do echo nonsense >$t; done; printf 'FROM app\\nCOPY --from=app /d /e\\nRUN true\\n' >Dockerfile"
        ),
        "strata --root $SPARE check --full >&2 || { echo error: found; exit 1; } >&2",
        1,
        &["toc"],
    ),
    case(
        "toc-empty",
        broken!("for t in $SPARE/layers/*/toc; do : >$t; done"),
        "strata --root $SPARE check >&2 || { echo error: found; exit 1; } >&2",
        1,
        &["toc"],
    ),
    case(
        "check-finds-blob",
        broken!("printf X | dd of=$SPARE/blobs/sha256/$m bs=1 seek=3 conv=notrunc 2>/dev/null"),
        "strata --root $SPARE check >&2 || { echo error: found; exit 1; } >&2",
        1,
        &["digest|damaged"],
    ),
    case(
        "check-finds-missing",
        broken!("rm $SPARE/blobs/sha256/$m"),
        "strata --root $SPARE check >&2 || { echo error: found; exit 1; } >&2",
        1,
        &["missing"],
    ),
    case(
        "check-finds-layer-file",
        broken!(
            "f=$(find $SPARE/layers -path '*/fs/bin/busybox'); printf X | dd of=$f bs=1 seek=3 conv=notrunc 2>/dev/null"
        ),
        "strata --root $SPARE check --full >&2 || { echo error: found; exit 1; } >&2",
        1,
        &["bin/busybox"],
    ),
    case(
        "work-is-a-file",
        broken!("rm -rf $SPARE/work; echo keep >$SPARE/work"),
        "strata --root $SPARE build -t new .",
        1,
        &["work", "not a directory"],
    ),
];

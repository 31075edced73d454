//! Archives and layouts: cut short, damaged, hostile, or something else altogether.

use std::path::Path;

use tar::{Builder, EntryType, Header};

use super::{Case, case, put};

/// A header as its bytes are, whatever they mean.
fn header(name: &[u8], kind: EntryType, target: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    let fields = header.as_old_mut();
    fields.name[..name.len()].copy_from_slice(name);
    fields.linkname[..target.len()].copy_from_slice(target);
    header.set_entry_type(kind);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header
}

/// Name, kind, link target, content.
type Member<'a> = (&'a [u8], EntryType, &'a [u8], &'a [u8]);

fn tar(entries: &[Member<'_>]) -> Vec<u8> {
    let mut out = Builder::new(Vec::new());
    for (name, kind, target, data) in entries {
        let header = header(name, *kind, target, data.len() as u64);
        out.append(&header, *data).expect("a Vec takes all");
    }
    out.into_inner().expect("a Vec takes all")
}

/// The prepared files.
pub(super) fn prepare(folder: &Path) {
    use EntryType::{Directory, Link, Regular, Symlink};
    let good = tar(&[
        (b"dir/", Directory, b"", b""),
        (b"dir/file", Regular, b"", &[b'x'; 70_000]),
    ]);
    put(folder, "truncated.tar", &good[..40_000]);
    let mut bad_sum = good.clone();
    // In the first header's name.
    bad_sum[1] ^= 1;
    put(folder, "bad-sum.tar", bad_sum);
    put(folder, "good.tar", good);
    put(
        folder,
        "dotdot.tar",
        tar(&[(b"../escaped", Regular, b"", b"x")]),
    );
    put(
        folder,
        "inner-dotdot.tar",
        tar(&[
            (b"a/", Directory, b"", b""),
            (b"a/../../escaped", Regular, b"", b"x"),
        ]),
    );
    put(
        folder,
        "through-link.tar",
        tar(&[
            (b"out", Symlink, b"/tmp", b""),
            (b"out/strata-escaped", Regular, b"", b"x"),
        ]),
    );
    put(
        folder,
        "hard-out.tar",
        tar(&[(b"shadow", Link, b"../../../../etc/shadow", b"")]),
    );
    put(
        folder,
        "hard-nothing.tar",
        tar(&[(b"one", Link, b"none", b"")]),
    );
    put(folder, "no-target.tar", tar(&[(b"one", Symlink, b"", b"")]));
    put(
        folder,
        "unknown-type.tar",
        tar(&[(b"one", EntryType::new(b'Z'), b"", b"")]),
    );
    put(
        folder,
        "bad-pax.tar",
        tar(&[
            (b"pax", EntryType::XHeader, b"", b"99 path=x"),
            (b"one", Regular, b"", b"x"),
        ]),
    );
    let mut huge = header(b"huge", EntryType::XHeader, b"", 1 << 40)
        .as_bytes()
        .to_vec();
    huge.resize(4096, 0);
    put(folder, "huge-pax.tar", huge);
    let mut claims = header(b"huge", Regular, b"", 1 << 50).as_bytes().to_vec();
    claims.resize(4096, 0);
    put(folder, "claims-petabytes.tar", claims);
    put(folder, "garbage", [0xfe_u8; 5000]);
    put(
        folder,
        "html",
        "<!DOCTYPE html><html><body>Sign in</body></html>\n",
    );
    put(folder, "empty.tar", [0_u8; 1024]);
}

/// Copies the good layout to `l`.
macro_rules! layout {
    ($tamper:literal) => {
        concat!(
            "cp -r $FIX/layout l; b=l/blobs/sha256
             m=$(tr -d ' \\n' <l/index.json | sed 's/.*\"digest\":\"sha256:\\([0-9a-f]*\\).*/\\1/')
             c=$(tr -d ' \\n' <$b/$m | sed 's/.*\"config\":{[^}]*sha256:\\([0-9a-f]*\\).*/\\1/')
             y=$(tr -d ' \\n' <$b/$m | sed 's/.*\"layers\":\\[{[^}]*sha256:\\([0-9a-f]*\\).*/\\1/')
             test -f $b/$m; test -f $b/$c; test -f $b/$y\n",
            $tamper
        )
    };
}

const COPY: &str = "strata --root $SPARE copy oci:l new";

pub(super) const CASES: &[Case] = &[
    case(
        "load-garbage",
        "",
        "strata load <$FIX/garbage",
        1,
        &["archive"],
    ),
    case("load-html", "", "strata load -i $FIX/html", 1, &["archive"]),
    case(
        "load-nothing",
        "",
        "strata load </dev/null",
        1,
        &["archive|empty"],
    ),
    case(
        "load-zeros",
        "",
        "strata load <$FIX/empty.tar",
        1,
        &["archive|manifest|index"],
    ),
    case(
        "load-plain-tar",
        "",
        "strata load -i $FIX/good.tar",
        1,
        &["manifest\\.json|index\\.json"],
    ),
    case(
        "load-missing",
        "",
        "strata load -i none.tar",
        1,
        &["none\\.tar", "no such file"],
    ),
    case(
        "load-truncated-docker",
        "head -c 300000 $FIX/docker.tar >t.tar",
        "strata load -i t.tar",
        1,
        &["truncated|ends inside"],
    ),
    case(
        "load-truncated-oci",
        "head -c 300000 $FIX/oci.tar >t.tar",
        "strata load -i t.tar",
        1,
        &["truncated|ends inside"],
    ),
    case(
        "load-truncated-stream",
        "head -c 300000 $FIX/oci.tar >t.tar",
        "strata load <t.tar",
        1,
        &["truncated|ends inside"],
    ),
    case(
        "load-damaged",
        "cp $FIX/oci.tar d.tar; printf XXXX | dd of=d.tar bs=1 seek=400000 conv=notrunc 2>/dev/null",
        "strata --root $SPARE load -i d.tar",
        1,
        &["does not match its digest|diffID"],
    ),
    case(
        "load-bad-manifest-json",
        "mkdir x; echo '[{' >x/manifest.json; tar cf d.tar -C x manifest.json; rm -r x",
        "strata load -i d.tar",
        1,
        &["manifest\\.json"],
    ),
    case(
        "load-manifest-names-nothing",
        "mkdir x; echo '[{\"Config\":\"c.json\",\"RepoTags\":[\"a:b\"],\"Layers\":[\"l.tar\"]}]' >x/manifest.json; tar cf d.tar -C x manifest.json; rm -r x",
        "strata load -i d.tar",
        1,
        &["c\\.json"],
    ),
    case(
        "load-layer-missing",
        "mkdir x; echo '{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"]}}' >x/c.json; echo '[{\"Config\":\"c.json\",\"RepoTags\":[\"a:b\"],\"Layers\":[\"l.tar\"]}]' >x/manifest.json; tar cf d.tar -C x manifest.json c.json; rm -r x",
        "strata load -i d.tar",
        1,
        &["l\\.tar"],
    ),
    case(
        "load-wrong-diffid",
        "mkdir x; cp $FIX/good.tar x/l.tar; echo '{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"]}}' >x/c.json; echo '[{\"Config\":\"c.json\",\"RepoTags\":[\"a:b\"],\"Layers\":[\"l.tar\"]}]' >x/manifest.json; tar cf d.tar -C x manifest.json c.json l.tar; rm -r x",
        "strata load -i d.tar",
        1,
        &["sha256:aaaaaaaa"],
    ),
    case(
        "load-layer-count",
        "mkdir x; cp $FIX/good.tar x/l.tar; echo '{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}' >x/c.json; echo '[{\"Config\":\"c.json\",\"RepoTags\":[\"a:b\"],\"Layers\":[\"l.tar\"]}]' >x/manifest.json; tar cf d.tar -C x manifest.json c.json l.tar; rm -r x",
        "strata load -i d.tar",
        1,
        &["layer"],
    ),
    case(
        "layout-not-one",
        "mkdir l; echo {} >l/other",
        COPY,
        1,
        &["layout|index\\.json"],
    ),
    case(
        "layout-bad-index",
        layout!("echo '{' >l/index.json"),
        COPY,
        1,
        &["index\\.json|index"],
    ),
    case(
        "layout-index-is-html",
        layout!("cp $FIX/html l/index.json"),
        COPY,
        1,
        &["index\\.json|index"],
    ),
    case(
        "layout-newer",
        layout!("echo '{\"imageLayoutVersion\":\"9.0.0\"}' >l/oci-layout"),
        COPY,
        1,
        &["unsupported version"],
    ),
    case(
        "layout-empty-index",
        layout!("echo '{\"schemaVersion\":2,\"manifests\":[]}' >l/index.json"),
        COPY,
        1,
        &["no image|empty|not found"],
    ),
    case(
        "layout-no-manifest",
        layout!("rm $b/$m"),
        COPY,
        1,
        &["not found|no such file|missing"],
    ),
    case(
        "layout-no-config",
        layout!("rm $b/$c"),
        COPY,
        1,
        &["not found|no such file|missing"],
    ),
    case(
        "layout-no-layer",
        layout!("rm $b/$y"),
        COPY,
        1,
        &["not found|no such file|missing"],
    ),
    case(
        "layout-layer-truncated",
        layout!("head -c 1000 $b/$y >t; mv t $b/$y"),
        COPY,
        1,
        &["wrong size|truncated"],
    ),
    case(
        "layout-layer-too-long",
        layout!("echo more >>$b/$y"),
        COPY,
        1,
        &["wrong size|longer"],
    ),
    case(
        "layout-layer-damaged",
        layout!("printf X | dd of=$b/$y bs=1 seek=5000 conv=notrunc 2>/dev/null"),
        COPY,
        1,
        &["does not match its digest"],
    ),
    case(
        "layout-config-damaged",
        layout!("printf X | dd of=$b/$c bs=1 seek=5 conv=notrunc 2>/dev/null"),
        COPY,
        1,
        &["does not match its digest"],
    ),
    case(
        "layout-manifest-damaged",
        layout!("printf X | dd of=$b/$m bs=1 seek=5 conv=notrunc 2>/dev/null"),
        COPY,
        1,
        &["does not match its digest"],
    ),
    case(
        "layout-build-on-damaged",
        layout!(
            "printf X | dd of=$b/$y bs=1 seek=5000 conv=notrunc 2>/dev/null; printf 'FROM n\\nRUN true\\n' >Dockerfile"
        ),
        "strata --root $SPARE build -t made --build-context n=oci-layout://./l .",
        1,
        &["does not match its digest"],
    ),
    case(
        "import-garbage",
        "",
        "strata import $FIX/garbage -t new",
        1,
        &["garbage"],
    ),
    case(
        "import-html",
        "",
        "strata import -t new $FIX/html",
        1,
        &["html"],
    ),
    case(
        "import-nothing",
        "",
        "strata import -t new - </dev/null",
        1,
        &["no files|empty|archive"],
    ),
    case(
        "import-empty",
        "",
        "strata import -t new $FIX/empty.tar",
        1,
        &["no files"],
    ),
    case(
        "import-missing",
        "",
        "strata import -t new none.tar",
        1,
        &["none\\.tar", "no such file"],
    ),
    case(
        "import-folder",
        "mkdir d",
        "strata import -t new d",
        1,
        &["\\bd\\b", "director"],
    ),
    case(
        "import-truncated",
        "",
        "strata import -t new $FIX/truncated.tar",
        1,
        &["truncated"],
    ),
    case(
        "import-bad-sum",
        "",
        "strata import -t new $FIX/bad-sum.tar",
        1,
        &["checksum"],
    ),
    case(
        "import-dotdot",
        "",
        "strata import -t new $FIX/dotdot.tar",
        1,
        &["leads upwards", "\\.\\./escaped"],
    ),
    case(
        "import-inner-dotdot",
        "",
        "strata import -t new $FIX/inner-dotdot.tar",
        1,
        &["leads upwards"],
    ),
    case(
        "import-through-link",
        "",
        "strata import -t new $FIX/through-link.tar && strata unpack new out && test ! -e /tmp/strata-escaped && strata rmi new; test ! -e /tmp/strata-escaped && rm -rf out && echo error: nothing escaped >&2 && exit 1",
        1,
        &["error"],
    ),
    case(
        "import-hard-out",
        "",
        "strata import -t new $FIX/hard-out.tar",
        1,
        &["shadow"],
    ),
    case(
        "import-hard-nothing",
        "",
        "strata import -t new $FIX/hard-nothing.tar",
        1,
        &["none"],
    ),
    case(
        "import-no-target",
        "",
        "strata import -t new $FIX/no-target.tar",
        1,
        &["without a target"],
    ),
    case(
        "import-unknown-type",
        "",
        "strata import -t new $FIX/unknown-type.tar",
        1,
        &["unknown entry type"],
    ),
    case(
        "import-bad-pax",
        "",
        "strata import -t new $FIX/bad-pax.tar",
        1,
        &["extended header"],
    ),
    case(
        "import-huge-pax",
        "",
        "strata import -t new $FIX/huge-pax.tar",
        1,
        &["over the limit"],
    ),
    case(
        "import-petabytes",
        "",
        "strata import -t new $FIX/claims-petabytes.tar",
        1,
        &["truncated|limit|unpacks to more"],
    ),
    case(
        "import-no-server",
        "",
        "strata import -t new http://127.0.0.1:1/x.tar",
        1,
        &["127\\.0\\.0\\.1:1"],
    ),
];

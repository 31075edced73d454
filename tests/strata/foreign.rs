//! RUN for another machine: several platforms in one build, one of them under qemu-user.
//!
//! The kernel is told of qemu in a `binfmt_misc` of the test's own user namespace (Linux 6.7): nothing of the machine changes.

use crate::lab::{Lab, succeed};

/// A static aarch64 program of 200 bytes that writes "ran on aarch64" to /ran, as base64.
const PROGRAM: &str = "f0VMRgIBAQAAAAAAAAAAAAIAtwABAAAAeABAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAEAAOAABAAAAAAAAAAEAAAAFAAAAAAAA\
                       AAAAAAAAAEAAAAAAAAAAQAAAAAAAyAAAAAAAAADIAAAAAAAAAAAQAAAAAAAAYAyAkoEWgNIBCKDyIgiA0oM0gNIIB4DSAQAA1CEX\
                       gNIBCKDy4gGA0ggIgNIBAADUAACA0qgLgNIBAADUL3JhbgByYW4gb24gYWFyY2g2NAo=";

/// A shell with a `binfmt_misc` that knows aarch64: its header of an ELF file, and who runs such files. `F` opens qemu now, so
/// that a sandbox need not have it.
const REGISTER: &str = r"
    mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77
    printf '%s' ':aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00:\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff:/usr/bin/qemu-aarch64-static:F' \
        >/proc/sys/fs/binfmt_misc/register
    ";

#[test]
fn a_run_for_another_machine() {
    let lab = Lab::new();
    let register = format!("unshare --user --map-root-user --mount sh -euc '{}", {
        REGISTER.replace('\'', "'\\''")
    });
    let known = lab
        .shell(&format!("{register}'"))
        .output()
        .expect("start a shell");
    if known.status.code() == Some(77) {
        eprintln!("not tested: this kernel gives a user namespace no binfmt_misc of its own");
        return;
    }
    lab.write(
        "Dockerfile",
        "FROM scratch\nCOPY program /program\nARG TARGETARCH\nLABEL for=$TARGETARCH\nRUN [\"/program\"]\n",
    );
    let said = succeed(&mut lab.shell(&format!(
        "echo {PROGRAM} | base64 -d >program; chmod 755 program
         {register}
         exec strata build --platform linux/arm64,linux/amd64 --output type=local,dest=out . >&2'
         cat out/linux_arm64/ran"
    )));
    assert_eq!(said, "ran on aarch64\n");
}

//! Filters of system calls: docker's default profile, and the pretence of a single-id sandbox.
//!
//! A filter is classic BPF: a balanced tree of comparisons over ranges of call numbers, so that a call costs some eight
//! instructions and the whole program a few hundred (a list of comparisons takes thousands and a millisecond to load).
//! 32-bit programs on a 64-bit kernel (i386, arm) get the same rules by their own numbers, as docker gives them; x32, whose
//! numbers lie above all others, gets ENOSYS.

use std::sync::OnceLock;

use libc::sock_filter;

use super::syscalls::{
    CLONE3, Call, NEWEST, OWNERSHIP_AARCH64, OWNERSHIP_ARM, OWNERSHIP_I386, OWNERSHIP_X86_64,
    REFUSED_AARCH64, REFUSED_ARM, REFUSED_EVERYWHERE, REFUSED_I386, REFUSED_X86_64,
};

const EPERM: u16 = 1;
const ENOSYS: u16 = 38;

/// The flags of `clone` that make namespaces, less CLONE_NEWTIME, whose bit is part of the exit signal there.
const NAMESPACE_FLAGS: u32 = 0x7e02_0000;

/// Values of `personality` that docker allows: Linux, SVR4's page zero, UNAME26, both, and "only ask".
const PERSONALITIES: [u32; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Socket families that docker refuses, among them AF_ALG (38) and AF_VSOCK (40), and the first it has not heard of.
const REFUSED_FAMILIES: [u32; 9] = [12, 19, 20, 23, 25, 34, 37, 38, 40];
const FIRST_UNKNOWN_FAMILY: u32 = 46;

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Allow,
    /// The call returns this error; 0 is success without doing anything.
    Errno(u16),
    /// Only without flags that make namespaces.
    Clone,
    /// Only values of [`PERSONALITIES`].
    Personality,
    /// Not for [`REFUSED_FAMILIES`].
    Socket,
    /// Making a device succeeds without doing anything; the mode is in this argument.
    Node(u32),
}

/// The numbers of one architecture.
struct Architecture {
    /// `AUDIT_ARCH_*`.
    audit: u32,
    refused: &'static [Call],
    ownership: &'static [Call],
    clone: u32,
    personality: u32,
    socket: u32,
    mknod: Option<u32>,
    mknodat: u32,
    /// Numbers above [`NEWEST`] that are calls nevertheless.
    extra: &'static [u32],
}

const X86_64: Architecture = Architecture {
    audit: 0xc000_003e,
    refused: REFUSED_X86_64,
    ownership: OWNERSHIP_X86_64,
    clone: 56,
    personality: 135,
    socket: 41,
    mknod: Some(133),
    mknodat: 259,
    extra: &[],
};

const I386: Architecture = Architecture {
    audit: 0x4000_0003,
    refused: REFUSED_I386,
    ownership: OWNERSHIP_I386,
    clone: 120,
    personality: 136,
    socket: 359,
    mknod: Some(14),
    mknodat: 297,
    extra: &[],
};

const AARCH64: Architecture = Architecture {
    audit: 0xc000_00b7,
    refused: REFUSED_AARCH64,
    ownership: OWNERSHIP_AARCH64,
    clone: 220,
    personality: 92,
    socket: 198,
    mknod: None,
    mknodat: 33,
    extra: &[],
};

const ARM: Architecture = Architecture {
    audit: 0x4000_0028,
    refused: REFUSED_ARM,
    ownership: OWNERSHIP_ARM,
    clone: 120,
    personality: 136,
    socket: 281,
    mknod: Some(14),
    mknodat: 324,
    // breakpoint, cacheflush, set_tls
    extra: &[0x000f_0001, 0x000f_0002, 0x000f_0005],
};

/// The architectures that this kernel runs programs of.
fn architectures() -> &'static [Architecture] {
    if cfg!(target_arch = "x86_64") {
        &[X86_64, I386]
    } else if cfg!(target_arch = "aarch64") {
        &[AARCH64, ARM]
    } else {
        &[]
    }
}

/// docker's default profile for its default capabilities. Empty on an architecture that has no table: no filter.
pub(super) fn default_filter() -> &'static [sock_filter] {
    static FILTER: OnceLock<Vec<sock_filter>> = OnceLock::new();
    FILTER.get_or_init(|| compile(architectures(), default_rules))
}

/// The pretence for a user namespace with a single id: giving files or the process to another id, and making devices, succeed
/// without doing anything. To be loaded after [`default_filter`], which allows these calls.
pub(super) fn single_id_filter() -> &'static [sock_filter] {
    static FILTER: OnceLock<Vec<sock_filter>> = OnceLock::new();
    FILTER.get_or_init(|| compile(architectures(), single_id_rules))
}

/// A verdict from this number on, up to the next.
type Segment = (u32, Verdict);

fn default_rules(architecture: &Architecture) -> Vec<Segment> {
    let refused = architecture.refused.iter().chain(REFUSED_EVERYWHERE);
    let mut rules: Vec<Segment> = refused
        .map(|&(number, _)| (number, Verdict::Errno(EPERM)))
        .collect();
    rules.extend([
        (architecture.clone, Verdict::Clone),
        (architecture.personality, Verdict::Personality),
        (architecture.socket, Verdict::Socket),
        (CLONE3, Verdict::Errno(ENOSYS)),
    ]);
    rules.extend(
        architecture
            .extra
            .iter()
            .map(|&number| (number, Verdict::Allow)),
    );
    segments(rules, NEWEST, Verdict::Errno(ENOSYS))
}

fn single_id_rules(architecture: &Architecture) -> Vec<Segment> {
    let mut rules: Vec<Segment> = architecture
        .ownership
        .iter()
        .map(|&(number, _)| (number, Verdict::Errno(0)))
        .collect();
    rules.extend(architecture.mknod.map(|number| (number, Verdict::Node(1))));
    rules.push((architecture.mknodat, Verdict::Node(2)));
    segments(rules, NEWEST, Verdict::Allow)
}

/// Verdicts of single numbers as a partition of all numbers: allowed up to `newest`, `beyond` above.
fn segments(mut rules: Vec<Segment>, newest: u32, beyond: Verdict) -> Vec<Segment> {
    rules.sort_by_key(|&(number, _)| number);
    let elsewhere = |number: u32| {
        if number <= newest {
            Verdict::Allow
        } else {
            beyond
        }
    };
    let mut partition: Vec<Segment> = vec![(0, Verdict::Allow)];
    let mut starts: Vec<Segment> = vec![(newest + 1, beyond)];
    for &(number, verdict) in &rules {
        starts.push((number, verdict));
        let next = number + 1;
        if !rules.iter().any(|&(other, _)| other == next) {
            starts.push((next, elsewhere(next)));
        }
    }
    starts.sort_by_key(|&(number, _)| number);
    for (number, verdict) in starts {
        match partition.last_mut() {
            Some(last) if last.0 == number => last.1 = verdict,
            Some(last) if last.1 == verdict => {}
            _ => partition.push((number, verdict)),
        }
    }
    partition
}

fn instruction(code: u32, jump_true: u8, jump_false: u8, k: u32) -> sock_filter {
    // BPF operation codes are below 256.
    sock_filter {
        code: u16::try_from(code).unwrap_or_default(),
        jt: jump_true,
        jf: jump_false,
        k,
    }
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

fn jump(condition: u32, jump_true: u8, jump_false: u8, k: u32) -> sock_filter {
    instruction(
        libc::BPF_JMP | condition | libc::BPF_K,
        jump_true,
        jump_false,
        k,
    )
}

fn give(value: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, value)
}

/// Jumps over `distance` instructions, however many.
fn skip(distance: usize) -> sock_filter {
    jump(
        libc::BPF_JA,
        0,
        0,
        u32::try_from(distance).unwrap_or(u32::MAX),
    )
}

// struct seccomp_data: nr, arch, instruction pointer (8 bytes), six arguments of 8 bytes, of which the low half is enough here.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

fn argument(index: u32) -> u32 {
    16 + 8 * index + if cfg!(target_endian = "big") { 4 } else { 0 }
}

fn errno(number: u16) -> u32 {
    libc::SECCOMP_RET_ERRNO | u32::from(number)
}

fn compile(
    architectures: &[Architecture],
    rules: fn(&Architecture) -> Vec<Segment>,
) -> Vec<sock_filter> {
    let Some(_) = architectures.first() else {
        return Vec::new();
    };
    let mut program = vec![load(ARCHITECTURE)];
    for architecture in architectures {
        let mut body = vec![load(NUMBER)];
        body.extend(tree(&rules(architecture)));
        program.push(jump(libc::BPF_JEQ, 1, 0, architecture.audit));
        program.push(skip(body.len()));
        program.extend(body);
    }
    program.push(give(errno(ENOSYS)));
    program
}

/// The segment that the accumulator falls in, by halving.
fn tree(segments: &[Segment]) -> Vec<sock_filter> {
    match segments {
        [] => vec![give(errno(ENOSYS))],
        [(_, verdict)] => leaf(*verdict),
        _ => {
            let (low, high) = segments.split_at(segments.len() / 2);
            let (below, above) = (tree(low), tree(high));
            let start = high.first().map_or(0, |&(start, _)| start);
            let mut program = match u8::try_from(below.len()) {
                Ok(distance) => vec![jump(libc::BPF_JGE, distance, 0, start)],
                Err(_) => vec![jump(libc::BPF_JGE, 0, 1, start), skip(below.len())],
            };
            program.extend(below);
            program.extend(above);
            program
        }
    }
}

fn leaf(verdict: Verdict) -> Vec<sock_filter> {
    let allow = give(libc::SECCOMP_RET_ALLOW);
    let refuse = give(errno(EPERM));
    match verdict {
        Verdict::Allow => vec![allow],
        Verdict::Errno(number) => vec![give(errno(number))],
        Verdict::Clone => vec![
            load(argument(0)),
            jump(libc::BPF_JSET, 1, 0, NAMESPACE_FLAGS),
            allow,
            refuse,
        ],
        Verdict::Personality => one_of(&PERSONALITIES, allow, refuse),
        Verdict::Socket => {
            let mut program = vec![
                load(argument(0)),
                jump(libc::BPF_JGE, 0, 1, FIRST_UNKNOWN_FAMILY),
                refuse,
            ];
            program.extend(one_of(&REFUSED_FAMILIES, refuse, allow));
            program
        }
        Verdict::Node(index) => {
            let mask = instruction(
                libc::BPF_ALU | libc::BPF_AND | libc::BPF_K,
                0,
                0,
                libc::S_IFMT,
            );
            let mut program = vec![load(argument(index)), mask];
            let comparisons = one_of(&[libc::S_IFCHR, libc::S_IFBLK], give(errno(0)), allow);
            program.extend(comparisons.into_iter().skip(1));
            program
        }
    }
}

/// Loads the first argument and compares it with each of `values`.
fn one_of(values: &[u32], then: sock_filter, otherwise: sock_filter) -> Vec<sock_filter> {
    let mut program = vec![load(argument(0))];
    for (index, &value) in values.iter().enumerate() {
        // The comparisons that follow and the other result lie between here and `then`.
        let distance = u8::try_from(values.len() - index).unwrap_or(u8::MAX);
        program.push(jump(libc::BPF_JEQ, distance, 0, value));
    }
    program.extend([otherwise, then]);
    program
}

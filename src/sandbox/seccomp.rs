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

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    /// What the kernel would do: runs a program over a call, and counts instructions.
    fn interpret(
        program: &[sock_filter],
        audit: u32,
        number: u32,
        arguments: [u64; 6],
    ) -> (u32, usize) {
        let data = |offset: u32| match offset {
            0 => number,
            4 => audit,
            offset => {
                let argument = arguments[(offset as usize - 16) / 8];
                u32::try_from(if offset % 8 == 0 {
                    argument & 0xffff_ffff
                } else {
                    argument >> 32
                })
                .unwrap()
            }
        };
        let (mut at, mut accumulator, mut steps) = (0_usize, 0_u32, 0);
        loop {
            let instruction = program[at];
            let (code, k) = (u32::from(instruction.code), instruction.k);
            at += 1;
            steps += 1;
            let mut branch = |condition: bool| {
                at += usize::from(if condition {
                    instruction.jt
                } else {
                    instruction.jf
                });
            };
            match code {
                0x20 => accumulator = data(k),
                0x54 => accumulator &= k,
                0x05 => at += k as usize,
                0x15 => branch(accumulator == k),
                0x35 => branch(accumulator >= k),
                0x45 => branch(accumulator & k != 0),
                0x06 => return (k, steps),
                other => panic!("operation {other:#x}"),
            }
        }
    }

    fn verdict(
        program: &[sock_filter],
        architecture: &Architecture,
        number: u32,
        first: u64,
    ) -> u32 {
        interpret(program, architecture.audit, number, [first, 0, 0, 0, 0, 0]).0
    }

    const EVERY: [&Architecture; 4] = [&X86_64, &I386, &AARCH64, &ARM];

    /// A filter for an architecture and its 32-bit companion.
    fn filters(
        rules: fn(&Architecture) -> Vec<Segment>,
    ) -> [(Vec<sock_filter>, &'static Architecture); 4] {
        EVERY.map(|architecture| {
            let both = if [X86_64.audit, I386.audit].contains(&architecture.audit) {
                [X86_64, I386]
            } else {
                [AARCH64, ARM]
            };
            (compile(&both, rules), architecture)
        })
    }

    #[test]
    fn every_number_gets_the_verdict_of_the_tables() {
        for (program, architecture) in filters(default_rules) {
            let special = [
                architecture.clone,
                architecture.personality,
                architecture.socket,
            ];
            for number in (0..=NEWEST + 40).chain([0x000f_0001, 0x4000_0000, u32::MAX]) {
                let refused = |table: &[Call]| table.iter().any(|&(refused, _)| refused == number);
                let expected = if refused(architecture.refused) || refused(REFUSED_EVERYWHERE) {
                    errno(EPERM)
                } else if number == CLONE3 {
                    errno(ENOSYS)
                } else if number <= NEWEST || architecture.extra.contains(&number) {
                    ALLOW
                } else {
                    errno(ENOSYS)
                };
                // The first argument 0: no flags, personality Linux, AF_UNSPEC.
                let found = verdict(&program, architecture, number, 0);
                assert_eq!(
                    found,
                    expected,
                    "{number} on {:#x} {}",
                    architecture.audit,
                    special.contains(&number)
                );
            }
        }
    }

    #[test]
    fn arguments_decide_where_docker_looks_at_them() {
        for (program, architecture) in filters(default_rules) {
            let clone = |flags| verdict(&program, architecture, architecture.clone, flags);
            assert_eq!(clone(0x003d_0f00), ALLOW, "a thread");
            assert_eq!(clone(17), ALLOW, "a process");
            for flag in [
                0x0002_0000_u64,
                0x0200_0000,
                0x0400_0000,
                0x0800_0000,
                0x1000_0000,
                0x2000_0000,
                0x4000_0000,
            ] {
                assert_eq!(clone(flag | 17), errno(EPERM), "{flag:#x}");
            }
            for (value, allowed) in [
                (0, true),
                (8, true),
                (0x20000, true),
                (0x20008, true),
                (0xffff_ffff, true),
                (0x40000, false),
            ] {
                let found = verdict(&program, architecture, architecture.personality, value);
                assert_eq!(found == ALLOW, allowed, "personality {value:#x}");
            }
            for (family, allowed) in [
                (1, true),
                (2, true),
                (10, true),
                (16, true),
                (17, true),
                (38, false),
                (40, false),
                (45, true),
                (46, false),
                (0xffff_ffff, false),
            ] {
                let found = verdict(&program, architecture, architecture.socket, family);
                assert_eq!(found == ALLOW, allowed, "socket family {family}");
            }
        }
    }

    #[test]
    fn another_architecture_has_no_calls() {
        let program = compile(&[X86_64, I386], default_rules);
        assert_eq!(verdict(&program, &AARCH64, 64, 0), errno(ENOSYS));
    }

    #[test]
    fn a_single_id_pretends() {
        for (program, architecture) in filters(single_id_rules) {
            for &(number, name) in architecture.ownership {
                assert_eq!(
                    verdict(&program, architecture, number, 0),
                    errno(0),
                    "{name}"
                );
            }
            let node = |mode| {
                interpret(
                    &program,
                    architecture.audit,
                    architecture.mknodat,
                    [0, 0, mode, 0, 0, 0],
                )
                .0
            };
            let kinds = [
                (0o020_644, errno(0)),
                (0o060_644, errno(0)),
                (0o010_644, ALLOW),
                (0o100_644, ALLOW),
                (0o140_644, ALLOW),
            ];
            for (mode, expected) in kinds {
                assert_eq!(node(mode), expected, "{mode:o}");
            }
            assert_eq!(
                verdict(&program, architecture, architecture.clone, 0),
                ALLOW
            );
            assert_eq!(verdict(&program, architecture, NEWEST + 1, 0), ALLOW);
        }
    }

    #[test]
    fn filters_are_short_and_calls_cheap() {
        for (program, architecture) in filters(default_rules) {
            assert!(program.len() < 600, "{} instructions", program.len());
            for number in 0..=NEWEST {
                let (_, steps) = interpret(&program, architecture.audit, number, [0; 6]);
                assert!(steps <= 26, "call {number} takes {steps} instructions");
            }
        }
    }

    #[test]
    fn the_tables_are_sorted_and_agree_with_the_system() {
        for architecture in EVERY {
            for table in [
                architecture.refused,
                architecture.ownership,
                REFUSED_EVERYWHERE,
            ] {
                assert!(table.is_sorted_by_key(|&(number, _)| number));
            }
        }
        let own = if cfg!(target_arch = "x86_64") {
            &X86_64
        } else {
            &AARCH64
        };
        let number = |name: &str| {
            own.refused
                .iter()
                .find(|&&(_, known)| known == name)
                .map(|&(number, _)| i64::from(number))
        };
        for (name, expected) in [
            ("mount", libc::SYS_mount),
            ("bpf", libc::SYS_bpf),
            ("unshare", libc::SYS_unshare),
            ("keyctl", libc::SYS_keyctl),
            ("reboot", libc::SYS_reboot),
            ("userfaultfd", libc::SYS_userfaultfd),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        let special = [own.clone, own.personality, own.socket, own.mknodat].map(i64::from);
        assert_eq!(
            special,
            [
                libc::SYS_clone,
                libc::SYS_personality,
                libc::SYS_socket,
                libc::SYS_mknodat
            ]
        );
    }
}

//! System calls by number: which of them a sandbox refuses, and which a single-id sandbox only pretends to do.
//!
//! docker's default profile lists what it allows. These tables are its complement for docker's default capabilities, up to
//! [`NEWEST`]: what is refused is what a reader wants to know, and it is a tenth as long. A number that no table knows is not
//! allowed but unknown (ENOSYS), so that a call of a later kernel is never let through unseen.

/// A number and the call's name.
pub(super) type Call = (u32, &'static str);

/// The last number that was looked at (removexattrat). Calls have had the same number on every architecture since 424.
pub(super) const NEWEST: u32 = 466;

/// `clone3`: answered with ENOSYS, for its flags are in memory where a filter cannot see them; C libraries then use clone.
pub(super) const CLONE3: u32 = 435;

/// Refused on every architecture: mounts, io_uring, other processes' memory and descriptors.
#[rustfmt::skip]
pub(super) const REFUSED_EVERYWHERE: &[Call] = &[
    (425, "io_uring_setup"), (426, "io_uring_enter"), (427, "io_uring_register"), (428, "open_tree"), (429, "move_mount"),
    (430, "fsopen"), (431, "fsconfig"), (432, "fsmount"), (433, "fspick"), (438, "pidfd_getfd"), (440, "process_madvise"),
    (442, "mount_setattr"), (443, "quotactl_fd"), (450, "set_mempolicy_home_node"), (459, "lsm_get_self_attr"),
    (460, "lsm_set_self_attr"), (461, "lsm_list_modules"),
];

/// Refused on x86_64.
#[rustfmt::skip]
pub(super) const REFUSED_X86_64: &[Call] = &[
    (103, "syslog"), (134, "uselib"), (136, "ustat"), (139, "sysfs"), (153, "vhangup"), (155, "pivot_root"),
    (156, "_sysctl"), (163, "acct"), (164, "settimeofday"), (165, "mount"), (166, "umount2"), (167, "swapon"),
    (168, "swapoff"), (169, "reboot"), (170, "sethostname"), (171, "setdomainname"), (172, "iopl"), (173, "ioperm"),
    (174, "create_module"), (175, "init_module"), (176, "delete_module"), (177, "get_kernel_syms"), (178, "query_module"),
    (179, "quotactl"), (180, "nfsservctl"), (212, "lookup_dcookie"), (227, "clock_settime"), (236, "vserver"),
    (237, "mbind"), (238, "set_mempolicy"), (239, "get_mempolicy"), (246, "kexec_load"), (248, "add_key"),
    (249, "request_key"), (250, "keyctl"), (256, "migrate_pages"), (272, "unshare"), (279, "move_pages"),
    (298, "perf_event_open"), (300, "fanotify_init"), (304, "open_by_handle_at"), (308, "setns"), (312, "kcmp"),
    (313, "finit_module"), (320, "kexec_file_load"), (321, "bpf"), (323, "userfaultfd"),
];

/// Refused on i386.
#[rustfmt::skip]
pub(super) const REFUSED_I386: &[Call] = &[
    (21, "mount"), (22, "umount"), (25, "stime"), (51, "acct"), (52, "umount2"), (62, "ustat"), (74, "sethostname"),
    (79, "settimeofday"), (86, "uselib"), (87, "swapon"), (88, "reboot"), (101, "ioperm"), (103, "syslog"), (110, "iopl"),
    (111, "vhangup"), (113, "vm86old"), (115, "swapoff"), (121, "setdomainname"), (127, "create_module"),
    (128, "init_module"), (129, "delete_module"), (130, "get_kernel_syms"), (131, "quotactl"), (134, "bdflush"),
    (135, "sysfs"), (149, "_sysctl"), (166, "vm86"), (167, "query_module"), (169, "nfsservctl"), (217, "pivot_root"),
    (253, "lookup_dcookie"), (264, "clock_settime"), (273, "vserver"), (274, "mbind"), (275, "get_mempolicy"),
    (276, "set_mempolicy"), (283, "kexec_load"), (286, "add_key"), (287, "request_key"), (288, "keyctl"),
    (294, "migrate_pages"), (310, "unshare"), (317, "move_pages"), (336, "perf_event_open"), (338, "fanotify_init"),
    (342, "open_by_handle_at"), (346, "setns"), (349, "kcmp"), (350, "finit_module"), (357, "bpf"), (374, "userfaultfd"),
    (404, "clock_settime64"),
];

/// Refused on aarch64.
#[rustfmt::skip]
pub(super) const REFUSED_AARCH64: &[Call] = &[
    (18, "lookup_dcookie"), (39, "umount2"), (40, "mount"), (41, "pivot_root"), (42, "nfsservctl"), (58, "vhangup"),
    (60, "quotactl"), (89, "acct"), (97, "unshare"), (104, "kexec_load"), (105, "init_module"), (106, "delete_module"),
    (112, "clock_settime"), (116, "syslog"), (142, "reboot"), (161, "sethostname"), (162, "setdomainname"),
    (170, "settimeofday"), (217, "add_key"), (218, "request_key"), (219, "keyctl"), (224, "swapon"), (225, "swapoff"),
    (235, "mbind"), (236, "get_mempolicy"), (237, "set_mempolicy"), (238, "migrate_pages"), (239, "move_pages"),
    (241, "perf_event_open"), (262, "fanotify_init"), (265, "open_by_handle_at"), (268, "setns"), (272, "kcmp"),
    (273, "finit_module"), (280, "bpf"), (282, "userfaultfd"), (294, "kexec_file_load"),
];

/// Refused on arm.
#[rustfmt::skip]
pub(super) const REFUSED_ARM: &[Call] = &[
    (21, "mount"), (51, "acct"), (52, "umount2"), (62, "ustat"), (74, "sethostname"), (79, "settimeofday"), (86, "uselib"),
    (87, "swapon"), (88, "reboot"), (103, "syslog"), (111, "vhangup"), (115, "swapoff"), (121, "setdomainname"),
    (128, "init_module"), (129, "delete_module"), (131, "quotactl"), (134, "bdflush"), (135, "sysfs"), (149, "_sysctl"),
    (169, "nfsservctl"), (218, "pivot_root"), (249, "lookup_dcookie"), (262, "clock_settime"), (271, "pciconfig_iobase"),
    (272, "pciconfig_read"), (273, "pciconfig_write"), (309, "add_key"), (310, "request_key"), (311, "keyctl"),
    (313, "vserver"), (319, "mbind"), (320, "get_mempolicy"), (321, "set_mempolicy"), (337, "unshare"), (344, "move_pages"),
    (347, "kexec_load"), (364, "perf_event_open"), (367, "fanotify_init"), (371, "open_by_handle_at"), (375, "setns"),
    (378, "kcmp"), (379, "finit_module"), (386, "bpf"), (388, "userfaultfd"), (401, "kexec_file_load"),
];

/// Calls on x86_64 that give files or the process to another id.
#[rustfmt::skip]
pub(super) const OWNERSHIP_X86_64: &[Call] = &[
    (92, "chown"), (93, "fchown"), (94, "lchown"), (105, "setuid"), (106, "setgid"), (113, "setreuid"), (114, "setregid"),
    (116, "setgroups"), (117, "setresuid"), (119, "setresgid"), (122, "setfsuid"), (123, "setfsgid"), (260, "fchownat"),
];

/// Calls on i386 that give files or the process to another id.
#[rustfmt::skip]
pub(super) const OWNERSHIP_I386: &[Call] = &[
    (16, "lchown"), (23, "setuid"), (46, "setgid"), (70, "setreuid"), (71, "setregid"), (81, "setgroups"), (95, "fchown"),
    (138, "setfsuid"), (139, "setfsgid"), (164, "setresuid"), (170, "setresgid"), (182, "chown"), (198, "lchown32"),
    (203, "setreuid32"), (204, "setregid32"), (206, "setgroups32"), (207, "fchown32"), (208, "setresuid32"),
    (210, "setresgid32"), (212, "chown32"), (213, "setuid32"), (214, "setgid32"), (215, "setfsuid32"), (216, "setfsgid32"),
    (298, "fchownat"),
];

/// Calls on aarch64 that give files or the process to another id.
#[rustfmt::skip]
pub(super) const OWNERSHIP_AARCH64: &[Call] = &[
    (54, "fchownat"), (55, "fchown"), (143, "setregid"), (144, "setgid"), (145, "setreuid"), (146, "setuid"),
    (147, "setresuid"), (149, "setresgid"), (151, "setfsuid"), (152, "setfsgid"), (159, "setgroups"),
];

/// Calls on arm that give files or the process to another id.
#[rustfmt::skip]
pub(super) const OWNERSHIP_ARM: &[Call] = &[
    (16, "lchown"), (23, "setuid"), (46, "setgid"), (70, "setreuid"), (71, "setregid"), (81, "setgroups"), (95, "fchown"),
    (138, "setfsuid"), (139, "setfsgid"), (164, "setresuid"), (170, "setresgid"), (182, "chown"), (198, "lchown32"),
    (203, "setreuid32"), (204, "setregid32"), (206, "setgroups32"), (207, "fchown32"), (208, "setresuid32"),
    (210, "setresgid32"), (212, "chown32"), (213, "setuid32"), (214, "setgid32"), (215, "setfsuid32"), (216, "setfsgid32"),
    (325, "fchownat"),
];

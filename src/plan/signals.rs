//! STOPSIGNAL: which names and numbers are signals of Linux.

/// Linux's signals by name, without `SIG`; real-time ones are counted from the ends.
const NAMES: [&str; 36] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX",
];

/// Whether `text` is one: a number from 1 to 64, or a name with or without `SIG`, in any case.
pub(super) fn is_signal(text: &str) -> bool {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) {
        return text.parse::<u8>().is_ok_and(|n| (1..=64).contains(&n));
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |prefix: &str, most: u8| {
        name.strip_prefix(prefix)
            .and_then(|n| n.parse::<u8>().ok())
            .is_some_and(|n| (1..=most).contains(&n))
    };
    NAMES.contains(&name) || offset("RTMIN+", 15) || offset("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for yes in [
            "9",
            "64",
            "SIGTERM",
            "sigint",
            "KILL",
            "SIGRTMIN+3",
            "RTMAX-14",
        ] {
            assert!(is_signal(yes), "{yes}");
        }
        for no in [
            "",
            "0",
            "65",
            "SIGNOTHING",
            "SIG",
            "SIGRTMIN+16",
            "RTMAX-0",
            "-9",
            "9x",
        ] {
            assert!(!is_signal(no), "{no}");
        }
    }
}

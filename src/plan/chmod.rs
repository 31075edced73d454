//! `--chmod`: which texts are modes. What a symbolic one means for a file is for whoever sees the file.

/// Whether `text` is an octal mode up to 07777, or a symbolic one (`u=rwX,go+r`).
pub(super) fn is_mode(text: &str) -> bool {
    let digits = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if digits {
        return u32::from_str_radix(text, 8).is_ok_and(|mode| mode <= 0o7777);
    }
    !text.is_empty() && text.split(',').all(is_clause)
}

// `[ugoa]*` and then one or more of `[-+=]` with permissions, or with one of `ugo` to copy from.
fn is_clause(clause: &str) -> bool {
    let operator = |c: char| matches!(c, '+' | '-' | '=');
    let actions = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    actions.starts_with(operator)
        && actions[1..].split(operator).all(|permissions| {
            matches!(permissions, "u" | "g" | "o")
                || permissions
                    .bytes()
                    .all(|c| matches!(c, b'r' | b'w' | b'x' | b'X' | b's' | b't'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for yes in [
            "600",
            "0755",
            "4755",
            "7777",
            "0",
            "u=rwX,go=rX",
            "+x",
            "go-r,u+x",
            "a=r",
            "u+s,g=u",
            "o=",
            "u+r-w",
            "=",
        ] {
            assert!(is_mode(yes), "{yes}");
        }
        for no in [
            "", "8", "17777", "u+rr+q", "rwx", "u", ",", "u+x,", "+ug", "77x", "-é",
        ] {
            assert!(!is_mode(no), "{no}");
        }
    }
}

//! Who `USER[:GROUP]` is, by an image's own databases (passwd(5), group(5)).

/// Who a command runs as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct User {
    /// The user's number.
    pub(crate) uid: u32,
    /// The group's number.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// The home directory; `/` where nobody says.
    pub(crate) home: String,
}

/// Resolves `text` by the contents of `/etc/passwd` and `/etc/group`. Empty is root. A number needs no entry, a name does.
pub(crate) fn resolve(text: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (name, group_text) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group).filter(|g| !g.is_empty())),
        None => (text, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number = name.parse::<u32>().ok();
    let entry = passwd
        .lines()
        .map(|l| l.split(':').collect::<Vec<_>>())
        .find(|f| {
            f.len() >= 4
                && match number {
                    Some(number) => f[2].parse() == Ok(number),
                    None => f[0] == name,
                }
        });
    let field = |at: usize| entry.as_ref().and_then(|f| f.get(at).copied());
    let uid = match (number, field(2).and_then(|t| t.parse().ok())) {
        (Some(number), _) => number,
        (None, Some(uid)) => uid,
        (None, None) => {
            return Err("no matching entries in the image's passwd file".to_owned());
        }
    };
    let home = field(5).filter(|h| !h.is_empty()).unwrap_or("/").to_owned();
    let group_lines = || group.lines().map(|l| l.split(':').collect::<Vec<_>>());
    let (gid, groups) = match group_text {
        Some(wanted) => {
            let gid = wanted.parse().ok().or_else(|| {
                group_lines()
                    .find(|f| f[0] == wanted)
                    .and_then(|f| f.get(2)?.parse().ok())
            });
            let missing = || "no matching entries in the image's group file".to_owned();
            (gid.ok_or_else(missing)?, Vec::new())
        }
        None => {
            let gid = field(3).and_then(|t| t.parse().ok()).unwrap_or(0);
            // Membership is by name, so that a number without an entry has none.
            let user = field(0);
            let member = |f: &Vec<&str>| {
                let users = f.get(3).copied().unwrap_or_default();
                user.is_some_and(|u| users.split(',').any(|m| m == u))
            };
            let mut groups: Vec<u32> = group_lines()
                .filter(member)
                .filter_map(|f| f.get(2)?.parse().ok())
                .collect();
            groups.sort_unstable();
            groups.dedup();
            (gid, groups)
        }
    };
    Ok(User {
        uid,
        gid,
        groups,
        home,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_and_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:7:8::/home/ann:/bin/sh\nbroken\n";
        let group = "root:x:0:\nwheel:x:10:ann,bob\naudio:x:9:ann\nstaff:x:50:\n";
        for (text, uid, gid, groups, home) in [
            ("", 0, 0, &[][..], "/root"),
            ("root", 0, 0, &[], "/root"),
            ("ann", 7, 8, &[9, 10], "/home/ann"),
            ("7", 7, 8, &[9, 10], "/home/ann"),
            ("ann:staff", 7, 50, &[], "/home/ann"),
            ("ann:60", 7, 60, &[], "/home/ann"),
            ("1000", 1000, 0, &[], "/"),
            ("1000:1000", 1000, 1000, &[], "/"),
            (":staff", 0, 50, &[], "/root"),
        ] {
            let want = User {
                uid,
                gid,
                groups: groups.to_vec(),
                home: home.to_owned(),
            };
            assert_eq!(resolve(text, passwd, group), Ok(want), "{text}");
        }
        assert!(resolve("ghost", passwd, group).is_err());
        assert!(resolve("ann:ghosts", passwd, group).is_err());
        assert!(resolve("ann", "", "").is_err());
        assert!(resolve("0", "", "").is_ok());
    }
}

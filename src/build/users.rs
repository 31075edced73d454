//! Users and groups as the image knows them: `/etc/passwd` and `/etc/group` of a root filesystem.

use super::BuildError;

/// Reads a small file of the root filesystem, links followed inside it; `None` if there is none.
pub(super) type Read<'a> = &'a dyn Fn(&str) -> Result<Option<Vec<u8>>, BuildError>;

/// A user to run as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups, sorted; the primary one is among them.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

struct Passwd {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

fn lines(read: Read<'_>, path: &str) -> Result<Vec<Vec<String>>, BuildError> {
    let text = read(path)?.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    Ok(text
        .lines()
        .map(|line| line.trim().split(':').map(str::to_owned).collect())
        .collect())
}

fn passwd(read: Read<'_>) -> Result<Vec<Passwd>, BuildError> {
    let parse = |f: Vec<String>| {
        let [name, _, uid, gid, rest @ ..] = f.as_slice() else {
            return None;
        };
        let home = rest.get(1).cloned().unwrap_or_default();
        Some(Passwd {
            name: name.clone(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home,
        })
    };
    Ok(lines(read, "etc/passwd")?
        .into_iter()
        .filter_map(parse)
        .collect())
}

fn groups(read: Read<'_>) -> Result<Vec<Group>, BuildError> {
    let parse = |f: Vec<String>| {
        let [name, _, gid, rest @ ..] = f.as_slice() else {
            return None;
        };
        let members = rest
            .first()
            .map(|m| m.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        Some(Group {
            name: name.clone(),
            gid: gid.parse().ok()?,
            members,
        })
    };
    Ok(lines(read, "etc/group")?
        .into_iter()
        .filter_map(parse)
        .collect())
}

/// Who `USER[:GROUP]` is for a RUN; empty is root. A name must be known to the image, a number need not be.
pub(super) fn resolve(text: &str, read: Read<'_>) -> Result<User, BuildError> {
    if text.is_empty() {
        // Root without a passwd file is still root.
        let home = passwd(read)?
            .into_iter()
            .find(|p| p.uid == 0)
            .map_or_else(|| "/root".to_owned(), |p| p.home);
        return Ok(User {
            uid: 0,
            gid: 0,
            groups: groups_of(Some("root"), 0, read)?,
            home,
        });
    }
    let (name, group) = text
        .split_once(':')
        .map_or((text, None), |(u, g)| (u, Some(g)));
    let known = passwd(read)?
        .into_iter()
        .find(|p| p.name == name || name.parse() == Ok(p.uid));
    let mut user = match (known, name.parse()) {
        (Some(p), _) => {
            let member = group.is_none_or(str::is_empty).then_some(p.name.as_str());
            let groups = groups_of(member, p.gid, read)?;
            let home = if p.home.is_empty() {
                "/".to_owned()
            } else {
                p.home
            };
            User {
                uid: p.uid,
                gid: p.gid,
                groups,
                home,
            }
        }
        (None, Ok(uid)) => {
            let home = if uid == 0 { "/root" } else { "/" };
            User {
                uid,
                gid: 0,
                groups: vec![0],
                home: home.to_owned(),
            }
        }
        (None, Err(_)) => {
            return Err(BuildError::NoUser {
                user: name.to_owned(),
            });
        }
    };
    if let Some(group) = group.filter(|g| !g.is_empty()) {
        let known = groups(read)?
            .into_iter()
            .find(|g| g.name == group || group.parse() == Ok(g.gid));
        user.gid = match (known, group.parse()) {
            (Some(g), _) => g.gid,
            (None, Ok(gid)) => gid,
            (None, Err(_)) => {
                return Err(BuildError::NoGroup {
                    group: group.to_owned(),
                });
            }
        };
        user.groups = vec![user.gid];
    }
    Ok(user)
}

// The groups that `member` is in, and always the primary one: a file's mode may take a right from a group, and a process that
// has the group only as its primary one could drop it to get around that (CVE-2022-2989).
fn groups_of(member: Option<&str>, primary: u32, read: Read<'_>) -> Result<Vec<u32>, BuildError> {
    let mut gids = vec![primary];
    if let Some(user) = member {
        let all = groups(read)?.into_iter();
        gids.extend(
            all.filter(|g| g.members.iter().any(|m| m == user))
                .map(|g| g.gid),
        );
    }
    gids.sort_unstable();
    gids.dedup();
    Ok(gids)
}

/// Who `--chown=USER[:GROUP]` names, as BuildKit takes it: a number is user and group, a name brings its primary group, and
/// a name that nobody knows is 0; a group that nobody knows leaves the user's own.
pub(super) fn owner(text: &str, read: Read<'_>) -> Result<(u32, u32), BuildError> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, None), |(u, g)| (u, Some(g)));
    let by_name = |name: &str| -> Result<Option<Passwd>, BuildError> {
        Ok(passwd(read)?.into_iter().find(|p| p.name == name))
    };
    let (uid, primary) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) if user.is_empty() => (0, 0),
        Err(_) => by_name(user)?.map_or((0, 0), |p| (p.uid, p.gid)),
    };
    let gid = match group {
        None => primary,
        Some("") => 0,
        Some(group) => match group.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => groups(read)?
                .into_iter()
                .find(|g| g.name == group)
                .map_or(primary, |g| g.gid),
        },
    };
    Ok((uid, gid))
}

/// The names in `--chown=USER[:GROUP]` that the image does not know.
pub(super) fn unknown(text: &str, read: Read<'_>) -> Result<Vec<String>, BuildError> {
    let (user, group) = text
        .split_once(':')
        .map_or((text, ""), |(user, group)| (user, group));
    let is_name = |part: &str| !part.is_empty() && part.parse::<u32>().is_err();
    let mut unknown = Vec::new();
    if is_name(user) && !passwd(read)?.iter().any(|p| p.name == user) {
        unknown.push(user.to_owned());
    }
    if is_name(group) && !groups(read)?.iter().any(|g| g.name == group) {
        unknown.push(group.to_owned());
    }
    Ok(unknown)
}

/// Whether `--chown=USER[:GROUP]` needs the image's files to be understood.
pub(super) fn needs_names(text: &str) -> bool {
    text.split(':')
        .any(|part| !part.is_empty() && part.parse::<u32>().is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(path: &str) -> Result<Option<Vec<u8>>, BuildError> {
        let text = match path {
            "etc/passwd" => {
                "root:x:0:0::/root:/bin/sh\nada:x:7:8::/home/ada:/bin/sh\nbare:x:9:9\nbad:x:y:z\n"
            }
            "etc/group" => "root:x:0:\nada:x:8:\nwheel:x:10:ada,root\n",
            _ => return Ok(None),
        };
        Ok(Some(text.as_bytes().to_vec()))
    }

    #[test]
    fn who_runs() {
        for (text, want) in [
            ("", Some((0, 0, "/root"))),
            ("ada", Some((7, 8, "/home/ada"))),
            ("7", Some((7, 8, "/home/ada"))),
            ("ada:wheel", Some((7, 10, "/home/ada"))),
            ("ada:99", Some((7, 99, "/home/ada"))),
            ("bare", Some((9, 9, "/"))),
            ("1234", Some((1234, 0, "/"))),
            ("nobody", None),
            ("bad", None),
            ("ada:nobody", None),
        ] {
            let user = resolve(text, &image).ok();
            let got = user.as_ref().map(|u| (u.uid, u.gid, u.home.as_str()));
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn who_owns() {
        for (text, want) in [
            ("5", (5, 5)),
            ("5:6", (5, 6)),
            ("ada", (7, 8)),
            ("ada:wheel", (7, 10)),
            (":wheel", (0, 10)),
            ("nobody", (0, 0)),
            ("5:nobody", (5, 5)),
        ] {
            assert_eq!(owner(text, &image).unwrap(), want, "{text}");
            let strangers = text.split(':').filter(|part| *part == "nobody").count();
            assert_eq!(unknown(text, &image).unwrap().len(), strangers, "{text}");
            let numbers = text.split(':').all(|part| part.parse::<u32>().is_ok());
            assert_eq!(needs_names(text), !numbers, "{text}");
        }
    }
}

//! RUN --mount: options to mounts, with what each type has by default.

use crate::dockerfile::ast::{Mount, MountKind, Run};
use crate::dockerfile::{Statement, Word, mounts};

use super::error::PlanError;
use super::graph::{Origin, RunMount, SecretMount, SshMount, TmpfsMount};
use super::lower::{Current, Lowering};
use super::{outline, paths};

/// Modes of what a mount makes, octal.
const CACHE_MODE: u32 = 0o755;
const SECRET_MODE: u32 = 0o400;
const SSH_MODE: u32 = 0o600;

impl Lowering<'_, '_> {
    /// The mounts of a RUN, in order.
    pub(super) fn mounts(
        &mut self,
        current: &Current,
        statement: &Statement,
        run: &Run,
    ) -> Result<Vec<RunMount>, PlanError> {
        let mut mounts = Vec::with_capacity(run.mounts.len());
        let mut agents = 0;
        for mount in &run.mounts {
            let mount = &self.expand_mount(current, mount)?;
            mounts.push(match mount.kind {
                MountKind::Bind => self.bind(current, statement, mount)?,
                MountKind::Cache => self.cache(current, statement, mount)?,
                MountKind::Tmpfs => RunMount::Tmpfs(TmpfsMount {
                    target: required_target(current, mount)?,
                    size_bytes: number(current, mount, "size", &mount.size, size_bytes)?,
                }),
                MountKind::Secret => secret(current, mount)?,
                MountKind::Ssh => {
                    agents += 1;
                    ssh(current, mount, agents - 1)?
                }
            });
            let outline = &mut self.weave.graph().outline;
            let span = current.span(mount.word.span);
            match mounts.last() {
                Some(RunMount::Secret(SecretMount { id, required, .. })) => {
                    outline::add(&mut outline.secrets, id, *required, span);
                }
                Some(RunMount::Ssh(SshMount { id, required, .. })) => {
                    outline::add(&mut outline.ssh, id, *required, span);
                }
                Some(RunMount::Cache { id, .. }) => {
                    outline::add(&mut outline.caches, id, false, span);
                }
                _ => {}
            }
        }
        Ok(mounts)
    }

    /// The mount with all values expanded.
    fn expand_mount(&mut self, current: &Current, mount: &Mount) -> Result<Mount, PlanError> {
        let span = current.span(mount.word.span);
        let mut all_uses = Vec::new();
        let expanded = mounts::expand(mount, &mut |value| {
            let (text, uses) = current.state.scope.expand(value, self.escape)?;
            all_uses.push(uses);
            Ok(text)
        })
        .map_err(|diagnostic| PlanError::Mount {
            message: diagnostic.message,
            hint: diagnostic.hint,
            span,
        })?;
        for uses in all_uses {
            self.lint_undefined(current, &uses, mount.word.span);
        }
        Ok(expanded)
    }

    fn bind(
        &mut self,
        current: &Current,
        statement: &Statement,
        mount: &Mount,
    ) -> Result<RunMount, PlanError> {
        let origin = match &mount.from {
            Some(from) => self.origin(current, from, current.lines(statement))?,
            None => Origin::Context,
        };
        let span = current.span(mount.word.span);
        self.look_at_source(span, given(&mount.source).unwrap_or_default(), &origin);
        Ok(RunMount::Bind {
            target: required_target(current, mount)?,
            origin,
            source: source(mount),
            read_only: mount.read_only,
        })
    }

    fn cache(
        &mut self,
        current: &Current,
        statement: &Statement,
        mount: &Mount,
    ) -> Result<RunMount, PlanError> {
        let id = match given(&mount.id) {
            Some(id) => id.to_owned(),
            // Cleaned, but relative where it was: `a` of two stages is one cache, whatever their WORKDIR.
            None => given(&mount.target).map_or_else(String::new, clean_as_written),
        };
        let id = match self.options.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(namespace) if !namespace.is_empty() => format!("{namespace}/{id}"),
            _ => id,
        };
        let from = match &mount.from {
            None => None,
            Some(from) => match self.origin(current, from, current.lines(statement))? {
                Origin::Vertex(None) => None,
                origin => Some((origin, source(mount))),
            },
        };
        Ok(RunMount::Cache {
            target: required_target(current, mount)?,
            id,
            from,
            sharing: mount.sharing,
            read_only: mount.read_only,
            mode: mode(current, mount, CACHE_MODE)?,
            uid: owner(current, mount, "uid", &mount.uid)?,
            gid: owner(current, mount, "gid", &mount.gid)?,
        })
    }
}

fn secret(current: &Current, mount: &Mount) -> Result<RunMount, PlanError> {
    let target = given(&mount.target);
    let env = given(&mount.env);
    let id = match (given(&mount.source).or(given(&mount.id)), target) {
        (Some(id), _) => id.to_owned(),
        (None, Some(target)) => paths::base_name(target).to_owned(),
        (None, None) => {
            return Err(PlanError::SecretWithoutId {
                span: current.span(mount.word.span),
            });
        }
    };
    let target = match (target, env) {
        (Some(target), _) => Some(absolute(current, mount, target)?),
        (None, Some(_)) => None,
        (None, None) => Some(format!("/run/secrets/{}", paths::base_name(&id))),
    };
    Ok(RunMount::Secret(SecretMount {
        id,
        target,
        env: env.map(str::to_owned),
        mode: mode(current, mount, SECRET_MODE)?,
        uid: owner(current, mount, "uid", &mount.uid)?,
        gid: owner(current, mount, "gid", &mount.gid)?,
        required: mount.required,
    }))
}

fn ssh(current: &Current, mount: &Mount, index: usize) -> Result<RunMount, PlanError> {
    let target = match given(&mount.target) {
        Some(target) => absolute(current, mount, target)?,
        None => format!("/run/buildkit/ssh_agent.{index}"),
    };
    Ok(RunMount::Ssh(SshMount {
        id: given(&mount.id).unwrap_or("default").to_owned(),
        target,
        mode: mode(current, mount, SSH_MODE)?,
        uid: owner(current, mount, "uid", &mount.uid)?,
        gid: owner(current, mount, "gid", &mount.gid)?,
        required: mount.required,
    }))
}

/// An option's value, unless it is empty.
fn given(word: &Option<Word>) -> Option<&str> {
    word.as_ref()
        .map(|w| w.text.as_str())
        .filter(|text| !text.is_empty())
}

fn required_target(current: &Current, mount: &Mount) -> Result<String, PlanError> {
    absolute(current, mount, given(&mount.target).unwrap_or_default())
}

fn absolute(current: &Current, mount: &Mount, target: &str) -> Result<String, PlanError> {
    let absolute = paths::join(&current.state.config.config.working_dir, target);
    if target.is_empty() || absolute == "/" {
        return Err(PlanError::MountTarget {
            target: target.to_owned(),
            span: current.span(mount.word.span),
        });
    }
    Ok(absolute)
}

fn source(mount: &Mount) -> String {
    paths::clean(given(&mount.source).unwrap_or("/"))
}

fn mode(current: &Current, mount: &Mount, default: u32) -> Result<u32, PlanError> {
    let parse = |text: &str| {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777)
    };
    let mode = number(current, mount, "mode", &mount.mode, parse)?;
    Ok(mode.unwrap_or(default))
}

fn owner(
    current: &Current,
    mount: &Mount,
    option: &'static str,
    word: &Option<Word>,
) -> Result<u32, PlanError> {
    let id = number(current, mount, option, word, |text| text.parse().ok())?;
    Ok(id.unwrap_or(0))
}

fn number<T>(
    current: &Current,
    mount: &Mount,
    option: &'static str,
    word: &Option<Word>,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, PlanError> {
    let Some(value) = word.as_ref().map(|w| w.text.as_str()) else {
        return Ok(None);
    };
    match parse(value) {
        Some(number) => Ok(Some(number)),
        None => Err(PlanError::MountNumber {
            option,
            value: value.to_owned(),
            span: current.span(mount.word.span),
        }),
    }
}

/// Go's `path.Clean`, also of a relative path.
fn clean_as_written(path: &str) -> String {
    let clean = paths::clean(path);
    match path.starts_with('/') {
        true => clean,
        false => clean[1..].to_owned(),
    }
}

/// A size with a unit of 1024: `1m`, `1.5GiB`, `512k`, `4096`.
fn size_bytes(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let unit = match unit.strip_suffix('i') {
        Some("") => return None,
        Some(prefix) => prefix,
        None => unit,
    };
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    // Nine digits are more than any fraction of a byte needs here.
    let digits: String = fraction.chars().take(9).collect();
    let scale = 10_u64.pow(u32::try_from(digits.len()).ok()?);
    let part = match digits.parse::<u64>() {
        Ok(part) => u64::try_from(u128::from(part) * (1 << shift) / u128::from(scale)).ok()?,
        Err(_) => 0,
    };
    whole.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("4096", Some(4096)),
            ("1m", Some(1 << 20)),
            ("1.5GiB", Some(3 << 29)),
            ("512kb", Some(512 << 10)),
            ("2 G", Some(2 << 30)),
            ("1b", Some(1)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("1ib", None),
            ("1.2.3", None),
            ("99999999999999p", None),
            ("1.123456789123456k", Some(1150)),
        ] {
            assert_eq!(size_bytes(text), want, "{text}");
        }
    }

    #[test]
    fn cache_ids_are_cleaned_targets() {
        assert_eq!(clean_as_written("/a//b/"), "/a/b");
        assert_eq!(clean_as_written("./a/../b"), "b");
    }
}

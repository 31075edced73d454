//! COPY and ADD.

use crate::dockerfile::ast::Transfer;
use crate::dockerfile::{Span, Statement, Word, lint};
use crate::oci::Digest;

use super::chmod;
use super::error::PlanError;
use super::graph::{CopyOp, CopySource, Op, Origin, Spans};
use super::lower::{Current, Lowering};
use super::paths;
use super::redact::redacted;

/// What a source of ADD is, by its text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Remote {
    /// A path.
    No,
    /// A file by http or https.
    Http,
    /// A git repository.
    Git,
}

impl Lowering<'_, '_> {
    /// One COPY or ADD.
    pub(super) fn transfer(
        &mut self,
        current: &mut Current,
        statement: &Statement,
        transfer: &Transfer,
        add: bool,
    ) -> Result<(), PlanError> {
        let origin = match &transfer.from {
            Some(from) => self.origin(current, from, current.lines(statement))?,
            None => Origin::Context,
        };
        let chown = self.expand_optional(current, transfer.chown.as_ref())?;
        let chmod = self.chmod(current, transfer.chmod.as_ref())?;
        let checksum = self.expand_optional(current, transfer.checksum.as_ref())?;
        let checksum = checksum.as_deref().zip(transfer.checksum.as_ref());
        if let Some((_, word)) = checksum
            && transfer.sources.len() + transfer.heredocs.len() != 1
        {
            return Err(PlanError::ChecksumUse {
                reason: "checksum can't be specified for multiple sources",
                span: current.span(word.span),
            });
        }
        let mut shown = String::from(if add { "ADD" } else { "COPY" });
        if transfer.parents {
            shown.push_str(" --parents");
        }
        for (flag, value) in [("chown", &chown), ("chmod", &chmod)] {
            if let Some(value) = value {
                shown = format!("{shown} --{flag}={value}");
            }
        }
        let mut sources = Vec::with_capacity(transfer.sources.len() + transfer.heredocs.len());
        let mut spans = Vec::with_capacity(sources.capacity());
        for word in &transfer.sources {
            let text = self.expand(current, word)?;
            let span = current.span(word.span);
            let remote = remote(&text);
            shown = match remote {
                Remote::No => format!("{shown} {text}"),
                Remote::Http | Remote::Git => format!("{shown} {}", redacted(&text)),
            };
            let kind = match remote {
                Remote::No => None,
                Remote::Http => Some("URL"),
                Remote::Git => Some("git ref"),
            };
            if let Some(kind) = kind.filter(|_| !add) {
                return Err(PlanError::CopyRemote {
                    kind,
                    url: redacted(&text),
                    span,
                });
            }
            spans.push(span);
            if remote == Remote::No {
                self.look_at_source(span, &text, &origin);
            }
            if remote == Remote::No && origin == Origin::Context {
                self.lint_ignored(span, if add { "Add" } else { "Copy" }, &text);
            }
            sources.push(match (remote, checksum) {
                (Remote::No, None) => CopySource::Path(text),
                (Remote::No, Some((_, word))) => {
                    return Err(PlanError::ChecksumUse {
                        reason: "checksum requires HTTP(S) or Git sources",
                        span: current.span(word.span),
                    });
                }
                (Remote::Http, checksum) => CopySource::Http {
                    checksum: checksum
                        .map(|(sum, word)| digest(sum, word, &text, current))
                        .transpose()?,
                    url: text,
                },
                (Remote::Git, checksum) => CopySource::Git {
                    url: text,
                    keep_git_dir: transfer.keep_git_dir.unwrap_or(false),
                    checksum: checksum.map(|(text, _)| text.to_owned()),
                },
            });
        }
        for doc in &transfer.heredocs {
            spans.push(current.span(doc.word.span));
            shown = format!("{shown} <<{}", doc.name);
            let content = match doc.expand {
                false => doc.content.clone(),
                true => {
                    let scope = &current.state.scope;
                    let (text, uses) =
                        scope
                            .expand_heredoc(&doc.content)
                            .map_err(|source| PlanError::Word {
                                text: doc.word.text.clone(),
                                span: current.span(doc.span),
                                source,
                            })?;
                    self.lint_undefined(current, &uses, doc.span);
                    text
                }
            };
            sources.push(CopySource::Inline {
                name: doc.name.clone(),
                content,
            });
        }
        let destination = self.expand(current, &transfer.destination)?;
        let created_by = format!("{shown} {destination} # buildkit");
        self.look_at_destination(current, transfer, &destination, chown.as_deref());
        let workdir = &current.state.config.config.working_dir;
        let op = CopyOp {
            add,
            origin,
            sources,
            destination: paths::join_destination(workdir, &destination),
            chown,
            // A mode may need the base's files, which a linked layer does not look at.
            link: transfer.link && chmod.is_none(),
            chmod,
            parents: transfer.parents,
            excludes: transfer.excludes.iter().map(|w| w.text.clone()).collect(),
            unpack: transfer.unpack,
        };
        let name = redacted(&self.step_name(current, statement));
        let spans = Spans {
            sources: spans,
            target: Some(current.span(transfer.destination.span)),
            chown: transfer.chown.as_ref().map(|w| current.span(w.span)),
            ..Spans::default()
        };
        self.push(current, statement, Op::Copy(op), name, created_by, spans);
        Ok(())
    }

    fn lint_ignored(&mut self, span: Span, instruction: &str, source: &str) {
        let Some(ignore) = &self.options.ignore else {
            return;
        };
        let clean = paths::clean(source);
        let path = clean.trim_start_matches('/').as_bytes();
        // Of a folder that is left out, a part may be brought back: who copies it wants that part.
        if ignore.matches(path) && !ignore.may_reinclude_below(path) {
            self.weave
                .warn(lint::copy_ignored_file(span, instruction, source));
        }
    }

    fn chmod(
        &mut self,
        current: &Current,
        word: Option<&Word>,
    ) -> Result<Option<String>, PlanError> {
        let mode = self.expand_optional(current, word)?;
        match (mode, word) {
            (Some(mode), Some(word)) if !chmod::is_mode(&mode) => Err(PlanError::Chmod {
                mode,
                span: current.span(word.span),
            }),
            (mode, _) => Ok(mode),
        }
    }
}

fn digest(text: &str, word: &Word, url: &str, current: &Current) -> Result<Digest, PlanError> {
    text.parse().map_err(|source| PlanError::Checksum {
        checksum: text.to_owned(),
        url: url.to_owned(),
        span: current.span(word.span),
        source,
    })
}

/// What a source is. A web address is a git repository when its path ends in `.git`.
fn remote(text: &str) -> Remote {
    let web = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    if let Some(rest) = web {
        let address = rest.split(['?', '#']).next().unwrap_or(rest);
        return match address.contains('/') && address.ends_with(".git") {
            true => Remote::Git,
            false => Remote::Http,
        };
    }
    let scheme = text.starts_with("git://") || text.starts_with("ssh://");
    match scheme || is_scp_like(text) {
        true => Remote::Git,
        false => Remote::No,
    }
}

/// `USER@HOST:PATH`.
fn is_scp_like(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let Some((user, rest)) = text.split_once('@') else {
        return false;
    };
    let Some((host, _)) = rest.split_once(':') else {
        return false;
    };
    !user.is_empty()
        && user.chars().all(word)
        && !host.is_empty()
        && host.chars().all(|c| word(c) || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes() {
        for (text, want) in [
            ("a/b", Remote::No),
            ("./http://x", Remote::No),
            ("github.com/moby/buildkit", Remote::No),
            ("x@y", Remote::No),
            ("a@b/c:d", Remote::No),
            ("http://x/f.txt", Remote::Http),
            ("https://x/r.git/file", Remote::Http),
            ("https://x.git", Remote::Http),
            ("https://x/r.git", Remote::Git),
            ("http://127.0.0.1:1/r.git#main:docs", Remote::Git),
            ("https://x/r.git?ref=v1", Remote::Git),
            ("https://x/f?u=r.git", Remote::Http),
            ("git://x/r", Remote::Git),
            ("ssh://git@x/r", Remote::Git),
            ("git@x.y:o/r.git#v1", Remote::Git),
        ] {
            assert_eq!(remote(text), want, "{text}");
        }
    }
}

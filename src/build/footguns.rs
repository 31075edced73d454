//! What BuildKit would do without a word: told as a warning, or the end of the build with `--strict`.
//!
//! What only making a layer shows is kept with its cache record, as [`Remark`]s: a later build that takes the layer tells of it
//! again, and a strict one refuses it.

use crate::dockerfile::{Diagnostic, Span, footgun};
use crate::layer::{Form, Leak, Needles};
use crate::plan::graph::{CopySource, Op, Output, Vertex, VertexId};
use crate::plan::{Graph, redacted};
use crate::store::Remark;

use super::draft::display;
use super::engine::Engine;
use super::event::EventKind;
use super::{BuildError, Request};

impl Engine<'_> {
    /// Tells of something; with `--strict` it is an error.
    pub(super) fn warn(&self, found: Diagnostic) -> Result<(), BuildError> {
        if !(self.request.speaks)(&found) {
            return Ok(());
        }
        if self.request.strict {
            return Err(BuildError::Footgun(Box::new(found)));
        }
        self.events.event(EventKind::Warning(found));
        Ok(())
    }

    /// Tells of something about the layer of a vertex, and notes it for whoever takes the layer from the cache.
    pub(super) fn remark(
        &self,
        id: VertexId,
        remark: Remark,
        remarks: &mut Vec<Remark>,
    ) -> Result<(), BuildError> {
        if remarks.contains(&remark) {
            return Ok(());
        }
        self.warn_again(self.vertex_of(id), std::slice::from_ref(&remark))?;
        remarks.push(remark);
        Ok(())
    }

    /// Tells what is to be known of a layer that was made before.
    pub(super) fn warn_again(&self, vertex: &Vertex, remarks: &[Remark]) -> Result<(), BuildError> {
        remarks
            .iter()
            .filter_map(|remark| diagnostic(vertex, remark))
            .try_for_each(|found| self.warn(found))
    }

    /// Looks for secrets in what instructions leave in configurations and histories.
    pub(super) fn look_at_configs(&self) -> Result<(), BuildError> {
        let Some(needles) = &self.needles else {
            return Ok(());
        };
        for output in &self.request.graph.outputs {
            let mut told: Vec<&str> = Vec::new();
            for entry in &output.history {
                for (secret, form) in needles.find(entry.created_by.as_bytes()) {
                    told.push(secret);
                    let word = entry.created_by.split(' ').next().unwrap_or_default();
                    let place = format!("the image's history, by this {word}{}", in_form(form));
                    self.warn(footgun::secret_in_config(entry.span, secret, &place))?;
                }
            }
            for (place, secret, form) in in_config(needles, output) {
                if !told.contains(&secret.as_str()) {
                    let place = format!("{place} of the image{}", in_form(form));
                    let nowhere = Span::default();
                    self.warn(footgun::secret_in_config(nowhere, &secret, &place))?;
                }
            }
        }
        Ok(())
    }
}

/// What to look for: the build's secrets, and passwords in URLs that it reads. Also which secrets cannot be looked for.
pub(super) fn needles(request: &Request<'_>) -> (Option<Needles>, Vec<String>) {
    let (mut values, mut left_out) = (Vec::new(), Vec::new());
    for (id, value) in request.secrets.values() {
        match value {
            Some(value) => values.push((id, value)),
            None => left_out.push(id),
        }
    }
    values.extend(passwords(request.graph));
    let (needles, short) = Needles::new(values);
    left_out.extend(short);
    (needles, left_out)
}

/// The passwords of URLs that are fetched, by the URL without them.
fn passwords(graph: &Graph) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for vertex in &graph.vertices {
        let Op::Copy(copy) = &vertex.op else { continue };
        for source in &copy.sources {
            let (CopySource::Http { url, .. } | CopySource::Git { url, .. }) = source else {
                continue;
            };
            let authority = url
                .split_once("://")
                // ssh has no password in an address, and its user is no secret.
                .filter(|(scheme, _)| !scheme.eq_ignore_ascii_case("ssh"))
                .map(|(_, rest)| rest.split(['/', '?', '#']).next().unwrap_or(rest));
            if let Some((login, _)) = authority.and_then(|a| a.rsplit_once('@')) {
                let password = login
                    .split_once(':')
                    .map_or(login, |(_, password)| password);
                let name = format!("of {}", redacted(url));
                found.push((name, password.as_bytes().to_vec()));
            }
        }
    }
    found
}

/// What secrets in a layer are to be remembered as.
pub(super) fn of_leaks(leaks: &[Leak]) -> Vec<Remark> {
    let remark = |leak: &Leak| {
        let place = match &leak.path {
            Some(path) => display(path),
            None => "a file's name".to_owned(),
        };
        Remark {
            rule: footgun::SECRET_IN_LAYER.to_owned(),
            subject: leak.secret.clone(),
            place: format!("{place}{}", in_form(leak.form)),
        }
    };
    leaks.iter().map(remark).collect()
}

fn in_form(form: Form) -> &'static str {
    match form {
        Form::Raw => "",
        Form::Base64 => ", in base64",
        Form::Url => ", URL-encoded",
    }
}

/// Several sources were written to one path.
pub(super) fn several_sources(destination: &str) -> Remark {
    Remark {
        rule: footgun::SOURCES_TO_ONE_FILE.to_owned(),
        subject: destination.to_owned(),
        place: String::new(),
    }
}

/// Nobody has this name.
pub(super) fn unknown_owner(name: &str) -> Remark {
    Remark {
        rule: footgun::UNKNOWN_OWNER.to_owned(),
        subject: name.to_owned(),
        place: String::new(),
    }
}

/// A remark at its place in the Dockerfile; nothing for one of another version of strata.
fn diagnostic(vertex: &Vertex, remark: &Remark) -> Option<Diagnostic> {
    let spans = &vertex.spans;
    let target = spans.target.unwrap_or(spans.instruction);
    let Remark {
        rule,
        subject,
        place,
    } = remark;
    Some(match rule.as_str() {
        footgun::SOURCES_TO_ONE_FILE => footgun::sources_to_one_file(target, subject),
        footgun::UNKNOWN_OWNER => footgun::unknown_owner(spans.chown.unwrap_or(target), subject),
        footgun::SECRET_IN_LAYER => footgun::secret_in_layer(spans.instruction, subject, place),
        _ => return None,
    })
}

/// Secrets in the texts of a configuration: where, which, how.
fn in_config(needles: &Needles, output: &Output) -> Vec<(String, String, Form)> {
    let mut found = Vec::new();
    let config = &output.config.config;
    let mut look = |place: String, text: &str| {
        for (secret, form) in needles.find(text.as_bytes()) {
            found.push((place.clone(), secret.to_owned(), form));
        }
    };
    for entry in &config.env {
        // The name of a variable is no secret, unless it holds one.
        let name = entry.split('=').next().unwrap_or_default();
        let place = match needles.find(name.as_bytes()).is_empty() {
            true => format!("the variable {name}"),
            false => "a variable".to_owned(),
        };
        look(place, entry);
    }
    for (key, value) in &config.labels {
        let place = match needles.find(key.as_bytes()).is_empty() {
            true => format!("the label {key}"),
            false => "a label".to_owned(),
        };
        look(place, &format!("{key}={value}"));
    }
    for (place, words) in [
        ("the command", &config.cmd),
        ("the entrypoint", &config.entrypoint),
    ] {
        for word in words.iter().flatten() {
            look(place.to_owned(), word);
        }
    }
    for trigger in &config.on_build {
        look("a trigger".to_owned(), trigger);
    }
    if let Some(check) = &config.healthcheck {
        check
            .test
            .iter()
            .for_each(|word| look("the health check".to_owned(), word));
    }
    found
}

//! `images`, `tag`, `rmi` and `history`.

use std::time::SystemTime;

use serde::Serialize;
use strata::inspect::HistoryRow;
use strata::oci::{Digest, Platform};
use strata::store::{Named, PruneReport, Store, StoreError};

use super::error::{CliError, Doing as _};
use super::inspect;
use super::output::{
    Format, Table, human_created, human_size, note, print, print_json, print_line, truncate,
};
use super::session::Session;
use super::values::reference;

/// How wide CREATED BY is in docker's history.
const CREATED_BY_WIDTH: usize = 45;

/// List the images of the store
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata images
  strata images app                        the tags of one repository
  strata images -q | xargs strata rmi
  strata images --format json | jq '.[].reference'

SIZE is what the image's blobs take in the store, compressed as they are.")]
pub(crate) struct ImagesArgs {
    /// Only this repository, or this name
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Only image IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Show IDs and digests whole
    #[arg(long)]
    no_trunc: bool,
    /// Show the digests of the manifests
    #[arg(long)]
    digests: bool,
    /// How the list is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// Give an image another name
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Examples:\n  strata tag app registry.example/team/app:1.2\n  strata tag 3f2a9c app:old"
)]
pub(crate) struct TagArgs {
    /// The image: a name, or the beginning of its ID
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The new name
    #[arg(value_name = "NAME[:TAG]")]
    name: String,
}

/// Remove images, or names of images
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata rmi app:old
  strata rmi -f 3f2a9c                     by ID, with all its names

An image that loses its last name goes with all that only it needs. While other strata processes use the store, the content
stays for the next strata prune.")]
pub(crate) struct RmiArgs {
    /// Names, or beginnings of IDs
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Remove an ID that has several names; ignore images that are not there
    #[arg(short = 'f', long)]
    force: bool,
}

/// Show how an image was made
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  strata history app
  strata history --no-trunc docker://docker.io/library/debian    without pulling it")]
pub(crate) struct HistoryArgs {
    /// A name or ID in the store, or docker://, oci:, oci-archive:, docker-archive:
    #[arg(value_name = "IMAGE")]
    image: String,
    /// The platform, where the image has several
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Show everything whole
    #[arg(long)]
    no_trunc: bool,
    /// Only IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// How the list is shown
    #[arg(long, value_enum, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// An image of the list.
#[derive(Serialize)]
struct ImageRow {
    reference: Option<String>,
    repository: Option<String>,
    tag: Option<String>,
    /// Digest of the manifest or index.
    digest: Digest,
    /// Image ID: digest of the configuration.
    id: Option<Digest>,
    platform: Option<Platform>,
    created: Option<String>,
    size_bytes: Option<u64>,
}

impl From<Named> for ImageRow {
    fn from(named: Named) -> ImageRow {
        let reference = named.reference.as_ref();
        ImageRow {
            repository: reference.map(|r| r.familiar_name()),
            tag: reference.and_then(|r| r.tag()).map(str::to_owned),
            reference: reference.map(ToString::to_string),
            digest: named.descriptor.digest,
            id: named.image_id,
            platform: named.descriptor.platform,
            created: named.created,
            size_bytes: named.size_bytes,
        }
    }
}

impl ImageRow {
    fn shown_id(&self, whole: bool) -> String {
        let id = self.id.unwrap_or(self.digest);
        if whole { id.to_string() } else { id.short() }
    }

    /// Whether it is what `images NAME` asks for: a repository, or a repository and tag.
    fn is(&self, wanted: &str) -> bool {
        let Ok(parsed) = wanted.parse::<strata::oci::Reference>() else {
            return false;
        };
        let has_tag = wanted.rsplit('/').next().is_some_and(|n| n.contains(':'));
        self.repository.as_deref() == Some(parsed.familiar_name().as_str())
            && (!has_tag || self.tag.as_deref() == parsed.tag())
    }
}

impl ImagesArgs {
    /// Runs `images`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let store = session.store()?;
        let names = store.names().doing(|| "list the images".to_owned())?;
        let mut rows: Vec<ImageRow> = names.into_iter().map(ImageRow::from).collect();
        if let Some(wanted) = &self.name {
            rows.retain(|r| r.is(wanted));
        }
        // The newest first, as docker has it; RFC 3339 in UTC sorts as text.
        rows.sort_by(|a, b| {
            b.created
                .cmp(&a.created)
                .then_with(|| a.reference.cmp(&b.reference))
        });
        if self.quiet {
            let mut ids: Vec<String> = rows.iter().map(|r| r.shown_id(self.no_trunc)).collect();
            ids.dedup();
            return ids.iter().try_for_each(|id| print_line(id));
        }
        match self.format {
            Format::Json => print_json(&rows),
            Format::Table => print(self.table(&rows, SystemTime::now()).render()),
        }
    }

    fn table(&self, rows: &[ImageRow], now: SystemTime) -> Table {
        let mut headings = vec!["REPOSITORY", "TAG"];
        if self.digests {
            headings.push("DIGEST");
        }
        headings.extend(["IMAGE ID", "CREATED", "SIZE"]);
        let mut table = Table::new(&headings);
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "<none>".to_owned());
        for row in rows {
            let mut cells = vec![or_none(&row.repository), or_none(&row.tag)];
            if self.digests {
                cells.push(row.digest.to_string());
            }
            cells.push(row.shown_id(self.no_trunc));
            cells.push(human_created(row.created.as_deref(), now));
            cells.push(row.size_bytes.map_or_else(|| "N/A".to_owned(), human_size));
            table.row(cells);
        }
        table
    }
}

impl TagArgs {
    /// Runs `tag`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let name = reference("NAME", &self.name)?;
        if name.tag().is_none() {
            return Err(CliError::Usage(format!(
                "invalid name {:?}: a name has a tag, not a digest",
                self.name
            )));
        }
        let store = session.store()?;
        let image = store
            .find(&self.image)
            .doing(|| format!("tag {}", self.image))?;
        store
            .tag(&name, &image.descriptor)
            .doing(|| format!("tag {}", self.image))
    }
}

impl RmiArgs {
    /// Runs `rmi`. Every image is tried; the first that cannot be removed decides the exit code.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let mut store = session.store()?;
        let mut failure = None;
        for text in &self.images {
            match self.remove(&mut store, text) {
                Ok(lines) => lines.iter().try_for_each(|l| print_line(l))?,
                Err(e) => {
                    if let Some(first) = failure.replace(e)
                        && let Some(text) = first.render()
                    {
                        note(text.trim_end());
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn remove(&self, store: &mut Store, text: &str) -> Result<Vec<String>, CliError> {
        let doing = || format!("remove {text}");
        let image = match store.find(text) {
            Err(StoreError::NoSuchImage(_)) if self.force => return Ok(Vec::new()),
            other => other.doing(doing)?,
        };
        let by_name = text
            .parse::<strata::oci::Reference>()
            .ok()
            .filter(|r| image.names.contains(r));
        if let Some(name) = by_name {
            let report = store.rmi(&name).doing(doing)?;
            return Ok(removed(&report));
        }
        if image.names.len() > 1 && !self.force {
            let names: Vec<String> = image.names.iter().map(|n| n.familiar()).collect();
            return Err(CliError::Refused(format!(
                "cannot remove {text}: it has several names ({}); use -f to remove them all",
                names.join(", ")
            )));
        }
        let report = store.rmi_image(&image.descriptor.digest).doing(doing)?;
        Ok(removed(&report))
    }
}

/// What went, a line each.
fn removed(report: &PruneReport) -> Vec<String> {
    let names = report.untagged.iter();
    let mut lines: Vec<String> = names
        .map(|n| format!("Untagged: {}", n.familiar()))
        .collect();
    lines.extend(report.images.iter().map(|d| format!("Deleted: {d}")));
    lines
}

impl HistoryArgs {
    /// Runs `history`.
    pub(crate) fn run(&self, session: &Session) -> Result<(), CliError> {
        let documents = inspect::documents(session, &self.image, self.platform.as_deref())?;
        let rows = documents.history();
        let id = |row: &HistoryRow| match row.id {
            Some(id) if self.no_trunc => id.to_string(),
            Some(id) => id.short(),
            None => "<missing>".to_owned(),
        };
        if self.quiet {
            return rows.iter().try_for_each(|r| print_line(&id(r)));
        }
        match self.format {
            Format::Json => print_json(&rows),
            Format::Table => {
                let mut table = Table::new(&["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
                for row in &rows {
                    // One row, one line: here-documents have newlines.
                    let created_by = row.created_by.replace(['\n', '\t'], " ");
                    table.row(vec![
                        id(row),
                        human_created(row.created.as_deref(), SystemTime::now()),
                        if self.no_trunc {
                            created_by
                        } else {
                            truncate(&created_by, CREATED_BY_WIDTH)
                        },
                        human_size(row.size_bytes),
                        row.comment.clone(),
                    ]);
                }
                print(table.render())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_or_a_name_is_listed() {
        let row = |text: &str| {
            let reference: strata::oci::Reference = text.parse().unwrap();
            ImageRow {
                repository: Some(reference.familiar_name()),
                tag: reference.tag().map(str::to_owned),
                reference: Some(reference.to_string()),
                digest: Digest::of(b""),
                id: None,
                platform: None,
                created: None,
                size_bytes: None,
            }
        };
        for (name, wanted, is) in [
            ("app:1", "app", true),
            ("app:1", "app:1", true),
            ("app:1", "app:2", false),
            ("app", "docker.io/library/app", true),
            ("127.0.0.1:5/app", "app", false),
            ("127.0.0.1:5/app", "127.0.0.1:5/app", true),
            ("app", "???", false),
        ] {
            assert_eq!(row(name).is(wanted), is, "{name} {wanted}");
        }
    }
}

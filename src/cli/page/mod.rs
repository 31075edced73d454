//! A report as one page of HTML that asks no network for anything.
//!
//! The page carries its style, its scripts and the report ([`Page`], as JSON in a block that is no script). Its policy
//! allows these very scripts and styles by their hashes, and nothing else: whatever a name in an image says, it can neither
//! run nor load. The scripts write every text as text.
//!
//! ```text
//! page.html   the frame        report.js   the data, and how its parts are written
//! page.css    both themes      treemap.js  the map      table.js  the files      page.js  the rest, and the start
//! ```
//!
//! Equal reports give equal bytes.

mod dedup;
mod files;
mod layers;
mod text;

use std::path::Path;

use base64::Engine as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub(crate) use dedup::dedup;
use files::{Change, Fate, FileTable, Row};
pub(crate) use layers::layers;
use text::Text;

use super::error::CliError;
use super::output::write_document;

/// Who made it, at its foot.
const GENERATOR: &str = concat!("strata ", env!("CARGO_PKG_VERSION"));

const FRAME: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = concat!(
    "(() => {\n\"use strict\";\n",
    include_str!("report.js"),
    include_str!("treemap.js"),
    include_str!("table.js"),
    include_str!("page.js"),
    "})();\n"
);

/// What a page shows.
#[derive(Serialize)]
pub(crate) struct Page {
    /// The command that made it, as typed, without the name of the page.
    pub(crate) command: Text,
    /// Its heading.
    pub(crate) title: Text,
    /// The program and its version.
    pub(crate) generator: &'static str,
    /// Sums over all images.
    pub(crate) totals: Totals,
    /// The images that the report is about.
    pub(crate) images: Vec<Image>,
    /// The layers of the one image; empty for several.
    pub(crate) layers: Vec<Layer>,
    /// What could be saved, and how.
    pub(crate) findings: Vec<Finding>,
    /// Sentences at the foot.
    pub(crate) notes: Vec<String>,
    /// The files of the layers.
    #[serde(flatten)]
    pub(crate) files: FileTable,
}

/// Sums over all images, shared layers once.
#[derive(Serialize, Default)]
pub(crate) struct Totals {
    pub(crate) unpacked_bytes: u64,
    pub(crate) compressed_bytes: u64,
    /// What one image wastes; of several, what the layers hold of contents that are in them before.
    pub(crate) wasted_bytes: u64,
    /// Blobs that several images have.
    pub(crate) shared_bytes: u64,
}

/// One image. Its unique, shared and wasted bytes add up to its unpacked ones.
#[derive(Serialize)]
pub(crate) struct Image {
    pub(crate) name: Text,
    pub(crate) digest: String,
    pub(crate) platform: String,
    pub(crate) unpacked_bytes: u64,
    pub(crate) unique_bytes: u64,
    pub(crate) shared_bytes: u64,
    pub(crate) wasted_bytes: u64,
}

/// One layer of the one image.
#[derive(Serialize)]
pub(crate) struct Layer {
    pub(crate) digest: String,
    pub(crate) diff_id: String,
    /// What made it; empty if the history does not say.
    pub(crate) instruction: String,
    /// The Dockerfile, where known.
    pub(crate) file: Option<String>,
    /// The line in it, where known.
    pub(crate) line: Option<u32>,
    /// Whether the base brought it.
    pub(crate) base: bool,
    pub(crate) compressed_bytes: u64,
    pub(crate) unpacked_bytes: u64,
    /// Bytes that a later layer puts others in the place of.
    pub(crate) overwritten_bytes: u64,
    /// Bytes that a later layer deletes.
    pub(crate) deleted_bytes: u64,
    pub(crate) added: u64,
    pub(crate) changed: u64,
    pub(crate) removed: u64,
}

/// Something that could be saved.
#[derive(Serialize)]
pub(crate) struct Finding {
    pub(crate) title: Text,
    pub(crate) wasted_bytes: u64,
    pub(crate) compressed_estimate_bytes: u64,
    /// The place of the image among those of the page.
    pub(crate) image: Option<usize>,
    pub(crate) instruction: Option<String>,
    pub(crate) file: Option<String>,
    pub(crate) line: Option<u32>,
    /// Some of the paths.
    pub(crate) paths: Vec<Text>,
    /// How many more there are.
    pub(crate) more_paths: u64,
    /// What to do; code stands between backticks.
    pub(crate) change: Option<String>,
}

impl Page {
    /// Writes the page to a file, whole or not at all; `-` is standard output.
    pub(crate) fn write(&self, path: &Path) -> Result<(), CliError> {
        write_document(path, self.render())
    }

    /// The whole page.
    fn render(&self) -> String {
        let data = serde_json::to_string(self).expect("numbers and strings become JSON");
        fill(
            FRAME,
            &[
                ("@STYLE_HASH@", &source_hash(STYLE)),
                ("@SCRIPT_HASH@", &source_hash(SCRIPT)),
                ("@TITLE@", &html(&self.title.lossy())),
                ("@STYLE@", STYLE),
                ("@DATA@", &in_html(&data)),
                ("@SCRIPT@", SCRIPT),
            ],
        )
    }
}

/// The frame with its marks replaced; marks in what is put in stay what they are.
fn fill(frame: &str, values: &[(&str, &str)]) -> String {
    let length = values.iter().map(|(_, value)| value.len()).sum::<usize>();
    let mut out = String::with_capacity(frame.len() + length);
    let mut rest = frame;
    while let Some((at, mark, value)) = values
        .iter()
        .filter_map(|(mark, value)| Some((rest.find(mark)?, mark, value)))
        .min_by_key(|(at, ..)| *at)
    {
        out.push_str(&rest[..at]);
        out.push_str(value);
        rest = &rest[at + mark.len()..];
    }
    out.push_str(rest);
    out
}

/// A source as a Content-Security-Policy names it (CSP 3, section 2.3.1).
fn source_hash(source: &str) -> String {
    let hash = Sha256::digest(source.as_bytes());
    let text = base64::engine::general_purpose::STANDARD.encode(hash);
    format!("sha256-{text}")
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// JSON that can stand in a `script` element: no `</script>`, no `<!--`, and no line ends that scripts do not allow. These
/// characters occur only inside its strings, so a blind replacement is a correct one.
fn in_html(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + json.len() / 64);
    for c in json.chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;

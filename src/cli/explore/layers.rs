//! A layer in words: some lines beside the list, all of it on a page.

use strata::inspect::{LayerRow, escaped};

use crate::cli::output::human_size;

/// What is known of a layer: short labels, and texts that are safe on a terminal.
pub(super) fn facts(row: &LayerRow<'_>) -> Vec<(&'static str, String)> {
    let mut facts = Vec::new();
    if let Some(lines) = row.blame.dockerfile {
        let range = match lines.end_line {
            end if end > lines.line => format!("{}-{end}", lines.line),
            _ => lines.line.to_string(),
        };
        let from = format!("{}:{range} ({})", lines.file, lines.stage);
        facts.push(("line", escaped(from.as_bytes())));
    }
    let sizes = format!(
        "{}, {} unpacked",
        human_size(row.size_bytes),
        human_size(row.unpacked_bytes)
    );
    facts.push(("size", sizes));
    let counts = format!("+{} ~{} -{}", row.added, row.changed, row.removed);
    facts.push(("files", counts));
    facts.push(("wasted", human_size(row.wasted_bytes)));
    if row.hidden_bytes > 0 {
        let hidden = format!("{} of layers below", human_size(row.hidden_bytes));
        facts.push(("hides", hidden));
    }
    facts
}

/// The instruction, on one line.
pub(super) fn instruction(row: &LayerRow<'_>) -> String {
    let text = row.blame.instruction;
    escaped(text.unwrap_or("(the history does not tell)").as_bytes())
}

/// Everything, a fact a line.
pub(super) fn all_about(row: &LayerRow<'_>) -> String {
    let mut text = format!("{}\n\n", instruction(row));
    let mut line = |label: &str, value: &str| text.push_str(&format!("{label:8} {value}\n"));
    for (label, value) in facts(row) {
        line(label, &value);
    }
    line("digest", &row.digest.to_string());
    line("diffID", &row.diff_id.0.to_string());
    line("type", &escaped(row.media_type.to_string().as_bytes()));
    if let Some(created_by) = row.created_by {
        // Lines of a here-document stay lines.
        text.push_str("\nIn the history as\n");
        for part in created_by.lines() {
            text.push_str(&format!("  {}\n", escaped(part.as_bytes())));
        }
    }
    text
}

//! The page in a browser.

mod browser;

use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use browser::Browser;

/// A file of an image that does not exist.
struct File {
    path: Vec<u8>,
    size_bytes: u64,
    layer: usize,
    fate: Fate,
}

fn file(path: impl AsRef<[u8]>, size_bytes: u64, layer: usize, fate: Fate) -> File {
    File {
        path: path.as_ref().to_vec(),
        size_bytes,
        layer,
        fate,
    }
}

fn layer(instruction: &str, line: Option<u32>, files: &[File], number: usize) -> Layer {
    let own = || files.iter().filter(move |file| file.layer == number);
    let sum = |fate| own().filter(|f| f.fate == fate).map(|f| f.size_bytes).sum();
    let (overwritten_bytes, deleted_bytes) = (sum(Fate::Overwritten), sum(Fate::Deleted));
    Layer {
        digest: format!("sha256:{}", format!("{number:02x}").repeat(32)),
        diff_id: format!("sha256:{}", format!("{:02x}", number + 64).repeat(32)),
        instruction: instruction.to_owned(),
        file: line.map(|_| "Dockerfile".to_owned()),
        line,
        base: line.is_none(),
        compressed_bytes: 1000,
        unpacked_bytes: own().map(|f| f.size_bytes).sum(),
        overwritten_bytes,
        deleted_bytes,
        added: own().count() as u64,
        changed: 0,
        removed: 0,
    }
}

/// A page about an image of three layers.
fn page(files: &[File]) -> Page {
    let mut table = FileTable::default();
    for file in files {
        table.push(Row {
            path: &file.path,
            size_bytes: file.size_bytes,
            layer: file.layer,
            change: Change::Added,
            fate: file.fate,
            kind: b'f',
            attributes: (0o644, 0, 0),
        });
    }
    let layers = vec![
        layer("ADD rootfs.tar /", None, files, 0),
        layer("RUN make", Some(3), files, 1),
        layer("RUN rm -r /cache", Some(4), files, 2),
    ];
    let sum = |wasted: bool| -> u64 {
        let files = files.iter().filter(|f| (f.fate != Fate::Kept) == wasted);
        files.map(|f| f.size_bytes).sum()
    };
    let (kept, wasted) = (sum(false), sum(true));
    Page {
        command: "strata layers app".into(),
        title: "docker.io/library/app:1".into(),
        generator: "strata",
        totals: Totals {
            unpacked_bytes: kept + wasted,
            compressed_bytes: 3000,
            wasted_bytes: wasted,
            shared_bytes: 0,
        },
        images: vec![Image {
            name: "app:1".into(),
            digest: layers[0].digest.clone(),
            platform: "linux/amd64".to_owned(),
            unpacked_bytes: kept + wasted,
            unique_bytes: kept,
            shared_bytes: 0,
            wasted_bytes: wasted,
        }],
        findings: vec![Finding {
            title: "Deleted later: /cache".into(),
            wasted_bytes: wasted,
            compressed_estimate_bytes: wasted / 2,
            image: Some(0),
            instruction: Some("RUN make".to_owned()),
            file: Some("Dockerfile".to_owned()),
            line: Some(3),
            paths: vec!["/cache".into()],
            more_paths: 0,
            change: Some("Put `rm -r /cache` at the end of line 3".to_owned()),
        }],
        layers,
        notes: Vec::new(),
        files: table,
    }
}

fn small() -> Vec<File> {
    vec![
        file("usr/bin/tool", 5_000_000, 0, Fate::Kept),
        file("usr/lib/big.so", 9_000_000, 0, Fate::Kept),
        file("usr/lib/deep/er/small.so", 700_000, 1, Fate::Kept),
        file("app/main", 2_000_000, 1, Fate::Kept),
        file("app/old", 1_000_000, 0, Fate::Overwritten),
        file("cache/blob", 3_000_000, 1, Fate::Deleted),
    ]
}

/// A page on disk.
struct Written {
    path: PathBuf,
    _folder: TempDir,
}

fn written(page: &Page) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    std::fs::write(&path, page.render()).unwrap();
    Written {
        path,
        _folder: folder,
    }
}

const PATHS: &str = "[...document.querySelectorAll('#space .row')].sort((a, b) => a.dataset.at - b.dataset.at)\
     .map((row) => row.querySelector('.path').textContent)";
const TILES: &str =
    "[...document.querySelectorAll('#treemap button')].map((tile) => tile.ariaLabel)";
const CRUMBS: &str =
    "[...document.querySelectorAll('#crumbs button')].map((crumb) => crumb.textContent)";

fn tile(start: &str) -> String {
    format!("#treemap button[aria-label^=\"{start}\"]")
}

#[test]
fn the_table_sorts_searches_and_filters() {
    let written = written(&page(&small()));
    let mut browser = Browser::open(&written.path, 1200, false);
    let by_size = json!([
        "/usr/lib/big.so",
        "/usr/bin/tool",
        "/cache/blob",
        "/app/main",
        "/app/old",
        "/usr/lib/deep/er/small.so"
    ]);
    assert_eq!(browser.value(PATHS), by_size);
    browser.click("#column-size button");
    let mut upwards = by_size.as_array().unwrap().clone();
    upwards.reverse();
    assert_eq!(browser.value(PATHS), Value::from(upwards));
    let sorted = "[...document.querySelectorAll('[aria-sort]')].map((c) => c.ariaSort).join()";
    assert_eq!(browser.value(sorted), "none,ascending,none,none,none,none");
    browser.click("#column-path button");
    let first = browser.value(&format!("{PATHS}[0]"));
    assert_eq!(first, "/app/main");
    browser.click("#search");
    browser.type_text("LIB so");
    let found = json!(["/usr/lib/big.so", "/usr/lib/deep/er/small.so"]);
    assert_eq!(browser.value(PATHS), found);
    let count = "document.getElementById('count').textContent";
    assert_eq!(browser.value(count), "2 of 6 entries, 9.7 MB");
    browser.type_text(" nothing");
    assert_eq!(browser.value(PATHS), json!([]));
    let choose = |id: &str, value: &str| {
        format!(
            "(() => {{ const s = document.getElementById('search'); s.value = ''; s.dispatchEvent(new Event('input')); \
             const e = document.getElementById('{id}'); e.value = '{value}'; e.dispatchEvent(new Event('change')); }})()"
        )
    };
    browser.value(&choose("by-state", "wasted"));
    browser.drawn();
    assert_eq!(browser.value(PATHS), json!(["/app/old", "/cache/blob"]));
    browser.value(&choose("by-layer", "1"));
    browser.drawn();
    assert_eq!(browser.value(PATHS), json!(["/cache/blob"]));
    browser.was_quiet();
}

#[test]
fn the_map_drills_down_by_mouse_and_by_keys() {
    let written = written(&page(&small()));
    let mut browser = Browser::open(&written.path, 1200, true);
    let labels = browser.value(TILES);
    assert_eq!(labels[0], "/usr/, 14.7 MB, 88.0 %, open");
    browser.click(&tile("/usr/lib/,"));
    assert_eq!(browser.value(CRUMBS), json!(["Everything", "usr", "lib"]));
    // Folders that hold nothing but one folder are one tile.
    let labels = browser.value(TILES);
    assert_eq!(labels[1], "/usr/lib/deep/er/, 700 kB, 7.2 %, open");
    browser.click("#crumbs li:first-child button");
    assert_eq!(browser.value(CRUMBS), json!(["Everything"]));
    browser.value("document.querySelector('#treemap button').focus()");
    browser.press("Enter");
    assert_eq!(browser.value(CRUMBS), json!(["Everything", "usr"]));
    let focus = "document.activeElement.ariaLabel";
    assert_eq!(browser.value(focus), "/usr/lib/, 9.7 MB, 66.0 %, open");
    browser.press("ArrowRight");
    assert_eq!(browser.value(focus), "/usr/bin/, 5 MB, 34.0 %, open");
    browser.press("Backspace");
    assert_eq!(browser.value(CRUMBS), json!(["Everything"]));
    // A file shows what is known of it, and gives the focus back.
    browser.click(&tile("/app/main,"));
    let open = "document.getElementById('details').open";
    assert_eq!(browser.value(open), true);
    let facts = browser.value("document.getElementById('details-facts').textContent");
    let facts = facts.as_str().unwrap();
    assert!(
        facts.contains("RUN make") && facts.contains("Dockerfile:3"),
        "{facts}"
    );
    browser.press("Escape");
    assert_eq!(browser.value(open), false);
    // What is wasted, by layer.
    browser.click("#show [data-value=wasted]");
    browser.click("#group [data-value=layer]");
    let top = "[...document.querySelectorAll('#treemap button')].filter((t) => t.ariaLabel.startsWith('layer')).map((t) => t.ariaLabel)";
    let layers = json!([
        "layer 2, Dockerfile:3: RUN make, 3 MB, 75.0 %, open",
        "layer 1: ADD rootfs.tar /, 1 MB, 25.0 %, open"
    ]);
    assert_eq!(browser.value(top), layers);
    browser.was_quiet();
}

#[test]
fn rows_are_reached_by_keys() {
    let written = written(&page(&small()));
    let mut browser = Browser::open(&written.path, 1200, false);
    browser.value("document.getElementById('viewport').focus()");
    for key in ["ArrowDown", "ArrowDown", "ArrowUp", "End", "Enter"] {
        browser.press(key);
    }
    let title = "document.getElementById('details-title').textContent";
    assert_eq!(browser.value(title), "/usr/lib/deep/er/small.so");
    let active = "document.getElementById('viewport').getAttribute('aria-activedescendant')";
    assert_eq!(browser.value(active), "row-5");
    // Every control has a name.
    let nameless = "[...document.querySelectorAll('button, input, select, [tabindex=\"0\"]')]\
         .filter((e) => !(e.ariaLabel || e.textContent.trim())).map((e) => e.outerHTML)";
    assert_eq!(browser.value(nameless), json!([]));
    browser.was_quiet();
}

#[test]
fn colours_follow_the_system_until_they_are_switched() {
    let written = written(&page(&small()));
    let ground = "getComputedStyle(document.documentElement).backgroundColor";
    let mut light = Browser::open(&written.path, 1200, false);
    let mut dark = Browser::open(&written.path, 1200, true);
    let (bright, dim) = (light.value(ground), dark.value(ground));
    assert_ne!(bright, dim);
    dark.click("#theme");
    assert_eq!(dark.value(ground), bright);
    light.click("#theme");
    assert_eq!(light.value(ground), dim);
    light.was_quiet();
}

/// Names that try to be markup, scripts, ends of scripts, properties of objects, other lines, or other directions.
const HOSTILE: &[&[u8]] = &[
    b"</script><script>window.hit=1</script>",
    b"<script>window.hit=1</script>",
    b"<img src=x onerror=window.hit=1>",
    b"<svg onload=window.hit=1>",
    b"<!--<script>",
    b"]]><iframe src=https://example.com>",
    b"\"onmouseover=\"window.hit=1",
    b"'; window.hit=1; '",
    b"`${window.hit=1}`",
    b"@SCRIPT@@DATA@",
    b"__proto__",
    b"constructor",
    b"toString",
    b"javascript:window.hit=1",
    b"line\nfeed\ttab\rreturn",
    "sep\u{2028}para\u{2029}".as_bytes(),
    "\u{202e}gnp.exe".as_bytes(),
    "\u{feff}\u{200b}hidden".as_bytes(),
    b"\xff\xfe bytes \xc3(",
    b"\xed\xb2\x80",
    b"\x1b[31mred\x07",
    b" blanks ",
    b"&lt;b&gt;&amp;",
    b"\\xff",
];

/// As the name of one file.
fn flat(name: &[u8]) -> Vec<u8> {
    name.iter()
        .map(|c| if *c == b'/' { b'_' } else { *c })
        .collect()
}

#[test]
fn hostile_names_are_names() {
    let mut files = small();
    for name in HOSTILE {
        let path = [&b"h/"[..], &flat(name)].concat();
        files.push(file(path, 400_000, 1, Fate::Kept));
        let path = [&b"h2/"[..], *name, b"/x"].concat();
        files.push(file(path, 400_000, 1, Fate::Kept));
    }
    let mut page = page(&files);
    for name in HOSTILE {
        page.findings.push(Finding {
            title: Text::from(*name),
            wasted_bytes: 1,
            compressed_estimate_bytes: 0,
            image: Some(0),
            instruction: Some(String::from_utf8_lossy(name).into_owned()),
            file: Some("<b>".to_owned()),
            line: Some(1),
            paths: vec![Text::from(*name)],
            more_paths: 0,
            change: Some(String::from_utf8_lossy(name).into_owned()),
        });
        page.images[0].name = Text::from(*name);
        page.layers[1]
            .instruction
            .push_str(&String::from_utf8_lossy(name));
    }
    page.title = Text::from(HOSTILE[0]);
    let written = written(&page);
    let mut browser = Browser::open(&written.path, 1200, false);
    browser.click("#search");
    browser.type_text("/h");
    browser.click("#more-findings");
    browser.click(&tile("/h/,"));
    for name in HOSTILE {
        // As JSON has it, as the page holds it.
        let name = serde_json::to_string(&Text::from(&flat(name)[..])).unwrap();
        let known = format!(
            "document.getElementById('data').textContent.length > 0 && \
            JSON.parse(document.getElementById('data').textContent).files.name.includes({name})"
        );
        assert_eq!(browser.value(&known), true, "{name}");
    }
    let shown = browser.value(PATHS);
    let shown: Vec<&str> = shown
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    for want in [
        "/h/<img src=x onerror=window.hit=1>",
        "/h/line\\nfeed\\ttab\\rreturn",
        "/h/sep\\u{2028}para\\u{2029}",
        "/h/\\xff\\xfe bytes \\xc3(",
    ] {
        let matching = format!(
            "(() => {{ const s = document.getElementById('search'); s.value = {}; s.dispatchEvent(new Event('input')); }})()",
            json!(want.to_lowercase())
        );
        browser.value(&matching);
        browser.drawn();
        assert_eq!(browser.value(PATHS), json!([want]), "{shown:?}");
    }
    // A byte is marked; the same four characters as a name are not.
    let marked = "[...document.querySelectorAll('#space .raw')].map((e) => e.textContent)";
    assert_eq!(browser.value(marked), json!(["\\xff", "\\xfe", "\\xc3"]));
    assert_eq!(browser.value("window.hit ?? null"), Value::Null);
    let foreign = "document.querySelectorAll('img, svg, iframe, object, embed, link, script:not([type]):not(:last-child), b b, [onerror], [onload], [onmouseover]').length";
    assert_eq!(browser.value(foreign), 0);
    assert_eq!(browser.value("document.scripts.length"), 2);
    browser.was_quiet();
    // The policy, not only the care of the scripts: what is put in by force does not run.
    let forced = "new Promise((done) => { document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.hit=2\">'); \
        const s = document.createElement('script'); s.textContent = 'window.hit=3'; document.body.append(s); \
        fetch('https://127.0.0.1:1/').then(() => done('sent'), () => setTimeout(() => done(window.hit ?? 'stopped'), 50)); })";
    assert_eq!(browser.value(forced), "stopped");
}

/// However many files there are, few rows and tiles are in the page, and each part of the table can be reached.
#[test]
fn a_hundred_thousand_files_stay_in_hand() {
    const FILES: usize = 100_000;
    let mut files = Vec::with_capacity(FILES);
    for at in 0..FILES {
        let path = format!(
            "srv/node_modules/package-{:03}/lib/part{}/module-{at}.js",
            at % 700,
            at % 9
        );
        files.push(file(path, 1000 + at as u64, at % 2, Fate::Kept));
    }
    let page = page(&files);
    let written = written(&page);
    let length = std::fs::metadata(&written.path).unwrap().len();
    assert!(length < 10_000_000, "{length} bytes");
    let mut browser = Browser::open(&written.path, 1200, false);
    let count = "document.getElementById('grid').getAttribute('aria-rowcount')";
    assert_eq!(browser.value(count), "100001");
    let rows = "document.querySelectorAll('#space .row').length";
    let tiles = "document.querySelectorAll('#treemap button').length";
    for (seen, most) in [(rows, 40), (tiles, 700)] {
        let number = browser.value(seen).as_u64().unwrap();
        assert!((10..=most).contains(&number), "{seen}: {number}");
    }
    let last = format!("{PATHS}.at(-1)");
    let first = format!("{PATHS}[0]");
    let path = |at: usize| String::from_utf8(files[at].path.clone()).unwrap();
    assert_eq!(browser.value(&first), format!("/{}", path(FILES - 1)));
    browser.value("document.getElementById('viewport').scrollTop = 1e9");
    browser.drawn();
    assert_eq!(browser.value(&last), format!("/{}", path(0)));
    // Scrolling through all of it draws frames, and keeps few rows.
    let frames = "new Promise((done) => { let frames = 0; let most = 0; const v = document.getElementById('viewport'); \
        const step = () => { v.scrollTop = (v.scrollHeight / 60) * frames; frames += 1; \
        most = Math.max(most, document.querySelectorAll('#space .row').length); \
        if (frames === 60) done([frames, most]); else requestAnimationFrame(step); }; step(); })";
    let seen = browser.value(frames);
    assert_eq!(seen[0], 60);
    assert!(seen[1].as_u64().unwrap() <= 40, "{seen}");
    browser.click("#search");
    browser.type_text("package-123 module-99");
    let found = browser.value("document.getElementById('count').textContent");
    let want = (0..FILES).filter(|at| at % 700 == 123 && at.to_string().starts_with("99"));
    let words = format!("{} of 100,000 entries", want.count());
    assert!(
        found.as_str().unwrap().starts_with(&words),
        "{found} {words}"
    );
    browser.was_quiet();
}

/// Nothing is wider than a telephone.
#[test]
fn a_narrow_page_does_not_scroll_sideways() {
    let mut files = small();
    files.push(file(format!("{}/x", "long".repeat(60)), 1, 0, Fate::Kept));
    let mut page = page(&files);
    page.title = Text::from(&"registry.example/".repeat(8)[..]);
    page.layers[1].instruction = format!("RUN {}", "x".repeat(400));
    let written = written(&page);
    let mut browser = Browser::open(&written.path, 380, false);
    let root = "document.documentElement";
    let wide = browser.value(&format!("{root}.scrollWidth > {root}.clientWidth"));
    assert_eq!(wide, false);
    browser.was_quiet();
}

#[test]
fn equal_pages_are_equal_bytes() {
    let page = || page(&small()).render();
    assert_eq!(page(), page());
    assert_eq!(page().matches("<script").count(), 2);
    assert!(!page().contains("http://") && !page().contains("https://"));
}

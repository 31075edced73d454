//! `layers --html`: the page of a built image says what `layers` says. What the page does in a browser, `src/cli/page` tests.

use serde_json::Value;

use crate::lab::{Lab, said};

/// The report in the page.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"data\">").expect("it has data");
    let (json, _) = rest.split_once("</script>").expect("they end");
    // Lone surrogates stand for bytes that are no text; serde_json takes none.
    let byte = regex_lite::Regex::new(r"\\udc([89a-f][0-9a-f])").expect("a pattern");
    let text = byte.replace_all(json, "<$1>");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}"))
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().expect("a list").iter().collect()
}

#[test]
fn the_page_says_what_the_layers_are() {
    let lab = Lab::new();
    lab.write("ctx/f", &"data ".repeat(2000));
    lab.write("ctx/g", "kept\n");
    lab.write(
        "ctx/Dockerfile",
        "FROM @REG@/busybox\n\
         COPY f g /d/\n\
         RUN head -c 50000 /dev/zero >/cache && ln -s /d/f /link && mkdir /e && touch \"/e/$(printf 'a\\377b')\"\n\
         RUN chmod 4711 /d/f && rm /cache\n\
         RUN touch '/e/<!--<script>' && rm -r /d\n",
    );
    lab.ok(&["build", "-q", "-t", "app", "ctx"]);
    let json: Value =
        serde_json::from_str(&lab.ok(&["layers", "--format", "json", "app"])).unwrap();
    lab.write("page.html", "what was there before");
    assert_eq!(lab.ok(&["layers", "--html", "page.html", "app"]), "");
    let page = std::fs::read_to_string(lab.folder.join("page.html")).unwrap();
    assert_eq!(page, lab.ok(&["layers", "--html", "-", "app"]));
    assert_eq!(page.matches("<script").count(), 2);
    let data = data(&page);

    let totals = &data["totals"];
    assert_eq!(totals["unpacked_bytes"], json["totals"]["unpacked_bytes"]);
    assert_eq!(totals["wasted_bytes"], json["totals"]["wasted_bytes"]);
    assert_eq!(totals["compressed_bytes"], json["totals"]["size_bytes"]);
    for (own, row) in list(&data["layers"]).iter().zip(list(&json["layers"])) {
        for key in [
            "digest",
            "diff_id",
            "unpacked_bytes",
            "added",
            "changed",
            "removed",
        ] {
            assert_eq!(own[key], row[key], "{key}");
        }
        let wasted =
            own["overwritten_bytes"].as_u64().unwrap() + own["deleted_bytes"].as_u64().unwrap();
        assert_eq!(wasted, row["wasted_bytes"]);
    }

    // The columns add up, and tell each file.
    let files = &data["files"];
    let letters = |key: &str| files[key].as_str().unwrap().chars().collect::<Vec<_>>();
    let (fates, kinds, changes) = (letters("fate"), letters("kind"), letters("change"));
    let sizes: Vec<u64> = list(&files["size"])
        .iter()
        .filter_map(|n| n.as_u64())
        .collect();
    let sum = |kept: bool| -> u64 {
        let rows = sizes.iter().zip(&fates);
        rows.filter(|(_, fate)| (**fate == 'k') == kept)
            .map(|(size, _)| size)
            .sum()
    };
    assert_eq!(sum(true), json["totals"]["seen_bytes"]);
    assert_eq!(sum(false), json["totals"]["wasted_bytes"]);
    let names = &data["folders"]["name"];
    let number = |column: &str, row: usize| {
        let number = files[column][row].as_u64().unwrap();
        usize::try_from(number).unwrap()
    };
    let rows: Vec<String> = (0..sizes.len())
        .map(|row| {
            let attributes = &data["attributes"][number("attribute", row)];
            format!(
                "{} {}/{} {}{}{} {:o}",
                files["layer"][row],
                names[number("folder", row)].as_str().unwrap(),
                files["name"][row].as_str().unwrap(),
                changes[row],
                fates[row],
                kinds[row],
                attributes[0].as_u64().unwrap(),
            )
        })
        .collect();
    let top = list(&data["layers"]).len() - 1;
    for want in [
        format!("{} d/f aof 644", top - 3),
        format!("{} d/g adf 644", top - 3),
        format!("{} /cache adf 644", top - 2),
        format!("{} /link akl 777", top - 2),
        format!("{} e/a<ff>b akf 644", top - 2),
        format!("{} d/f cdf 4711", top - 1),
        format!("{} /cache rkw 0", top - 1),
        format!("{top} d/f rkw 0"),
        format!("{top} e/<!--<script> akf 644"),
    ] {
        assert!(rows.contains(&want), "{want}: {rows:#?}");
    }
}

#[test]
fn a_page_that_cannot_be_written_is_an_error() {
    let lab = Lab::new();
    lab.write("ctx/Dockerfile", "FROM @REG@/busybox\n");
    lab.ok(&["build", "-q", "-t", "app", "ctx"]);
    let none = ["layers", "--html", "no/such/page.html", "app"];
    let output = lab.strata(&none).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("cannot write no/such/page.html"),
        "{}",
        said(&output)
    );
    let both = ["layers", "--html", "x", "--format", "json", "app"];
    assert_eq!(lab.strata(&both).output().unwrap().status.code(), Some(2));
}

#[test]
fn pages_say_what_to_change() {
    let lab = Lab::new();
    lab.write("ctx/f", &"data ".repeat(20_000));
    lab.write(
        "ctx/Dockerfile",
        "FROM @REG@/busybox\n\
         RUN head -c 300000 /dev/urandom >/blob\n\
         COPY f /d/\n\
         RUN rm /blob && chmod 4755 /d/f\n",
    );
    lab.write("ctx/other", "FROM @REG@/busybox\nCOPY f /elsewhere\n");
    lab.ok(&["build", "-q", "-t", "one", "ctx"]);
    lab.ok(&["build", "-q", "-t", "two", "-f", "ctx/other", "ctx"]);

    let page = data(&lab.ok(&["layers", "--html", "-", "one"]));
    let lines = |finding: &Value| (finding["line"].as_u64(), finding["wasted_bytes"].as_u64());
    let findings = list(&page["findings"]);
    assert_eq!(lines(findings[0]), (Some(2), Some(300_000)), "{findings:?}");
    assert_eq!(findings[0]["title"], "Deleted later: /blob");
    assert_eq!(lines(findings[1]), (Some(3), Some(100_000)), "{findings:?}");
    for finding in &findings[..2] {
        assert_eq!(finding["file"], "Dockerfile");
        assert!(!finding["change"].as_str().unwrap().is_empty());
    }

    lab.ok(&["dedup", "--html", "all.html"]);
    let text = std::fs::read_to_string(lab.folder.join("all.html")).unwrap();
    let page = data(&text);
    let images = list(&page["images"]);
    let bytes = |image: &Value, what: &str| image[format!("{what}_bytes")].as_u64().unwrap();
    for image in &images {
        let parts = ["unique", "shared", "wasted"].map(|part| bytes(image, part));
        assert_eq!(
            parts.iter().sum::<u64>(),
            bytes(image, "unpacked"),
            "{image}"
        );
        // busybox, which is an image of the store itself only where it was pulled, is in both.
        assert!(bytes(image, "shared") > 500_000, "{image}");
    }
    let named = |name: &str| {
        images
            .iter()
            .find(|i| i["name"].as_str().unwrap().starts_with(name))
    };
    assert_eq!(bytes(named("one").unwrap(), "wasted"), 400_000);
    assert_eq!(bytes(named("one").unwrap(), "unique"), 100_000);
    assert_eq!(bytes(named("two").unwrap(), "unique"), 100_000);
    let across = list(&page["findings"]);
    let across = across
        .iter()
        .find(|f| f["title"].as_str().unwrap().contains("different layers"));
    assert_eq!(across.unwrap()["wasted_bytes"], 100_000, "{page}");
}

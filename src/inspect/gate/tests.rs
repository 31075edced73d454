//! Rules: their language, and what each says of images that keep and that break it.

use super::super::testing::image;
use super::super::{Contents, InspectError, LayersReport};
use super::*;
use crate::store::{FromLine, Origin};

#[test]
fn rules_as_they_can_be_written() {
    let mut wrong = Vec::new();
    for (text, want) in [
        ("wasted>50MB", "wasted>50MB"),
        ("WASTED >= 0.5 gb", "wasted>=500MB"),
        ("wasted>52428800B", "wasted>50MiB"),
        ("wasted>1.5kib", "wasted>1536B"),
        ("wasted>0B", "wasted>0B"),
        ("wasted>10%", "wasted>10%"),
        ("wasted>=0.25 %", "wasted>=0.25%"),
        ("efficiency<95%", "efficiency<95%"),
        ("efficiency <= 100%", "efficiency<=100%"),
        ("layers>020", "layers>20"),
        ("layers>20 own", "layers>20 own"),
        ("size>500MB own", "size>500MB own"),
        ("setuid, secret-like", "setuid|secret-like"),
        ("setuid,,\nsetuid\r\n", "setuid"),
        (
            "setuid own except /usr/bin/su **/sudo",
            "setuid own except /usr/bin/su **/sudo",
        ),
        (
            "setuid except /a own",
            "error 17..20: the path \"own\" begins neither with / nor with **/",
        ),
        (
            "file>1MB except \"/a, b\" /c,layers>3",
            "file>1MB except \"/a, b\" /c|layers>3",
        ),
        (
            "# all\nwasted > 5% # of it\n  # none\nsetuid except /a \\\n  /b\n",
            "wasted>5%|setuid except /a /b",
        ),
        ("setuid except /a\\\n/b", "setuid except /a /b"),
        (
            "file>18446744073709551615B",
            "error 5..25: the number is too large",
        ),
        ("file>19PB", "file>19PB"),
        ("file>19000PB", "error 5..12: the number is too large"),
        ("", "error 0..0: there is no rule"),
        ("# none\n", "error 7..7: there is no rule"),
        (
            "wastd>5MB",
            "error 0..5: unknown rule \"wastd\" (did you mean wasted?)",
        ),
        ("setuid,zebra", "error 7..12: unknown rule \"zebra\""),
        (">5MB", "error 0..1: expected the name of a rule"),
        ("wasted", "error 0..6: wasted needs a bound"),
        ("wasted , setuid", "error 0..6: wasted needs a bound"),
        ("wasted>50", "error 7..9: a unit is missing"),
        ("wasted>50 own", "error 7..9: a unit is missing"),
        (
            "wasted>50m",
            "error 9..10: the unit \"m\" could mean two things",
        ),
        (
            "wasted>50MX",
            "error 9..11: wasted is not measured in \"MX\"",
        ),
        ("size>10%", "error 7..8: size is not measured in \"%\""),
        (
            "layers>10MB",
            "error 9..11: layers is not measured in \"MB\"",
        ),
        (
            "layers>1.5",
            "error 7..10: the number is too precise: a count is a whole number",
        ),
        (
            "efficiency<9MB",
            "error 12..14: efficiency is not measured in \"MB\"",
        ),
        (
            "efficiency>9%",
            "error 10..11: efficiency does not take \">\"",
        ),
        ("wasted<9%", "error 6..7: wasted does not take \"<\""),
        ("wasted=>9%", "error 6..8: wasted does not take \"=>\""),
        (
            "wasted>101%",
            "error 7..11: more than 100% is never reached",
        ),
        (
            "wasted>0.00001%",
            "error 7..15: the number is too precise: a percentage has at most four decimals",
        ),
        (
            "wasted>0.5B",
            "error 7..11: the number is too precise: a byte is not divided",
        ),
        ("wasted>MB", "error 7..7: expected a number"),
        ("wasted>1.MB", "error 7..9: expected a number"),
        ("wasted>-1MB", "error 7..7: expected a number"),
        ("setuid>3", "error 6..7: setuid has no bound"),
        ("setuid!=/usr/bin/su", "error 6..8: setuid has no bound"),
        (
            "setuid /usr/bin/su",
            "error 7..18: unexpected \"/usr/bin/su\"",
        ),
        ("setuid#x", "error 6..8: unexpected \"#x\""),
        ("setuid except", "error 7..13: no path follows except"),
        (
            "setuid except su",
            "error 14..16: the path \"su\" begins neither with / nor with **/",
        ),
        (
            "setuid except /[",
            "error 14..16: the path \"/[\" is no pattern",
        ),
        (
            "setuid except \"/a",
            "error 14..17: a quote is not closed, or stands inside a word",
        ),
        (
            "setuid except /a\"b",
            "error 14..18: a quote is not closed, or stands inside a word",
        ),
        (
            "setuid except \"/a\"b",
            "error 14..18: a quote is not closed, or stands inside a word",
        ),
        (
            "size>1MB except /a",
            "error 9..15: size is not about paths: nothing can be excepted",
        ),
        (
            "root-user own",
            "error 10..13: root-user is about the image, not about its layers",
        ),
    ] {
        let got = match Rules::parse(text) {
            Ok(rules) => {
                let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
                let written = rules.join("|");
                let again = Rules::parse(&rules.join("\n")).unwrap();
                let again: Vec<String> = again.iter().map(ToString::to_string).collect();
                assert_eq!(again, rules, "{text}");
                written
            }
            Err(error) => format!("error {:?}: {error}", error.span),
        };
        if got != want {
            wrong.push(format!("{text:?}: {got}, expected {want}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_kind_is_found_by_its_name_and_its_example() {
    for kind in Kind::ALL {
        assert_eq!(Kind::named(&kind.name().to_uppercase()), Some(kind));
        let rules = Rules::parse(kind.example()).unwrap();
        assert_eq!(rules.iter().next().unwrap().kind, kind);
    }
}

#[test]
fn mistakes_have_hints() {
    for (text, want) in [
        ("zebra", "the rules are wasted, efficiency, size"),
        (
            "wasted>5",
            "write MB (1000000 bytes), MiB (1048576), or the like, or %",
        ),
        ("size>5", "or the like"),
        ("efficiency<5", "write a percentage, as in efficiency<95%"),
        ("layers>5MB", "write a number alone, as in layers>20"),
        (
            "size>5k",
            "write kB for powers of 1000, as reports do, or KiB",
        ),
        ("setuid!=/a", "write setuid, or setuid except /a/path"),
        ("setuid except a", "write /a, or **/a for any directory"),
        ("size", "for example size>500MB"),
    ] {
        let hint = Rules::parse(text).unwrap_err().problem.hint().unwrap();
        assert!(hint.contains(want), "{text}: {hint}");
    }
}

fn judged(contents: &Contents, rules: &str, base_layers: Option<usize>) -> String {
    let rules = Rules::parse(rules).unwrap();
    let report = LayersReport::new(contents, false);
    let secrets = Secrets::by_name(contents);
    let verdict = match judge(contents, &report, &rules, &secrets, base_layers) {
        Ok(verdict) => verdict,
        Err(error) => return format!("error: {error}"),
    };
    let mut words = Vec::new();
    for outcome in &verdict.rules {
        assert_eq!(outcome.passed, outcome.violations.is_empty());
        let mut word = match (outcome.passed, outcome.measured) {
            (true, Some(measured)) => format!("ok {measured}"),
            (true, None) => "ok".to_owned(),
            (false, _) => "broken".to_owned(),
        };
        for violation in &outcome.violations {
            word.push(' ');
            if let Some(path) = &violation.path {
                word.push_str(&super::super::escaped(path.bytes()));
            }
            if let Some(layer) = &violation.layer {
                word.push_str(&format!("@{}", layer.blame.layer));
            }
            if let Some(measured) = violation.measured {
                word.push_str(&format!("={measured}"));
            }
            if let Some(fate) = &violation.fate {
                let sign = if fate.deleted { '-' } else { '~' };
                word.push_str(&format!("{sign}{}", fate.by.layer));
            }
            assert!(!violation.change.is_empty());
        }
        words.push(word);
    }
    assert_eq!(verdict.passed, words.iter().all(|w| w.starts_with("ok")));
    words.join("; ")
}

#[test]
fn each_rule_at_its_bound() {
    // 100 bytes, 40 of them wasted: 30 deleted, 10 overwritten.
    let two = image(&["d d\nf d/a A*50\nf d/b B*30\nf x X*10", "w d/b\nf x Y*10"]);
    let blobs: u64 = two.layers.iter().map(|layer| layer.blob.size).sum();
    let (under, at) = (blobs - 1, blobs);
    let compressed = format!("compressed>={at}B");
    let compressed_ok = format!("compressed>{at}B");
    let compressed_less = format!("compressed>{under}B");
    let broken_by_blobs = format!("broken @1={}", Measure::Bytes(blobs));
    let ok_blobs = format!("ok {}", Measure::Bytes(blobs));
    for (rule, want) in [
        ("wasted>39B", "broken @1=40B"),
        ("wasted>40B", "ok 40B"),
        ("wasted>=40B", "broken @1=40B"),
        ("wasted>=41B", "ok 40B"),
        ("wasted>39.9999%", "broken @1=40%"),
        ("wasted>40%", "ok 40%"),
        ("wasted>=40%", "broken @1=40%"),
        ("efficiency<60%", "ok 60%"),
        ("efficiency<=60%", "broken @1=60%"),
        ("efficiency<60.0001%", "broken @1=60%"),
        ("size>99B", "broken @1=100B"),
        ("size>100B", "ok 100B"),
        ("size>=100B", "broken @1=100B"),
        (&compressed, &broken_by_blobs),
        (&compressed_ok, &ok_blobs),
        (&compressed_less, &broken_by_blobs),
        ("layers>1", "broken @2=2"),
        ("layers>2", "ok 2"),
        ("layers>=2", "broken @2=2"),
        ("layer>89B", "broken @1=90B"),
        ("layer>90B", "ok 90B"),
        ("layer>=10B", "broken @1=90B @2=10B"),
        ("file>49B", "broken d/a@1=50B"),
        ("file>50B", "ok 50B"),
        ("file>=30B", "broken d/a@1=50B d/b@1=30B-2"),
        ("file>=10B except /d/**", "broken x@1=10B~2 x@2=10B"),
        ("file>1B except /**", "ok 0B"),
    ] {
        assert_eq!(judged(&two, rule, None), want, "{rule}");
    }
    let empty = image(&[]);
    for (rule, want) in [
        ("wasted>0%", "ok 0%"),
        ("efficiency<100%", "ok 100%"),
        ("efficiency<=100%", "broken =100%"),
        ("layers>0", "ok 0"),
        ("size>=0B", "broken =0B"),
    ] {
        assert_eq!(judged(&empty, rule, None), want, "{rule}");
    }
}

#[test]
fn a_share_is_not_rounded() {
    // One byte of 3 is 33.3333…%.
    let third = image(&["f a A*1\nf b B*2", "w a"]);
    assert_eq!(
        judged(&third, "wasted>33.3333%", None),
        "broken @1=33.3333%"
    );
    assert_eq!(judged(&third, "wasted>33.3334%", None), "ok 33.3333%");
}

#[test]
fn what_a_container_could_use_is_what_the_image_shows() {
    let shown = image(&[
        "d bin\nf bin/su S*5 4755\nf bin/wall W*5 2755\nf bin/gone G*5 6755\nd drop 1777\nd open 777\nf log L*1 666\ns link log",
        "w bin/gone\nf bin/su S*5 755\nl bin/again bin/wall",
    ]);
    for (rule, want) in [
        ("setuid", "broken bin/wall@1 bin/again@2"),
        ("setuid except /bin/wall /bin/again", "ok"),
        ("setuid except /bin/*", "ok"),
        ("setuid except **/wall", "broken bin/again@2"),
        ("setuid except /wall", "broken bin/wall@1 bin/again@2"),
        ("world-writable", "broken log@1 open@1"),
        ("world-writable except /open", "broken log@1"),
        ("capability", "ok"),
    ] {
        assert_eq!(judged(&shown, rule, None), want, "{rule}");
    }
}

#[test]
fn capabilities_of_files() {
    use crate::layer::{Entry, Kind as EntryKind, Meta, Toc};
    let mut contents = image(&["f a A"]);
    let entry = Entry {
        path: b"bin/ping".to_vec(),
        meta: Meta {
            xattrs: vec![(b"security.capability".to_vec(), vec![1, 0, 0, 2])],
            ..Meta::default()
        },
        kind: EntryKind::File {
            size_bytes: 1,
            content: None,
        },
    };
    contents.layers[0].toc = std::sync::Arc::new(Toc::from_entries(vec![entry]));
    assert_eq!(judged(&contents, "capability", None), "broken bin/ping@1");
    assert_eq!(judged(&contents, "setuid", None), "ok");
}

#[test]
fn a_secret_stays_in_its_layer() {
    let leaky = image(&[
        "d root\nf root/.netrc N*9\nf root/id_rsa K*9\nf root/.env E*0",
        "w root/id_rsa\nf root/.netrc M*9",
    ]);
    assert_eq!(
        judged(&leaky, "secret-like", None),
        "broken root/.netrc@1~2 root/id_rsa@1-2 root/.netrc@2"
    );
    assert_eq!(
        judged(&leaky, "secret-like except **/.netrc", None),
        "broken root/id_rsa@1-2"
    );
}

#[test]
fn root_and_others() {
    let mut contents = image(&["f a A"]);
    for (user, want) in [
        ("", "broken "),
        ("root", "broken "),
        ("0", "broken "),
        ("00:5", "broken "),
        ("root:wheel", "broken "),
        (":5", "broken "),
        ("1000", "ok"),
        ("app:0", "ok"),
        ("rooty", "ok"),
    ] {
        contents.documents.config.config.user = user.to_owned();
        assert_eq!(judged(&contents, "root-user", None), want, "{user}");
    }
}

#[test]
fn own_layers_are_those_above_the_base() {
    let built = image(&[
        "f su S*50 4755\nf old O*50",
        "w old\nf mine M*20 4755\nf tmp T*20",
        "w tmp",
    ]);
    for (rule, base, want) in [
        ("setuid own", Some(1), "broken mine@2"),
        ("setuid own", Some(2), "ok"),
        ("setuid own", Some(0), "broken su@1 mine@2"),
        ("file>10B own", Some(1), "broken mine@2=20B tmp@2=20B-3"),
        ("layers>1 own", Some(1), "broken @3=2"),
        ("layers>2 own", Some(1), "ok 2"),
        ("size>=40B own", Some(1), "broken @2=40B"),
        ("wasted>=20B own", Some(1), "broken @2=20B"),
        ("wasted>=50% own", Some(1), "broken @2=50%"),
        ("efficiency<51% own", Some(1), "broken @2=50%"),
        ("layer>10B own", Some(1), "broken @2=40B"),
        (
            "setuid own",
            None,
            "error: cannot judge \"setuid own\": it is not known which layers of test its base brought",
        ),
    ] {
        assert_eq!(judged(&built, rule, base), want, "{rule} {base:?}");
    }
    let base = image(&["f su S*50 4755\nf old O*50"]);
    let ids = |contents: &Contents| {
        contents
            .layers
            .iter()
            .map(|l| l.diff_id)
            .collect::<Vec<_>>()
    };
    assert_eq!(layers_of_base(&built, &ids(&base)), Some(1));
    assert_eq!(layers_of_base(&built, &[]), Some(0));
    assert_eq!(layers_of_base(&base, &ids(&built)), None);
    let other = image(&["f su S*51"]);
    assert_eq!(layers_of_base(&built, &ids(&other)), None);
}

#[test]
fn the_line_to_blame_for_the_base_is_the_from() {
    let mut contents = image(&["f su S*50 4755", "f x X*1"]);
    contents.origin = Some(Origin {
        dockerfile: "Dockerfile".to_owned(),
        path: None,
        base_layers: 1,
        from: Some(FromLine {
            image: "busybox".to_owned(),
            line: 3,
            end_line: 4,
            stage: "app".to_owned(),
        }),
    });
    let rules = Rules::parse("setuid").unwrap();
    let report = LayersReport::new(&contents, false);
    let verdict = judge(&contents, &report, &rules, &Secrets::default(), Some(1)).unwrap();
    let base = verdict.base.unwrap();
    let from = base.from.unwrap();
    assert_eq!((base.layers, from.line, from.end_line), (1, 3, 4));
    let layer = verdict.rules[0].violations[0].layer.as_ref().unwrap();
    assert_eq!(layer.of_base, Some(true));
}

#[test]
fn a_thousand_places_are_listed_and_all_are_counted() {
    let lines: Vec<String> = (0..1003).map(|n| format!("f {n:04} X*5 4755")).collect();
    let many = image(&[&lines.join("\n")]);
    let rules = Rules::parse("setuid,file>1B").unwrap();
    let report = LayersReport::new(&many, false);
    let verdict = judge(&many, &report, &rules, &Secrets::default(), None).unwrap();
    for outcome in &verdict.rules {
        assert_eq!(outcome.violations.len(), 1000);
        assert_eq!(outcome.violation_count(), 1003);
    }
}

#[test]
fn what_cannot_be_judged_is_an_error() {
    let contents = image(&["f a A"]);
    let rules = Rules::parse("layers>3 own").unwrap();
    let report = LayersReport::new(&contents, false);
    let error = judge(&contents, &report, &rules, &Secrets::default(), None).unwrap_err();
    assert!(matches!(error, InspectError::NoBase { .. }), "{error:?}");
}

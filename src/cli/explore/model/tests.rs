//! Where the user gets to with which keys.

use strata::inspect::Contents;

use super::super::testing::{image, of_files};
use super::*;

const LAYERS: [&str; 3] = [
    "d etc\nf etc/a 10\nf etc/b 30\nd usr\nd usr/lib\nf usr/lib/libc.so 500\nf usr/lib/z 20",
    "d etc\nf etc/a 11\nd opt\nf opt/new 70",
    "w etc/b\nd opt\ns opt/link new",
];

const ROOM: Pages = Pages {
    layers: 10,
    tree: 10,
    card: (60, 10),
    attributes: true,
};

fn model(contents: &Contents) -> Model<'_> {
    let mut model = Model::new(Paths::new(contents));
    model.fit(ROOM);
    model
}

/// The lines, each with its fold, the cursor's in brackets.
fn lines(model: &Model<'_>) -> String {
    let line = |(line, row): (usize, &Row)| {
        let fold = match model.fold(row.at) {
            Some(true) => "v",
            Some(false) => ">",
            None => "",
        };
        let name = String::from_utf8_lossy(model.paths.name(row.at)).into_owned();
        let text = format!("{}{fold}{name}", ".".repeat(row.depth));
        if line == model.cursor {
            format!("[{text}]")
        } else {
            text
        }
    };
    let lines: Vec<String> = model.rows.iter().enumerate().map(line).collect();
    lines.join(" ")
}

fn act(model: &mut Model<'_>, actions: &[Action]) -> String {
    for action in actions {
        assert_eq!(model.act(*action), Outcome::Stay);
    }
    lines(model)
}

fn type_in(model: &mut Model<'_>, text: &str) -> String {
    act(model, &[Action::Search]);
    for c in text.chars() {
        act(model, &[Action::Type(c)]);
    }
    lines(model)
}

#[test]
fn it_begins_with_the_uppermost_layer() {
    let image = image(&LAYERS);
    let model = model(&image);
    assert_eq!((model.layer, model.focus), (2, Pane::Layers));
    assert_eq!(lines(&model), "[v] .>etc .>opt .>usr");
}

#[test]
fn folders_open_and_close() {
    use Action::{CloseFolder, Down, Fold, FoldAll, OpenFolder, SwitchPane, Up};
    let image = image(&LAYERS);
    let mut model = model(&image);
    act(&mut model, &[SwitchPane]);
    for (keys, want) in [
        (&[Down, Fold][..], "v [.vetc] ..a ..b .>opt .>usr"),
        (&[Down, Down], "v .vetc ..a [..b] .>opt .>usr"),
        (&[OpenFolder], "v .vetc ..a [..b] .>opt .>usr"),
        (&[CloseFolder], "v [.vetc] ..a ..b .>opt .>usr"),
        (&[CloseFolder], "v [.>etc] .>opt .>usr"),
        (&[CloseFolder], "[v] .>etc .>opt .>usr"),
        (&[CloseFolder, CloseFolder], "[>]"),
        (&[OpenFolder, Up], "[v] .>etc .>opt .>usr"),
        (
            &[FoldAll],
            "[v] .vetc ..a ..b .vopt ..link ..new .vusr ..vlib ...libc.so ...z",
        ),
        (&[FoldAll], "[v] .>etc .>opt .>usr"),
    ] {
        assert_eq!(act(&mut model, keys), want, "{keys:?}");
    }
}

#[test]
fn the_cursor_stays_on_its_path_or_above_it() {
    use Action::{Down, Filter, FoldAll, LayerAbove, LayerBelow, SwitchPane};
    let image = image(&LAYERS);
    let mut model = model(&image);
    act(
        &mut model,
        &[SwitchPane, FoldAll, Down, Down, Down, Down, Down],
    );
    assert_eq!(model.paths.path(model.here()), b"opt/link");
    // The layer below has no such link, the one below that no such folder.
    act(&mut model, &[LayerBelow]);
    assert_eq!(model.paths.path(model.here()), b"opt");
    act(&mut model, &[LayerBelow]);
    assert_eq!(model.here(), 0);
    assert_eq!(
        act(&mut model, &[LayerBelow]),
        act(&mut model, &[LayerBelow])
    );
    act(&mut model, &[LayerAbove, LayerAbove, LayerAbove]);
    assert_eq!(model.layer, 2);
    act(&mut model, &[Down, Down, Filter(Mark::Same)]);
    assert_eq!(lines(&model), "v [.vetc] ..b .vopt ..link");
}

#[test]
fn filters_and_spans() {
    use Action::{Filter, FoldAll, LayerBelow, OnlyWasted, OtherSpan};
    let image = image(&LAYERS);
    let mut model = model(&image);
    act(&mut model, &[FoldAll]);
    for (keys, want) in [
        (&[Filter(Mark::Same)][..], "[v] .vetc ..b .vopt ..link"),
        (&[Filter(Mark::Added)], "[v] .vetc ..b"),
        (&[Filter(Mark::Removed)], "[]"),
        (&[Filter(Mark::Added)], "[v] .vopt ..link"),
        (
            &[Action::Span(Span::UpTo)],
            "[v] .vetc ..a .vopt ..link ..new",
        ),
        (&[Filter(Mark::Changed)], "[v] .vopt ..link ..new"),
        (
            &[Filter(Mark::Changed), Filter(Mark::Removed), OnlyWasted],
            "[v] .vetc ..a ..b",
        ),
        (&[OtherSpan], "[v] .vetc ..b"),
        (&[LayerBelow], "[v] .vetc ..a"),
        (
            &[OnlyWasted, Filter(Mark::Same), LayerBelow],
            "[v] .vetc ..a ..b .vusr ..vlib ...libc.so ...z",
        ),
    ] {
        assert_eq!(act(&mut model, keys), want, "{keys:?}");
    }
}

#[test]
fn sorted_by_size() {
    let image = image(&LAYERS);
    let mut model = model(&image);
    assert_eq!(
        act(&mut model, &[Action::FoldAll, Action::Sort]),
        "[v] .vusr ..vlib ...libc.so ...z .vopt ..new ..link .vetc ..b ..a"
    );
    // What is in vain, where only that is shown.
    let keys = [Action::Span(Span::UpTo), Action::OnlyWasted];
    assert_eq!(act(&mut model, &keys), "[v] .vetc ..b ..a");
    let keys = [Action::OnlyWasted, Action::Sort];
    assert!(act(&mut model, &keys).starts_with("[v] .vetc ..a ..b"));
}

#[test]
fn a_search_goes_round() {
    use Action::{Accept, Back, MatchBefore, NextMatch};
    let image = image(&LAYERS);
    let mut model = model(&image);
    assert_eq!(
        type_in(&mut model, "l"),
        "v .>etc .vopt [..link] ..new .>usr"
    );
    let found = |model: &Model<'_>| model.search.as_ref().and_then(|s| s.found);
    assert_eq!(found(&model), Some((1, 3)));
    // `lib` and `libc.so`; the one is the first from where the search began.
    let typed = act(&mut model, &[Action::Type('i'), Action::Type('b')]);
    assert_eq!(typed, "v .>etc .vopt ..link ..new .vusr [..>lib]");
    assert_eq!(found(&model), Some((1, 2)));
    let next = act(&mut model, &[Accept, NextMatch]);
    assert!(next.ends_with("..vlib [...libc.so] ...z"), "{next}");
    assert_eq!(act(&mut model, &[NextMatch]).matches("[..vlib]").count(), 1);
    act(&mut model, &[MatchBefore]);
    assert_eq!(found(&model), Some((2, 2)));
    assert!(act(&mut model, &[Back]).contains("[...libc.so]"));
    assert!(model.search.is_none());
    act(&mut model, &[NextMatch, MatchBefore]);

    type_in(&mut model, "nothing");
    assert_eq!(found(&model), None);
    assert!(model.is_typing());
    // Back to where it began.
    assert!(act(&mut model, &[Action::First, Back]).contains("[...libc.so]"));
    type_in(&mut model, "*.s?");
    assert_eq!(found(&model), Some((1, 1)));
    act(&mut model, &[Action::EraseAll, Accept]);
    assert!(model.search.is_none());
}

#[test]
fn what_a_filter_hides_is_not_found() {
    let image = image(&LAYERS);
    let mut model = model(&image);
    act(&mut model, &[Action::Filter(Mark::Same)]);
    type_in(&mut model, "libc");
    assert_eq!(model.search.as_ref().unwrap().found, None);
    act(&mut model, &[Action::Accept, Action::Filter(Mark::Same)]);
    act(&mut model, &[Action::NextMatch]);
    assert_eq!(model.paths.path(model.here()), b"usr/lib/libc.so");
}

#[test]
fn pages_over_the_others() {
    use Action::{Accept, Back, Down, Enter, Help, Info, Leave, Quit, Search, SwitchPane};
    let image = image(&LAYERS);
    let mut model = model(&image);
    act(&mut model, &[Enter]);
    assert_eq!(model.card.as_ref().unwrap().title, "Layer 3");
    act(&mut model, &[Leave]);
    assert!(model.card.is_none());
    act(&mut model, &[Help, Down]);
    assert_eq!(model.card.as_ref().unwrap().top(), 1);
    // A page has nothing to search, and its keys do nothing below it.
    act(&mut model, &[Search, SwitchPane]);
    assert_eq!(model.focus, Pane::Layers);
    assert_eq!(model.act(Quit), Outcome::Quit);
    act(&mut model, &[Back, Search, Action::Type('b'), Accept, Info]);
    let card = model.card.as_ref().unwrap();
    assert_eq!(card.title, "/etc/b");
    let text = card.seen().join("\n");
    assert!(text.contains("layer 1  RUN step 1"), "{text}");
    assert!(text.contains("layer 3  Dockerfile:4 RUN step 3"), "{text}");
    act(&mut model, &[Info, Enter]);
    assert!(model.card.is_some(), "a file has no folder to open");
    act(&mut model, &[Back]);
    assert_eq!(model.act(Leave), Outcome::Quit);
}

#[test]
fn what_is_selected_is_seen() {
    let files = (0..100).map(|n| format!("f{n:03}").into_bytes());
    let image = of_files(files);
    let mut model = model(&image);
    act(&mut model, &[Action::SwitchPane, Action::PageDown]);
    assert_eq!((model.cursor, model.top), (9, 0));
    act(&mut model, &[Action::PageDown]);
    assert_eq!((model.cursor, model.top), (18, 9));
    act(&mut model, &[Action::Last]);
    assert_eq!((model.cursor, model.top), (100, 91));
    act(&mut model, &[Action::PageUp, Action::Up]);
    assert_eq!((model.cursor, model.top), (90, 90));
    model.fit(Pages { tree: 60, ..ROOM });
    assert_eq!((model.cursor, model.top), (90, 41));
    model.fit(Pages { tree: 1, ..ROOM });
    assert_eq!((model.cursor, model.top), (90, 90));
    act(&mut model, &[Action::First]);
    assert_eq!((model.cursor, model.top), (0, 0));
}

#[test]
fn an_image_without_layers_has_a_root() {
    let image = image(&[]);
    let mut model = model(&image);
    use Action::*;
    for action in [
        Down,
        Up,
        PageDown,
        PageUp,
        First,
        Last,
        LayerBelow,
        LayerAbove,
        Enter,
        SwitchPane,
        Down,
        Fold,
        FoldAll,
        OpenFolder,
        CloseFolder,
        OtherSpan,
        OnlyWasted,
        Sort,
        Search,
        Type('a'),
        Accept,
        NextMatch,
        MatchBefore,
        Info,
        Back,
    ] {
        assert_eq!(model.act(action), Outcome::Stay, "{action:?}");
    }
    assert_eq!(lines(&model), "[]");
}

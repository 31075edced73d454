//! What is on the screen.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use strata::inspect::{Contents, Paths};

use super::super::model::Action;
use super::super::testing::{image, of_files};
use super::*;

const LAYERS: [&str; 3] = [
    "d etc\nf etc/a 10\nf etc/b 3000000\nd usr\nd usr/lib\nf usr/lib/libc.so 5000000 755\nl usr/lib/libc usr/lib/libc.so",
    "d etc\nf etc/a 11\nd opt\nf opt/new 70000 4755",
    "w etc/b\nd opt\ns opt/link new",
];

/// Draws on a screen of a size; the cells.
fn drawn(model: &mut Model<'_>, (width, height): (u16, u16), colours: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, model, colours)).unwrap();
    terminal.backend().buffer().clone()
}

/// The characters, without blanks at the ends of lines.
fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for y in 0..buffer.area.height {
        let mut line = String::new();
        let mut x = 0;
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            x += u16::try_from(columns(symbol).max(1)).unwrap();
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn screen(contents: &Contents, size: (u16, u16), actions: &[Action]) -> String {
    let mut model = Model::new(Paths::new(contents));
    drawn(&mut model, size, false);
    for action in actions {
        model.act(*action);
    }
    text(&drawn(&mut model, size, false))
}

#[test]
fn both_sides() {
    let image = image(&LAYERS);
    let keys = [Action::SwitchPane, Action::FoldAll, Action::Down];
    insta::assert_snapshot!(screen(&image, (80, 24), &keys), @r"
    ─ Layer 3 of 3 ─────────────────────│ After layer 3, its changes
     1    8MB! RUN step 1 && echo of som│      SIZE WASTED  PATH
     2   70kB  RUN step 2 && echo of som│ *  5.07MB    3MB ▾ /
    ▌3     0B  RUN step 3 && echo of som│▌*     11B    3MB   ▾ etc
    ─ Layer 3 ──────────────────────────│       11B              a
     line   Dockerfile:4 (stage-0)      │ -!    3MB    3MB       b
     size   188B, 0B unpacked           │ *    70kB          ▾ opt
     files  +1 ~0 -1                    │ +      0B              link -> new
     wasted 0B                          │      70kB              new
     hides  3MB of layers below         │       5MB          ▾ usr
     digest 0b5d3908e75b                │       5MB            ▾ lib
     diffID 36752a1ea1df                │       5MB                libc = /usr/lib/l
     RUN step 3 && echo of some length  │       5MB                libc.so
                                        │
                                        │
                                        │
    ─ Image ────────────────────────────│
     name       app                     │
     ID         9ede5998d09d            │
     platform   linux/amd64             │
     size       905B, 8.07MB unpacked   │
     wasted     3MB                     │ /etc
     efficiency 62.8 %                  │ layer 2 Dockerfile:3 RUN step 2 && echo of
     ? help  q quit  Tab layers  Space open  Enter why  / search  a m r u w filter
    ");
}

#[test]
fn wide_with_modes_and_owners() {
    let image = image(&LAYERS);
    let keys = [Action::FoldAll, Action::Span(Span::UpTo)];
    insta::assert_snapshot!(screen(&image, (130, 20), &keys), @r"
     Layer 3 of 3                                       │─ After layer 3, changes of 2 to 3 ──────────────────────────────────────────
     1    8MB! RUN step 1 && echo of some length        │    MODE           UID:GID   SIZE WASTED  PATH
    │2   70kB  RUN step 2 && echo of some length        │▌*                         5.07MB    3MB ▾ /
    ▌3     0B  RUN step 3 && echo of some length        │ *  drwxr-xr-x         0:0    11B    3MB   ▾ etc
    ─ Layer 3 ──────────────────────────────────────────│ ~! -rw-r--r--         0:0    11B    10B       a
     line   Dockerfile:4 (stage-0)                      │ -! -rw-r--r--         0:0    3MB    3MB       b
     size   188B, 0B unpacked                           │ +  drwxr-xr-x         0:0   70kB          ▾ opt
     files  +1 ~0 -1                                    │ +  lrwxrwxrwx         0:0     0B              link -> new
     wasted 0B                                          │ +  -rwsr-xr-x         0:0   70kB              new
     hides  3MB of layers below                         │    drwxr-xr-x         0:0    5MB          ▾ usr
     RUN step 3 && echo of some length                  │    drwxr-xr-x         0:0    5MB            ▾ lib
                                                        │    -rwxr-xr-x         0:0    5MB                libc = /usr/lib/libc.so
    ─ Image ────────────────────────────────────────────│    -rwxr-xr-x         0:0    5MB                libc.so
     name       app                                     │
     ID         9ede5998d09d                            │
     platform   linux/amd64                             │
     size       905B, 8.07MB unpacked                   │
     wasted     3MB                                     │ /
     efficiency 62.8 %                                  │
     ? help  q quit  Tab files  Enter all about it  ^A all changes  ^L its own
    ");
}

#[test]
fn one_side_where_there_is_no_room_for_two() {
    let image = image(&LAYERS);
    insta::assert_snapshot!(screen(&image, (40, 10), &[]), @r"
     Layer 3 of 3
     1    8MB! RUN step 1 && echo of some le
     2   70kB  RUN step 2 && echo of some le
    ▌3     0B  RUN step 3 && echo of some le
    ─ Layer 3 ──────────────────────────────
     line   Dockerfile:4 (stage-0)
     size   188B, 0B unpacked
     RUN step 3 && echo of some length

     ? help  q quit  Tab files  Enter all ab
    ");
    let keys = [Action::SwitchPane, Action::FoldAll, Action::OnlyWasted];
    insta::assert_snapshot!(screen(&image, (40, 10), &keys), @r"
     After layer 3, its changes
          SIZE WASTED  PATH           only !
    ▌*  5.07MB    3MB ▾ /
     *     11B    3MB   ▾ etc
     -!    3MB    3MB       b



     /
     ? help  q quit  Tab layers  Space open
    ");
    let keys = [
        Action::Filter(Mark::Same),
        Action::Filter(Mark::Added),
        Action::Search,
        Action::Type('b'),
    ];
    insta::assert_snapshot!(screen(&image, (40, 10), &keys), @r"
     After layer 3, its changes
          SIZE  PATH    without + unmodified
     *  5.07MB ▾ /
     *     11B   ▾ etc
    ▌-!    3MB       b



     /etc/b
    /b   1 of 1   Enter keeps, Esc goes back
    ");
}

#[test]
fn pages() {
    let image = image(&LAYERS);
    insta::assert_snapshot!(screen(&image, (60, 20), &[Action::Enter]), @r"
     Layer 3
     RUN step 3 && echo of some length

     line     Dockerfile:4 (stage-0)
     size     188B, 0B unpacked
     files    +1 ~0 -1
     wasted   0B
     hides    3MB of layers below
     digest   sha256:0b5d3908e75bf896b4d4fda424ce6f2812b27099ad
     a3c4a2c3769af732747818
     diffID   sha256:36752a1ea1dfe8b30030995a0d7a491d83a61f0ad1
     54ed3ff6fbb589305d96d6
     type     application/vnd.oci.image.layer.v1.tar+gzip

     In the history as
       RUN step 3 && echo of some length


    ─ Esc closes ───────────────────────────────────────────────
     ? help  q quit  Tab files  Enter all about it  ^A all chang
    ");
    let keys = [
        Action::Search,
        Action::Type('/'),
        Action::Type('b'),
        Action::Accept,
        Action::Info,
    ];
    insta::assert_snapshot!(screen(&image, (70, 22), &keys), @r"
     /etc/b
     /etc/b  (not in the image)

     layer 1  RUN step 1 && echo of some length
       added
       -rw-r--r-- 0:0 3MB 1970-01-01 00:00
       sha256:5973b7b8afbd2cbe7aeaa193eed5fe09e5fa0389765b72ab7cde1c70e2e
       803ed

     layer 3  Dockerfile:4 RUN step 3 && echo of some length
       removed









    ─ Esc closes ─────────────────────────────────────────────────────────
    //b   1 of 1   n next, N before, Esc forgets
    ");
    let help = screen(&image, (80, 60), &[Action::Help]);
    insta::assert_snapshot!(help, @r"
     Keys of strata explore
     Tab           to the other side
     ↑ k           up
     ↓ j           down
     PageUp        a page up
     PageDown      a page down
     Home g        to the first
     End G         to the last
     [             the layer below
     ]             the layer above
     → l           open the folder
     ← h           close the folder, or go to the one it is in
     Space         open or close the folder
     Ctrl+Space z  open or close all folders
     Enter         a folder: open or close it; a file: why it is as it is; a layer:
     all about it
     i             why a path is as it is: layers, lines, times
     Ctrl+L        mark what this layer does
     Ctrl+A        mark what all layers up to this one do (in the list of layers)
     c             the one or the other of these two
     a Ctrl+A      hide or show added files
     m             … modified files (Ctrl+M is Enter)
     r Ctrl+R      … removed files
     u Ctrl+U      … unmodified files
     w Ctrl+W      only what is wasted, or all
     b Ctrl+B      hide or show mode and owner
     s Ctrl+O      sort by size, or by name
     / Ctrl+F      search: part of a name, or * and ?; with / of a path
     n             the next match
     N             the match before
     Esc           close this page; forget the search
     ?             this page
     Ctrl+Z        suspend; fg comes back
     q             close this page; end
     Ctrl+C        end

     Marks of paths
       +  added
       ~  changed: content, kind, mode, owner or target
       -  removed
       *  something in the folder is other than it was
       !  wasted: bytes in layers that the image does not show
















    ─ Esc closes ───────────────────────────────────────────────────────────────────
     ? help  q quit  Tab files  Enter all about it  ^A all changes  ^L its own
    ");
}

#[test]
fn too_small_is_said() {
    let image = image(&LAYERS);
    assert_eq!(
        screen(&image, (20, 5), &[]),
        "too small:\n30x8 at least\n\n\n\n"
    );
    for (width, height) in [(1, 1), (3, 1), (29, 50), (200, 7)] {
        let text = screen(&image, (width, height), &[Action::Help, Action::Down]);
        assert_eq!(text.lines().count(), usize::from(height));
    }
}

#[test]
fn any_size_is_drawn() {
    let image = image(&LAYERS);
    let mut model = Model::new(Paths::new(&image));
    let keys = [
        Action::FoldAll,
        Action::SwitchPane,
        Action::Last,
        Action::Search,
        Action::Type('l'),
        Action::Help,
    ];
    for key in keys {
        model.act(key);
        for width in (28..140).step_by(3) {
            for height in 6..30 {
                drawn(&mut model, (width, height), true);
            }
        }
    }
}

/// The styles of the cells of a line that has a word, at the word's beginning.
fn style_of(buffer: &Buffer, word: &str) -> Style {
    for y in 0..buffer.area.height {
        let symbols: Vec<&str> = (0..buffer.area.width)
            .map(|x| buffer[(x, y)].symbol())
            .collect();
        if let Some(at) = symbols.concat().find(word) {
            let before = symbols.iter().scan(0, |bytes, symbol| {
                let at = *bytes;
                *bytes += symbol.len();
                Some(at)
            });
            let x = before.take_while(|start| *start < at).count();
            return buffer[(u16::try_from(x).unwrap(), y)].style();
        }
    }
    panic!("no {word} in {}", text(buffer));
}

#[test]
fn colours_say_what_changed_and_need_not_be_there() {
    let image = image(&LAYERS);
    let mut model = Model::new(Paths::new(&image));
    model.act(Action::FoldAll);
    model.act(Action::Span(Span::UpTo));
    let colourful = drawn(&mut model, (100, 30), true);
    for (word, colour) in [
        ("a     ", Color::Yellow),
        ("opt   ", Color::Green),
        ("b     ", Color::Red),
        ("usr", Color::Blue),
    ] {
        assert_eq!(style_of(&colourful, word).fg, Some(colour), "{word}");
    }
    let plain = drawn(&mut model, (100, 30), false);
    assert_eq!(text(&plain), text(&colourful));
    for cell in plain.content() {
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset));
    }
}

#[test]
fn hostile_names_are_letters() {
    let names = [
        &b"a\x1b]0;owned\x07b"[..],
        b"c\xff\xfe",
        "d\u{202e}cod".as_bytes(),
        "e\u{9b}31m".as_bytes(),
        "f\u{65e5}\u{672c}\u{8a9e}".as_bytes(),
        b"g\n\r\tg",
        "h\u{301}\u{200b}\u{1f469}\u{200d}\u{1f4bb}".as_bytes(),
    ];
    let image = of_files(names.iter().map(|name| name.to_vec()));
    let mut model = Model::new(Paths::new(&image));
    model.act(Action::SwitchPane);
    for _ in names {
        model.act(Action::Down);
        model.act(Action::Info);
        for size in [(80, 24), (41, 12)] {
            let buffer = drawn(&mut model, size, true);
            for cell in buffer.content() {
                assert!(!cell.symbol().contains(char::is_control), "{cell:?}");
                assert!(!cell.symbol().contains(['\u{202e}', '\u{200b}', '\u{9b}']));
            }
        }
        model.act(Action::Back);
    }
    insta::assert_snapshot!(screen(&image, (64, 14), &[]), @r"
     Layer 1 of 1                       │─ After layer 1 ───────────
    ▌1    7kB  RUN step 1 && echo of som│      SIZE  PATH
                                        │▌*     7kB ▾ /
    ─ Layer 1 ──────────────────────────│ +     1kB     a\x1b]0;owne
     size   381B, 7kB unpacked          │ +     1kB     c\xff\xfe
     files  +7 ~0 -0                    │ +     1kB     d\u{202e}cod
     wasted 0B                          │ +     1kB     e\x9b31m
     digest 970d8b5478d1                │ +     1kB     f日本語
     diffID ef3feefaa409                │ +     1kB     g\n\x0d\tg
     RUN step 1 && echo of some length  │ +     1kB     h́\u{200b}👩\
                                        │
                                        │ /
                                        │
     ? help  q quit  Tab files  Enter all about it  ^A all changes
    ");
}

#[test]
fn deep_folders_stay_on_the_screen() {
    let path = |depth: usize| vec!["d"; depth].join("/").into_bytes();
    let image = of_files(std::iter::once(path(2000)));
    let mut model = Model::new(Paths::new(&image));
    for action in [Action::FoldAll, Action::SwitchPane, Action::Last] {
        model.act(action);
    }
    let text = text(&drawn(&mut model, (40, 10), false));
    assert_eq!(text.matches("▾ d").count(), 5, "{text}");
    assert!(text.contains(" …"), "{text}");
}

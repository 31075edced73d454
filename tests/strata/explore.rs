//! `explore`, driven through tmux: what is typed, and what is on the screen then.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, PATIENCE, processes, said, succeed};

/// A shell with job control on a screen of tmux. The server is this test's own, and ends with it.
struct Screen<'l> {
    lab: &'l Lab,
    sockets: PathBuf,
}

impl Screen<'_> {
    /// A screen of 80 by 24 with a prompt.
    fn start<'l>(lab: &'l Lab) -> Screen<'l> {
        let screen = Screen {
            lab,
            sockets: lab.beside("tmux"),
        };
        let shell = "PS1='$ ' ENV= exec sh -i";
        let new = [
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
        ];
        screen.tmux(&[&new[..], &[shell]].concat());
        screen.see("a prompt", is_prompt);
        screen
    }

    fn command(&self, arguments: &[&str]) -> Command {
        // By way of the lab's shell, for its environment; no word of it is the shell's.
        let mut command = self.lab.shell("exec \"$@\"");
        command
            .args(["sh", "tmux", "-u", "-L", "explore"])
            .args(arguments)
            .env("TMUX_TMPDIR", &self.sockets)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "screen");
        command
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        succeed(&mut self.command(arguments))
    }

    /// Presses keys, by tmux's names.
    #[track_caller]
    fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a line into the shell.
    #[track_caller]
    fn enter(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.press(&["Enter"]);
    }

    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits until the screen is so.
    #[track_caller]
    fn see(&self, what: &str, is: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let text = self.text();
            if is(&text) {
                return text;
            }
            let late = begun.elapsed() > PATIENCE;
            assert!(!late, "waited too long for {what}:\n{text}");
        }
    }

    /// Waits until the screen has these words.
    #[track_caller]
    fn see_words(&self, words: &str) -> String {
        self.see(words, |text| text.contains(words))
    }

    /// Waits until the tree has these lines: marks and name, without sizes.
    #[track_caller]
    fn see_tree(&self, want: &[&str]) -> String {
        self.see(&format!("{want:?}"), |text| tree(text) == want)
    }

    /// Starts it, and waits until it is there.
    #[track_caller]
    fn explore(&self, image: &str) {
        self.enter(&format!("strata explore {image}"));
        self.see_words("? help");
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // It is gone already only if a test failed on that.
        drop(self.command(&["kill-server"]).output());
    }
}

/// Whether the shell waits for a line.
fn is_prompt(text: &str) -> bool {
    text.trim_end().lines().next_back() == Some("$")
}

/// The lines of the tree at the right of a screen of 80 columns that have a mark, as `~! name`; sizes left out.
fn tree(text: &str) -> Vec<String> {
    let right = text.lines().filter_map(|line| line.rsplit_once('│'));
    let rows = right.skip(2).map(|(_, right)| right.replace('▌', " "));
    let rows = rows.filter_map(|row| {
        let marks: String = row.chars().skip(1).take(2).collect();
        let named = row.split(" -> ").next().unwrap_or_default();
        let name = named.split_whitespace().next_back()?.to_owned();
        // Every line of the tree has a size; what tells of the path under the cursor has none there.
        let size: String = row.chars().skip(4).take(6).collect();
        let is_size =
            size.trim_start().starts_with(|c: char| c.is_ascii_digit()) && size.ends_with('B');
        is_size.then(|| format!("{} {name}", marks.trim()).trim().to_owned())
    });
    rows.collect()
}

/// An image of four layers: a base, files, changed ones, and removed ones.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.write("ctx/data/payload.bin", &"data ".repeat(60_000));
    lab.write("ctx/data/gone.txt", "soon\n");
    lab.write(
        "ctx/Dockerfile",
        "FROM @REG@/busybox\n\
         COPY data /opt/data\n\
         RUN chmod 4700 /opt/data/payload.bin && echo fresh >/opt/fresh.txt\n\
         RUN rm /opt/data/gone.txt && ln -s data /opt/link\n",
    );
    lab.ok(&["build", "-q", "-t", "app", "ctx"]);
    lab
}

#[test]
fn a_walk_through_an_image() {
    let lab = lab();
    let screen = Screen::start(&lab);
    screen.enter("stty -g >before; echo was here");
    screen.see_words("\nwas here");
    screen.explore("app");
    let first = screen.see_words("Layer 4 of 4");
    assert!(first.contains("Dockerfile:4 (stage-0)"), "{first}");
    assert!(first.contains("RUN rm /opt/data/gone.txt"), "{first}");
    assert!(!first.contains("was here"), "{first}");

    // Layers.
    screen.press(&["Up"]);
    screen.see_words("After layer 3, its changes");
    screen.press(&["k", "k", "k", "k"]);
    screen.see_words("Layer 1 of 4");
    screen.press(&["End"]);
    screen.see_words("Layer 4 of 4");
    screen.press(&["k"]);
    screen.see_words("Layer 3 of 4");

    // Folds, and each filter.
    screen.press(&["Tab", "u"]);
    screen.see_words("without unmodified");
    screen.see_tree(&["* /", "* opt"]);
    screen.press(&["j", "Space"]);
    screen.see_tree(&["* /", "* opt", "* data", "+ fresh.txt"]);
    screen.press(&["j", "Right"]);
    let all = ["* /", "* opt", "* data", "~! payload.bin", "+ fresh.txt"];
    let text = screen.see_tree(&all);
    assert!(text.contains("/opt/data\n"), "{text}");
    assert!(
        text.contains("layer 3 Dockerfile:3 RUN chmod 4700"),
        "{text}"
    );
    screen.press(&["Left", "Left"]);
    screen.see_tree(&["* /", "* opt", "* data", "+ fresh.txt"]);
    screen.press(&["C-Space"]);
    screen.see_tree(&all);
    screen.press(&["a"]);
    screen.see_tree(&all[..4]);
    screen.press(&["C-a"]);
    screen.see_tree(&all);
    screen.press(&["m"]);
    screen.see_tree(&["* /", "* opt", "+ fresh.txt"]);
    screen.press(&["m", "w"]);
    screen.see_words("only !");
    screen.see_tree(&all[..4]);
    screen.press(&["w", "]"]);
    screen.see_tree(&["* /", "* opt", "* data", "-! gone.txt", "+ link"]);
    screen.press(&["r"]);
    screen.see_tree(&["* /", "* opt", "+ link"]);
    screen.press(&["r", "b"]);
    screen.see_words("MODE");
    screen.press(&["b", "u"]);
    screen.see("unmodified files", |text| {
        tree(text).contains(&"os-release".to_owned())
    });
    screen.press(&["u"]);

    // All layers' changes.
    screen.press(&["Tab", "C-a"]);
    screen.see_words("changes of 2 to 4");
    let all = [
        "* /",
        "+ opt",
        "+ data",
        "-! gone.txt",
        "+! payload.bin",
        "+ fresh.txt",
        "+ link",
    ];
    screen.see_tree(&all);
    screen.press(&["C-l"]);
    screen.see_tree(&["* /", "* opt", "* data", "-! gone.txt", "+ link"]);
    screen.press(&["c", "Tab", "s"]);
    screen.see_words("SIZE↓WASTED  PATH");
    screen.see_tree(&[
        "* /",
        "+ opt",
        "+ data",
        "+! payload.bin",
        "-! gone.txt",
        "+ fresh.txt",
        "+ link",
    ]);
    screen.press(&["s"]);
    screen.see_tree(&all);

    // Search, and why.
    screen.press(&["/"]);
    screen.see_words("part of a name");
    screen.press(&["-l", "*.txt"]);
    screen.see_words("/*.txt   1 of 2");
    screen.press(&["Enter", "n"]);
    let text = screen.see_words("2 of 2");
    assert!(text.contains("/opt/fresh.txt\n"), "{text}");
    screen.press(&["N"]);
    screen.see_words("1 of 2");
    screen.press(&["Escape"]);
    screen.see_words("? help");
    screen.press(&["C-f", "-l", "PAY"]);
    screen.press(&["Enter"]);
    screen.see_words("no match");
    screen.press(&["C-f"]);
    screen.see_words("part of a name");
    screen.press(&["p", "a", "y", "Enter", "Enter"]);
    let why = screen.see_words("Esc closes");
    for words in [
        "layer 2  Dockerfile:2 COPY data /opt/data",
        "changed: mode (the content is the same)",
        "-rws------ 0:0 300kB",
        "<- data/payload.bin",
    ] {
        assert!(why.contains(words), "{words}: {why}");
    }
    screen.press(&["q", "Escape"]);
    screen.see_words("? help");
    screen.press(&["?"]);
    screen.see_words("Keys of strata explore");
    screen.press(&["Escape"]);

    // Sizes.
    screen.see_words("Layer 4 of 4");
    screen.tmux(&["resize-window", "-x", "40", "-y", "10"]);
    screen.see("one side", |text| {
        text.contains("After layer 4") && !text.contains("Layer 4 of 4")
    });
    screen.press(&["Tab"]);
    screen.see_words("Layer 4 of 4");
    screen.tmux(&["resize-window", "-x", "20", "-y", "5"]);
    screen.see("that it is too small", |text| {
        text.starts_with("too small:\n30x8 at least")
    });
    screen.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    screen.see("both sides", |text| {
        text.contains("After layer 4") && text.contains("Layer 4 of 4")
    });

    // Suspended, and back.
    screen.press(&["C-z"]);
    screen.see("the shell", |text| {
        text.contains("was here") && is_prompt(text)
    });
    screen.enter("fg");
    screen.see_words("Layer 4 of 4");
    screen.press(&["q"]);
    let text = screen.see("the shell", |text| {
        text.contains("was here") && is_prompt(text)
    });
    assert!(text.contains("$ strata explore app"), "{text}");
    screen.enter("echo code=$?; stty -g >after; cmp before after && echo the same");
    screen.see_words("\ncode=0\nthe same\n");
}

#[test]
fn a_signal_gives_the_terminal_back() {
    let lab = lab();
    let screen = Screen::start(&lab);
    screen.enter("stty -g >before");
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        // The store's name is in the command line, so that it is this one that is found.
        let root = lab.root.display().to_string();
        screen.enter(&format!("clear; strata --root {root} explore app"));
        screen.see_words("? help");
        let [pid] = processes(&root)[..] else {
            panic!("one process of {root}: {:?}", processes(&root));
        };
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a process id"), signal).expect("it runs");
        screen.see("the shell", |text| {
            text.contains("error: interrupted") && is_prompt(text)
        });
        screen.enter("echo code=$?; stty -g >after; cmp before after && echo the same");
        screen.see_words("\ncode=130\nthe same\n");
    }
    screen.explore("app");
    screen.press(&["C-c"]);
    screen.see("the shell", is_prompt);
    screen.enter("echo code=$?");
    screen.see_words("\ncode=0\n");
}

#[test]
fn hostile_names_do_nothing() {
    let lab = Lab::new();
    lab.write(
        "ctx/Dockerfile",
        "FROM @REG@/busybox\n\
         RUN mkdir /e && cd /e && touch \"$(printf 'a\\033]2;owned\\007b')\" \"$(printf 'c\\033[2Jd')\" \"$(printf 'e\\377f')\" 日本語 \"$(printf 'g\\nh')\"\n",
    );
    lab.ok(&["build", "-q", "-t", "app", "ctx"]);
    let screen = Screen::start(&lab);
    let title = screen.tmux(&["display-message", "-p", "#{pane_title}"]);
    screen.explore("app");
    screen.press(&["Tab", "u", "C-Space"]);
    screen.see_tree(&[
        "* /",
        "+ e",
        r"+ a\x1b]2;owned\x07b",
        r"+ c\x1b[2Jd",
        r"+ e\xfff",
        r"+ g\nh",
        "+ 日本語",
    ]);
    screen.press(&["j", "j", "Enter"]);
    let text = screen.see_words("Esc closes");
    assert!(text.contains(r"/e/a\x1b]2;owned\x07b"), "{text}");
    assert_eq!(
        screen.tmux(&["display-message", "-p", "#{pane_title}"]),
        title
    );
    screen.press(&["q", "q"]);
    screen.see("the shell", is_prompt);
}

#[test]
fn without_a_terminal_it_says_what_to_use() {
    let lab = Lab::new();
    let output = lab.strata(&["explore", "app"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        said(&output).split_once('\n').unwrap().1,
        "error: explore needs a terminal: standard output is none\n\
         hint: strata layers app and strata files app say the same in lines\n"
    );
    let output = lab.strata(&["explore", "--help"]).output().unwrap();
    assert!(
        said(&output).contains("shows all keys"),
        "{}",
        said(&output)
    );
}

//! `.dockerignore`: 20 patterns over 100,000 paths, in paths a second; a walk with four, too.
//!
//! A no-op build of a large context is a walk with this in its middle, so a path should cost well under the microsecond that
//! its `stat` takes. `walk` is how strata asks (the directory's verdict is known), `alone` asks for each path from the root.

use divan::Bencher;
use divan::counter::ItemsCount;
use strata::dockerfile::ignore::{Ignore, State};

/// What a JavaScript and Python project ignores, with the shapes that cost most: `**`, exceptions, classes.
const PATTERNS: &str = "\
# comment
.git
.gitignore
**/node_modules/.cache
**/*.log
**/*.tmp
**/__pycache__
**/*.py[co]
dist
build/output
coverage/**
docs/**/*.md
!docs/**/README.md
*.swp
.env*
!.env.example
**/.DS_Store
test/fixtures/large-?.bin
vendor/*/testdata
Dockerfile*
**/tmp-[0-9]*
";

/// The four of workload W5.
const FOUR: &str = "\
**/.git
**/*.log
!keep.log
**/tmp/*.swp
";

fn main() {
    divan::main();
}

/// 1,000 directories of 100 files, three levels deep.
fn directories() -> Vec<(String, Vec<String>)> {
    const TOPS: [&str; 5] = ["src", "node_modules", "docs", "test", "vendor"];
    const ENDS: [&str; 5] = [".js", ".md", ".py", ".log", ".d.ts"];
    let directory = |number: usize| {
        let folder = format!("{}/package-{:03}/lib", TOPS[number % 5], number / 5);
        let file = |n: usize| format!("{folder}/module-{n:03}{}", ENDS[n % 5]);
        let files = (0..100).map(file).collect();
        (folder, files)
    };
    (0..1_000).map(directory).collect()
}

#[divan::bench(sample_count = 20, args = [20, 4])]
fn walk(bencher: Bencher, patterns: usize) {
    let text = if patterns == 4 { FOUR } else { PATTERNS };
    let ignore = Ignore::parse(text).expect("patterns");
    let directories = directories();
    bencher
        .counter(ItemsCount::new(100_000usize))
        .bench_local(|| {
            let mut excluded = 0;
            for (folder, files) in &directories {
                let mut state = State::default();
                for (end, _) in folder.match_indices('/').chain([(folder.len(), "")]) {
                    state = ignore.verdict(&folder.as_bytes()[..end], &state).1;
                }
                excluded += files
                    .iter()
                    .filter(|f| ignore.excludes(f.as_bytes(), &state))
                    .count();
            }
            excluded
        });
}

#[divan::bench(sample_count = 20)]
fn alone(bencher: Bencher) {
    let ignore = Ignore::parse(PATTERNS).expect("patterns");
    let directories = directories();
    bencher
        .counter(ItemsCount::new(100_000usize))
        .bench_local(|| {
            let paths = directories.iter().flat_map(|(_, files)| files);
            paths.filter(|f| ignore.matches(f.as_bytes())).count()
        });
}

#[divan::bench]
fn parse() -> Ignore {
    Ignore::parse(PATTERNS).expect("patterns")
}

//! The conformance cases: a Dockerfile and a context go in, an OCI image comes out, and it is the image that BuildKit makes.
//!
//! Checks: result (fails or not), error, log, leak, verify (digests, sizes, diff ids, layout), files (type, mode, owner, content,
//! link target, device, capability; as the difference from the base), config, layers (their number), annotations, steps
//! (of `again`), history and argsescaped. A case passes when all hold but those of [`APART`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use regex_lite::RegexBuilder;
use serde_json::{Map, Value};

use crate::case::{Built, Case, Change, Work, normalise};
use crate::compare::{Failed, compare, describe};
use crate::image::{Archive, Image};
use crate::pattern;
use crate::tree::flatten;
use crate::world::{Who, World, copy_tree};

/// Checks that are counted but fail no case: words of a builder's own (history), and a setting only Windows uses.
const APART: &[&str] = &["history", "argsescaped"];
/// Cases of one area that are built at the same time: they share a store, so that this is tested as well.
const JOBS: usize = 2;

/// Makes a test of each area, as `area::root` and `area::rootless`, and the list of the areas.
macro_rules! areas {
    ($($area:ident)*) => {
        const AREAS: &[&str] = &[$(stringify!($area)),*];
        $(mod $area {
            #[test]
            fn by_me() {
                super::check_area(stringify!($area), super::Who::Me);
            }

            #[test]
            fn by_ordinary_user() {
                super::check_area(stringify!($area), super::Who::Ordinary);
            }
        })*
    };
}

areas! {
    add annotation arg cache cmd config context copy entrypoint env error expand expose from hardlink healthcheck ignore label
    namedcontext onbuild output parse platform run sde shell special stage stopsignal target user volume whiteout workdir xattr
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/conformance")
}

/// The folders of all cases, by name.
fn cases() -> BTreeMap<String, PathBuf> {
    let folders =
        std::fs::read_dir(data().join("cases")).expect("the cases are part of the project");
    let folders = folders
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.join("case.json").is_file());
    folders
        .map(|path| {
            (
                path.file_name()
                    .expect("a folder has a name")
                    .to_string_lossy()
                    .into_owned(),
                path,
            )
        })
        .collect()
}

/// The area of a case: its name up to the first dash.
fn area(name: &str) -> &str {
    name.split('-').next().unwrap_or(name)
}

/// Cases that are known to fail, each with why in a comment: they do not fail the tests, but one that passes does.
fn known() -> BTreeSet<String> {
    let text =
        std::fs::read_to_string(data().join("known.txt")).expect("the list is part of the project");
    let names = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim().to_owned());
    names.filter(|name| !name.is_empty()).collect()
}

/// What came out of a case.
enum Verdict {
    Skipped,
    Done(Failed),
}

/// Builds every case of an area and panics with what failed.
#[expect(clippy::print_stdout, reason = "the counts that tests/run.sh collects")]
fn check_area(area_name: &str, who: Who) {
    if who == Who::Ordinary && !rustix::process::geteuid().is_root() {
        // Not skipped: `by_me` is this very test then.
        return;
    }
    let filter = std::env::var("STRATA_CASES").ok();
    let wanted = |name: &str| {
        filter
            .as_ref()
            .is_none_or(|globs| globs.split(',').any(|glob| pattern::matches(name, glob)))
    };
    let mut queue: Vec<(String, PathBuf)> = cases()
        .into_iter()
        .filter(|(name, _)| area(name) == area_name && wanted(name))
        .collect();
    if queue.is_empty() {
        return;
    }
    queue.reverse();
    let (world, queue, verdicts) = (
        World::shared(who),
        Mutex::new(queue),
        Mutex::new(BTreeMap::new()),
    );
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
                while let Some((name, folder)) = next() {
                    let verdict = judge(&world, &name, &folder);
                    verdicts
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(name, verdict);
                }
            });
        }
    });
    let verdicts = verdicts
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let known = known();
    let (mut report, mut passed, mut failed, mut skipped, mut apart, mut wrong) =
        (String::new(), 0, 0, 0, 0, 0);
    for (name, verdict) in verdicts {
        let Verdict::Done(mut checks) = verdict else {
            skipped += 1;
            continue;
        };
        let all = checks.len();
        checks.retain(|check, _| !APART.contains(check));
        apart += usize::from(all != checks.len());
        *if checks.is_empty() {
            &mut passed
        } else {
            &mut failed
        } += 1;
        if checks.is_empty() && known.contains(&name) {
            wrong += 1;
            writeln!(report, "PASS {name}: take it off known.txt").expect("a String takes all");
        } else if !checks.is_empty() {
            let said: Vec<String> = checks
                .iter()
                .map(|(check, what)| format!("[{check}] {what}"))
                .collect();
            wrong += usize::from(!known.contains(&name));
            let word = if known.contains(&name) {
                "KNOWN"
            } else {
                "FAIL"
            };
            writeln!(report, "{word} {name}: {}", said.join("  ")).expect("a String takes all");
        }
    }
    let user = if who == Who::Me { "" } else { " rootless" };
    println!(
        "conformance {area_name}{user}: {passed} passed, {failed} failed, {skipped} skipped, {apart} apart\n{report}"
    );
    // What is wrong with them was printed, and the harness shows it.
    assert_eq!(
        wrong, 0,
        "cases of {area_name}{user} that are not as expected"
    );
}

/// Builds one case in the world and says which checks fail.
fn judge(world: &World, name: &str, folder: &Path) -> Verdict {
    let case: Case = read_json(&folder.join("case.json")).expect(name);
    let root = world.user.is_none() && rustix::process::geteuid().is_root();
    if case.needs.iter().any(|need| need == "root" && !root) {
        return Verdict::Skipped;
    }
    let mut tokens = world.tokens.clone();
    tokens.insert("RUN".into(), format!("{}-{name}", world.id));
    tokens.insert("WEB".into(), format!("http://{}/w/{name}", world.host()));
    let work = Work {
        world,
        folder: world.work.join(name),
        tokens,
    };
    let mut log = String::new();
    let failed = prepare(&work, folder).and_then(|()| check(&work, &case, folder, &mut log));
    // A broken image or setup can cause anything here; the case fails, and says it.
    let failed = failed.unwrap_or_else(|error| Failed::from([("verify", error.to_string())]));
    if std::env::var_os("STRATA_KEEP").is_some() {
        std::fs::write(work.folder.with_extension("log"), log).expect("write the case's log");
    } else {
        std::fs::remove_dir_all(&work.folder).expect("remove the case's folder");
    }
    Verdict::Done(failed)
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Outcome<T> {
    let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))?)
}

/// Copies the case to where it is built.
fn prepare(work: &Work<'_>, folder: &Path) -> Outcome<()> {
    copy_tree(folder, &work.folder)?;
    for own in ["case.json", "expected.json"] {
        match std::fs::remove_file(work.folder.join(own)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    normalise(&work.folder)?;
    if let Some(user) = &work.world.user {
        user.own(&work.folder)?;
    }
    Ok(())
}

fn check(work: &Work<'_>, case: &Case, folder: &Path, log: &mut String) -> Outcome<Failed> {
    let mut failed = Failed::new();
    let mut images: Vec<Image> = Vec::new();
    let first = crate::case::Again {
        setup: case.setup.clone(),
        ..Default::default()
    };
    for (step, again) in std::iter::once(&first).chain(&case.again).enumerate() {
        let built = work.build(case, again, again.setup.as_deref(), step)?;
        log.push_str(&built.output);
        if let Some(expressions) = &case.fail {
            failed.append(&mut refused(&built, expressions)?);
            break;
        }
        if !built.succeeded() {
            let status = built
                .status
                .map_or("killed: no end".to_owned(), |status| status.to_string());
            return Ok(Failed::from([(
                "result",
                format!("{status}: {}", built.tail()),
            )]));
        }
        let archive = Archive::read(&built.archive)?;
        if std::env::var_os("STRATA_KEEP").is_none() {
            std::fs::remove_file(&built.archive)?;
        }
        if let Some(problem) = archive.problems.first() {
            failed.insert("verify", problem.clone());
        }
        if step > 0
            && let Some(wrong) = compare_step(again, &images, &archive.images)?
        {
            failed
                .entry("steps")
                .or_insert_with(|| format!("build {}: {wrong}", step + 1));
        }
        images = archive.images;
    }
    for expression in &case.log {
        if !found(expression, log)? {
            failed.insert("log", format!("output lacks {expression:?}"));
        }
    }
    for secret in &case.no_leak {
        if images.iter().any(|image| image.contains(secret)) {
            failed.insert("leak", format!("{secret:?} is in the image"));
        }
    }
    if case.fail.is_some() {
        return Ok(failed);
    }
    let expected: Map<String, Value> = read_json(&folder.join("expected.json"))?;
    let mut got = Map::new();
    for image in &images {
        let mut described = describe(image, case, work.world, &work.tokens)?;
        for path in case
            .again
            .iter()
            .flat_map(|again| again.same.iter().chain(&again.differ))
        {
            // The text of these is another one in every run.
            if let Some(entry) = described["files"]
                .get_mut(path)
                .and_then(Value::as_object_mut)
            {
                entry.retain(|key, _| !["text", "sha256", "size"].contains(&key.as_str()));
            }
        }
        got.insert(image.platform.clone(), described);
    }
    let mut all = compare(&expected, &got);
    all.append(&mut failed);
    Ok(all)
}

/// Whether a build that has to fail did, and said why.
fn refused(built: &Built, expressions: &[String]) -> Outcome<Failed> {
    let mut failed = Failed::new();
    if built.succeeded() {
        failed.insert("result", "the build succeeded but has to fail".into());
        return Ok(failed);
    }
    if !built.exited() {
        failed.insert("result", format!("killed or timed out: {}", built.tail()));
    }
    for expression in expressions {
        if !found(expression, &built.output)? {
            failed
                .entry("error")
                .or_insert_with(|| format!("no match for {expression:?} in: {}", built.tail()));
        }
    }
    Ok(failed)
}

fn found(expression: &str, text: &str) -> Outcome<bool> {
    let expression = RegexBuilder::new(expression)
        .case_insensitive(true)
        .multi_line(true)
        .build()?;
    Ok(expression.is_match(text))
}

/// What a later build has in common with the one before it, and should not, or the other way round.
fn compare_step(
    again: &crate::case::Again,
    before: &[Image],
    after: &[Image],
) -> Outcome<Option<String>> {
    let (before, after) = (&before[0], &after[0]);
    let (old, new) = (flatten(&before.layers)?, flatten(&after.layers)?);
    for (paths, same) in [(&again.same, true), (&again.differ, false)] {
        for path in paths {
            if !new.contains_key(path) || (old.get(path) == new.get(path)) != same {
                let word = if same { "be as in" } else { "differ from" };
                return Ok(Some(format!("{path} should {word} the build before")));
            }
        }
    }
    let digest = if before.digest == after.digest {
        Change::Same
    } else {
        Change::Differ
    };
    Ok(again
        .digest
        .filter(|wanted| *wanted != digest)
        .map(|wanted| format!("the digest should be: {wanted:?}")))
}

#[test]
fn every_case_is_in_an_area() {
    let areas: BTreeSet<String> = cases().keys().map(|name| area(name).to_owned()).collect();
    assert_eq!(areas, AREAS.iter().map(|area| (*area).to_owned()).collect());
}

#[test]
fn cases_of_our_own_say_where_their_expectations_are_from() {
    let mut own = 0;
    for (name, folder) in cases() {
        let case: Case = read_json(&folder.join("case.json")).expect(&name);
        let is_own = name
            .split_once('-')
            .is_some_and(|(_, topic)| topic.starts_with("own-"));
        assert_eq!(case.oracle.is_some(), is_own, "{name}");
        let said = case.fail.is_some() || folder.join("expected.json").is_file();
        assert!(said, "{name} expects nothing");
        own += usize::from(is_own);
    }
    assert!(own >= 80, "{own} cases of our own");
}

#[test]
fn known_failures_are_cases() {
    let names: BTreeSet<String> = cases().into_keys().collect();
    assert!(known().is_subset(&names));
}

#[test]
fn tests_share_one_world() {
    let (one, two) = (World::shared(Who::Me), World::shared(Who::Me));
    assert!(Arc::ptr_eq(&one, &two));
}

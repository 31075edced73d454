//! The Dockerfile of a build and its ignore file, from wherever they are.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use strata::build::Context;
use strata::dockerfile::ignore::Ignore;

use super::build_values::DockerfileSource;
use super::error::{CliError, Doing as _};

/// The longest Dockerfile or ignore file: longer than any that a person or a generator wrote, and far below what spans can hold.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// The names looked for where none is given, in order.
const DEFAULT_NAMES: [&str; 2] = ["Dockerfile", "Containerfile"];

/// A Dockerfile.
#[derive(Debug)]
pub(crate) struct Text {
    /// How messages call it.
    pub(crate) name: String,
    /// What it says.
    pub(crate) text: String,
    /// Where it is, so that an ignore file of its own can be found beside it.
    place: Place,
}

/// Where a Dockerfile is.
#[derive(Debug)]
enum Place {
    /// A path of the host.
    Host(PathBuf),
    /// A path in a context that others may have made.
    Context(PathBuf),
    /// Nowhere.
    Stream,
}

/// What the user gave as a context, as far as paths are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base<'a> {
    /// A folder of the user's own: `-f` is a path of the host, and links lead where they lead.
    Own(&'a Path),
    /// Something fetched or unpacked: `-f` is a path in it, and links do not lead out of it.
    Foreign(&'a Path),
    /// None.
    Nothing,
}

/// Reads the Dockerfile; `fetch` brings it here where it is a URL.
pub(crate) fn read(
    source: &DockerfileSource,
    base: Base<'_>,
    fetch: &dyn Fn(&str) -> Result<Context, CliError>,
) -> Result<Text, CliError> {
    match (source, base) {
        (DockerfileSource::Stdin, _) => {
            let text = limited(io::stdin().lock())
                .doing(|| "read the Dockerfile from standard input".to_owned())?;
            Ok(Text {
                name: "Dockerfile".to_owned(),
                text,
                place: Place::Stream,
            })
        }
        (DockerfileSource::Http(url), _) => {
            let fetched = fetch(url)?;
            let Some(name) = fetched.lone_file() else {
                return Err(CliError::Refused(format!(
                    "failed to read dockerfile: {url} is an archive; give it as the context"
                )));
            };
            let mut text = first(&[Place::Context(name.into())], fetched.folder())?;
            text.place = Place::Stream;
            Ok(text)
        }
        (DockerfileSource::Default, Base::Own(folder)) => {
            first(&DEFAULT_NAMES.map(|n| Place::Host(folder.join(n))), folder)
        }
        (DockerfileSource::Default, Base::Foreign(folder)) => {
            first(&DEFAULT_NAMES.map(|n| Place::Context(n.into())), folder)
        }
        (DockerfileSource::Path(path), Base::Own(folder)) => {
            first(&[Place::Host(path.clone())], folder)
        }
        (DockerfileSource::Path(path), Base::Foreign(folder)) => {
            first(&[Place::Context(path.clone())], folder)
        }
        (DockerfileSource::Default, Base::Nothing) => Err(CliError::Usage(
            "there is no Dockerfile: give one with -f".to_owned(),
        )),
        (DockerfileSource::Path(path), Base::Nothing) => {
            first(&[Place::Host(path.clone())], Path::new("."))
        }
    }
}

/// A Dockerfile that came as a stream.
pub(crate) fn from_stream(bytes: &[u8]) -> Text {
    Text {
        name: "Dockerfile".to_owned(),
        text: String::from_utf8_lossy(bytes).into_owned(),
        place: Place::Stream,
    }
}

/// Reads the first of several places that exists.
fn first(places: &[Place], folder: &Path) -> Result<Text, CliError> {
    let mut missing = None;
    for place in places {
        let shown = match place {
            Place::Host(path) | Place::Context(path) => path.clone(),
            Place::Stream => PathBuf::new(),
        };
        match open(place, folder).and_then(limited) {
            Ok(text) => {
                let name = shown
                    .strip_prefix(folder)
                    .unwrap_or(&shown)
                    .display()
                    .to_string();
                return Ok(Text {
                    name,
                    text,
                    place: match place {
                        Place::Host(path) => Place::Host(path.clone()),
                        Place::Context(path) => Place::Context(path.clone()),
                        Place::Stream => Place::Stream,
                    },
                });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                missing.get_or_insert(shown);
            }
            Err(e) => return Err(e).doing(|| format!("read the Dockerfile {}", shown.display())),
        }
    }
    let name = missing.unwrap_or_default();
    // BuildKit's words, which scripts look for.
    let message = format!(
        "failed to read dockerfile: open {}: no such file or directory",
        name.display()
    );
    Err(match near(&name, folder) {
        Some(hint) => CliError::Hinted { message, hint },
        None => CliError::Refused(message),
    })
}

/// Where the Dockerfile may be instead: a file of nearly that name, or of a name that says it is one.
fn near(missing: &Path, folder: &Path) -> Option<String> {
    let beside = missing.parent().filter(|p| !p.as_os_str().is_empty());
    let beside = match beside {
        // A path of the context.
        Some(beside) if !missing.starts_with(folder) && !beside.is_dir() => folder.join(beside),
        Some(beside) => beside.to_owned(),
        None => folder.to_owned(),
    };
    let mut names: Vec<String> = std::fs::read_dir(&beside)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.ends_with(".dockerignore"))
        .collect();
    names.sort();
    let wanted = missing.file_name()?.to_str()?;
    let says_so = |name: &&String| {
        let lower = name.to_lowercase();
        lower.contains("dockerfile") || lower.contains("containerfile")
    };
    let name = strata::dockerfile::nearest(wanted, names.iter().map(String::as_str))
        .or_else(|| names.iter().find(says_so).map(String::as_str))?;
    let path = beside.join(name);
    path.is_file()
        .then(|| format!("did you mean -f {}?", path.display()))
}

fn open(place: &Place, folder: &Path) -> io::Result<File> {
    match place {
        Place::Host(path) => File::open(path),
        Place::Context(path) => Ok(File::from(open_inside(folder, path)?)),
        Place::Stream => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Opens a path below a folder; links in it are followed as if the folder were the root.
fn open_inside(folder: &Path, path: &Path) -> io::Result<OwnedFd> {
    let root = rustix::fs::open(
        folder,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(rustix::fs::openat2(
        root,
        path,
        // A pipe in a context must not hang the build.
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?)
}

/// All of a text, within bounds. Bytes that are no UTF-8 are replaced: they are in comments of old files.
fn limited(stream: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    stream.take(MAX_TEXT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {} MiB", MAX_TEXT_BYTES >> 20),
        ));
    }
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

impl Text {
    /// The file of the host that it was read from, if it was one.
    pub(crate) fn host_path(&self) -> Option<&Path> {
        match &self.place {
            Place::Host(path) => Some(path),
            Place::Context(_) | Place::Stream => None,
        }
    }

    /// The ignore file that counts for the build context: the Dockerfile's own (`NAME.dockerignore` beside it), else the
    /// context's. With the name that messages call it by.
    pub(crate) fn ignore(&self, base: Base<'_>) -> Result<Option<(Ignore, String)>, CliError> {
        let beside = |path: &Path| {
            let mut own = path.as_os_str().to_owned();
            own.push(".dockerignore");
            PathBuf::from(own)
        };
        let own = match (&self.place, base) {
            (Place::Host(path), _) => Some((Place::Host(beside(path)), Path::new("."))),
            (Place::Context(path), Base::Foreign(folder)) => {
                Some((Place::Context(beside(path)), folder))
            }
            _ => None,
        };
        if let Some((place, folder)) = own
            && let Some(found) = ignore_at(&place, folder)?
        {
            return Ok(Some(found));
        }
        match base {
            Base::Own(folder) => folder_ignore(folder),
            Base::Foreign(folder) => ignore_at(&Place::Context(".dockerignore".into()), folder),
            Base::Nothing => Ok(None),
        }
    }
}

/// The ignore file of a folder of the user's.
pub(crate) fn folder_ignore(folder: &Path) -> Result<Option<(Ignore, String)>, CliError> {
    ignore_at(&Place::Host(folder.join(".dockerignore")), folder)
}

fn ignore_at(place: &Place, folder: &Path) -> Result<Option<(Ignore, String)>, CliError> {
    let name = match place {
        Place::Host(path) | Place::Context(path) => path.file_name().map_or_else(
            || path.display().to_string(),
            |n| n.to_string_lossy().into_owned(),
        ),
        Place::Stream => return Ok(None),
    };
    match open(place, folder).and_then(limited) {
        Ok(text) => {
            let ignore = Ignore::parse(&text).doing(|| format!("understand {name}"))?;
            Ok(Some((ignore, name)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).doing(|| format!("read {name}")),
    }
}

/// Whether bytes begin like an archive, plain or compressed, rather than like a Dockerfile.
pub(crate) fn is_archive(head: &[u8]) -> bool {
    const MAGICS: [&[u8]; 4] = [
        &[0x1f, 0x8b],
        b"BZh",
        &[0xfd, b'7', b'z', b'X', b'Z'],
        &[0x28, 0xb5, 0x2f, 0xfd],
    ];
    MAGICS.iter().any(|m| head.starts_with(m)) || head.get(257..262) == Some(b"ustar")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(source: &DockerfileSource, base: Base<'_>) -> Result<Text, CliError> {
        super::read(source, base, &|url| Err(CliError::Refused(url.to_owned())))
    }

    #[test]
    fn the_default_names_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::Own(dir.path());
        let error = read(&DockerfileSource::Default, base).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("failed to read dockerfile: open ")
        );
        assert_eq!(error.render().unwrap().lines().count(), 1);
        fs::write(dir.path().join("app.dockerfile"), "FROM c").unwrap();
        let error = read(&DockerfileSource::Default, base).unwrap_err();
        let said = error.render().unwrap();
        assert!(said.contains("hint: did you mean -f "), "{said}");
        assert!(said.ends_with("/app.dockerfile?\n"), "{said}");
        fs::write(dir.path().join("Containerfile"), "FROM b").unwrap();
        assert_eq!(
            read(&DockerfileSource::Default, base).unwrap().text,
            "FROM b"
        );
        fs::write(dir.path().join("Dockerfile"), "FROM a").unwrap();
        let text = read(&DockerfileSource::Default, base).unwrap();
        assert_eq!(
            (text.name.as_str(), text.text.as_str()),
            ("Dockerfile", "FROM a")
        );
    }

    #[test]
    fn a_foreign_context_shows_nothing_of_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("secret");
        fs::write(&outside, "secret").unwrap();
        let context = dir.path().join("context");
        fs::create_dir(&context).unwrap();
        std::os::unix::fs::symlink(&outside, context.join("Dockerfile")).unwrap();
        assert!(read(&DockerfileSource::Default, Base::Foreign(&context)).is_err());
        for path in ["../secret", outside.to_str().unwrap()] {
            let source = DockerfileSource::Path(path.into());
            assert!(read(&source, Base::Foreign(&context)).is_err(), "{path}");
        }
        fs::write(context.join("real"), "FROM x").unwrap();
        let inside = DockerfileSource::Path("/real".into());
        assert!(read(&inside, Base::Foreign(&context)).is_ok());
    }

    #[test]
    fn the_dockerfiles_own_ignore_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        let base = Base::Own(dir.path());
        fs::write(dir.path().join("Dockerfile"), "FROM a").unwrap();
        let text = read(&DockerfileSource::Default, base).unwrap();
        assert!(text.ignore(base).unwrap().is_none());
        fs::write(dir.path().join(".dockerignore"), "a").unwrap();
        assert_eq!(text.ignore(base).unwrap().unwrap().1, ".dockerignore");
        fs::write(dir.path().join("Dockerfile.dockerignore"), "b").unwrap();
        let (ignore, name) = text.ignore(base).unwrap().unwrap();
        assert_eq!(name, "Dockerfile.dockerignore");
        assert!(ignore.matches(b"b") && !ignore.matches(b"a"));
    }

    #[test]
    fn archives_by_their_first_bytes() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar));
        assert!(is_archive(&[0x1f, 0x8b, 8]));
        assert!(!is_archive(b"FROM busybox\n"));
        assert!(!is_archive(b""));
    }
}

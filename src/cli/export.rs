//! A result as plain files: `type=local`, `type=tar`, and `unpack`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use strata::build::BuiltFiles;
use strata::layer::tar::WhiteoutNames;
use strata::layer::{
    self, Compression, DiffOptions, KindRef, PackOptions, Root, Stack, TreeOptions, UnpackOptions,
    Unpacked, Whiteouts,
};
use strata::oci::{DiffId, Platform};
use strata::store::{LayerId, StackLayer, Store, StoreError};

use super::error::{CliError, Doing as _};
use super::output::note;
use super::output_spec::Dest;
use super::session::Session;

/// The most that a layer may unpack to: 1 TiB, far beyond any image; a bomb fills the disk no sooner than that.
const MAX_LAYER_BYTES: u64 = 1 << 40;

/// Writes the layers of an image, bottom first, over each other into a folder: a plain root file system.
///
/// `Ok` means: everything is in the folder, and every blob was what its digest says.
pub(crate) fn unpack(
    session: &Session,
    store: &Store,
    layers: &[StackLayer],
    folder: &Path,
) -> Result<(), CliError> {
    let doing = || format!("unpack into {}", folder.display());
    let made = !folder.exists();
    fs::create_dir_all(folder).doing(doing)?;
    let result = unpack_into(session, store, layers, folder);
    if made && result.is_err() {
        // Half a file system looks like a whole one.
        fs::remove_dir_all(folder).doing(|| format!("remove {}", folder.display()))?;
    }
    result.map(drop)
}

/// The same into a folder that is there, where what is done stays when the rest fails. Says whether a layer speaks of the folder
/// itself.
fn unpack_into(
    session: &Session,
    store: &Store,
    layers: &[StackLayer],
    folder: &Path,
) -> Result<bool, CliError> {
    let doing = || format!("unpack into {}", folder.display());
    let mut described = false;
    let root = Root::open(folder).doing(doing)?;
    let options = UnpackOptions {
        tree: TreeOptions {
            whiteouts: Whiteouts::Apply,
            ..store.tree_options()
        },
        names: WhiteoutNames::Oci,
        limit_bytes: MAX_LAYER_BYTES,
        below: None,
    };
    for (blob, diff_id) in layers {
        if session.is_canceled() {
            return Err(CliError::Interrupted);
        }
        let unpacked = match blob {
            Some(blob) => {
                let file = store.open_blob(blob).doing(doing)?;
                let doing =
                    || format!("unpack the layer {} into {}", blob.digest, folder.display());
                let unpacked = layer::unpack(file, &root, &options).doing(doing)?;
                if unpacked.digest != blob.digest {
                    return Err(CliError::Refused(format!(
                        "the blob {} is damaged: its bytes have the digest {}; run strata check --repair and pull the image again",
                        blob.digest, unpacked.digest
                    )));
                }
                unpacked
            }
            None => copy_tree(store, diff_id, &root, &options)?,
        };
        for text in &unpacked.notes {
            note(&format!("note: {text}"));
        }
        let itself = unpacked.toc.find(b"");
        described |=
            itself.is_some_and(|e| !matches!(e.kind, KindRef::Directory { implied: true, .. }));
    }
    Ok(described)
}

/// Unpacks a layer that is in the store as files alone, by way of the tar that it would be.
fn copy_tree(
    store: &Store,
    diff_id: &DiffId,
    root: &Root,
    options: &UnpackOptions<'_>,
) -> Result<Unpacked, CliError> {
    let doing = || format!("copy the layer {diff_id}");
    let layer = store.layer(&LayerId::Diff(*diff_id)).doing(doing)?;
    let layer = layer
        .ok_or(StoreError::MissingLayer(*diff_id))
        .doing(doing)?;
    let toc = layer.toc().doing(doing)?;
    let tree = Root::open(layer.fs()).doing(doing)?;
    let (reader, writer) = io::pipe().doing(doing)?;
    let plain = PackOptions {
        compression: Compression::None,
        ..PackOptions::default()
    };
    let (unpacked, packed) = thread::scope(|scope| {
        let packing = scope.spawn(|| layer::pack_tree(&toc, &tree, writer, &plain));
        let unpacked = layer::unpack(reader, root, options);
        (
            unpacked,
            packing.join().expect("a panic of packing is passed on"),
        )
    });
    // Where both fail, the reader went first: it alone can end the other.
    let unpacked = unpacked.doing(doing)?;
    packed.doing(doing)?;
    if unpacked.diff_id != *diff_id {
        return Err(CliError::Refused(format!(
            "the layer {diff_id} is damaged: its files make {}; run strata check --repair and build again",
            unpacked.diff_id
        )));
    }
    Ok(unpacked)
}

/// Writes a build's files, a folder for each platform where there are several.
pub(crate) fn files(
    session: &Session,
    store: &Store,
    built: &[BuiltFiles],
    dest: &Dest,
    tar: bool,
    platform_split: Option<bool>,
) -> Result<(), CliError> {
    let split = platform_split.unwrap_or(built.len() > 1);
    let sub = |platform: &Platform| {
        if split {
            platform.to_string().replace('/', "_")
        } else {
            String::new()
        }
    };
    match (dest, tar) {
        (Dest::Path(folder), false) => built.iter().try_for_each(|image| {
            unpack(
                session,
                store,
                &image.layers,
                &folder.join(sub(&image.platform)),
            )
        }),
        (dest, _) => {
            let work = store
                .work()
                .doing(|| "make a temporary folder".to_owned())?;
            let tree = work
                .directory("export")
                .doing(|| "make a temporary folder".to_owned())?;
            for image in built {
                let folder = tree.join(sub(&image.platform));
                let doing = || format!("make {}", folder.display());
                fs::create_dir_all(&folder).doing(doing)?;
                if !unpack_into(session, store, &image.layers, &folder)? {
                    // From 1970, as all that no layer speaks of.
                    File::open(&folder)
                        .and_then(|folder| folder.set_modified(SystemTime::UNIX_EPOCH))
                        .doing(doing)?;
                }
            }
            match dest {
                Dest::Path(path) => {
                    let doing = || format!("write {}", path.display());
                    let dir = match path.parent() {
                        Some(dir) if !dir.as_os_str().is_empty() => dir,
                        _ => Path::new("."),
                    };
                    let mut temp = tempfile::Builder::new()
                        .permissions(fs::Permissions::from_mode(0o644))
                        .tempfile_in(dir)
                        .doing(doing)?;
                    pack(store, &tree, temp.as_file_mut())?;
                    temp.persist(path).doing(doing)?;
                    Ok(())
                }
                Dest::Stdout => pack(store, &tree, io::stdout()),
            }
        }
    }
}

/// A folder as a plain tar.
fn pack(store: &Store, tree: &Path, out: impl Write + Send) -> Result<(), CliError> {
    let doing = || "write the tar".to_owned();
    let root = Arc::new(File::open(tree).doing(doing)?.into());
    let options = DiffOptions {
        ownership: store.tree_options().ownership,
        ..DiffOptions::default()
    };
    let changes = layer::diff(&root, &Stack::new(Vec::new()), &options).doing(doing)?;
    let options = PackOptions {
        compression: Compression::None,
        ..PackOptions::default()
    };
    layer::pack(changes, out, &options, None)
        .map(drop)
        .doing(doing)
}

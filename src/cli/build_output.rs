//! What becomes of a build's result: names, archives, files, pushes, and what is said about it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use strata::build::{Annotations, Built, BuiltFiles, Explain, Explanation, ImageOptions, Verdict};
use strata::image::archive::Form as ArchiveForm;
use strata::image::layout::Layout;
use strata::image::{Name, Platforms, Sink};
use strata::layer::{Compression, Times};
use strata::oci::{Descriptor, Reference};

use super::build::Build;
use super::build_args::BuildRequest;
use super::build_values::{Annotation, AnnotationTarget};
use super::error::{CliError, Doing as _};
use super::export;
use super::output::print_line;
use super::output_spec::{ArchiveKind, CompressionKind, Dest, Form, OutputSpec};
use super::progress::raw::reasons;
use super::resolve::Images;
use super::transfer;

/// Outputs that are the same image.
pub(super) struct Group<'a> {
    /// The form of that image; none where only files are wanted.
    pub(super) form: Option<&'a Form>,
    /// The outputs.
    pub(super) outputs: Vec<&'a OutputSpec>,
}

fn form(output: &OutputSpec) -> Option<&Form> {
    match output {
        OutputSpec::Image { form, .. } | OutputSpec::Archive { form, .. } => Some(form),
        OutputSpec::Files { .. } | OutputSpec::CacheOnly => None,
    }
}

/// Outputs by the image they are of, in the order given. Files and caches are of any.
pub(super) fn groups(outputs: &[OutputSpec]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for output in outputs {
        let form = form(output);
        let fits = |g: &&mut Group<'_>| form.is_none() || g.form.is_none() || g.form == form;
        match groups.iter_mut().find(fits) {
            Some(group) => {
                group.form = group.form.or(form);
                group.outputs.push(output);
            }
            None => groups.push(Group {
                form,
                outputs: vec![output],
            }),
        }
    }
    groups
}

/// What can be refused before anything is built.
pub(super) fn check(request: &BuildRequest) -> Result<(), CliError> {
    let several = request.plan.platforms.len() > 1;
    if request.outputs.iter().filter(|o| o.on_stdout()).count() > 1 {
        return Err(CliError::Usage(
            "only one --output can go to standard output: give the others dest=FILE".to_owned(),
        ));
    }
    for output in &request.outputs {
        match output {
            OutputSpec::Image {
                names, push: true, ..
            } if names.is_empty() && request.tags.is_empty() => {
                return Err(CliError::Usage(
                    "a push needs a name: give one with -t".to_owned(),
                ));
            }
            OutputSpec::Archive {
                kind: ArchiveKind::Docker,
                ..
            } if several => {
                return Err(CliError::Usage(
                    "a docker archive holds one platform: use type=oci for several".to_owned(),
                ));
            }
            _ => {}
        }
        if let Some(form) = form(output) {
            image_options(request, Some(form), None)?;
        }
        if let OutputSpec::Archive {
            dest, tar: true, ..
        }
        | OutputSpec::Files {
            dest, tar: true, ..
        } = output
            && let Dest::Path(path) = dest
        {
            check_parent(path)?;
        }
    }
    let files = [&request.iidfile, &request.metadata_file];
    files
        .into_iter()
        .flatten()
        .try_for_each(|path| check_parent(path))
}

/// That a file can be made at `path`, as far as its folder goes: better said before a long build than after it.
fn check_parent(path: &Path) -> Result<(), CliError> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    let Some(parent) = parent else {
        return Ok(());
    };
    let doing = || format!("write {}", path.display());
    if fs::metadata(parent).doing(doing)?.is_dir() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::NotADirectory)).doing(doing)
    }
}

/// What the engine needs to know of the image's form.
pub(super) fn image_options(
    request: &BuildRequest,
    form: Option<&Form>,
    epoch: Option<i64>,
) -> Result<ImageOptions, CliError> {
    let standard = Form::default();
    let form = form.unwrap_or(&standard);
    let level = form.level.map(i64::from);
    let compression = match form.compression {
        None | Some(CompressionKind::Gzip) => Compression::gzip(level),
        Some(CompressionKind::Zstd) => Compression::zstd(level),
        Some(CompressionKind::Uncompressed) => Ok(Compression::None),
    }
    .doing(|| "use --output".to_owned())?;
    Ok(ImageOptions {
        compression,
        force_compression: form.force_compression,
        rewrite_timestamp: form.rewrite_timestamp,
        exact_timestamp: request.timestamp.is_some(),
        source_date_epoch: request.timestamp.or(form.source_date_epoch).or(epoch),
        // Docker has no media type for zstd: BuildKit, too, goes over to OCI's.
        oci_media_types: form.oci_media_types.unwrap_or(true)
            || form.compression == Some(CompressionKind::Zstd),
        annotations: annotations(request, form)?,
        index: request.plan.platforms.len() > 1,
    })
}

/// All annotations of the flags and of an output.
fn all_annotations<'a>(
    request: &'a BuildRequest,
    form: &'a Form,
) -> impl Iterator<Item = &'a Annotation> {
    request.annotations.iter().chain(&form.annotations)
}

fn annotations(request: &BuildRequest, form: &Form) -> Result<Annotations, CliError> {
    let mut result = Annotations::default();
    let platforms = &request.plan.platforms;
    for annotation in all_annotations(request, form) {
        if let Some(wanted) = &annotation.platform {
            if platforms.len() > 1 {
                return Err(CliError::Refused(format!(
                    "the annotation {} for {wanted} alone, of several platforms, is not yet supported",
                    annotation.key
                )));
            }
            let host = strata::oci::Platform::host();
            if platforms.first().unwrap_or(&host) != wanted {
                continue;
            }
        }
        let map = match annotation.target {
            AnnotationTarget::Manifest => &mut result.manifest,
            AnnotationTarget::ManifestDescriptor => &mut result.manifest_descriptor,
            AnnotationTarget::Index => &mut result.index,
            // Of the layout, not of the image: see `root`.
            AnnotationTarget::IndexDescriptor => continue,
        };
        map.insert(annotation.key.clone(), annotation.value.clone());
    }
    Ok(result)
}

/// The result's descriptor with what `index-descriptor` annotations say of it.
fn root(request: &BuildRequest, form: &Form, built: &Built) -> Descriptor {
    let mut root = built.root.clone();
    for annotation in all_annotations(request, form) {
        if annotation.target == AnnotationTarget::IndexDescriptor {
            root.annotations
                .insert(annotation.key.clone(), annotation.value.clone());
        }
    }
    root
}

/// The names of an output, each once: those of `-t`, then its own.
fn names(request: &BuildRequest, own: &[Reference]) -> Vec<Reference> {
    let mut names: Vec<Reference> = Vec::new();
    for name in request.tags.iter().chain(own) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Brings the result where an output says.
pub(super) fn deliver(
    build: &Build<'_>,
    images: &Images<'_>,
    output: &OutputSpec,
    built: &Built,
) -> Result<(), CliError> {
    let (request, store) = (build.request, build.store);
    match output {
        OutputSpec::Image {
            names: own, push, ..
        } => {
            let names = names(request, own);
            if names.is_empty() {
                return store
                    .keep(&built.root)
                    .doing(|| format!("keep {}", built.root.digest));
            }
            for name in &names {
                images.step(format!("naming to {name}"), || {
                    store
                        .tag(name, &built.root)
                        .doing(|| format!("name the image {}", name.familiar()))
                })?;
            }
            for name in names.iter().filter(|_| *push) {
                images.step(format!("pushing {name}"), || {
                    transfer::push(
                        build.session,
                        store,
                        &built.root,
                        &name.familiar(),
                        name,
                        true,
                    )
                })?;
            }
            Ok(())
        }
        OutputSpec::Archive {
            kind,
            dest,
            tar,
            names: own,
            form,
        } => {
            let names = names(request, own)
                .into_iter()
                .map(Name::Reference)
                .collect();
            let sink: Box<dyn Sink> = match (dest, tar) {
                (Dest::Path(path), false) => Box::new(
                    Layout::create(path, names).doing(|| format!("write {}", path.display()))?,
                ),
                (dest, _) => {
                    let form = match kind {
                        ArchiveKind::Oci => ArchiveForm::Oci,
                        ArchiveKind::Docker => ArchiveForm::Docker,
                    };
                    let path = match dest {
                        Dest::Path(path) => Some(path.as_path()),
                        Dest::Stdout => None,
                    };
                    Box::new(transfer::archive(path, form, names)?)
                }
            };
            let source = store.source("the result", root(request, form, built));
            images.step(format!("exporting to {}", sink.name()), || {
                transfer::copy(build.session, &source, sink.as_ref(), Platforms::All, true)
            })?;
            Ok(())
        }
        OutputSpec::Files { .. } => {
            let files = built.images.iter().map(|image| BuiltFiles {
                platform: image.platform.clone(),
                layers: image
                    .layers
                    .iter()
                    .cloned()
                    .map(Some)
                    .zip(image.diff_ids.iter().copied())
                    .collect(),
            });
            deliver_files(build, images, output, &files.collect::<Vec<_>>())
        }
        OutputSpec::CacheOnly => Ok(()),
    }
}

/// Whether all that is wanted of a build is files: no image, and nothing that is said of one. Then no layer need be compressed.
pub(super) fn only_files(request: &BuildRequest, image: &ImageOptions) -> bool {
    let identified = request.quiet
        || request.verify
        || request.iidfile.is_some()
        || request.metadata_file.is_some();
    let is_files = |output: &OutputSpec| matches!(output, OutputSpec::Files { .. });
    !identified
        && image.times() == Times::Keep
        && !request.outputs.is_empty()
        && request.outputs.iter().all(is_files)
}

/// Brings files where an output says that wants files.
pub(super) fn deliver_files(
    build: &Build<'_>,
    images: &Images<'_>,
    output: &OutputSpec,
    files: &[BuiltFiles],
) -> Result<(), CliError> {
    let OutputSpec::Files {
        dest,
        tar,
        platform_split,
    } = output
    else {
        return Ok(());
    };
    images.step("exporting files".to_owned(), || {
        export::files(
            build.session,
            build.store,
            files,
            dest,
            *tar,
            *platform_split,
        )
    })
}

/// The image ID: the configuration's digest, or the index's for several platforms.
fn image_id(built: &Built) -> String {
    match &built.images[..] {
        [one] => one.config.digest.to_string(),
        _ => built.root.digest.to_string(),
    }
}

/// What was told of a build while it ran, for `--metadata-file`.
pub(super) struct Told {
    /// As buildx has them.
    pub(super) warnings: Vec<serde_json::Value>,
    /// Of the steps that ran, in their order.
    pub(super) explanations: Vec<Arc<Explanation>>,
    /// Of `--verify`, one for each form of the image.
    pub(super) verdicts: Vec<Verdict>,
}

/// Writes `--metadata-file`, if it is asked for, of a build whose result was not kept: the verdict is what there is.
pub(super) fn report_verdict(request: &BuildRequest, verdict: &Verdict) -> Result<(), CliError> {
    let Some(path) = &request.metadata_file else {
        return Ok(());
    };
    let doing = || format!("write {}", path.display());
    let mut text =
        serde_json::to_vec_pretty(&json!({ "strata.verify": [verdict] })).doing(doing)?;
    text.push(b'\n');
    fs::write(path, &text).doing(doing)
}

/// Writes `--iidfile` and `--metadata-file`, and with `-q` the image ID.
pub(super) fn report(request: &BuildRequest, built: &Built, told: &Told) -> Result<(), CliError> {
    let id = image_id(built);
    let write = |path: &std::path::Path, text: &[u8]| -> io::Result<()> { fs::write(path, text) };
    if let Some(path) = &request.iidfile {
        write(path, id.as_bytes()).doing(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &request.metadata_file {
        let doing = || format!("write {}", path.display());
        let mut text = serde_json::to_vec_pretty(&metadata(request, built, told)).doing(doing)?;
        text.push(b'\n');
        write(path, &text).doing(doing)?;
    }
    // Where an export took standard output, the image ID would spoil it.
    if request.quiet && !request.outputs.iter().any(OutputSpec::on_stdout) {
        print_line(&id)
    } else {
        Ok(())
    }
}

/// buildx's keys, and `strata.explain` and `strata.verify` where that was asked.
fn metadata(request: &BuildRequest, built: &Built, told: &Told) -> serde_json::Value {
    let mut value = json!({
        "containerimage.descriptor": built.root,
        "containerimage.digest": built.root.digest,
    });
    if let [one] = &built.images[..] {
        value["containerimage.config.digest"] = json!(one.config.digest);
    }
    let mut all: Vec<String> = Vec::new();
    for output in &request.outputs {
        if let OutputSpec::Image { names: own, .. } | OutputSpec::Archive { names: own, .. } =
            output
        {
            for name in names(request, own) {
                let name = name.to_string();
                if !all.contains(&name) {
                    all.push(name);
                }
            }
        }
    }
    if !all.is_empty() {
        value["image.name"] = json!(all.join(","));
    }
    if !told.warnings.is_empty() {
        value["buildx.build.warnings"] = json!(told.warnings);
    }
    if !told.verdicts.is_empty() {
        value["strata.verify"] = json!(told.verdicts);
    }
    if request.explain == Explain::Tell {
        let steps = told
            .explanations
            .iter()
            .map(|why| json!({ "name": why.step, "reasons": reasons(why) }));
        value["strata.explain"] = json!(steps.collect::<Vec<_>>());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::output_spec::output;
    use super::*;

    #[test]
    fn outputs_of_one_form_are_one_build() {
        let count = |texts: &[&str]| {
            let outputs: Vec<OutputSpec> = texts.iter().map(|t| output(t).unwrap()).collect();
            let groups = groups(&outputs);
            let sizes: Vec<usize> = groups.iter().map(|g| g.outputs.len()).collect();
            sizes
        };
        assert_eq!(count(&["type=image", "type=oci,dest=a"]), [2]);
        assert_eq!(
            count(&["type=image", "type=oci,dest=a,compression=zstd"]),
            [1, 1]
        );
        assert_eq!(
            count(&["out", "type=oci,dest=a,compression=zstd", "type=tar"]),
            [3]
        );
        assert_eq!(count(&[]), [0usize; 0]);
    }
}

//! Images that bases and copies name, each asked for once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::oci::{Platform, Reference};

use super::options::{NamedContext, Resolve, ResolveError, ResolvedImage};

/// How many images are asked for at a time: registries answer slowly, and refuse who asks too much.
const MAX_PARALLEL: usize = 8;

/// What names an image.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum ImageKey {
    /// A reference.
    Reference(Reference),
    /// A layout on disk, and which image of it.
    Layout(PathBuf, Option<String>),
}

impl ImageKey {
    /// The image that a named context is; none if it is files.
    pub(super) fn of_context(context: &NamedContext) -> Option<ImageKey> {
        match context {
            NamedContext::Image(reference) => Some(ImageKey::Reference(reference.clone())),
            NamedContext::Layout { path, reference } => {
                Some(ImageKey::Layout(path.clone(), reference.clone()))
            }
            NamedContext::Local(_) | NamedContext::Git(_) | NamedContext::Http(_) => None,
        }
    }
}

type Answer = Result<Arc<ResolvedImage>, ResolveError>;

/// The images asked for so far.
pub(super) struct Images<'a> {
    resolve: &'a dyn Resolve,
    answers: HashMap<(ImageKey, Platform), Answer>,
}

impl<'a> Images<'a> {
    /// None asked for yet.
    pub(super) fn new(resolve: &'a dyn Resolve) -> Images<'a> {
        Images {
            resolve,
            answers: HashMap::new(),
        }
    }

    /// The image.
    pub(super) fn get(&mut self, key: &ImageKey, platform: &Platform) -> Answer {
        let full = (key.clone(), platform.clone());
        match self.answers.get(&full) {
            Some(Ok(image)) => Ok(image.clone()),
            Some(Err(_)) => self
                .answers
                .remove(&full)
                .expect("it was there one line above"),
            None => {
                let image = ask(self.resolve, key, platform)?;
                self.answers.insert(full, Ok(image.clone()));
                Ok(image)
            }
        }
    }

    /// Asks for images in parallel; what comes back is told by [`Images::get`].
    pub(super) fn prefetch(&mut self, mut wanted: Vec<(ImageKey, Platform)>) {
        wanted.retain(|w| !self.answers.contains_key(w));
        let mut seen = Vec::with_capacity(wanted.len());
        wanted.retain(|w| {
            !seen.contains(w) && {
                seen.push(w.clone());
                true
            }
        });
        if wanted.len() < 2 {
            return;
        }
        let (resolve, workers) = (self.resolve, wanted.len().min(MAX_PARALLEL));
        let todo = Mutex::new(wanted);
        let answers = Mutex::new(Vec::new());
        // A poisoned lock means that a resolver panicked; the scope passes that on.
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    loop {
                        let next = todo.lock().unwrap_or_else(PoisonError::into_inner).pop();
                        let Some((key, platform)) = next else { break };
                        let answer = ask(resolve, &key, &platform);
                        answers
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(((key, platform), answer));
                    }
                });
            }
        });
        let answers = answers.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.answers.extend(answers);
    }
}

fn ask(resolve: &dyn Resolve, key: &ImageKey, platform: &Platform) -> Answer {
    match key {
        ImageKey::Reference(reference) => resolve.image(reference, platform),
        ImageKey::Layout(path, reference) => resolve.layout(path, reference.as_deref(), platform),
    }
    .map(Arc::new)
}

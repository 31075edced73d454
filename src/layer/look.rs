//! A look at the contents in the blocks of a tar: what they hash to, and whether a secret is in them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use super::blocks::Filled;
use super::leaks::{Form, Needles, Scanner};
use super::pipe::{Buffer, Contents, Sum};
use super::reuse::Identity;

/// A secret's place among the needles, in a content's among the contents.
pub(super) type Found = (usize, usize, Form);

/// Where the contents of a block are in it, and whether they end there.
pub(super) type Parts = Vec<(Range<usize>, bool)>;

/// Hashes contents, and looks for secrets in them if there are any.
pub(super) struct Looker<'n> {
    contents: Contents,
    scanner: Option<Scanner<'n>>,
    /// How many contents have ended.
    ended: usize,
    found: Vec<Found>,
}

impl<'n> Looker<'n> {
    pub(super) fn new(needles: Option<&'n Needles>) -> Looker<'n> {
        Looker {
            contents: Contents::new(),
            scanner: needles.map(Scanner::new),
            ended: 0,
            found: Vec::new(),
        }
    }

    /// Looks at the contents in a block, and tells `identity` of them if that wants to know.
    pub(super) fn see(&mut self, block: &[u8], parts: &Parts, identity: Option<&mut Identity>) {
        let mut identity = identity.filter(|identity| !identity.is_known());
        for (range, last) in parts {
            let bytes = &block[range.clone()];
            self.contents.add(bytes);
            if let Some(identity) = &mut identity
                && !last
            {
                identity.hashed(&self.contents.so_far());
            }
            if let Some(scanner) = &mut self.scanner {
                scanner.feed(bytes);
            }
            if *last {
                self.end(identity.as_deref_mut());
            }
        }
    }

    fn end(&mut self, identity: Option<&mut Identity>) {
        let sum = self.contents.end();
        if let Some(identity) = identity {
            identity.hashed(&sum);
        }
        if let Some(scanner) = &mut self.scanner {
            let secrets = scanner.end().into_iter();
            let content = self.ended;
            let found = secrets.map(|(secret, form)| (content, secret, form));
            self.found.extend(found);
        }
        self.ended += 1;
    }

    pub(super) fn finish(self) -> (Vec<Sum>, Vec<Found>) {
        (self.contents.sums(), self.found)
    }
}

/// A block whose contents are to be looked at.
pub(super) struct Look {
    pub(super) block: Arc<Buffer>,
    pub(super) parts: Parts,
    /// Its number and identity, if it is to be compressed once that is known.
    pub(super) then: Option<(u64, Identity)>,
}

/// Looks at contents until there are no more, or nobody wants the blob.
pub(super) fn look(
    looks: &Receiver<Look>,
    needles: Option<&Needles>,
    work: Option<SyncSender<Filled>>,
) -> (Vec<Sum>, Vec<Found>) {
    let mut looker = Looker::new(needles);
    for Look { block, parts, then } in looks {
        let (number, mut identity) = then.unzip();
        looker.see(&block, &parts, identity.as_mut());
        if let (Some(work), Some(number)) = (&work, number)
            && work
                .send((number, block, identity.map(Identity::finish)))
                .is_err()
        {
            // The writer has failed and knows why.
            break;
        }
    }
    looker.finish()
}

//! Having the store for oneself: what is collected or repaired must be in nobody's use.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use super::lock::{self, Hold};
use super::{Store, StoreError, locked};

/// Out of shared use, and (once [`Store::exclusive`] has given it) the right to remove: nobody else uses the store. Ends in
/// shared use again.
pub(super) struct Exclusive<'a> {
    pub(super) store: &'a Store,
    gate: Option<File>,
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        let root = self.store.root();
        let mut retake = || {
            // Through the gate, as whoever opens the store; if it is ours already, nobody can remove in between.
            let _gate = match self.gate.take() {
                Some(gate) => gate,
                None => {
                    let gate = lock::open(&root.join("gate"))?;
                    lock::take(&gate, Hold::Exclusive, &root.join("gate"))?;
                    gate
                }
            };
            let usage = &self.store.inner.usage.lock;
            lock::take(usage, Hold::Shared, &root.join("lock"))
        };
        if let Err(error) = retake() {
            tracing::warn!(%error, "cannot take the store into use again");
        }
    }
}

/// Whether to wait for others.
pub(super) enum Patience<'a> {
    Wait(&'a dyn Fn()),
    Now,
}

impl Store {
    /// Takes the store for this process alone. `None`: others use it, and there was no patience.
    pub(super) fn exclusive(
        &mut self,
        patience: Patience<'_>,
    ) -> Result<Option<Exclusive<'_>>, StoreError> {
        let root = self.root().to_owned();
        let in_use = || StoreError::InUse(root.clone());
        let inner = Arc::get_mut(&mut self.inner).ok_or_else(in_use)?;
        *locked(&inner.scratch) = None;
        locked(&inner.layers).clear();
        locked(&inner.tocs).clear();
        let usage = Arc::get_mut(&mut inner.usage).ok_or_else(in_use)?;
        let (lock_path, gate_path) = (root.join("lock"), root.join("gate"));
        // Let go before waiting at the gate: another collection may stand behind it, waiting for us.
        lock::release(&usage.lock, &lock_path)?;
        let mut exclusive = Exclusive {
            store: self,
            gate: None,
        };
        let mut waited = false;
        let mut take = |file: &File, path: &Path| {
            if lock::try_take(file, Hold::Exclusive, path)? {
                return Ok::<_, StoreError>(true);
            }
            let Patience::Wait(on_wait) = patience else {
                return Ok(false);
            };
            if !std::mem::replace(&mut waited, true) {
                on_wait();
            }
            lock::take(file, Hold::Exclusive, path).map(|()| true)
        };
        let gate = lock::open(&gate_path)?;
        if !take(&gate, &gate_path)? {
            return Ok(None);
        }
        exclusive.gate = Some(gate);
        let alone = take(&exclusive.store.inner.usage.lock, &lock_path)?;
        Ok(alone.then_some(exclusive))
    }

    /// Runs `act` while nobody else uses the store, waiting as long as it takes; `on_wait` is called once if it does.
    pub(super) fn alone<T>(
        &mut self,
        on_wait: &dyn Fn(),
        act: impl FnOnce(&Store) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let root = self.root().to_owned();
        match self.exclusive(Patience::Wait(on_wait))? {
            Some(alone) => act(alone.store),
            None => Err(StoreError::InUse(root)),
        }
    }
}

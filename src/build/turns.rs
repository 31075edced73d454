//! Turns at something of which only so many may go on at once.

use std::sync::{Condvar, Mutex, PoisonError};

/// So many turns and no more. Whoever has one must not wait for somebody who waits for one.
pub(super) struct Turns {
    free: Mutex<usize>,
    returned: Condvar,
}

/// A turn, until it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
}

impl Turns {
    pub(super) fn new(count: usize) -> Turns {
        Turns {
            free: Mutex::new(count),
            returned: Condvar::new(),
        }
    }

    /// Waits for a turn.
    pub(super) fn take(&self) -> Turn<'_> {
        // A count is whole whoever panics, so a poisoned lock is a good lock.
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            let waited = self.returned.wait(free);
            free = waited.unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Turn { turns: self }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let free = self.turns.free.lock();
        *free.unwrap_or_else(PoisonError::into_inner) += 1;
        self.turns.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    // Ten layers of 100 MB were packed at once, each with its own buffers: 98 MiB, and more with every further layer.
    #[test]
    fn no_more_than_so_many_at_once() {
        let turns = Turns::new(2);
        let (now, most, done) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        std::thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _turn = turns.take();
                        let at_once = now.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(at_once, Ordering::SeqCst);
                        std::thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 1000);
        assert!(most.into_inner() <= 2);
    }
}

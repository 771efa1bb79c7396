//! A few threads that share out work which waits for the disk.

use std::sync::atomic::{AtomicUsize, Ordering};

/// What `act` makes of each item, in the order of the items, by up to so many threads, of which the calling one is
/// one. A single one goes through them in their order. A thread that cannot be started leaves its part to the others.
pub(crate) fn share_out<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    act: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let threads = threads.min(items.len());
    if threads <= 1 {
        return items.iter().map(act).collect();
    }
    let next = AtomicUsize::new(0);
    let work = || {
        let mut made = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return made };
            made.push((at, act(item)));
        }
    };
    let mut made = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mut made = work();
        for other in others {
            made.extend(other.join().expect("what a disk refuses is an error, no panic"));
        }
        made
    });
    made.sort_unstable_by_key(|(at, _)| *at);
    made.into_iter().map(|(_, made)| made).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn all_is_done_once_and_comes_in_order() {
        for count in [0, 1, 2, 7, 100_usize] {
            for threads in [0, 1, 3, 200] {
                let items: Vec<usize> = (0..count).collect();
                let expected: Vec<usize> = items.iter().map(|item| item * 2).collect();
                assert_eq!(share_out(&items, threads, |item| item * 2), expected);
            }
        }
    }

    #[test]
    fn so_many_are_at_it_at_once() {
        let met = Barrier::new(4);
        share_out(&[(); 12], 4, |()| met.wait());
    }
}

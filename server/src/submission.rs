//! Runs of writes on their way through the log, and how their replies find the way back.
//!
//! A session proposes the consecutive writes of a pipeline as one *run*: consecutive entries, appended
//! in one call. The machine answers each entry as it is applied, into the run's own buffer, and when
//! the last one is visible to readers the run goes back to the thread that its session lives on: one
//! message for a run, one wake-up for a thread and a group of runs.
//!
//! Invariant: a run is registered under the same lock under which it is appended. The machine takes
//! the lock when it meets an entry that it knows no run for, so it cannot overtake the registration,
//! and runs are registered in the order of their entries.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strandline_engine::Index;
use tokio::sync::Notify;

use crate::cluster::question::Mark;
use crate::resp::Protocol;

/// The answer to a write whose place in the log was taken by another node's: it is not there, and may
/// be tried again.
const OVERWRITTEN_REPLY: &[u8] =
    b"-TRYAGAIN another node has taken the lead: this write was not executed\r\n";

/// Consecutive entries of one session.
#[derive(Debug)]
pub struct Run {
    /// The first entry.
    pub first: Index,
    /// In which term they were proposed; 0 in a store that stands alone. An entry of another term at
    /// the same index is somebody else's.
    pub term: u64,
    /// How many entries.
    pub count: u64,
    /// How many are answered.
    pub answered: u64,
    /// In which protocol to answer.
    pub protocol: Protocol,
    /// Which session waits, on its thread.
    pub session: u64,
    /// Which run of that session.
    pub number: u64,
    /// How many bytes it holds of the bound on what is in flight.
    pub cost: u32,
    /// The replies, in order.
    pub replies: Vec<u8>,
    /// Where to deliver it.
    pub mailbox: Arc<Mailbox>,
}

impl Run {
    /// Where its last entry stands.
    pub fn mark(&self) -> Mark {
        Mark { index: Index(self.end().saturating_sub(1)), term: self.term }
    }

    /// The entry after the last one.
    fn end(&self) -> u64 {
        self.first.0 + self.count
    }
}

/// What is delivered to one thread of sessions.
#[derive(Debug, Default)]
pub struct Mailbox {
    delivered: Mutex<Delivered>,
    /// Wakes the thread.
    pub notify: Notify,
    /// Whether the thread is to see that its log's writes are submitted, before it sleeps.
    is_due: AtomicBool,
}

#[derive(Debug, Default)]
struct Delivered {
    /// Finished runs.
    runs: Vec<Run>,
    /// Whether the thread is up and will take them without being woken.
    is_awaited: bool,
}

impl Mailbox {
    /// Notes that sessions of the thread have appended, or that others want the log to go on.
    pub fn want(&self) {
        self.is_due.store(true, Ordering::Release);
    }

    /// Whether something was noted since the last time.
    pub fn take_wanted(&self) -> bool {
        // The usual case, in which nothing is, writes nothing.
        self.is_due.load(Ordering::Relaxed) && self.is_due.swap(false, Ordering::Acquire)
    }

    /// The thread is up: until it calls [`take`](Mailbox::take) nobody need wake it.
    pub fn await_runs(&self) {
        lock(&self.delivered).is_awaited = true;
    }

    /// Delivers one run to its mailbox.
    pub fn deliver(run: Run) {
        let mailbox = Arc::clone(&run.mailbox);
        if mailbox.put(run) {
            mailbox.notify.notify_one();
        }
    }

    /// Puts a run in; whether the thread has to be woken for it.
    fn put(&self, run: Run) -> bool {
        let mut delivered = lock(&self.delivered);
        delivered.runs.push(run);
        !delivered.is_awaited && delivered.runs.len() == 1
    }

    /// Takes everything that has been delivered.
    pub fn take(&self, into: &mut Vec<Run>) {
        let mut delivered = lock(&self.delivered);
        delivered.is_awaited = false;
        into.append(&mut delivered.runs);
    }
}

/// Runs that were appended and that the machine has not taken over yet.
#[derive(Debug, Default)]
pub struct Submissions {
    /// In the order of their entries.
    runs: Mutex<VecDeque<Run>>,
}

impl Submissions {
    /// The lock under which a run is appended and registered.
    pub fn lock(&self) -> MutexGuard<'_, VecDeque<Run>> {
        lock(&self.runs)
    }
}

/// The machine's end: the runs whose entries are being applied.
#[derive(Debug)]
pub struct Answers {
    /// Shared with the sessions.
    submissions: Arc<Submissions>,
    /// Taken over, in the order of their entries.
    runs: VecDeque<Run>,
    /// Answered, and to be delivered once their entries are visible.
    finished: Vec<Run>,
    /// Takes the answers of entries that nobody waits for.
    unheard: Vec<u8>,
}

impl Answers {
    /// For a machine that answers `submissions`.
    pub fn new(submissions: Arc<Submissions>) -> Self {
        Self { submissions, runs: VecDeque::new(), finished: Vec::new(), unheard: Vec::new() }
    }

    /// Where to write the answer of the entry at `index`, proposed in `term`, and in which protocol.
    /// [`answered`](Answers::answered) must follow.
    pub fn begin(&mut self, index: Index, term: u64) -> (&mut Vec<u8>, Protocol) {
        if self.runs.front().is_none_or(|run| run.first > index) {
            self.take_over();
        }
        while let Some(run) = self.runs.front()
            && run.first <= index
            && run.term != term
        {
            let run = self.runs.pop_front().expect("it was there just above");
            self.overwritten(run);
        }
        match self.runs.front_mut() {
            Some(run) if run.first <= index => {
                debug_assert_eq!(run.first.0 + run.answered, index.0, "runs follow one another");
                (&mut run.replies, run.protocol)
            }
            _ => {
                self.unheard.clear();
                (&mut self.unheard, Protocol::Resp2)
            }
        }
    }

    /// Takes over what was registered. A run that lies where a later one was proposed, or behind it,
    /// lost its place in the log when another node led.
    fn take_over(&mut self) {
        let mut registered = std::mem::take(&mut *self.submissions.lock());
        for run in registered.drain(..) {
            while self.runs.back().is_some_and(|before| before.end() > run.first.0) {
                let before = self.runs.pop_back().expect("it was there just above");
                self.overwritten(before);
            }
            self.runs.push_back(run);
        }
    }

    /// The entries of a run that are not answered will never be executed.
    fn overwritten(&mut self, mut run: Run) {
        for _ in run.answered..run.count {
            run.replies.extend_from_slice(OVERWRITTEN_REPLY);
        }
        self.finished.push(run);
    }

    /// The entry at `index` has its answer.
    pub fn answered(&mut self, index: Index) {
        let Some(run) = self.runs.front_mut() else { return };
        if run.first > index {
            return;
        }
        run.answered += 1;
        if index.0 + 1 == run.end() {
            self.finished.extend(self.runs.pop_front());
        }
    }

    /// Delivers what is finished: its entries are visible.
    pub fn deliver(&mut self) {
        let mut woken: Vec<Arc<Mailbox>> = Vec::new();
        for run in self.finished.drain(..) {
            let mailbox = Arc::clone(&run.mailbox);
            if mailbox.put(run) {
                woken.push(mailbox);
            }
        }
        for mailbox in woken {
            mailbox.notify.notify_one();
        }
    }

    /// Answers everything that is still waiting with `reply`, once for each entry, and delivers it.
    pub fn give_up(&mut self, reply: &[u8]) {
        self.runs.append(&mut self.submissions.lock());
        for mut run in self.runs.drain(..) {
            for _ in run.answered..run.count {
                run.replies.extend_from_slice(reply);
            }
            self.finished.push(run);
        }
        self.deliver();
    }
}

/// A lock whose holder panicked guards plain queues, which are whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mailbox: &Arc<Mailbox>, first: u64, count: u64) -> Run {
        Run {
            first: Index(first),
            term: 0,
            count,
            answered: 0,
            protocol: Protocol::Resp2,
            session: first,
            number: 0,
            cost: 0,
            replies: Vec::new(),
            mailbox: Arc::clone(mailbox),
        }
    }

    fn delivered(mailbox: &Mailbox) -> Vec<(u64, Vec<u8>)> {
        let mut runs = Vec::new();
        mailbox.take(&mut runs);
        runs.into_iter().map(|run| (run.session, run.replies)).collect()
    }

    #[test]
    fn replies_go_to_the_run_they_belong_to_and_only_when_visible() {
        let submissions = Arc::new(Submissions::default());
        let mailbox = Arc::new(Mailbox::default());
        let mut answers = Answers::new(Arc::clone(&submissions));
        submissions.lock().extend([run(&mailbox, 5, 2), run(&mailbox, 8, 1)]);
        for index in 4..=8 {
            let (replies, _) = answers.begin(Index(index), 0);
            replies.extend_from_slice(index.to_string().as_bytes());
            answers.answered(Index(index));
        }
        assert_eq!(delivered(&mailbox), []);
        answers.deliver();
        assert_eq!(delivered(&mailbox), [(5, b"56".to_vec()), (8, b"8".to_vec())]);
    }

    #[test]
    fn a_run_whose_place_was_taken_is_told_so() {
        let submissions = Arc::new(Submissions::default());
        let mailbox = Arc::new(Mailbox::default());
        let mut answers = Answers::new(Arc::clone(&submissions));
        let of_term = |term, first, count| Run { term, ..run(&mailbox, first, count) };
        submissions.lock().extend([of_term(2, 5, 2), of_term(2, 7, 1), of_term(4, 7, 1)]);
        // Another node's entries at 5 and 6, then this node's of its new reign.
        for (index, term) in [(5, 3), (6, 3), (7, 4)] {
            answers.begin(Index(index), term).0.push(b'x');
            answers.answered(Index(index));
        }
        answers.deliver();
        let lost = OVERWRITTEN_REPLY.to_vec();
        let expected = [(7, lost.clone()), (5, lost.repeat(2)), (7, b"x".to_vec())];
        assert_eq!(delivered(&mailbox), expected);
        // Registered, taken over, and then cut off: the log is shorter when this node leads again.
        submissions.lock().push_back(of_term(4, 20, 1));
        answers.begin(Index(8), 4);
        submissions.lock().push_back(of_term(6, 9, 1));
        answers.begin(Index(9), 6).0.push(b'y');
        answers.answered(Index(9));
        answers.deliver();
        assert_eq!(delivered(&mailbox), [(20, lost), (9, b"y".to_vec())]);
    }

    #[test]
    fn giving_up_answers_what_is_missing() {
        let submissions = Arc::new(Submissions::default());
        let mailbox = Arc::new(Mailbox::default());
        let mut answers = Answers::new(Arc::clone(&submissions));
        submissions.lock().push_back(run(&mailbox, 1, 3));
        answers.begin(Index(1), 0).0.extend_from_slice(b"a");
        answers.answered(Index(1));
        submissions.lock().push_back(run(&mailbox, 4, 1));
        answers.give_up(b"?");
        assert_eq!(delivered(&mailbox), [(1, b"a??".to_vec()), (4, b"?".to_vec())]);
    }
}

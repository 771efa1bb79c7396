//! A session's writes: collected, proposed as one run, waited for.

use std::sync::atomic::Ordering;

use strandline_engine::{EntryHeader, EntryKind, Index};

use super::admission::READ_ONLY;
use super::{KEPT_LEN_MAX, ReplyMode, Session, Step};
use crate::backup::standing::gate;
use crate::command::Command;
use crate::entry;
use crate::machine::UNKNOWN_REPLY;
use crate::resp::Reply;
use crate::server::PERMIT_LEN;
use crate::slot::slot_of;
use crate::store;
use crate::submission::Run;

/// A run is proposed when it has so many writes, or so many bytes.
const RUN_COUNT_MAX: usize = 1024;
const RUN_LEN_MAX: usize = 1 << 20;
/// Writes that are collected to be proposed together.
#[derive(Debug, Default)]
pub(super) struct Collected {
    /// Their entries, one after the other.
    pub(super) entries: Vec<u8>,
    /// Where each ends.
    pub(super) ends: Vec<usize>,
    /// Takes their replies.
    pub(super) replies: Vec<u8>,
}

impl Session {
    /// Adds the current request to the writes that are proposed together.
    pub(super) fn collect(&mut self, opcode: u16, command: &Command) -> Step {
        let args = self.parser.args(&self.input[self.taken..]);
        let slot = command.key_places(args.len()).next().map_or(0, |place| slot_of(args.at(place)));
        let header = EntryHeader {
            kind: EntryKind::COMMAND,
            database: u16::try_from(self.state.database).expect("there are 16 databases"),
            slot,
            time_ms: self.now_ms,
            seed: self.randomness.draw(),
            term: 0,
        };
        entry::encode(&mut self.collected.entries, &header, opcode, args.from(1));
        self.collected.ends.push(self.collected.entries.len());
        let is_full = self.collected.ends.len() >= RUN_COUNT_MAX
            || self.collected.entries.len() >= RUN_LEN_MAX
            || self.state.reply_mode == ReplyMode::SkipNext;
        if is_full { Step::DoneThenRun } else { Step::Done }
    }

    /// Proposes what is collected, waits for it, and takes its replies.
    pub(super) async fn finish_run(&mut self) {
        if self.collected.ends.is_empty() {
            return;
        }
        self.view = None;
        let count = self.collected.ends.len();
        let mut replies = self.propose().await;
        if self.state.reply_mode != ReplyMode::On {
            replies.clear();
            if self.state.reply_mode == ReplyMode::SkipNext {
                self.state.reply_mode = ReplyMode::On;
            }
        }
        debug_assert!(count > 0, "an empty run is not proposed");
        if self.output.is_empty() {
            std::mem::swap(&mut self.output, &mut replies);
        } else {
            self.output.extend_from_slice(&replies);
        }
        replies.clear();
        if replies.capacity() <= KEPT_LEN_MAX {
            self.collected.replies = replies;
        }
        self.collected.entries.clear();
        if self.collected.entries.capacity() > 2 * RUN_LEN_MAX {
            self.collected.entries = Vec::new();
        }
        self.collected.ends.clear();
    }

    /// Proposes what is collected and returns the replies, one for each write.
    async fn propose(&mut self) -> Vec<u8> {
        let count = self.collected.ends.len();
        let kibibytes = self.collected.entries.len().div_ceil(PERMIT_LEN);
        // A single write may be larger than all the room there is: it waits for all of it.
        let room = self.server.permits();
        let cost = u32::try_from(kibibytes.min(room)).unwrap_or(u32::MAX);
        let permits = match self.server.in_flight.try_acquire_many(cost) {
            Ok(permits) => Ok(permits),
            Err(_) => self.server.in_flight.acquire_many(cost).await,
        };
        // The semaphore is never closed; were it so, going on would be right.
        if let Ok(permits) = permits {
            permits.forget();
        }
        // Whoever has shut the gate has had all permits since: no write is appended behind its back.
        let gate = self.server.store.standing().gate();
        if gate & gate::READ_ONLY != 0 {
            self.server.in_flight.add_permits(usize::try_from(cost).expect("u32 fits"));
            let replies = std::mem::take(&mut self.collected.replies);
            return self.refusals(replies, READ_ONLY, count);
        }
        self.run_number += 1;
        self.slot.expect(self.run_number);
        let run = Run {
            first: Index(0),
            term: 0,
            count: u64::try_from(count).expect("a run is bounded"),
            answered: 0,
            protocol: self.state.protocol,
            session: self.client.id,
            number: self.run_number,
            cost,
            replies: std::mem::take(&mut self.collected.replies),
            mailbox: self.mailbox.clone(),
        };
        let submitted = {
            let mut start = 0;
            let entries = &self.collected.entries;
            let payloads: Vec<&[u8]> = self
                .collected
                .ends
                .iter()
                .map(|end| &entries[std::mem::replace(&mut start, *end)..*end])
                .collect();
            self.server.store.submit(&payloads, run)
        };
        if let Err(refused) = submitted {
            return self.refused(*refused, count);
        }
        match tokio::time::timeout(self.server.write_timeout(), self.slot.finished()).await {
            Ok(run) => {
                self.mark = self.mark.max(run.mark());
                run.replies
            }
            Err(_) => {
                let unknown = u64::try_from(count).unwrap_or(u64::MAX);
                self.server.stats.unknown_outcomes.fetch_add(unknown, Ordering::Relaxed);
                UNKNOWN_REPLY.repeat(count)
            }
        }
    }

    /// The replies of a run that was not proposed, or was registered before the proposal failed.
    fn refused(&self, refused: store::Refused, count: usize) -> Vec<u8> {
        let Some(run) = refused.run else { return UNKNOWN_REPLY.repeat(count) };
        self.server.in_flight.add_permits(usize::try_from(run.cost).expect("u32 fits"));
        self.refusals(run.replies, &store::refusal_text(&refused.error), count)
    }

    fn refusals(&self, mut replies: Vec<u8>, text: &str, count: usize) -> Vec<u8> {
        for _ in 0..count {
            Reply::new(&mut replies, self.state.protocol).error(text);
        }
        replies
    }
}

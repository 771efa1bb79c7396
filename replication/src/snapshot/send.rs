//! The leader's side: checkpoints that peers fetch from.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use strandline_engine::{Checkpoint, Index};

use super::{CHUNK_LEN_MAX, Point};
use crate::message::{FileOffer, SnapshotBody};
use crate::{MemberRole, Output, Replica, ReplicaId, Transfer};

/// How many parts a peer may ask for before the first has come.
const QUEUE_MAX: usize = 64;
/// After so many election times without a fetch a peer is taken to be gone: time for a process to be
/// started again, and not much more, because as long the files stay and the log behind them grows.
const PATIENCE_ELECTIONS: u64 = 100;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) file: u32,
    pub(crate) offset: u64,
    pub(crate) len: u32,
}

/// What is sent to whom.
#[derive(Default)]
pub(crate) struct Sender {
    sending: BTreeMap<ReplicaId, Sending>,
    /// Whose state is damaged, and was not replaced since.
    damaged: BTreeSet<ReplicaId>,
    /// Bytes that may still be sent in this tick.
    budget: u64,
    /// How many were begun.
    count: u64,
}

struct Sending {
    id: u64,
    checkpoint: Checkpoint,
    offer: SnapshotBody,
    /// Since the last fetch.
    ticks: u64,
    /// Where each file begins if they lie one after the other; the last is the end of all.
    starts: Vec<u64>,
    /// Up to where the peer has fetched, in order, counted likewise.
    reached: u64,
    queue: VecDeque<Part>,
}

impl Sender {
    /// Up to here the log may be trimmed, as far as snapshots are concerned.
    pub(crate) fn pinned(&self) -> Option<Index> {
        self.sending.values().map(|sending| sending.checkpoint.index()).min()
    }

    pub(crate) fn clear(&mut self) {
        self.sending.clear();
        self.damaged.clear();
    }

    /// Gives up everything, whose log has grown too long; says for whom.
    fn give_up_all(&mut self) -> Vec<ReplicaId> {
        std::mem::take(&mut self.sending).into_keys().collect()
    }

    /// The peer has it, or cannot take it; whether that was news.
    pub(crate) fn finish(&mut self, peer: ReplicaId, id: u64) -> bool {
        let is_it = self.sending.get(&peer).is_some_and(|sending| sending.id == id);
        if is_it {
            // If it could not take it, it asks again.
            self.damaged.remove(&peer);
            self.sending.remove(&peer);
        }
        is_it
    }

    /// Whether the peer has asked for a state because its own is damaged.
    pub(crate) fn is_damaged(&self, peer: ReplicaId) -> bool {
        self.damaged.contains(&peer)
    }

    /// How far the peer has got.
    pub(crate) fn progress(&self, peer: ReplicaId) -> Option<Transfer> {
        let sending = self.sending.get(&peer)?;
        let (bytes_total, starts) = sending.starts.split_last()?;
        let count = |count: usize| u64::try_from(count).expect("files are bounded");
        let begun = starts.partition_point(|start| *start < sending.reached);
        let is_done = sending.reached == *bytes_total;
        Some(Transfer {
            files: count(if is_done { begun } else { begun.saturating_sub(1) }),
            files_total: count(starts.len()),
            bytes: sending.reached,
            bytes_total: *bytes_total,
            bytes_reused: 0,
        })
    }
}

impl Sending {
    /// The peer has all before this place, or will have. It begins with the first file in each life.
    fn reach(&mut self, file: u32, offset: u64) {
        let at = usize::try_from(file).unwrap_or(usize::MAX);
        if let (Some(start), Some(end)) = (self.starts.get(at), self.starts.last()) {
            let before = if (file, offset) == (0, 0) { 0 } else { self.reached };
            self.reached = start.saturating_add(offset).min(*end).max(before);
        }
    }
}

impl Replica {
    /// The consensus wants a peer to get a snapshot.
    pub(crate) fn begin_sending(&mut self, to: ReplicaId, output: &mut Output) {
        if let Some(sending) = self.sender.sending.get(&to) {
            let offer = sending.offer.clone();
            self.say(to, offer, output);
            return;
        }
        if self.is_damaged() {
            self.consensus.report_snapshot(to, false);
            return;
        }
        let checkpoint = self.db().checkpoint();
        let point = Point::of(checkpoint.index(), checkpoint.machine_state());
        let Ok(Point { index, term, membership }) = point else {
            self.consensus.report_snapshot(to, false);
            return;
        };
        if !membership.contains(to) {
            self.consensus.report_snapshot(to, false);
            return;
        }
        self.sender.count += 1;
        // Unlike any other in this group: of this leader, in this term, in this life.
        let life = self.hard.get().openings;
        let name = [self.options.id.0, self.consensus.term().0, life, self.sender.count];
        let bytes: Vec<u8> = name.iter().flat_map(|word| word.to_le_bytes()).collect();
        let id = u64::from(crc32fast::hash(&bytes)) << 32 | (self.sender.count & 0xffff_ffff);
        let is_witness =
            membership.get(to).is_some_and(|member| member.role == MemberRole::Witness);
        let checkpoint = if is_witness { checkpoint.without_tables() } else { checkpoint };
        let offer_of = |file: strandline_engine::CheckpointFile| FileOffer {
            name: file.name,
            len: file.len,
            checksum: file.checksum,
        };
        let files: Vec<FileOffer> = checkpoint.files().into_iter().map(offer_of).collect();
        let mut starts = vec![0];
        starts.extend(files.iter().scan(0, |end, file| {
            *end += file.len;
            Some(*end)
        }));
        let offer = SnapshotBody::Offer { id, index, term, membership, files };
        self.say(to, offer.clone(), output);
        let queue = VecDeque::new();
        let sending = Sending { id, checkpoint, offer, ticks: 0, starts, reached: 0, queue };
        self.sender.sending.insert(to, sending);
    }

    /// A peer whose state is damaged wants a checkpoint that goes up to `index`; its log is sound, so the
    /// consensus does not know.
    pub(crate) fn state_wanted(&mut self, from: ReplicaId, index: Index, output: &mut Output) {
        if !self.consensus.is_leader() || self.is_damaged() {
            return;
        }
        if !self.shared.lock().membership.contains(from) {
            return;
        }
        self.sender.damaged.insert(from);
        if self.db().flushed() >= index {
            self.begin_sending(from, output);
        }
        if !self.sender.sending.contains_key(&from) {
            // It asks again, and what is applied will be in tables then.
            self.db().request_flush();
        }
    }

    /// A peer fetches a part.
    pub(crate) fn fetched(&mut self, from: ReplicaId, id: u64, part: Part, output: &mut Output) {
        match self.sender.sending.get_mut(&from) {
            Some(sending) if sending.id == id => {
                sending.ticks = 0;
                sending.reach(part.file, part.offset);
                if (part.file, part.offset) == (0, 0) {
                    // It was started again: what it had asked for before it will ask for as it needs it.
                    sending.queue.clear();
                }
                if sending.queue.len() < QUEUE_MAX && !sending.queue.contains(&part) {
                    sending.queue.push_back(part);
                }
                self.send_parts(output);
            }
            _ => self.say(from, SnapshotBody::Gone { id }, output),
        }
    }

    /// The log behind the checkpoints that are being sent has grown too long: they are given up. A peer
    /// that lives keeps what it has, and is offered a newer one.
    pub(crate) fn give_up_sending(&mut self) {
        for peer in self.sender.give_up_all() {
            self.consensus.report_snapshot(peer, false);
        }
    }

    /// A part of a checkpoint cannot be read. If it is one of the state, that counts as damaged from now on, and another
    /// is going to lead. If it is only kept for the checkpoint, a newer one does without it.
    fn give_up_unreadable(&mut self, peer: ReplicaId, output: &mut Output) {
        if let Some(sending) = self.sender.sending.remove(&peer) {
            self.say(peer, SnapshotBody::Gone { id: sending.id }, output);
            self.consensus.report_snapshot(peer, false);
        }
    }

    pub(crate) fn sending_tick(&mut self, output: &mut Output) {
        self.sender.budget = u64::from(self.options.snapshot_bytes_per_tick);
        let again = 2 * u64::from(self.options.heartbeat_ticks);
        let patience = PATIENCE_ELECTIONS * u64::from(self.options.election_ticks);
        let peers: Vec<ReplicaId> = self.sender.sending.keys().copied().collect();
        for peer in peers {
            let sending = self.sender.sending.get_mut(&peer).expect("it was listed just above");
            sending.ticks += 1;
            if sending.ticks > patience {
                self.sender.sending.remove(&peer);
                self.consensus.report_snapshot(peer, false);
            } else if sending.ticks.is_multiple_of(again) {
                let offer = sending.offer.clone();
                self.say(peer, offer, output);
            }
        }
        self.send_parts(output);
    }

    /// Sends what was asked for, a part to each peer in turn, as long as there is budget.
    fn send_parts(&mut self, output: &mut Output) {
        loop {
            let mut is_idle = true;
            let peers: Vec<ReplicaId> = self.sender.sending.keys().copied().collect();
            for peer in peers {
                if self.sender.budget == 0 {
                    return;
                }
                let sending = self.sender.sending.get_mut(&peer).expect("it was listed just above");
                let Some(Part { file, offset, len }) = sending.queue.pop_front() else { continue };
                is_idle = false;
                let place = usize::try_from(file).unwrap_or(usize::MAX);
                let wanted = usize::try_from(len.min(CHUNK_LEN_MAX)).expect("a chunk is small");
                let read = sending.checkpoint.read(place, offset, wanted);
                let bytes = match read.map(|found| found.map(Bytes::copy_from_slice)) {
                    Ok(Some(bytes)) => bytes,
                    Ok(None) => continue,
                    Err(_) => {
                        self.give_up_unreadable(peer, output);
                        continue;
                    }
                };
                sending.reach(file, offset + u64::from(len));
                self.sender.budget = self.sender.budget.saturating_sub(u64::from(len));
                let id = sending.id;
                self.say(peer, SnapshotBody::Chunk { id, file, offset, bytes }, output);
            }
            if is_idle {
                return;
            }
        }
    }
}

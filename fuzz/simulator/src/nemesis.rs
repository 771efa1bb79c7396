//! What goes wrong, and when: each class of faults strikes by itself, again and again, until trouble ends.
//!
//! The stronger a class is, the shorter are the pauses between its strikes. Bounds are kept here: at
//! most a minority of the disks is ever damaged, because no replicated store can outlive more.

use std::path::{Path, PathBuf};

use strandline_replication::{Event, ReplicaId, Role};
use strandline_wal::disk::simulated::{Fault, Random, SimulatedDisk, Survival};

use crate::network::Cut;
use crate::node::State;
use crate::simulation::{Happening, Phase, Simulation};
use crate::swarm::Class;
use crate::time::{MILLISECOND, SECOND, Time};
use crate::violation::Verdict;

/// The classes that strike; the others are conditions that hold during the whole run.
const STRIKING: &[Class] = &[
    Class::Partitions,
    Class::Kills,
    Class::PowerCuts,
    Class::Blackouts,
    Class::Restarts,
    Class::BrokenOperations,
    Class::FailedOperations,
    Class::FullDisks,
    Class::SlowDisks,
    Class::HangingWrites,
    Class::Rot,
    Class::MisdirectedWrites,
    Class::Wipes,
    Class::ClockJumps,
    Class::Pauses,
    Class::SlowNodes,
    Class::Transfers,
    Class::Campaigns,
    Class::Coups,
    Class::Membership,
    Class::LostLinks,
    Class::StateRot,
];

impl Simulation {
    /// Puts the first strike of each class on the agenda.
    pub(crate) fn begin_trouble(&mut self) {
        for class in STRIKING {
            if self.swarm.strength(*class).is_some() {
                self.next_strike(*class);
            }
        }
    }

    fn stream(&mut self, class: Class) -> &mut Random {
        self.streams.get_mut(&class).expect("each class that is on has its sequence")
    }

    fn next_strike(&mut self, class: Class) {
        let longest = match class {
            Class::Blackouts
            | Class::Wipes
            | Class::Rot
            | Class::StateRot
            | Class::MisdirectedWrites => 6 * SECOND,
            _ => 2 * SECOND,
        };
        let strength = self.swarm.strength(class).unwrap_or(1);
        // Many classes at once would leave no time in which anything succeeds.
        let active = STRIKING.iter().filter(|class| self.swarm.strength(**class).is_some()).count();
        let longest = longest / 4 * (1 + u64::try_from(active).unwrap_or(1));
        let mean = longest - (longest - longest / 10) * strength / 1000;
        let span = 10 * MILLISECOND + self.stream(class).below(2 * mean);
        self.agenda.after(span, Happening::Strikes(class));
    }

    /// A node drawn at random, rather the leader than any other.
    fn victim(&mut self, class: Class) -> ReplicaId {
        let leader = self.leader();
        let ids: Vec<ReplicaId> = self.nodes.keys().copied().collect();
        let random = self.stream(class);
        match leader {
            Some(leader) if random.chance(400) => leader,
            _ => ids[random.index(ids.len())],
        }
    }

    /// Who leads, as far as running replicas know of themselves; the newest if there are several.
    pub(crate) fn leader(&self) -> Option<ReplicaId> {
        let statuses = self.nodes.values().filter_map(|node| Some(node.replica()?.status()));
        let leaders = statuses.filter(|status| status.role == Role::Leader);
        leaders.max_by_key(|status| status.term).map(|status| status.id)
    }

    /// Something goes wrong.
    pub(crate) fn strikes(&mut self, class: Class) -> Verdict {
        if self.phase != Phase::Trouble {
            return Ok(());
        }
        self.next_strike(class);
        let id = self.victim(class);
        self.tell(|| format!("{} strikes, {id} perhaps", class.name()));
        match class {
            Class::Partitions if self.is_coup() => {}
            Class::Partitions => self.partition(),
            Class::Kills => self.kill(id, Fault::Kill),
            Class::PowerCuts => self.kill(id, Fault::PowerCut),
            Class::Blackouts => self.blackout(),
            Class::Restarts => return self.restart(id),
            Class::BrokenOperations | Class::FailedOperations => self.fail_operation(class, id),
            Class::FullDisks => {
                self.figures.full_disks += 1;
                let node = self.node(id);
                node.health.is_full = true;
                node.health.has_failed = true;
                node.disk.set_full(true);
                self.passes_after(class, id, 2 * SECOND);
            }
            Class::SlowDisks => {
                let most = self.swarm.scaled(class, 5 * MILLISECOND, 2 * SECOND);
                let latency = MILLISECOND + self.stream(class).below(most);
                self.node(id).latency = (latency / 4, latency);
                self.passes_after(class, id, 3 * SECOND);
            }
            Class::HangingWrites => {
                let hang = SECOND / 2 + self.stream(class).below(4 * SECOND);
                self.node(id).hang = hang;
            }
            Class::Rot | Class::StateRot | Class::MisdirectedWrites | Class::Wipes => {
                self.damage(class, id);
            }
            Class::ClockJumps => {
                let hour = 3_600_000;
                let by = i64::try_from(self.stream(class).below(2 * hour)).unwrap_or(0);
                self.node(id).clock.jump(by - 3_600_000);
            }
            Class::Pauses => {
                let span = 20 * MILLISECOND + self.stream(class).below(2 * SECOND);
                let until = self.agenda.now().after(span);
                let node = self.node(id);
                node.ready_at = node.ready_at.max(until);
                self.cut_off_while_paused(id, span);
            }
            Class::SlowNodes => {
                let most = self.swarm.scaled(class, MILLISECOND / 2, 10 * MILLISECOND);
                self.node(id).cost = most;
                self.passes_after(class, id, 2 * SECOND);
            }
            Class::Coups => self.begin_coup(),
            Class::Membership => return self.change_members(),
            Class::Transfers => return self.transfer(),
            Class::LostLinks => {
                let leader = self.nodes[&id].replica().and_then(|replica| replica.status().leader);
                if let Some(leader) = leader.filter(|leader| *leader != id) {
                    return self.process_if_ready(id, Event::Lost(leader));
                }
            }
            Class::Campaigns => return self.process_if_ready(id, Event::Campaign),
            _ => {}
        }
        Ok(())
    }

    fn passes_after(&mut self, class: Class, id: ReplicaId, most: u64) {
        let span = 50 * MILLISECOND + self.stream(class).below(most);
        self.agenda.after(span, Happening::Passes(class, Some(id)));
    }

    /// A fault is over.
    pub(crate) fn passes(&mut self, class: Class, id: Option<ReplicaId>) {
        self.tell(|| format!("{} passes", class.name()));
        match (class, id) {
            (Class::Partitions, _) if self.is_coup() => {}
            (Class::Partitions, _) => self.network.join(),
            (Class::FullDisks, Some(id)) => {
                let node = self.node(id);
                node.health.is_full = false;
                node.disk.set_full(false);
            }
            (Class::SlowDisks, Some(id)) => self.node(id).latency = (50, 400),
            (Class::SlowNodes, Some(id)) => self.node(id).cost = 20,
            (Class::FailedOperations, Some(id)) => self.kill(id, Fault::PowerCut),
            _ => {}
        }
    }

    fn process_if_ready(&mut self, id: ReplicaId, event: Event) -> Verdict {
        if self.nodes[&id].ready_at > self.agenda.now() {
            return Ok(());
        }
        self.process(id, event)
    }

    /// With leases: who stands still is often cut off until a little after it goes on. It believes that it
    /// leads, and nobody can tell it otherwise.
    fn cut_off_while_paused(&mut self, id: ReplicaId, span: u64) {
        let has_leases = self.swarm.strength(Class::Leases).is_some();
        if !has_leases || self.is_coup() || !self.stream(Class::Pauses).chance(500) {
            return;
        }
        let ids: Vec<ReplicaId> = self.nodes.keys().copied().collect();
        self.network.cut_off(id, &ids);
        let more = self.stream(Class::Pauses).below(SECOND);
        self.agenda.after(span + more, Happening::Passes(Class::Partitions, None));
    }

    fn partition(&mut self) {
        let leader = self.leader();
        let ids: Vec<ReplicaId> = self.nodes.keys().copied().collect();
        let random = self.stream(Class::Partitions);
        let cuts = [Cut::Split, Cut::Split, Cut::Pair, Cut::OneWay, Cut::Bridge];
        let cut = cuts[random.index(cuts.len())];
        let span = 50 * MILLISECOND + random.below(3 * SECOND);
        self.network.cut(cut, &ids, leader);
        self.agenda.after(span, Happening::Passes(Class::Partitions, None));
    }

    /// Ends a process, if there is one.
    fn kill(&mut self, id: ReplicaId, fault: Fault) {
        if !self.nodes[&id].is_up() || self.phase != Phase::Trouble {
            return;
        }
        self.draw_survival(id);
        self.crash(id, fault);
    }

    fn draw_survival(&mut self, id: ReplicaId) {
        let survival = Survival::draw(&mut self.random);
        self.node(id).disk.set_survival(survival);
    }

    /// All nodes lose power; survival is drawn for each.
    pub(crate) fn blackout(&mut self) {
        let ids: Vec<ReplicaId> = self.nodes.keys().copied().collect();
        for id in ids {
            self.draw_survival(id);
            if self.nodes[&id].is_up() {
                self.crash(id, Fault::PowerCut);
            } else {
                self.node(id).crash(Fault::PowerCut);
            }
        }
    }

    fn restart(&mut self, id: ReplicaId) -> Verdict {
        if !self.nodes[&id].is_up() {
            return Ok(());
        }
        self.figures.restarts += 1;
        let closed = self.node(id).close();
        self.tell(|| format!("{id} closes: {closed:?}"));
        let span = 5 * MILLISECOND + self.random.below(300 * MILLISECOND);
        self.agenda.after(span, Happening::Opens { node: id });
        Ok(())
    }

    /// Plans a fault for one of the next operations of a disk.
    fn fail_operation(&mut self, class: Class, id: ReplicaId) {
        let random = self.stream(class);
        let fault = match class {
            Class::BrokenOperations => [Fault::PowerCut, Fault::Kill][random.index(2)],
            _ => [Fault::Eio, Fault::Eio, Fault::Eio, Fault::ShortWrite, Fault::Enospc]
                [random.index(5)],
        };
        let ahead = 1 + random.below(40);
        let (cut_follows, span) = (random.chance(600), random.below(SECOND));
        self.draw_survival(id);
        let node = self.node(id);
        node.disk.fail_at(node.disk.operations() + ahead, fault);
        if class == Class::FailedOperations {
            node.health.has_failed = true;
            self.figures.failed_operations += 1;
            // What a failed sync lost shows only when the power goes.
            if cut_follows {
                self.agenda.after(span, Happening::Passes(class, Some(id)));
            }
        }
    }

    /// Damages a disk, if no more than a minority of them is damaged then.
    fn damage(&mut self, class: Class, id: ReplicaId) {
        let damaged = self.nodes.values().filter(|node| node.health.is_damaged).count();
        let is_first = !self.nodes[&id].health.is_damaged;
        // With members that come and go nobody could say what a minority is.
        if self.swarm.strength(Class::Membership).is_some() {
            return;
        }
        if is_first && damaged >= self.nodes.len().div_ceil(2) - 1 {
            return;
        }
        if matches!(self.nodes[&id].state, State::Lost) {
            return;
        }
        match class {
            Class::Wipes => {
                // A machine that has never run has nothing to lose.
                if !self.nodes[&id].has_existed {
                    return;
                }
                self.figures.wipes += 1;
                // Who runs it may know that it has lost everything, or not.
                let is_known = self.stream(class).chance(500);
                let node = self.node(id);
                node.wipe();
                node.is_replaced = is_known;
                let span = 5 * MILLISECOND + self.random.below(300 * MILLISECOND);
                self.agenda.after(span, Happening::Opens { node: id });
            }
            Class::Rot | Class::StateRot => {
                let disk = self.nodes[&id].disk.clone();
                let random = self.stream(class);
                let has_rotted = match class {
                    Class::StateRot => rot_state(&disk, random),
                    _ => rot(&disk, random),
                };
                if !has_rotted {
                    return;
                }
                self.figures.damages += 1;
                self.node(id).health.is_damaged = true;
            }
            _ => {
                let to = self.stream(class).below(16) * 4096;
                let node = self.node(id);
                node.disk.misdirect_next_write(to);
                node.health.is_damaged = true;
                self.figures.damages += 1;
            }
        }
    }

    fn transfer(&mut self) -> Verdict {
        let Some(leader) = self.leader() else { return Ok(()) };
        let to = self.victim(Class::Transfers);
        self.process_if_ready(leader, Event::Transfer { to })
    }

    /// All trouble is over: everything is mended that can be.
    pub(crate) fn trouble_ends(&mut self, settles_within: u64) -> Verdict {
        self.tell(|| "all trouble is over".to_owned());
        self.phase = Phase::Settling { until: self.agenda.now().after(settles_within) };
        self.coup = crate::coup::Coup::None;
        self.network.join();
        self.network.weather = crate::network::Weather::FAIR;
        let ids: Vec<ReplicaId> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.node(id);
            node.disk.clear_faults();
            node.disk.set_full(false);
            node.health.is_full = false;
            node.latency = (50, 400);
            node.hang = 0;
            node.cost = 20;
            node.ready_at = Time(0);
            node.has_wake = false;
            self.wake_when_ready(id);
            self.agenda.after(MILLISECOND, Happening::Opens { node: id });
        }
        Ok(())
    }
}

/// Inverts some bits of a file; whether there was one.
fn rot(disk: &SimulatedDisk, random: &mut Random) -> bool {
    let reports = disk.files();
    let files: Vec<(PathBuf, u64)> =
        reports.into_iter().filter(|file| file.len > 0).map(|file| (file.path, file.len)).collect();
    if files.is_empty() {
        return false;
    }
    let (path, len) = &files[random.index(files.len())];
    if random.chance(200) {
        disk.make_unreadable(path, random.below(*len));
        return true;
    }
    // Files are filled from the front: there is more to be hit.
    let reach = if random.chance(500) { (*len).min(8192) } else { *len };
    for _ in 0..1 + random.below(3) {
        disk.flip_bit(path, random.below(reach * 8));
    }
    true
}

/// A table, the manifest, or what names it loses some bits, is lost, or cannot be read: somewhere, or nowhere, or
/// only once.
fn rot_state(disk: &SimulatedDisk, random: &mut Random) -> bool {
    let is_of_state = |path: &Path| {
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
        let is_state = path.parent().is_some_and(|dir| dir.ends_with("state"));
        let is_table = path.extension().is_some_and(|end| end == "table");
        is_state && (is_table || name.starts_with("MANIFEST-") || name == "CURRENT")
    };
    let mut files = disk.files();
    files.retain(|file| file.len > 0 && is_of_state(&file.path));
    if files.is_empty() {
        return false;
    }
    let file = &files[random.index(files.len())];
    if random.chance(200) {
        disk.lose(&file.path);
        return true;
    }
    if random.chance(400) {
        let at = random.below(file.len);
        match random.below(4) {
            0 => disk.fail_reads(&file.path, at, 1 + u32::from(random.chance(500))),
            1 => (0..file.len).step_by(512).for_each(|at| disk.make_unreadable(&file.path, at)),
            _ => disk.make_unreadable(&file.path, at),
        }
        return true;
    }
    for _ in 0..1 + random.below(3) {
        disk.flip_bit(&file.path, random.below(file.len * 8));
    }
    true
}

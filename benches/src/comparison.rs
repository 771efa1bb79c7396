//! The comparisons: which workloads, at which concurrency, beside whom.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::peers::redis::{self, Clients, Request};
use crate::peers::{self, Peer};
use crate::probe::Probe;
use crate::report::{Row, Subject};
use crate::rounds::{Contestant, Rounds, Score};
use crate::workload::{Durable, Opener, Shape};
use crate::{Error, Result, held, holder};

/// Bytes of a value in most rows.
const VALUE_LEN: usize = 256;
/// Bytes of a record that fills one block, with what frames it.
const BLOCK_LEN: usize = 4000;
/// Bytes of a large record.
const LARGE_LEN: usize = 1 << 20;

/// Bytes of a record where a log is opened again: large ones are few, which is good for whoever reads all of them.
const REOPEN_LEN: usize = 4096;
/// Bytes of a small record, of which there are many.
const SMALL_LEN: usize = 32;

/// In the rows of rungs, the best one of those that were forced.
pub const BEST_FORCED: &str = "best-forced";

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// The log: durable appends.
    Wal,
    /// The log on the rung it chose, beside itself on each rung that can be forced.
    Rungs,
    /// The embedded store: durable puts.
    Engine,
    /// The server: SET and GET over sockets.
    Server,
    /// Three replicas on this machine: SET through their leader.
    Cluster,
}

/// How it is compared.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often everybody takes a turn.
    pub rounds: usize,
    /// How long a turn lasts.
    pub duration: Duration,
    /// Where the files are made.
    pub dir: PathBuf,
    /// Decides the order of turns.
    pub seed: u64,
    /// Only these peers; all if empty.
    pub peers: Vec<String>,
    /// Only these numbers of threads or connections; all if empty.
    pub concurrency: Vec<usize>,
    /// Mebibytes of the log that is opened again after a kill.
    pub reopen_mib: u32,
    /// Records of the log whose index is looked at.
    pub index_records: u32,
    /// Our server; found or built if none is given.
    pub binary: Option<PathBuf>,
}

impl Plan {
    fn wants(&self, peer: &str, concurrency: usize) -> bool {
        (self.peers.is_empty() || self.peers.iter().any(|wanted| wanted == peer))
            && (self.concurrency.is_empty() || self.concurrency.contains(&concurrency))
    }

    /// Runs a comparison and hands each row to `show` as soon as it is there.
    ///
    /// # Errors
    ///
    /// If the directory cannot be used. What fails in a store is a row of its own.
    pub fn run(&self, what: What, show: &mut dyn FnMut(&Row)) -> Result<()> {
        std::fs::create_dir_all(&self.dir).map_err(Error::io("create", &self.dir))?;
        match what {
            What::Wal => {
                let ours = peers::strandline::LOG;
                self.stores("append", &[1, 8, 64, 256], VALUE_LEN, ours, &peers::logs(), show)?;
                let disk = [peers::disk()];
                self.stores("block", &[1, 4, 16], BLOCK_LEN, ours, &disk, show)?;
                self.stores("large", &[1, 4], LARGE_LEN, ours, &disk, show)?;
                self.rungs(show)?;
                self.held(show)
            }
            What::Rungs => self.rungs(show),
            What::Engine => {
                let ours = peers::strandline::ENGINE;
                self.stores("put", &[1, 8, 64], VALUE_LEN, ours, &peers::engines(), show)
            }
            What::Server => self.servers(show),
            What::Cluster => {
                let program = self.binary.clone().map_or_else(redis::our_binary, Ok);
                match program {
                    Ok(program) => {
                        // Set once for all: a comparison is run once in a process.
                        let _ = peers::cluster::PROGRAM.set(program);
                        let ours = peers::cluster::OURS;
                        self.stores("set", &[64, 512], VALUE_LEN, ours, &peers::replicated(), show)
                    }
                    Err(reason) => {
                        show(&Row::skipped(&subject("set", 64, None), "etcd", reason));
                        Ok(())
                    }
                }
            }
        }
    }

    /// Threads in this process that write to stores.
    fn stores(
        &self,
        workload: &'static str,
        threads: &[usize],
        value_len: usize,
        ours: Opener,
        peers: &[Peer],
        show: &mut dyn FnMut(&Row),
    ) -> Result<()> {
        for threads in threads.iter().copied() {
            let subject = Subject { value_bytes: value_len, ..subject(workload, threads, None) };
            self.threads(&subject, ours, peers, show)?;
        }
        Ok(())
    }

    /// So many threads: all who are wanted, in turn. No rounds if there is nobody to compare with.
    fn threads(
        &self,
        subject: &Subject,
        ours: Opener,
        peers: &[Peer],
        show: &mut dyn FnMut(&Row),
    ) -> Result<Option<Rounds>> {
        let (threads, value_len) = (subject.concurrency, subject.value_bytes);
        let shape = Shape { threads, value_len, duration: self.duration };
        let contestant = |opener: Opener| -> Box<dyn Contestant> {
            Box::new(Durable::new(opener, shape, &self.dir))
        };
        let mut contestants = vec![contestant(ours)];
        for peer in peers.iter().filter(|peer| self.wants(peer.name, threads)) {
            match peer.opener {
                Ok(opener) => contestants.push(contestant(opener)),
                Err(reason) => show(&Row::skipped(subject, peer.name, reason)),
            }
        }
        if contestants.len() == 1 {
            return Ok(None);
        }
        let mut probe = Probe::open(&self.dir)?;
        let rounds = Rounds::run(&mut contestants, self.rounds, self.seed, &mut probe)?;
        for score in &rounds.scores[1..] {
            let durable = peers.iter().any(|peer| peer.name == score.name && peer.durable);
            show(&Row::new(subject, &rounds, score, durable));
        }
        Ok(Some(rounds))
    }

    /// The log on the rung it chose, beside itself on each that is forced, and once more beside the
    /// best of these.
    fn rungs(&self, show: &mut dyn FnMut(&Row)) -> Result<()> {
        for threads in [1, 8, 64, 256] {
            let subject = subject("rung", threads, None);
            let ours = peers::strandline::LOG;
            let rounds = self.threads(&subject, ours, &peers::rungs(), show)?;
            let Some(rounds) = rounds else { continue };
            if let Some(best) = rounds.best_of_others() {
                let best = Score { name: BEST_FORCED, turns: best.turns.clone() };
                show(&Row::new(&subject, &rounds, &best, true));
            }
        }
        Ok(())
    }

    /// Logs that are held by processes of their own and killed: opening one again, and what it keeps in memory.
    fn held(&self, show: &mut dyn FnMut(&Row)) -> Result<()> {
        if !self.wants("raft-engine", 1) {
            return Ok(());
        }
        let mut probe = Probe::open(&self.dir)?;
        let len = u64::try_from(REOPEN_LEN).expect("small");
        let records = (u64::from(self.reopen_mib) << 20) / len;
        let mut logs = holder::Log::ALL.map(|log| -> Box<dyn Contestant> {
            Box::new(held::Reopened::new(log, records, REOPEN_LEN, &self.dir))
        });
        let rounds = Rounds::run(&mut logs, self.rounds, self.seed, &mut probe)?;
        drop(logs);
        let subject_of =
            |workload, value_bytes| Subject { value_bytes, ..subject(workload, 1, None) };
        let subject = subject_of("reopen", REOPEN_LEN);
        show(&Row::new(&subject, &rounds, &rounds.scores[1], true));
        let subject = subject_of("reopen-bytes", REOPEN_LEN);
        show(&Row::counted(&subject, &rounds, &rounds.scores[1], "bytes read while opening"));

        let records = u64::from(self.index_records);
        let mut logs = holder::Log::ALL.map(|log| -> Box<dyn Contestant> {
            Box::new(held::Indexed::new(log, records, SMALL_LEN, &self.dir))
        });
        let rounds = Rounds::run(&mut logs, self.rounds, self.seed, &mut probe)?;
        let subject = subject_of("index-memory", SMALL_LEN);
        show(&Row::counted(&subject, &rounds, &rounds.scores[1], "bytes of memory for a record"));
        Ok(())
    }

    /// Clients of servers in other processes.
    fn servers(&self, show: &mut dyn FnMut(&Row)) -> Result<()> {
        let rows = [
            (Request::Set, 1, 1),
            (Request::Set, 64, 1),
            (Request::Set, 64, 16),
            (Request::Get, 64, 1),
            (Request::Get, 64, 16),
        ];
        let missing = ["redis-server", "redis-benchmark"]
            .into_iter()
            .find(|program| !redis::installed(program))
            .map(|program| format!("{program} is not installed"));
        let program = match missing {
            Some(reason) => Err(reason),
            None => self.binary.clone().map_or_else(redis::our_binary, Ok),
        };
        let mut probe = Probe::open(&self.dir)?;
        for (request, connections, pipeline) in rows {
            let workload = if request == Request::Set { "set" } else { "get" };
            if !self.wants("redis-server", connections) {
                continue;
            }
            let subject = subject(workload, connections, Some(pipeline));
            let shape = redis::Shape {
                request,
                connections: u64::try_from(connections).expect("few connections"),
                pipeline: u64::try_from(pipeline).expect("short pipelines"),
                value_len: VALUE_LEN,
                duration: self.duration,
            };
            let started = match &program {
                Ok(program) => self.start(program, shape).map_err(|error| error.to_string()),
                Err(reason) => Err(reason.clone()),
            };
            let mut contestants: Vec<Box<dyn Contestant>> = match started {
                Ok([ours, redis]) => vec![Box::new(ours), Box::new(redis)],
                Err(reason) => {
                    show(&Row::skipped(&subject, "redis-server", reason));
                    continue;
                }
            };
            let rounds = Rounds::run(&mut contestants, self.rounds, self.seed, &mut probe)?;
            show(&Row::new(&subject, &rounds, &rounds.scores[1], true));
        }
        Ok(())
    }

    fn start(&self, program: &Path, shape: redis::Shape) -> Result<[Clients; 2]> {
        Ok([redis::strandline(program, &self.dir, shape)?, redis::redis(&self.dir, shape)?])
    }
}

fn subject(workload: &'static str, concurrency: usize, pipeline: Option<usize>) -> Subject {
    Subject { workload, concurrency, pipeline, value_bytes: VALUE_LEN }
}

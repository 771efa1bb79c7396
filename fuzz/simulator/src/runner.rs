//! Runs seeds: one, again without some classes, or many on two threads.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::figures::Figures;
use crate::profiles::{self, Profile};
use crate::simulation::{self, Ended};
use crate::swarm::Swarm;
use crate::violation::{Checker, Violation};

/// A seed that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which one.
    pub seed: u64,
    /// In which profile.
    pub profile: &'static str,
    /// What was found.
    pub violation: Violation,
}

impl Failure {
    /// The command that runs it again.
    pub fn command(&self) -> String {
        format!(
            "cargo run --release -p strandline-simulator -- --seed {} --profile {}",
            self.seed, self.profile
        )
    }
}

thread_local! {
    /// Where the last panic of this thread was, and what it said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Has panics remembered instead of printed: they are finds. For a program whose panics are all finds.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        let text = info.to_string().replace('\n', " ");
        PANIC.with(|panic| *panic.borrow_mut() = text);
    }));
}

/// Runs a swarm; a panic is a find of the checker of this name.
pub fn run(swarm: &Swarm, is_told: bool) -> Ended {
    let ended = catch_unwind(AssertUnwindSafe(|| simulation::run(swarm.clone(), is_told)));
    ended.unwrap_or_else(|panic| {
        let kept = PANIC.with(|kept| std::mem::take(&mut *kept.borrow_mut()));
        let reason = if kept.is_empty() { text_of(&*panic) } else { kept };
        let violation = Some(Violation::new(Checker::Panic, reason));
        Ended { violation, figures: Figures { seeds: 1, ..Figures::default() }, hash: 0 }
    })
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// Runs a swarm twice: both runs must be the same.
pub fn run_twice(swarm: &Swarm) -> Ended {
    let (mut first, second) = (run(swarm, false), run(swarm, false));
    if first.violation.is_none() && (first.hash != second.hash || second.violation.is_some()) {
        let reason =
            format!("one run ends with {:016x}, the next with {:016x}", first.hash, second.hash);
        first.violation = Some(Violation::new(Checker::Repetition, reason));
    }
    first.figures.repeated_us += second.figures.simulated_us;
    first
}

/// Which seeds to run, and until when.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first seed.
    pub from: u64,
    /// How many.
    pub seeds: u64,
    /// For how long at the most.
    pub time: Option<Duration>,
    /// Of how many seeds one is run twice; 0 for none.
    pub twice_every: u64,
    /// How many threads.
    pub threads: usize,
    /// How many failures end it.
    pub failures_max: usize,
}

/// What became of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Those that failed, by seed.
    pub failures: Vec<Failure>,
    /// What all of them amounted to.
    pub figures: Figures,
    /// How long it took.
    pub took: Duration,
    /// How much time processors spent on it, where the system tells.
    pub processor_time: Option<Duration>,
}

/// The processor time of this process so far.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program comes before, and may have any characters in it.
    let (_, fields) = text.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (times.next()?.parse().ok()?, times.next()?.parse().ok()?);
    // In hundredths of a second, on every system that Rust's standard library supports.
    Some(Duration::from_millis(10 * (user + system)))
}

/// Disks come and go with each run, and an allocator that gave their memory back to the system would have
/// to be given it again, page by page. The one of glibc keeps as much as twice of what was once freed in
/// one piece.
fn keep_memory() {
    drop(std::hint::black_box(vec![1_u8; 16 << 20]));
}

/// Runs many seeds, in each of the profiles in turn. `told` hears of each failure as it is found.
///
/// # Panics
///
/// If there is no profile.
pub fn run_many(
    plan: Plan,
    profiles: &'static [Profile],
    told: &(dyn Fn(&Failure) + Sync),
) -> Report {
    keep_memory();
    let (began, processors_began) = (Instant::now(), processor_time());
    let next = AtomicU64::new(0);
    let is_over = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    let work = || {
        while !is_over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= plan.seeds || plan.time.is_some_and(|time| began.elapsed() >= time) {
                return;
            }
            let seed = plan.from.wrapping_add(number);
            let profile = profiles::in_turn(profiles, number);
            let swarm = Swarm::draw(seed, profile);
            // Over all profiles, whatever their number.
            let turn = number / u64::try_from(profiles.len()).unwrap_or(1);
            let is_twice = plan.twice_every > 0 && turn.is_multiple_of(plan.twice_every);
            let ended = if is_twice { run_twice(&swarm) } else { run(&swarm, false) };
            let mut report = report.lock().expect("no holder of this lock panics");
            report.figures.add(&ended.figures);
            if let Some(violation) = ended.violation {
                let failure = Failure { seed, profile: profile.name, violation };
                told(&failure);
                report.failures.push(failure);
                if report.failures.len() >= plan.failures_max {
                    is_over.store(true, Ordering::Relaxed);
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..plan.threads.max(1) {
            scope.spawn(work);
        }
    });
    let mut report = report.into_inner().expect("no holder of this lock panics");
    report.failures.sort_by_key(|failure| failure.seed);
    report.took = began.elapsed();
    let spent = processor_time().zip(processors_began);
    report.processor_time = spent.and_then(|(end, begin)| end.checked_sub(begin));
    report
}

//! The command line of the simulator; `docs/simulator.md` says how it is used.

mod arguments;
mod hunting;
mod json;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arguments::{Arguments, USAGE, Verb};
use strandline_simulator::figures::Figures;
use strandline_simulator::minimise::minimise;
use strandline_simulator::profiles;
use strandline_simulator::runner::{self, Failure, Plan, Report};
use strandline_simulator::swarm::{Class, Swarm};
use strandline_simulator::time::SECOND;

/// So many failures say enough.
const FAILURES_MAX: usize = 10;
/// One seed in so many is run a second time and must come to the same.
const TWICE_EVERY: u64 = 20;
/// Registers given up by the check for linearizability, in parts of a hundred thousand: 0.1 %.
const INCONCLUSIVE_MAX: u64 = 100;

fn main() -> ExitCode {
    let arguments = match arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("{wrong}; --help tells what is");
            return ExitCode::from(2);
        }
    };
    runner::catch_panics();
    let is_good = match arguments.verb {
        Verb::Help => {
            println!("{USAGE}");
            true
        }
        Verb::Profiles => {
            list_profiles();
            true
        }
        Verb::Seeds if arguments.seeds.is_none() && arguments.minutes.is_none() => {
            eprintln!("--seeds or --minutes is needed; --help tells more");
            return ExitCode::from(2);
        }
        Verb::Seeds => run_seeds(&arguments),
        Verb::Seed(seed) => run_seed(&arguments, seed),
        Verb::Canaries => match hunting::run(&arguments) {
            Some(is_good) => is_good,
            None => {
                eprintln!("canaries are not compiled in: build with --features canary");
                return ExitCode::from(2);
            }
        },
    };
    if is_good { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn list_profiles() {
    println!("profiles:");
    for profile in profiles::ALL {
        println!("  {:10} {}", profile.name, profile.about);
    }
    let names: Vec<&str> = Class::ALL.iter().map(|class| class.name()).collect();
    println!("classes of faults: {}", names.join(" "));
}

/// A seed that nobody chose.
fn fresh_seed() -> u64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    passed.as_secs() % 1_000_000 * 1_000_000
}

fn run_seeds(arguments: &Arguments) -> bool {
    let from = arguments.from.unwrap_or_else(fresh_seed);
    let plan = Plan {
        from,
        seeds: arguments.seeds.unwrap_or(u64::MAX),
        time: arguments.minutes.map(|minutes| Duration::from_secs(60 * minutes)),
        twice_every: TWICE_EVERY,
        threads: arguments.threads,
        failures_max: if arguments.keeps_going { usize::MAX } else { FAILURES_MAX },
    };
    let is_json = arguments.is_json;
    if !is_json {
        println!("profile {}, seeds from {from}", profile_name(arguments));
    }
    let report = runner::run_many(plan, arguments.profiles, &|failure| {
        if !is_json {
            tell_failure(failure);
        }
    });
    let is_decided = report.figures.inconclusive_share() < INCONCLUSIVE_MAX;
    if is_json {
        println!("{}", as_json(&report, profile_name(arguments), from));
    } else {
        tell_figures(&report.figures, report.took, report.processor_time);
        if !is_decided {
            println!("too many registers were given up by the check for linearizability");
        }
        println!("{} of {} seeds failed", report.failures.len(), report.figures.seeds);
    }
    report.failures.is_empty() && is_decided
}

fn tell_failure(failure: &Failure) {
    println!("seed {} in profile {} FAILED", failure.seed, failure.profile);
    println!("  {}", failure.violation);
    println!("  to run it again: {}", failure.command());
}

fn tell_figures(figures: &Figures, took: Duration, processor_time: Option<Duration>) {
    for (name, figure) in figures.all() {
        if name == "repeated_us" {
            continue;
        }
        if name == "simulated_us" {
            println!("{:>20} {}", "simulated_hours", figures.simulated_hours());
        } else {
            println!("{name:>20} {figure}");
        }
    }
    println!("{:>20} {:.1}", "seconds", took.as_secs_f64());
    println!("{:>20} {} times real time", "speed", speed(figures, took));
    // On a machine that has other things to do this is the one that says something.
    if let Some(spent) = processor_time.filter(|spent| !spent.is_zero()) {
        println!("{:>20} {:.1}", "processor_seconds", spent.as_secs_f64());
        println!("{:>20} {} times real time", "speed_per_core", speed(figures, spent));
    }
}

/// How much faster than real time.
fn speed(figures: &Figures, took: Duration) -> u64 {
    figures.speed(u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
}

fn profile_name(arguments: &Arguments) -> &'static str {
    match arguments.profiles {
        [one] => one.name,
        _ => "all",
    }
}

fn as_json(report: &Report, profile: &str, from: u64) -> String {
    let failure = |failure: &Failure| {
        let object = json::Object::default().number("seed", failure.seed);
        let object = object.text("profile", failure.profile);
        let object = object.text("checker", failure.violation.checker.name());
        let object = object.text("reason", &failure.violation.reason);
        object.text("command", &failure.command()).finish()
    };
    let failures: Vec<String> = report.failures.iter().map(failure).collect();
    let object = json::Object::default().text("profile", profile).number("from", from);
    let object = object.number("failed", u64::try_from(failures.len()).unwrap_or(u64::MAX));
    let mut object = object.raw("failures", &json::list(&failures));
    for (name, figure) in report.figures.all() {
        object = object.number(name, figure);
    }
    let object = object.raw("simulated_hours", &report.figures.simulated_hours());
    let object = object.raw("seconds", &format!("{:.1}", report.took.as_secs_f64()));
    let mut object = object.number("speed", speed(&report.figures, report.took));
    if let Some(spent) = report.processor_time.filter(|spent| !spent.is_zero()) {
        object = object.raw("processor_seconds", &format!("{:.1}", spent.as_secs_f64()));
        object = object.number("speed_per_core", speed(&report.figures, spent));
    }
    object.finish()
}

fn run_seed(arguments: &Arguments, seed: u64) -> bool {
    let swarm = Swarm::draw(seed, &arguments.profiles[0]).without(&arguments.without);
    let classes: Vec<String> = swarm
        .classes()
        .map(|class| format!("{} {}", class.name(), swarm.strength(class).unwrap_or(0)))
        .collect();
    println!("seed {seed} in profile {}: {:?}", swarm.profile, swarm.shape);
    println!("faults and their strengths: {}", classes.join(", "));
    let began = std::time::Instant::now();
    let ended = runner::run(&swarm, arguments.is_traced);
    tell_figures(&ended.figures, began.elapsed(), None);
    let again = runner::run(&swarm, false);
    println!("event hash {:016x}, and when run again {:016x}", ended.hash, again.hash);
    let Some(violation) = ended.violation else {
        let is_same = ended.hash == again.hash;
        println!("{}", if is_same { "all is well" } else { "the two runs DIFFER" });
        return is_same;
    };
    println!("FAILED after {} s: {violation}", ended.figures.simulated_us / SECOND);
    if arguments.is_minimised
        && let Some(minimal) = minimise(&swarm)
    {
        let needed: Vec<&str> = minimal.needed.iter().map(|class| class.name()).collect();
        let all = arguments.without.union(&minimal.without);
        let without: Vec<&str> = all.map(|class| class.name()).collect();
        println!("after {} runs, needed: {}", minimal.runs, needed.join(", "));
        println!("  {}", minimal.violation);
        let command = "cargo run --release -p strandline-simulator --";
        let (profile, without) = (swarm.profile, without.join(","));
        println!("  {command} --seed {seed} --profile {profile} --without {without} --trace");
    }
    false
}

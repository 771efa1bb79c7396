//! A few seeds of each kind, so that the simulator itself does not rot; thousands are run in `.ci/run`.
#![allow(clippy::unwrap_used)]

use strandline_simulator::figures::Figures;
use strandline_simulator::profiles;
use strandline_simulator::runner;
use strandline_simulator::swarm::Swarm;

/// Runs seeds twice each; returns what they amounted to.
fn run(profile: &str, seeds: std::ops::Range<u64>) -> Figures {
    let mut figures = Figures::default();
    for seed in seeds {
        let swarm = Swarm::draw(seed, profiles::named(profile).unwrap());
        let ended = runner::run_twice(&swarm);
        if let Some(violation) = ended.violation {
            panic!("seed {seed} of profile {profile}: {violation}");
        }
        figures.add(&ended.figures);
    }
    figures
}

#[test]
#[cfg_attr(debug_assertions, ignore = "minutes without optimisation; .ci/run has it optimised")]
fn clusters_without_faults_serve_and_agree() {
    let figures = run("calm", 1..2);
    assert!(figures.acknowledged > 0 && figures.reads > 0, "{figures:?}");
    // The only power cut is the one at the end.
    assert_eq!((figures.kills, figures.stops, figures.partitions), (0, 0, 0));
    assert_eq!(figures.executed, figures.acknowledged, "nothing is refused once executed");
}

#[test]
fn clusters_with_faults_keep_their_promises() {
    let figures = run("default", 1..8);
    assert!(figures.power_cuts > 0 && figures.kills > 0 && figures.acknowledged > 0);
    run("reads", 1..3);
    run("snapshots", 1..3);
}

#[test]
fn different_seeds_run_differently_and_equal_ones_alike() {
    let hash = |seed| {
        let swarm = Swarm::draw(seed, profiles::named("votes").unwrap());
        runner::run(&swarm, false).hash
    };
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}

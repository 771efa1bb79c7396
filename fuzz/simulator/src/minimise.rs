//! From a failing seed with many faults to the few that it needs.
//!
//! Faults are switched off one class after the other. What still fails in the same checker without a
//! class does without it. Each class draws from a sequence of its own, so the others stay as they were
//! drawn; but everything that follows from a missing fault is different, so that a failure that needs
//! an exact moment can hide. Then less is switched off, never too much.

use std::collections::BTreeSet;

use crate::runner;
use crate::swarm::{Class, Swarm};
use crate::violation::Violation;

/// What a failure needs.
#[derive(Clone, Debug)]
pub struct Minimal {
    /// The classes that can be switched off.
    pub without: BTreeSet<Class>,
    /// Those that are left.
    pub needed: Vec<Class>,
    /// What is found with those alone.
    pub violation: Violation,
    /// How many runs it took.
    pub runs: u64,
}

/// Switches off what the failure does not need. None if the swarm does not fail.
pub fn minimise(swarm: &Swarm) -> Option<Minimal> {
    minimise_by(swarm, &|swarm| runner::run(swarm, false).violation)
}

fn minimise_by(swarm: &Swarm, run: &dyn Fn(&Swarm) -> Option<Violation>) -> Option<Minimal> {
    let mut violation = run(swarm)?;
    let mut without = BTreeSet::new();
    let mut runs = 1;
    loop {
        let before = without.len();
        let left: Vec<Class> = swarm.without(&without).classes().collect();
        for class in left {
            let mut fewer = without.clone();
            fewer.insert(class);
            runs += 1;
            if let Some(found) = run(&swarm.without(&fewer))
                && found.checker == violation.checker
            {
                (without, violation) = (fewer, found);
            }
        }
        // What could not be done without at first may be superfluous now.
        if without.len() == before {
            break;
        }
    }
    let needed = swarm.without(&without).classes().collect();
    Some(Minimal { without, needed, violation, runs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profiles;
    use crate::violation::Checker;

    #[test]
    fn what_is_not_needed_is_switched_off() {
        let swarm = Swarm::draw(1, profiles::named("storm").unwrap());
        let needs = |swarm: &Swarm| {
            let has = |class| swarm.strength(class).is_some();
            // Kills, and one of two others.
            let fails = has(Class::Kills) && (has(Class::Loss) || has(Class::Delay));
            fails.then(|| Violation::new(Checker::Durability, "lost"))
        };
        let minimal = minimise_by(&swarm, &needs).unwrap();
        assert_eq!(minimal.needed, [Class::Delay, Class::Kills]);
        assert!(minimise_by(&swarm.without(&BTreeSet::from([Class::Kills])), &needs).is_none());
    }
}

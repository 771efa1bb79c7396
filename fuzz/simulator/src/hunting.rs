//! The verb `canaries`.

use crate::arguments::Arguments;

/// Runs all canaries, or those asked for; none if they are not compiled in.
#[cfg(not(feature = "canary"))]
pub(crate) fn run(_: &Arguments) -> Option<bool> {
    None
}

/// Runs all canaries, or those asked for; whether each was caught by a checker that it names, within
/// its budget.
#[cfg(feature = "canary")]
pub(crate) fn run(arguments: &Arguments) -> Option<bool> {
    use crate::json;
    use strandline_simulator::canaries::{CANARIES, hunt};
    use strandline_wal::canary::switch_on;

    let is_asked_for = |number| arguments.only.is_empty() || arguments.only.contains(&number);
    let from = arguments.from.unwrap_or(1);
    let mut rows = Vec::new();
    let mut missed = 0;
    for canary in CANARIES.iter().filter(|canary| is_asked_for(canary.number)) {
        let began = std::time::Instant::now();
        switch_on(canary.number);
        let hunt = hunt(canary, from, arguments.threads);
        switch_on(0);
        let by: Vec<&str> = canary.by.iter().map(|checker| checker.name()).collect();
        let is_caught = hunt.caught.is_some();
        missed += u64::from(!is_caught);
        if !arguments.is_json {
            let (number, name) = (canary.number, canary.name);
            let seconds = began.elapsed().as_secs_f64();
            match &hunt.caught {
                Some(find) => println!(
                    "canary {number:2} {name}: caught at seed {} ({} of {} seeds, {seconds:.1} s): \
                     {}",
                    find.seed, hunt.seeds, canary.seeds, find.violation
                ),
                None => println!(
                    "canary {number:2} {name}: MISSED in {} seeds of {} ({seconds:.1} s); {} must \
                     catch it",
                    hunt.seeds,
                    canary.profile,
                    by.join(" or ")
                ),
            }
            if let Some(other) = hunt.others.first().filter(|_| !is_caught) {
                println!(
                    "  {} other finds, first seed {}: {}",
                    hunt.others.len(),
                    other.seed,
                    other.violation
                );
            }
        }
        let object = json::Object::default().number("canary", u64::from(canary.number));
        let object = object.text("name", canary.name).text("profile", canary.profile);
        let object = object.text("checkers", &by.join(" ")).number("budget", canary.seeds);
        let object = object.raw("caught", if is_caught { "true" } else { "false" });
        let object = object.number("seeds", hunt.seeds);
        let found = hunt.caught.map(|find| find.violation.to_string()).unwrap_or_default();
        rows.push(object.text("found", &found).finish());
    }
    if arguments.is_json {
        let object = json::Object::default().number("missed", missed);
        println!("{}", object.raw("canaries", &json::list(&rows)).finish());
    } else {
        println!("{} canaries, {missed} missed", rows.len());
    }
    Some(missed == 0)
}

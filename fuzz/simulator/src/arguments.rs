//! The command line, taken apart.

use std::collections::BTreeSet;

use strandline_simulator::profiles::{self, Profile};
use strandline_simulator::swarm::Class;

/// What is printed on `--help` and after a wrong argument.
pub(crate) const USAGE: &str = "\
strandline-simulator: a whole cluster in one thread, and everything that tries to break it

  --seeds N [--from S]     runs N seeds, the first is S (default: drawn from the time)
  --minutes M              runs seeds for so many minutes (with --seeds: at the most)
  --seed S                 runs one seed, prints what it comes to, and runs it once more to compare
  --trace                  with --seed: prints everything that happens
  --minimise               with --seed: switches off the faults that the failure does not need
  --without CLASS,CLASS    with --seed: leaves out classes of faults
  --profile P              what runs are biased to; `profiles` lists them; `all`: in turn, calm seldom
  --threads N              default 2
  --keep-going             does not stop at the 10th failure
  --json                   one JSON object at the end
  canaries [--only N,N]    runs the deliberate bugs (needs the feature `canary`)
  profiles                 lists profiles and classes of faults

Exit codes: 0 no seed failed, 1 one did, 2 wrong usage.";

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Run many seeds.
    Seeds,
    /// Run one.
    Seed(u64),
    /// Look for deliberate bugs.
    Canaries,
    /// List the profiles.
    Profiles,
    /// Print how it is used.
    Help,
}

/// The command line.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) verb: Verb,
    pub(crate) seeds: Option<u64>,
    pub(crate) from: Option<u64>,
    pub(crate) minutes: Option<u64>,
    /// One, or all of them.
    pub(crate) profiles: &'static [Profile],
    pub(crate) threads: usize,
    pub(crate) without: BTreeSet<Class>,
    pub(crate) only: BTreeSet<u8>,
    pub(crate) is_traced: bool,
    pub(crate) is_minimised: bool,
    pub(crate) keeps_going: bool,
    pub(crate) is_json: bool,
}

/// Takes the words after the program's name apart.
pub(crate) fn parse(words: impl IntoIterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments {
        verb: Verb::Seeds,
        seeds: None,
        from: None,
        minutes: None,
        profiles: named("default").expect("there is a default"),
        threads: 2,
        without: BTreeSet::new(),
        only: BTreeSet::new(),
        is_traced: false,
        is_minimised: false,
        keeps_going: false,
        is_json: false,
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--seeds" => arguments.seeds = Some(number(&value()?)?),
            "--from" => arguments.from = Some(number(&value()?)?),
            "--minutes" => arguments.minutes = Some(number(&value()?)?),
            "--seed" => arguments.verb = Verb::Seed(number(&value()?)?),
            "--threads" => arguments.threads = number(&value()?)?,
            "--profile" => {
                let name = value()?;
                arguments.profiles =
                    named(&name).ok_or_else(|| format!("there is no profile {name}"))?;
            }
            "--without" => {
                for name in value()?.split(',') {
                    let class = Class::named(name);
                    arguments.without.insert(class.ok_or_else(|| format!("no class {name}"))?);
                }
            }
            "--only" => {
                for text in value()?.split(',') {
                    arguments.only.insert(number(text)?);
                }
            }
            "--trace" => arguments.is_traced = true,
            "--minimise" => arguments.is_minimised = true,
            "--keep-going" => arguments.keeps_going = true,
            "--json" => arguments.is_json = true,
            "canaries" => arguments.verb = Verb::Canaries,
            "profiles" => arguments.verb = Verb::Profiles,
            "--help" | "-h" | "help" => arguments.verb = Verb::Help,
            _ => return Err(format!("{word} is not understood")),
        }
    }
    match arguments.verb {
        Verb::Seed(_) if arguments.profiles.len() > 1 => Err("a seed has one profile".into()),
        _ => Ok(arguments),
    }
}

fn named(name: &str) -> Option<&'static [Profile]> {
    match name {
        "all" => Some(profiles::ALL),
        _ => profiles::named(name).map(std::slice::from_ref),
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| format!("{text} is not a number that fits here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_is_documented_is_understood() {
        let arguments = parsed("--seeds 1000 --from 7 --profile votes --minutes 3 --json").unwrap();
        assert_eq!(arguments.verb, Verb::Seeds);
        assert_eq!((arguments.seeds, arguments.from), (Some(1000), Some(7)));
        assert_eq!((arguments.profiles[0].name, arguments.minutes), ("votes", Some(3)));
        assert!(arguments.is_json);
        let arguments = parsed("--seed 5 --without loss,kills --minimise --trace").unwrap();
        assert_eq!(arguments.verb, Verb::Seed(5));
        assert_eq!(arguments.without, BTreeSet::from([Class::Loss, Class::Kills]));
        assert_eq!(parsed("--seeds 9 --profile all").unwrap().profiles.len(), profiles::ALL.len());
        let arguments = parsed("canaries --only 1,28").unwrap();
        assert_eq!(arguments.only, BTreeSet::from([1, 28]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, named) in [
            ("--seeds", "--seeds"),
            ("--seeds many", "many"),
            ("--profile nice", "nice"),
            ("--without rain", "rain"),
            ("--seed 5 --profile all", "profile"),
            ("--frobnicate", "--frobnicate"),
        ] {
            assert!(parsed(line).unwrap_err().contains(named), "{line}");
        }
    }
}

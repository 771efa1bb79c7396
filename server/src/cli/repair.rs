//! `repair DIR`: what is wrong with a store's log, what can be mended, and what that costs.
//!
//! Without `--apply` nothing is changed: the plan is printed. What loses nothing (a header, a length or a
//! marker that can be given back, damage among what the tables hold) is mended with `--apply` alone. To end
//! the log before what is damaged, acknowledged entries and all, the first position that is given up has to be
//! named, as the plan names it: `--lose-from 1234`. Where another node has the entries this refuses: a
//! replica is mended by its peers when it is started, a backup by its primary. Whatever a file held
//! before is kept beside it. Tables and manifest are not mended: they come from a backup.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use strandline_engine::group_dir;
use strandline_wal::disk::Disk;
use strandline_wal::{Lsn, Positions, Salvage, Tail};

use super::at_rest::{StoreArgs, StoreAtRest};
use super::error::{self, Result};
use super::verify::{Damage, HARD_STATE_FILE, verify_store};
use crate::backup::standing_file;

/// Say what is wrong with the log of a store that is not running, and mend it.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Only print the plan, which is what happens without --apply.
    #[arg(long, conflicts_with = "apply")]
    pub(crate) dry_run: bool,
    /// Do it.
    #[arg(long)]
    pub(crate) apply: bool,
    /// Consent to losing acknowledged entries: the first position that is given up, as the plan names it.
    #[arg(long, value_name = "POSITION", requires = "apply")]
    pub(crate) lose_from: Option<u64>,
    /// Go on although a peer or a primary could mend it: because none is left.
    #[arg(long)]
    pub(crate) without_peers: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Repairs: exit code 0 if nothing was wrong or all is mended without loss, 1 if something is wrong, remains
/// so or was given up, 3 if it could not run.
pub(crate) fn run(args: RepairArgs) -> ExitCode {
    let outcome = repair(&args).map(|report| {
        match args.json {
            true => println!("{}", report.json(&args.store.dir)),
            false => print!("{}", report.text()),
        }
        report.is_good()
    });
    error::exit("repair", outcome)
}

/// What was found and done.
#[derive(Debug)]
struct Report {
    salvage: Salvage,
    /// What is wrong with the log.
    damages: Vec<Damage>,
    /// What is wrong with everything else; it stays so.
    others: Vec<Damage>,
    /// Who could mend it.
    peer: Option<String>,
    /// The last position that the tables hold.
    flushed: u64,
    /// What is damaged after it was mended.
    left: usize,
}

fn repair(args: &RepairArgs) -> Result<Report> {
    let mut store = StoreAtRest::open(&args.store)?;
    let found = verify_store(&store)?;
    let needed = Lsn(found.flushed.saturating_add(1));
    let salvage = Salvage::plan(&*store.disk, &store.log, needed)?;
    // Nobody else has a copy of a mark, and with a damaged one nothing is started.
    let is_of_mark_alone = salvage.is_needed() && !salvage.changes_segments();
    let asks_peers = !args.without_peers && !is_of_mark_alone;
    let mut report = Report {
        damages: Vec::new(),
        others: found.others,
        peer: peer(&*store.disk, &store.dir).filter(|_| asks_peers),
        flushed: found.flushed,
        left: 0,
        salvage,
    };
    for error in &report.salvage.damages {
        report.damages.push(Damage::of(error.duplicate())?);
    }
    if args.apply && report.peer.is_none() {
        store.release_log();
        let lose_from = args.lose_from.map(Lsn);
        report.salvage = Salvage::apply(&*store.disk, &store.log, needed, lose_from)?;
        if report.salvage.is_applied {
            let left = verify_store(&store)?;
            report.left = left.damages.len() + left.others.len();
        }
    }
    Ok(report)
}

/// Who has what this node has, if somebody does.
fn peer(disk: &dyn Disk, dir: &Path) -> Option<String> {
    let group = group_dir(dir);
    if group.join(HARD_STATE_FILE).exists() {
        let advice = "this is a replica of a cluster: start it, and its peers send what is damaged";
        return Some(advice.into());
    }
    let follows =
        standing_file::read(disk, &group.join(standing_file::STANDING_FILE)).ok()?.follows?;
    Some(format!(
        "this is a backup of {follows}: move the directory away and start it with an empty one, and its \
         primary sends everything"
    ))
}

impl Report {
    fn is_good(&self) -> bool {
        let is_mended = self.salvage.is_applied && self.salvage.cut.is_none() && self.left == 0;
        let is_sound = self.damages.is_empty() && self.others.is_empty();
        is_mended || (is_sound && !self.salvage.is_needed())
    }

    /// What to do now.
    fn advice(&self) -> String {
        let salvage = &self.salvage;
        if salvage.is_applied {
            return match (salvage.cut, self.left) {
                (_, 1..) => {
                    "mended as far as it goes; what is left damaged comes from a backup".into()
                }
                (None, _) => "mended without loss: start the store".into(),
                (Some(cut), _) => format!(
                    "mended: the log goes on at position {}; what was given up is kept in the files named \
                     above",
                    cut.first
                ),
            };
        }
        if let Some(peer) = &self.peer
            && (salvage.is_needed() || salvage.unclear.is_some())
        {
            return format!("nothing was changed: {peer}; if none is left, say --without-peers");
        }
        if let Some(unclear) = &salvage.unclear {
            return format!("nothing was changed: {unclear}");
        }
        match (salvage.cut, salvage.is_needed()) {
            (Some(cut), _) => format!(
                "nothing was changed; restore a backup if there is one, or give up what is named above \
                 with --apply --lose-from {}",
                cut.first
            ),
            (None, true) => "nothing was changed; --apply mends it without loss".into(),
            (None, false) if self.others.is_empty() => "there is nothing to mend".into(),
            (None, false) => "the log needs no mending; the rest comes from a backup".into(),
        }
    }

    fn text(&self) -> String {
        let salvage = &self.salvage;
        let mut text = String::new();
        for damage in self.damages.iter().chain(&self.others) {
            text += &damage.line();
        }
        text += &format!("the tables hold everything up to position {}\n", self.flushed);
        if let Tail::Suspect { path, offset, first } = &salvage.tail {
            text += &format!(
                "suspect: {} from offset {offset} on: position {first} and what follows was under way in a \
                 crash, or has gone bad; the log opens without it\n",
                path.display()
            );
        }
        for (positions, words) in [
            (&salvage.lost, "certainly lost, and they were durable"),
            (&salvage.suspect, "cannot be read, and were perhaps never acknowledged"),
            (&salvage.unreadable, "cannot be read, and are in the tables: nothing needs them here"),
        ] {
            for positions in positions {
                text += &format!("{}: {words}\n", range(*positions));
            }
        }
        for (positions, words) in [
            (salvage.cut, "given up: the damage, and all that stands behind it"),
            (salvage.let_go, "let go, as by a trim: they are in the tables"),
            (
                salvage.doubtful,
                "remain, and a segment behind them is gone: if the log was ever truncated there, they \
                 may be what was truncated",
            ),
            (salvage.remains, "remain"),
        ] {
            if let Some(positions) = positions {
                text += &format!("{}: {words}\n", range(positions));
            }
        }
        for path in &salvage.given_back {
            text += &format!(
                "{}: gets back its header, its length, a marker or its mark\n",
                path.display()
            );
        }
        for (from, to) in &salvage.aside {
            text += &format!("{} is kept as {}\n", from.display(), to.display());
        }
        text += &format!("{}\n", self.advice());
        text
    }

    fn json(&self, dir: &Path) -> Value {
        let salvage = &self.salvage;
        let pair = |range: &Positions| json!([range.first.0, range.last.0]);
        let all = |ranges: &[Positions]| ranges.iter().map(pair).collect::<Vec<_>>();
        let one = |range: Option<Positions>| range.as_ref().map_or(Value::Null, pair);
        let damages = self.damages.iter().chain(&self.others).map(Damage::json);
        let suspect = match &salvage.tail {
            Tail::Suspect { path, offset, first } => {
                json!({"file": path.display().to_string(), "offset": offset, "first": first.0})
            }
            _ => Value::Null,
        };
        let aside = salvage.aside.iter().map(|(from, to)| {
            json!({"file": from.display().to_string(), "kept_as": to.display().to_string()})
        });
        json!({
            "dir": dir.display().to_string(),
            "damages": damages.collect::<Vec<_>>(),
            "suspect_tail": suspect,
            "flushed": self.flushed,
            "lost": all(&salvage.lost),
            "suspect": all(&salvage.suspect),
            "unreadable": all(&salvage.unreadable),
            "given_up": one(salvage.cut),
            "let_go": one(salvage.let_go),
            "doubtful": one(salvage.doubtful),
            "remains": one(salvage.remains),
            "given_back": salvage.given_back.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "aside": aside.collect::<Vec<_>>(),
            "peer": self.peer,
            "needed": salvage.is_needed(),
            "applied": salvage.is_applied,
            "left_damaged": self.left,
            "advice": self.advice(),
        })
    }
}

fn range(positions: Positions) -> String {
    match positions.last.0 - positions.first.0 {
        0 => format!("position {}", positions.first),
        _ => format!("positions {} to {}", positions.first, positions.last),
    }
}

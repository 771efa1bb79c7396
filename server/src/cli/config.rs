//! `strandline config`: which settings there are, and what is in force.

use clap::Subcommand;

use super::{ConfigArguments, Outcome};
use crate::config::{Config, SETTINGS};

/// What to look at.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Tell whether the settings are understood.
    Check(ConfigArguments),
    /// Show the settings in force.
    Show {
        #[command(flatten)]
        config: ConfigArguments,
        /// Say where each value comes from.
        #[arg(long)]
        origin: bool,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(verb: &Verb) -> Outcome {
    match verb {
        Verb::Check(config) => {
            let config = config.load()?;
            config.addresses()?;
            println!("the settings are understood");
        }
        Verb::Show { config, origin, json } => show(&config.load()?, *origin, *json),
    }
    Ok(())
}

/// Passwords are not for screens.
const SECRETS: [&str; 2] = ["requirepass", "masterauth"];

fn show(config: &Config, with_origin: bool, json: bool) {
    let mut object = serde_json::Map::new();
    for (name, value, origin) in config.all() {
        let is_secret = SECRETS.contains(&name) && !value.is_empty();
        let value = if is_secret { "(set)".to_owned() } else { value };
        if json {
            let shown = match with_origin {
                true => serde_json::json!({ "value": value, "origin": origin.to_string() }),
                false => value.into(),
            };
            object.insert(name.to_owned(), shown);
        } else if with_origin {
            println!("{name} = \"{value}\"  # {origin}");
        } else {
            let help =
                SETTINGS.iter().find(|setting| setting.name == name).map(|setting| setting.help);
            println!("{name} = \"{value}\"  # {}", help.unwrap_or("another name of durability"));
        }
    }
    if json {
        println!("{}", serde_json::Value::Object(object));
    }
}

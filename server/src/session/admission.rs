//! What is refused before it is executed or logged.
//!
//! Everything that can be said without looking at the data: who asks, how many arguments there are,
//! how long they are, whether what the command would write fits into an entry and a batch. A command
//! that is refused here has not been proposed, and trying it again is safe.

use strandline_engine::{BATCH_LEN_MAX, KEY_LEN_MAX};

use super::State;
use crate::backup::standing::gate;
use crate::command::{Command, Handler};
use crate::config;
use crate::refusal::Refusal;
use crate::resp::Args;
use crate::value::PAYLOAD_LEN_MAX;

/// What one operation of a batch costs beyond its keys and values, at most: two prefixes and two
/// headers of operations, rounded up.
const OPERATION_LEN: usize = 100;

/// The answer to everything but the handshake before the password was given.
pub(super) const NO_AUTH: &str = "NOAUTH Authentication required.";

/// Whether a request may be executed, as far as that can be said without looking at the data.
pub(super) fn admit(command: &Command, args: Args<'_>, state: &State) -> Result<(), Refusal> {
    if !state.is_authenticated && !command.flags.contains(&"no_auth") {
        return Err(Refusal::other(NO_AUTH));
    }
    command.check_shape(args)?;
    let Handler::Write { check, .. } = command.handler else { return Ok(()) };
    // What a command writes is a batch, which is bounded: keys may be written twice, once for
    // their expiry.
    let (mut len, mut len_max) = (0, 0);
    for argument in args.from(1) {
        len += argument.len() + argument.len().min(KEY_LEN_MAX) + OPERATION_LEN;
        len_max = len_max.max(argument.len());
    }
    if len_max > PAYLOAD_LEN_MAX {
        return Err(Refusal::StringTooLong);
    }
    if len > BATCH_LEN_MAX {
        return Err(Refusal::CommandTooLarge);
    }
    check(args)
}

/// The answer to a write on a backup.
pub(super) const READ_ONLY: &str = "READONLY You can't write against a read only replica.";

/// Why this command is refused now, if it is: nothing has been done.
pub(super) fn refused_now(command: &Command, gate: u8) -> Option<&'static str> {
    match command.handler {
        Handler::Write { .. } if gate & gate::READ_ONLY != 0 => Some(READ_ONLY),
        Handler::Write { .. } if gate & gate::NO_REPLICAS != 0 => {
            Some("NOREPLICAS Not enough good replicas to write.")
        }
        Handler::Read(_) if gate & gate::STALE != 0 => {
            Some("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.")
        }
        _ => None,
    }
}

/// The name of a setting is typed where a command belongs.
fn setting_hint(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok().filter(|name| config::is_setting(name))?;
    let name = name.to_lowercase();
    Some(format!(
        "ERR unknown command '{name}': it is a setting; to change it type CONFIG SET {name} <value>, to \
         see it CONFIG GET {name}"
    ))
}

/// Redis' words for a command that does not exist: the beginning of each argument, up to a length.
pub(super) fn unknown_command(args: Args<'_>) -> String {
    if let Some(hint) = setting_hint(args.at(0)) {
        return hint;
    }
    const LEN_MAX: usize = 128;
    let shown = |bytes: &[u8], len_max: usize| {
        String::from_utf8_lossy(&bytes[..bytes.len().min(len_max)]).into_owned()
    };
    let mut arguments = String::new();
    for argument in args.from(1) {
        if arguments.len() >= LEN_MAX {
            break;
        }
        arguments.push_str(&format!("'{}' ", shown(argument, LEN_MAX - arguments.len())));
    }
    let name = shown(args.at(0), LEN_MAX);
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}

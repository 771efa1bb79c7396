//! What clients are told of what was not done.

use strandline_replication::Refusal;

/// The answer to what was not done, in words that clients act on: they retry `CLUSTERDOWN`.
pub(super) fn refusal_text(reason: &Refusal) -> String {
    match reason {
        Refusal::NotLeader { leader: None } => {
            "CLUSTERDOWN no node is known to lead: nothing was done; try again".into()
        }
        Refusal::NotLeader { leader: Some(leader) } => format!(
            "CLUSTERDOWN node {leader} leads and cannot be reached from here: nothing was done; try \
             again"
        ),
        Refusal::NoQuorum => {
            "CLUSTERDOWN no majority of the nodes answers: nothing was done; try again".into()
        }
        Refusal::Overloaded => {
            "THROTTLED retry_in_ms=50 reason=too much is under way: nothing was done".into()
        }
        Refusal::Full => {
            "MISCONF the disk is full: nothing was written; writes resume by themselves when there \
             is room"
                .into()
        }
        Refusal::Damaged => {
            "CLUSTERDOWN the state of this node is damaged and is being replaced by the leader's: ask \
             another node, or try again"
                .into()
        }
        Refusal::Stopped => {
            "CLUSTERDOWN this replica has stopped, see its log: nothing was done".into()
        }
        other => format!("ERR {other:?}: nothing was done"),
    }
}

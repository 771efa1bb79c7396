//! What has been said in the log about links that fail: once for each node and kind of failure, until
//! there is a link again.
//!
//! A node that is down is called twice a second, and a stranger may call as often as he likes: a log
//! that repeats it hides the rest.

use std::collections::BTreeMap;
use std::mem::{Discriminant, discriminant};
use std::sync::{Mutex, PoisonError};

use strandline_replication::ReplicaId;

use crate::cluster::link::Error;

/// Which connection: the one that we make, or the one that is made to us. None: from a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    To(ReplicaId),
    From(Option<ReplicaId>),
}

/// What has been said.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    /// Invariant: no kind twice, so each list is as short as there are kinds.
    told: Mutex<BTreeMap<About, Vec<Discriminant<Error>>>>,
}

impl Complaints {
    /// Whether this is to be said: it has not been since there was a link.
    pub(super) fn is_new(&self, about: About, error: &Error) -> bool {
        let kind = discriminant(error);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = told.entry(about).or_default();
        let is_new = !kinds.contains(&kind);
        if is_new {
            kinds.push(kind);
        }
        is_new
    }

    /// Says why there is no link, if it has not been said.
    pub(super) fn tell(&self, about: About, error: &Error) {
        let is_new = self.is_new(about, error);
        match about {
            About::To(peer) if is_new => tracing::warn!(%peer, "no link to the node: {error}"),
            About::To(peer) => tracing::debug!(%peer, "no link to the node: {error}"),
            // The other direction says it, in the same words.
            About::From(Some(peer)) if is_new && !error.is_ordinary() => {
                tracing::warn!(%peer, "a link from the node was refused: {error}");
            }
            About::From(None) if is_new && !error.is_ordinary() => {
                tracing::warn!("a link from a stranger was refused: {error}");
            }
            About::From(peer) => tracing::debug!(?peer, "a link was refused: {error}"),
        }
    }

    /// There is a link: what fails next is said again.
    pub(super) fn settle(&self, about: About) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).remove(&about);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_once_for_each_node_until_there_is_a_link() {
        let complaints = Complaints::default();
        let (two, stranger) = (About::To(ReplicaId(2)), About::From(None));
        assert!(complaints.is_new(two, &Error::Secret));
        assert!(!complaints.is_new(two, &Error::Secret));
        assert!(complaints.is_new(two, &Error::Idle), "another kind");
        assert!(!complaints.is_new(two, &Error::Secret), "though another was said since");
        assert!(complaints.is_new(stranger, &Error::Secret), "another node");
        complaints.settle(two);
        assert!(complaints.is_new(two, &Error::Secret), "there was a link");
        assert!(!complaints.is_new(stranger, &Error::Secret));
    }
}

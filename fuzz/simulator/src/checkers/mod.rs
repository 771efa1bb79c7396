//! The checkers: each judges by what clients were told, what machines executed, or both.
//!
//! | checker | when | file |
//! |---|---|---|
//! | agreement, exactly-once | at every executed command, and at every look into a state | `agreement.rs` |
//! | election | at every election | `election.rs` |
//! | linearizability | at the end | `linearizability.rs` |
//! | staleness | at the end | `staleness.rs` |
//! | durability, refusal | at the end, when every replica has caught up | `durability.rs` |
//! | liveness, opening, identity, panic | as they happen | the modules that run the cluster |
//! | repetition | by running a seed twice | `runner.rs` |

pub mod agreement;
pub mod durability;
pub mod election;
pub mod linearizability;
pub mod staleness;

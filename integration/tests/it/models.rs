//! Checks small models of two protocols exhaustively: every order of events, and every clock
//! reading that the assumptions allow.
//!
//! Each model states its assumptions. Tests break each assumption, and show that the model then
//! finds a violation of exclusion. The models do *not* show that the code follows them; the
//! simulation and the conformance suite check that.

mod dynamo;
mod nfs;

use stateright::{Checker, Model};

/// Returns whether `property` holds in every run, and prints the number of states.
fn holds<M>(model: M, property: &'static str) -> bool
where
    M: Model + Send + Sync + 'static,
    M::State: std::hash::Hash + Send + Sync + std::fmt::Debug + Clone + PartialEq + 'static,
    M::Action: std::fmt::Debug + Clone + PartialEq,
{
    let checker = model.checker().threads(2).spawn_bfs().join();
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    if let Some(path) = checker.discovery(property) {
        println!("counterexample to \"{property}\":\n{path}");
        return false;
    }
    assert!(checker.is_done(), "every state must be visited");
    true
}

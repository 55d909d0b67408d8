//! Two protocols as small models, checked exhaustively: every order of events, every clock reading
//! that the assumptions allow.
//!
//! Each model says what it assumes, and a test breaks that assumption and shows that exclusion goes
//! with it: the model can see. What is *not* in them: that the code does what the model does. That
//! is the simulation's and the conformance kit's part.

mod dynamo;
mod nfs;

use stateright::{Checker, Model};

/// Whether exclusion holds in every run; the number of states is printed.
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
    assert!(checker.is_done(), "every state was visited");
    true
}

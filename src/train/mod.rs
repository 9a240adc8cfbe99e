//! The training loop and what it measures.

pub mod metrics;
pub mod session;

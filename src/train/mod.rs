//! The training loop, what it measures and what it leaves behind.

pub mod checkpoint;
pub mod evaluate;
pub mod metrics;
pub mod run;
pub mod schedule;
pub mod session;
pub mod trainer;

//! The training loop and what it leaves behind.

pub mod checkpoint;
pub mod evaluate;
pub mod run;
pub mod schedule;
pub mod session;
pub mod trainer;

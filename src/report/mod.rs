//! What a person reads and looks at.

pub mod columns;
pub mod progress;

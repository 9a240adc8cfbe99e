//! What a person reads and looks at.

pub mod progress;

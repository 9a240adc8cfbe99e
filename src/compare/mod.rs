//! Comparing models: variants of one configuration, trained under several seeds on one dataset, and how far they are apart.
//!
//! [`suite`] reads what to compare, [`folder`] keeps what has been measured, [`table`] puts it side by side by [`statistics`].

pub mod folder;
pub mod statistics;
pub mod suite;
pub mod table;

//! From files on disk to minibatches: CSV and Parquet readers, vocabularies, the encoded dataset, batches, prefetch.
//!
//! Knows neither models nor devices.

pub mod batch;
mod csv;
pub mod dataset;
pub mod encode;
mod group;
pub mod input;
mod parquet;
pub mod prefetch;
pub mod prepare;
pub mod simulate;
pub mod vocabulary;
pub mod write;

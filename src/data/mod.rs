//! From files on disk to minibatches: schema, CSV and Parquet readers, vocabularies, the encoded dataset, batches, prefetch.
//!
//! Knows neither models nor devices.

pub mod batch;
pub mod prefetch;
pub mod simulate;
pub mod write;

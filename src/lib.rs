//! Tauten trains joint click-through (CTR) and conversion (CVR) models, AdaFTR first of all, on any Vulkan, Metal or DX12 GPU.
//!
//! The way of the data, one direction:
//!
//! ```text
//! files on disk -> data (schema, vocabulary, encoded dataset, minibatches) -> model (layers put ops into a graph)
//!   -> graph (reverse mode, plan: ops in order, every tensor placed) -> device (gpu: wgpu, or cpu) runs the plan, step after step
//!   -> train (loop, early stop, checkpoint, metrics) -> report (what a person reads and looks at)
//! ```
//!
//! A layer knows ops, and of devices their limits alone; a device knows ops and buffers, never models; `data` knows none of these.

pub mod cli;
pub mod compare;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
mod files;
pub mod graph;
pub mod metrics;
pub mod model;
pub mod ops;
mod processor;
pub mod profile;
pub mod random;
pub mod report;
pub mod train;

pub use error::{Error, Result};

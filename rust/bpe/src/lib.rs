//! Byte-level BPE for nanochat: an exact hand-written splitter, a deterministic trainer and a fast encoder.
//!
//! Plain Rust on `std` alone. The Python module is the thin layer in `py.rs`, behind the feature `python`.
//! The way of the data: text → [`split`] → [`count`] (→ [`spill`]) → [`train`] → tokens → [`encode`] → ids.

pub mod arrow;
mod cache;
pub mod count;
pub mod encode;
mod gpt2;
mod hash;
mod memory;
mod pairs;
#[cfg(feature = "python")]
mod py;
mod simd;
pub mod spill;
pub mod split;
mod table;
pub mod train;
pub mod unicode;
#[allow(missing_docs)]
mod unicode_ranges;
mod vocabulary;

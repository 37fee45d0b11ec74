//! debut puts a song before the right listeners the minute it is uploaded, before anyone has played it.
//!
//! ```text
//!  a track ──► audio ──► encoder ──► predicted vector ─┐
//!              decode     CNN                          │ handover ──► store ──► index ──► recommend ──► cli
//!  events ───► events ──► factors ─► learned factor ───┘  (pure)     (truth)   (cache)
//!  play like   confidence  ALS               │
//!  skip add                                  └─► targets for encoder training
//! ```
//!
//! Two rivers, what a song *sounds like* and how it *is listened to*, meet in one space of (by default) 40 numbers.
#![recursion_limit = "256"]

pub mod artefact;
pub mod audio;
pub mod cli;
pub mod config;
pub mod encoder;
pub mod error;
pub mod eval;
pub mod events;
pub mod factors;
pub mod handover;
pub mod ids;
pub mod index;
pub mod ingest;
pub mod inputs;
pub mod linalg;
pub mod plot;
pub mod recommend;
pub mod store;

pub use error::{Error, Result};

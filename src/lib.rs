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
pub mod encoder;
pub mod error;
pub mod ids;
pub mod plot;

pub use error::{Error, Result};

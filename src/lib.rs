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
//!
//! ```no_run
//! use std::path::Path;
//! use debut::{audio, encoder::Model, index::{Filter, IndexConfig}};
//! use debut::recommend::{Query, RecommendConfig, Recommender};
//! use ndarray::Axis;
//!
//! # fn main() -> debut::Result<()> {
//! let model = Model::load(Path::new("models/game-music"))?;
//! let front_end = &model.config.front_end;
//! let heard = audio::hear(Path::new("new.mp3"), front_end, front_end.frames, &audio::Listening::default())?;
//! let vectors = model.embed(heard.mels[0].view().insert_axis(Axis(0)))?;
//! let service = Recommender::open(Path::new("catalogue"), &IndexConfig::default(), &RecommendConfig::default())?;
//! for near in service.recommend(&Query::Sound(vectors.row(0).to_vec()), 10, &Filter::default())? {
//!     println!("{:.3} {}", near.score, near.track);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The modules, in the order of the data, and what each may import of the others:
//!
//! | module | idea | imports |
//! |---|---|---|
//! | [`error`] [`ids`] [`artefact`] [`dates`] [`linalg`] | errors that speak; names and numbers; whole files; days; small solves | one another |
//! | [`audio`] | file → log-mel spectrogram | the line above |
//! | [`encoder`] | spectrogram → predicted vector, and how that is trained | `audio` `plot` |
//! | [`events`] | what people do → confidence | the first line |
//! | [`factors`] | confidence → learned factors (ALS), fold-in | `events` |
//! | [`handover`] | prediction and plays → the vector that is served | the first line |
//! | [`store`] | the catalogue, which is the truth | the first line |
//! | [`exchange`] | the catalogue as plain files, out and in | `store` |
//! | [`index`] | which songs are near: a cache of the catalogue | `store` |
//! | [`inputs`] [`embed`] [`ingest`] [`reindex`] | files, folders, manifests; the jobs that turn them into vectors, without a catalogue, into one, and anew | `store`; `audio` `encoder` |
//! | [`recommend`] | which tracks for whom, and because of what | `index` `store` `factors` |
//! | [`eval`] | how good is it | `factors` `events` `handover` `plot` |
//! | [`data`] | tracks that were heard, joined with their events and split: what training and evaluation read | `audio` `inputs` `events` `eval` `store` |
//! | [`plot`] | curves and spectrograms as pictures | the first line |
//! | [`config`] [`cli`] | all settings in one file; the verbs, where stages meet | everything |
#![recursion_limit = "256"]

pub mod artefact;
pub mod dates;
pub mod error;
pub mod ids;
pub mod linalg;

pub mod audio;
pub mod encoder;
pub mod events;
pub mod factors;
pub mod handover;
pub mod store;

pub mod embed;
pub mod exchange;
pub mod index;
pub mod ingest;
pub mod inputs;
pub mod recommend;
pub mod reindex;

pub mod data;
pub mod eval;
pub mod plot;

pub mod cli;
pub mod config;

pub use error::{Error, Result};

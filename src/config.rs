//! All settings in one TOML, a section a stage; every section and field may be left out.
//!
//! ```toml
//! [als]
//! iterations = 30
//! ```
//!
//! `--set als.iterations=30` does the same from the command line. The settings in force are saved with what they made.

use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::audio::Listening;
use crate::encoder::{EncoderConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::eval::SplitConfig;
use crate::events::{ConfidenceConfig, EventsConfig};
use crate::factors::{AlsConfig, PerAction};
use crate::handover::HandoverConfig;
use crate::index::IndexConfig;
use crate::ingest::IngestConfig;
use crate::recommend::RecommendConfig;

/// Every stage's settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub listen: Listening,
    pub events: EventsConfig,
    pub split: SplitConfig,
    pub confidence: ConfidenceConfig,
    pub als: AlsConfig,
    pub per_action: PerAction,
    pub encoder: EncoderConfig,
    pub train: TrainConfig,
    pub handover: HandoverConfig,
    pub ingest: IngestConfig,
    pub index: IndexConfig,
    pub recommend: RecommendConfig,
}

impl Config {
    /// The defaults, changed by the file, changed by `stage.name=value` pairs (`train.augment.mixup=0.2` goes one section deeper).
    ///
    /// # Errors
    /// `Format` or `Invalid` naming the setting that does not exist, has the wrong type or, of listening, ingestion
    /// and factorisations per action, is out of its range: what they make must not be begun.
    pub fn load(file: Option<&Path>, sets: &[String]) -> Result<Config> {
        let mut table = match file {
            None => Table::new(),
            Some(path) => crate::artefact::read_toml(path, "settings")?,
        };
        for set in sets {
            let (name, text) = set.split_once('=').unwrap_or((set, ""));
            let (sections, field) = name
                .rsplit_once('.')
                .filter(|_| set.contains('='))
                .ok_or_else(|| Error::invalid("--set", "STAGE.NAME=VALUE", set))?;
            // A value is TOML where it reads as TOML (30, 0.5, true, [1, 2]), else text.
            let value = text.parse::<Value>().unwrap_or_else(|_| Value::String(text.into()));
            let mut at = &mut table;
            for name in sections.split('.') {
                at = match at.entry(name).or_insert_with(|| Value::Table(Table::new())) {
                    Value::Table(section) => section,
                    _ => return Err(Error::invalid(format!("setting {sections}"), "a section", "a value")),
                };
            }
            at.insert(field.into(), value);
        }
        let source = file.map_or("--set".to_string(), |f| f.display().to_string());
        let config: Config = Value::Table(table)
            .try_into()
            .map_err(|e| Error::invalid(format!("setting in {source}"), "a known name and a fitting value", e))?;
        config.listen.check()?;
        config.ingest.check()?;
        config.per_action.check()?;
        config.index.check()?;
        config.recommend.check()?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_file_and_sets_apply_in_that_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, "[als]\niterations = 3\n[ingest]\nbatch = 8\n").unwrap();
        let sets = ["als.iterations=7".into(), "train.augment.mixup=0.5".into()];
        let config = Config::load(Some(&path), &sets).unwrap();
        assert_eq!((config.als.iterations, config.ingest.batch, config.train.augment.mixup), (7, 8, 0.5));
        assert_eq!(config.index, IndexConfig::default());
        let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config, "what is saved with a result loads again");
    }

    #[test]
    fn a_setting_that_does_not_exist_is_named() {
        for set in ["als.iteration=3", "alz.iterations=3", "als.iterations=many", "als.iterations", "iterations=3"] {
            let message = Config::load(None, &[set.to_string()]).unwrap_err().to_string();
            assert!(message.contains("iteration") || message.contains("alz"), "{set}: {message}");
        }
    }
}

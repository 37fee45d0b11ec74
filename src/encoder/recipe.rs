//! How to train: the settings of the section `[train]`, their defaults and their ranges.

use serde::{Deserialize, Serialize};

pub use super::dataset::Augment;
pub use super::loss::Loss;
pub use super::optimiser::Optimiser;
use crate::error::{Error, Result};

/// What matrix products are computed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    /// 8 bits for the number, and the range of 32-bit floats: no gradient is lost for being small.
    Bf16,
}

/// How to train. `Default` follows the post where it says (Nesterov momentum, dropout, random crops, squared error).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// Passes over the training tracks; each hears one random crop of each track (100).
    pub epochs: usize,
    /// Tracks per step (32). Under `contrastive` they are also the candidates that a track is told from.
    pub batch_size: usize,
    /// What is made small: `mse` (the reference), `cosine` or `contrastive`.
    pub loss: Loss,
    /// What cosines are divided by in the contrastive losses, here and in pre-training (0.1). The lower, the more the
    /// nearest wrong candidates matter.
    pub temperature: f64,
    /// Under `contrastive`, this times the cosine distance is added (0): being near the target counts beside being nearer
    /// than others.
    pub mix: f64,
    /// What the best epoch and `patience` go by: `loss`, `cosine`, `mrr`, or `auto`, which is `loss` for mse, `cosine` for
    /// cosine and `mrr` for contrastive and pre-training. A loss within the batch depends on which tracks share one and on
    /// how many; the retrieval of the right target among all validation tracks does not, and is the use that it is put to.
    pub judge_by: JudgeBy,
    /// `sgd` (Nesterov momentum, the reference) or `adamw`.
    pub optimiser: Optimiser,
    /// The highest step size, after warm-up (0.002 for sgd, 0.0003 for adamw). The loss sums over the dimensions of a
    /// factor, so the right value does not depend on their number.
    pub learning_rate: f64,
    /// Nesterov's momentum, AdamW's β₁ (0.9).
    pub momentum: f64,
    /// The share of each weight (not bias) shed per step is this times the learning rate (0; 0.05 under adamw).
    pub weight_decay: f64,
    /// The share of all steps in which the learning rate rises linearly to its highest value (0.05); it then falls to 0
    /// along half a cosine (Loshchilov & Hutter 2017).
    pub warm_up: f64,
    /// Gradients longer than this, over all weights together, are shortened to it (1; 0: never). The loss of most steps
    /// has a shorter one; a rare long one would throw the network out of reach of any gradient (Pascanu et al. 2013).
    pub clip: f64,
    /// How much of a running average of the weights is kept per step (0.99: it spans about 100 steps); the average is
    /// what is validated and kept. It stands for an ensemble of recent networks and costs next to nothing. 0: off.
    pub average: f64,
    /// Listeners at which a target has half of its full weight, `n / (n + half_evidence)` (10; 0: all count alike): a factor
    /// that was learned from few listeners is noise.
    pub half_evidence: f64,
    /// Whether each visit hears another random crop of the window (true) or always its middle.
    pub crop: bool,
    /// What the network's matrix products are computed in (`f32`, of which a card's tensor cores may take 19 bits): `bf16` is
    /// mixed precision, with weights, biases, moments and what is summed over time in 32 bits. Of burn's devices `cuda` alone
    /// computes in it. It is no part of a run's identity: a run may be gone on with in the other.
    pub precision: Precision,
    /// At most this many windows of each track are used, nearest the middle first (8).
    pub windows: usize,
    /// Changes to what the network hears; off by default.
    pub augment: Augment,
    /// Stop when what is judged by has not improved for this many epochs (0: never).
    pub patience: usize,
    /// Equal seeds, settings and data give equal numbers on one machine's CPU.
    pub seed: u64,
    /// Threads that read and prepare batches (0: as many as there are cores, at most 4; for another
    /// device than the CPU at most 32, and 2 GB of batches). Any number gives the same numbers. Each holds up to two batches (10 MB each for 32 tracks).
    pub workers: usize,
    /// Seconds between two checkpoints (30). One of the preset is 150 MB, and takes a second or so to write.
    pub checkpoint_seconds: f64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        TrainConfig {
            epochs: 100,
            batch_size: 32,
            loss: Loss::Mse,
            temperature: 0.1,
            mix: 0.0,
            judge_by: JudgeBy::Auto,
            optimiser: Optimiser::Sgd,
            learning_rate: 0.002,
            momentum: 0.9,
            weight_decay: 0.0,
            warm_up: 0.05,
            clip: 1.0,
            average: 0.99,
            half_evidence: 10.0,
            crop: true,
            precision: Precision::F32,
            windows: 8,
            augment: Augment::default(),
            patience: 0,
            seed: 1,
            workers: 0,
            checkpoint_seconds: 30.0,
        }
    }
}

/// What tells a better epoch from a worse one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JudgeBy {
    /// The one that goes with the loss.
    #[default]
    Auto,
    /// The loss over the validation tracks; low is good.
    Loss,
    /// The mean cosine between prediction and target; high is good.
    Cosine,
    /// The mean reciprocal rank of the right target; high is good.
    Mrr,
}

impl TrainConfig {
    /// # Errors
    /// `Invalid` where a setting is out of range.
    pub fn check(&self) -> Result<()> {
        let counts = [("epochs", self.epochs), ("batch_size", self.batch_size), ("windows", self.windows)];
        for (name, count) in counts {
            if !(1..=1 << 20).contains(&count) {
                return Err(Error::invalid(format!("train.{name}"), "1 to 1048576", count));
            }
        }
        let below_one = [
            ("momentum", self.momentum),
            ("warm_up", self.warm_up),
            ("average", self.average),
            ("augment.stretch", f64::from(self.augment.stretch)),
        ];
        for (name, x) in below_one {
            if !(0.0..1.0).contains(&x) {
                return Err(Error::invalid(format!("train.{name}"), "at least 0, below 1", x));
            }
        }
        let from_zero = [
            ("clip", self.clip),
            ("mix", self.mix),
            ("half_evidence", self.half_evidence),
            ("checkpoint_seconds", self.checkpoint_seconds),
        ];
        for (name, x) in from_zero {
            if !(x >= 0.0 && x.is_finite()) {
                return Err(Error::invalid(format!("train.{name}"), "a number from 0", x));
            }
        }
        if !(self.learning_rate > 0.0 && self.learning_rate.is_finite()) {
            return Err(Error::invalid("train.learning_rate", "a positive number", self.learning_rate));
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay * self.learning_rate < 1.0) {
            return Err(Error::invalid("train.weight_decay", "0 to 1 / learning_rate", self.weight_decay));
        }
        // Below, the softmax is a maximum, and has no slope.
        if !(0.001..=100.0).contains(&self.temperature) {
            return Err(Error::invalid("train.temperature", "0.001 to 100", self.temperature));
        }
        if self.workers > 256 {
            return Err(Error::invalid("train.workers", "0 to 256", self.workers));
        }
        if !(0.0..=60.0).contains(&self.augment.gain_db) {
            return Err(Error::invalid("train.augment.gain_db", "0 to 60", self.augment.gain_db));
        }
        // Larger ones are even blends, and are drawn ever more slowly.
        if self.augment.mixup != 0.0 && !(0.01..=4.0).contains(&self.augment.mixup) {
            return Err(Error::invalid("train.augment.mixup", "0, or 0.01 to 4", self.augment.mixup));
        }
        Ok(())
    }

    /// How much a target counts that was learned from so many listeners.
    pub fn evidence(&self, listeners: u32) -> f32 {
        // A factor without a listener comes from elsewhere than from counting them.
        if self.half_evidence == 0.0 {
            1.0
        } else {
            (f64::from(listeners) / (f64::from(listeners) + self.half_evidence)) as f32
        }
    }

    /// The learning rate of a step out of `steps`.
    pub(crate) fn rate(&self, step: u64, steps: u64) -> f64 {
        let warm = (self.warm_up * steps as f64).ceil();
        let step = step as f64;
        if step < warm {
            return self.learning_rate * (step + 1.0) / warm;
        }
        let done = (step - warm) / (steps as f64 - warm).max(1.0);
        self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls() {
        let config = TrainConfig { warm_up: 0.1, ..TrainConfig::default() };
        let rates: Vec<f64> = (0..100).map(|s| config.rate(s, 100)).collect();
        assert!((rates[0] - 0.0002).abs() < 1e-12 && rates[9] == 0.002 && rates[10] == 0.002);
        assert!(rates[10..].is_sorted_by(|a, b| a >= b));
        assert!((rates[55] - 0.001).abs() < 1e-9 && rates[99] < 1e-5);
    }

    #[test]
    fn evidence_halves_at_its_setting_and_can_be_left_out() {
        let config = TrainConfig::default();
        assert_eq!((config.evidence(10), config.evidence(0), config.evidence(30)), (0.5, 0.0, 0.75));
        let alike = TrainConfig { half_evidence: 0.0, ..config };
        assert_eq!((alike.evidence(0), alike.evidence(1)), (1.0, 1.0));
    }

    #[test]
    fn settings_out_of_range_are_named() {
        TrainConfig::default().check().unwrap();
        let bad = [
            ("epochs", "0"),
            ("batch_size", "2000000"),
            ("temperature", "0"),
            ("temperature", "nan"),
            ("mix", "-1"),
            ("half_evidence", "inf"),
            ("momentum", "1"),
            ("learning_rate", "0"),
            ("weight_decay", "1000"),
            ("workers", "1000"),
            ("checkpoint_seconds", "-1"),
            ("augment.stretch", "1"),
            ("augment.gain_db", "61"),
            ("augment.mixup", "-1"),
        ];
        for (name, value) in bad {
            // As a recipe would have it; whole numbers are given as floats where those are due.
            let config: TrainConfig = toml::from_str(&format!("{name} = {value}"))
                .or_else(|_| toml::from_str(&format!("{name} = {value}.0")))
                .unwrap();
            let message = config.check().unwrap_err().to_string();
            assert!(message.contains(&format!("train.{name}")), "{message}");
        }
        for unknown in ["learning_rat = 0.1", "loss = \"huber\"", "[augment]\npitch = 1", "epochs = -1"] {
            toml::from_str::<TrainConfig>(unknown).unwrap_err();
        }
    }
}

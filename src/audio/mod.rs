//! From a file to the numbers that the network hears.

use serde::{Deserialize, Serialize};

/// The settings of the front end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrontEnd {
    pub sample_rate: u32,
    pub window_length: usize,
    pub hop_length: usize,
    pub mel_bands: usize,
    pub f_min: f64,
    pub f_max: f64,
    pub frames: usize,
    pub log_gain: f64,
}

impl Default for FrontEnd {
    fn default() -> Self {
        FrontEnd {
            sample_rate: 22_050,
            window_length: 2048,
            hop_length: 1024,
            mel_bands: 128,
            f_min: 0.0,
            f_max: 11_025.0,
            frames: 599,
            log_gain: 10_000.0,
        }
    }
}

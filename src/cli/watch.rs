//! A training run on the command line: how it begins, and what is seen of it.

use std::fs::{File, TryLockError};
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::Ordering;

use indicatif::ProgressBar;

use super::{Context, print_json, progress};
use crate::audio::FrontEnd;
use crate::encoder::{Device, Epoch, Lesson, Moment, Trained, check_device, forget, is_begun, train};
use crate::error::{Error, Result};

/// How a run begins where its folder holds one already.
#[derive(clap::Args, Debug)]
pub struct Begin {
    /// Go on with the run in --out, and fail where there is none. Without this, one of the same settings and data is gone on
    /// with where there is one.
    #[arg(long, conflicts_with = "fresh")]
    resume: bool,

    /// Start over where --out holds a run.
    #[arg(long)]
    fresh: bool,

    /// Where the network is trained: cpu, or a GPU by way of cuda, wgpu or vulkan (each to be built in: --features NAME).
    #[arg(long, default_value_t)]
    pub device: Device,
}

impl Begin {
    /// # Errors
    /// `NotFound` where there is nothing to resume.
    pub fn check(&self, out: &Path) -> Result<()> {
        match self.resume && !is_begun(out) {
            true => Err(Error::NotFound { what: "run to resume", name: out.display().to_string() }),
            false => Ok(()),
        }
    }
}

/// Refuses what cannot be trained before anything is heard.
///
/// # Errors
/// `Invalid` for a setting out of its range, and a device that is not there, `Mismatch` where the network hears something else than the front end makes.
pub fn check_recipe(device: Device, context: &Context) -> Result<()> {
    let (encoder, front_end) = (&context.config.encoder, FrontEnd::default());
    context.config.train.check()?;
    check_device(device, context.config.train.precision)?;
    encoder.check()?;
    if encoder.mel_bands != front_end.mel_bands {
        return Err(Error::mismatch("encoder.mel_bands and the front end", front_end.mel_bands, encoder.mel_bands));
    }
    // A model is used on windows of the front end's length.
    if encoder.frames != front_end.frames {
        return Err(Error::mismatch("encoder.frames and the front end", front_end.frames, encoder.frames));
    }
    Ok(())
}

/// Keeps other processes from training in the same folder, as long as what it returns is held.
///
/// # Errors
/// `Invalid` where one does; `Io`.
fn alone(out: &Path) -> Result<File> {
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let path = out.join("run.lock");
    let file = File::create(&path).map_err(Error::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::invalid(format!("run in {}", out.display()), "one process that trains", "another one"))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(path)(e)),
    }
}

/// Trains while it shows how that goes.
///
/// # Errors
/// Those of [`train`].
pub fn watched(lesson: &Lesson, out: &Path, begin: &Begin, what: &str, context: &Context) -> Result<Trained> {
    let config = &context.config;
    let _alone = alone(out)?;
    if begin.fresh {
        forget(out)?;
    }
    let mut display = Display::new(what, context);
    let mut seen = Ok(());
    let trained = train(&config.train, &config.encoder, lesson, begin.device, out, &mut |moment| {
        seen = display.show(moment);
        match seen.is_err() || context.stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    display.bar.finish_and_clear();
    seen?;
    if let Err(Error::Interrupted) = trained {
        let command = if begin.fresh { "the same command without --fresh" } else { "the same command" };
        eprintln!("stopped after step {}; {command} goes on from there", display.step);
    }
    trained
}

/// A bar with the course of the epochs on a terminal, a line an epoch elsewhere, and an object an epoch as JSON.
///
/// burn-train 0.22.1 has a dashboard (its feature `tui`, on ratatui). It brings 58 crates to the 291 of this program, among
/// them a data set library, a second terminal library and a test framework, and draws the two curves that `curve.svg` and
/// TensorBoard show better; so it is left out.
struct Display<'a> {
    bar: ProgressBar,
    context: &'a Context,
    /// Validation losses.
    course: Vec<f64>,
    step: u64,
}

impl<'a> Display<'a> {
    fn new(what: &str, context: &'a Context) -> Display<'a> {
        Display { bar: progress(0, what), context, course: Vec::new(), step: 0 }
    }

    fn show(&mut self, moment: &Moment) -> Result<()> {
        match moment {
            Moment::Step { number, steps, loss } => {
                self.step = *number;
                if self.course.is_empty() {
                    self.bar.set_message(format!("loss {loss:.4}"));
                }
                self.bar.set_length(*steps);
                self.bar.set_position(*number);
            }
            Moment::Judging => {}
            Moment::Epoch(epoch) if self.context.json => print_json(epoch)?,
            Moment::Epoch(epoch) => {
                self.course.push(epoch.valid_loss);
                self.bar.set_message(format!("{} {}", sparkline(&self.course), words(epoch)));
                if !std::io::stderr().is_terminal() {
                    eprintln!("epoch {}: {}", epoch.epoch, words(epoch));
                }
            }
        }
        Ok(())
    }
}

fn words(epoch: &Epoch) -> String {
    let Epoch { train_loss, valid_loss, valid_cosine, valid_mrr, samples_per_second, wait_seconds, .. } = epoch;
    let waited = if *wait_seconds > 0.05 * epoch.seconds {
        format!(", waited {wait_seconds:.0} s for data")
    } else {
        String::new()
    };
    format!(
        "loss {train_loss:.4}, validation {valid_loss:.4}, cosine {valid_cosine:.4}, mrr {valid_mrr:.4}, \
         {samples_per_second:.0} tracks/s{waited}"
    )
}

/// The last two dozen of these numbers as bars between their lowest and their highest.
fn sparkline(numbers: &[f64]) -> String {
    let last = &numbers[numbers.len().saturating_sub(24)..];
    let (low, high) = last.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &x| (l.min(x), h.max(x)));
    let bars: Vec<char> = "▁▂▃▄▅▆▇█".chars().collect();
    let height = |x: &f64| if high > low { ((x - low) / (high - low) * 7.0).round() as usize } else { 0 };
    last.iter().map(|x| bars[height(x).min(7)]).collect()
}

#[test]
fn a_sparkline_spans_from_the_lowest_to_the_highest() {
    assert_eq!(sparkline(&[3.0, 2.0, 1.0]), "█▅▁");
    assert_eq!(sparkline(&[1.0]), "▁");
    assert_eq!(sparkline(&(0..100).map(f64::from).collect::<Vec<_>>()).chars().count(), 24);
}

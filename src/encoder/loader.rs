//! Batches made ahead of the trainer by a few threads, so that disk and network do not wait for each other.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use super::dataset::{Batch, Source};
use crate::error::{Error, Result};

/// Hands out the batches of a run in order: those that an epoch trains on, those that it is judged by, those of the next.
///
/// Thread `k` of `n` makes every `n`-th batch from the `k`-th on and holds one finished until it is fetched, so `2n` batches
/// are in memory at most. Since a batch depends on its place alone, any number of threads gives the same run. Dropping the
/// loader ends its threads.
pub(crate) struct Loader {
    threads: Vec<Receiver<Result<Batch>>>,
    turn: usize,
    /// How long the trainer has waited for batches, as of the last [`Loader::waited`].
    waited: Duration,
}

impl Loader {
    /// Starts with batch `batch` of epoch `epoch`, both from 0, and ends with the last of epoch `epochs - 1`.
    pub fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        source: &'env Source<'env>,
        workers: usize,
        (epoch, batch): (usize, usize),
        epochs: usize,
    ) -> Loader {
        let an_epoch = source.training_batches() + source.validation_batches();
        let (first, end) = (epoch * an_epoch + batch, epochs * an_epoch);
        let threads = (0..workers).map(|worker| {
            let (send, receive) = sync_channel(1);
            scope.spawn(move || make(source, (first + worker..end).step_by(workers), &send));
            receive
        });
        Loader { threads: threads.collect(), turn: 0, waited: Duration::ZERO }
    }

    /// # Errors
    /// What kept the next batch from being made.
    pub fn next(&mut self) -> Result<Batch> {
        let start = Instant::now();
        let turn = self.turn % self.threads.len();
        self.turn += 1;
        let batch = self.threads[turn].recv();
        self.waited += start.elapsed();
        batch.map_err(|_| Error::invalid("training", "another batch", "a loader that stopped"))?
    }

    /// How long [`Loader::next`] has waited since this was last asked.
    pub fn waited(&mut self) -> Duration {
        std::mem::take(&mut self.waited)
    }
}

/// Sends these batches, counted over all epochs, until nobody listens any more or one cannot be made.
fn make(source: &Source, places: impl Iterator<Item = usize>, out: &SyncSender<Result<Batch>>) {
    let training = source.training_batches();
    let an_epoch = training + source.validation_batches();
    let mut order = (usize::MAX, Vec::new());
    for place in places {
        let (epoch, number) = (place / an_epoch, place % an_epoch);
        let batch = if number < training {
            if order.0 != epoch {
                order = (epoch, source.order(epoch));
            }
            source.training_batch(epoch, number, &order.1)
        } else {
            source.validation_batch(number - training)
        };
        let last = batch.is_err();
        if out.send(batch).is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoder::EncoderConfig;
    use crate::encoder::dataset::Augment;
    use crate::encoder::dataset::tests::Planted;
    use crate::encoder::objective::Objective;
    use crate::encoder::tests::tiny;
    use ndarray::Array1;

    /// The batches from `start` to the end of the second epoch, made by so many threads.
    fn batches(planted: &Planted, workers: usize, start: (usize, usize)) -> Vec<Result<Batch>> {
        let encoder = EncoderConfig { dropout: 0.5, ..tiny() };
        let targets = planted.targets(5);
        let augment = Augment { mask_bands: 2, mask_frames: 5, gain_db: 3.0, shift_bands: 1, mixup: 0.2, stretch: 0.1 };
        let source = Source {
            spectrograms: planted,
            encoder: &encoder,
            objective: Objective::Targets { targets: targets.view(), weights: &[1.0; 12] },
            train: &[0, 1, 2, 3, 4, 5, 6, 7],
            valid: &[8, 9, 10, 11],
            batch_size: 3,
            windows: vec![0, 1, 2],
            crop: true,
            augment: &augment,
            mean: &Array1::zeros(8),
            seed: 1,
        };
        let count = 10 - 5 * start.0 - start.1;
        std::thread::scope(|scope| {
            let mut loader = Loader::start(scope, &source, workers, start, 2);
            (0..count).map(|_| loader.next()).collect()
        })
    }

    #[test]
    fn any_number_of_threads_and_any_start_give_the_same_batches() {
        let planted = Planted::new(12);
        let made = |workers, start| -> Vec<_> {
            let all = batches(&planted, workers, start).into_iter().map(Result::unwrap);
            all.map(|b| (b.mels, b.truth, b.dropout)).collect()
        };
        let all = made(1, (0, 0));
        assert_eq!(all.len(), 2 * (3 + 2));
        assert_ne!(all[0].0, all[5].0, "epochs differ");
        assert_eq!(all[3], all[8], "what is judged by does not");
        for workers in [2, 3, 5, 16] {
            assert!(made(workers, (0, 0)) == all, "{workers} threads");
        }
        for batch in 0..5 {
            assert!(made(2, (0, batch))[..] == all[batch..] && made(3, (1, batch))[..] == all[5 + batch..]);
        }
    }

    #[test]
    fn a_track_that_cannot_be_read_is_an_error_in_its_place() {
        let planted = Planted { broken: Some(9), ..Planted::new(12) };
        for workers in [1, 2, 7] {
            let mut made = batches(&planted, workers, (0, 0)).into_iter();
            assert!(made.by_ref().take(3).all(|b| b.is_ok()));
            let failed = made.next().unwrap().err().unwrap().to_string();
            assert!(failed.contains("track 9"), "{failed}");
        }
    }
}

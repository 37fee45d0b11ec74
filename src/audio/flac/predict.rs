//! From residuals to samples: each is the residual plus what a predictor expects from the samples before it (RFC 9639,
//! sections 9.2.5 and 9.2.6).

/// The highest order of a linear predictor. So many zeros precede a block, that predictors may reach back from its
/// beginning.
pub const MAX_ORDER: usize = 32;

/// What turns residuals into samples, one after the other. All arithmetic is modulo 2^32 in the end, and wraps.
pub trait Predictor: Clone {
    /// Replaces `samples[at..at + N]` by what `residuals` make of it. All samples before `at` are known, and `at` is at
    /// least [`MAX_ORDER`].
    fn extend<const N: usize>(&mut self, samples: &mut [i32], at: usize, residuals: [i32; N]);
}

/// The fixed predictors: the residual is the difference of order 0 to 4 of the signal, so the signal is its sum, that
/// many times over. `.0[n]` is the difference of order n at the last sample.
#[derive(Clone)]
pub struct Fixed<const ORDER: usize>([i32; ORDER]);

impl<const ORDER: usize> Fixed<ORDER> {
    /// Goes on from `ORDER` samples.
    pub fn after(samples: &[i32]) -> Fixed<ORDER> {
        let mut differences: [i32; ORDER] = std::array::from_fn(|i| samples[samples.len() - ORDER + i]);
        Fixed(std::array::from_fn(|n| {
            let last = differences[ORDER - 1 - n];
            for i in 0..ORDER - 1 - n {
                differences[i] = differences[i + 1].wrapping_sub(differences[i]);
            }
            last
        }))
    }
}

impl<const ORDER: usize> Predictor for Fixed<ORDER> {
    #[inline(always)]
    fn extend<const N: usize>(&mut self, samples: &mut [i32], at: usize, residuals: [i32; N]) {
        for (sample, residual) in samples[at..at + N].iter_mut().zip(residuals) {
            *sample = self.0.iter_mut().rev().fold(residual, |sum, difference| {
                *difference = difference.wrapping_add(sum);
                *difference
            });
        }
    }
}

/// A linear predictor: Σ `coefficients[i]` × (the sample i + 1 before), divided by 2^`shift` and rounded down.
#[derive(Clone)]
pub struct Linear {
    /// Of at most 15 bits; zeros from the order on.
    pub coefficients: [i32; MAX_ORDER],
    /// 0 to 15.
    pub shift: u32,
}

impl Linear {
    /// Whether sums of 32 bits suffice for samples of `bits` bits and residuals no larger than `bound`. Sums may
    /// overflow on the way, as long as they end in range: they are right modulo 2^32. And they end at a sample minus
    /// its residual, times 2^`shift` and a little more.
    pub fn is_narrow(&self, bits: u32, bound: u32) -> bool {
        ((1u64 << (bits - 1)) + u64::from(bound) + 1) << self.shift <= 1 << 31
    }
}

/// A [`Linear`] of order `ORDER` or less, for samples of 32 bits or less.
#[derive(Clone)]
pub struct Scalar<const ORDER: usize> {
    coefficients: [i64; ORDER],
    shift: u32,
    last: i32,
}

impl<const ORDER: usize> Scalar<ORDER> {
    pub fn after(samples: &[i32], linear: &Linear) -> Scalar<ORDER> {
        Scalar {
            coefficients: std::array::from_fn(|i| i64::from(linear.coefficients[i])),
            shift: linear.shift,
            last: samples[samples.len() - 1],
        }
    }
}

impl<const ORDER: usize> Predictor for Scalar<ORDER> {
    #[inline(always)]
    fn extend<const N: usize>(&mut self, samples: &mut [i32], at: usize, residuals: [i32; N]) {
        let reach = &mut samples[at - ORDER..at + N];
        for n in 0..N {
            let mut sum = 0;
            for i in (1..ORDER).rev() {
                sum += i64::from(reach[ORDER + n - 1 - i]) * self.coefficients[i];
            }
            sum += i64::from(self.last) * self.coefficients[0];
            self.last = residuals[n].wrapping_add((sum >> self.shift) as i32);
            reach[ORDER + n] = self.last;
        }
    }
}

/// A [`Linear`] as it is defined, for samples of any width: the difference of two of 32 bits has 33.
#[derive(Clone)]
pub struct Clear<'a> {
    linear: &'a Linear,
    /// The newest sample first.
    history: [i64; MAX_ORDER],
}

impl Clear<'_> {
    pub fn after<'a>(samples: &[i64], linear: &'a Linear) -> Clear<'a> {
        let mut history = [0; MAX_ORDER];
        for (past, &sample) in history.iter_mut().zip(samples.iter().rev()) {
            *past = sample;
        }
        Clear { linear, history }
    }
}

impl Predictor for Clear<'_> {
    #[inline(always)]
    fn extend<const N: usize>(&mut self, samples: &mut [i32], at: usize, residuals: [i32; N]) {
        for (sample, residual) in samples[at..at + N].iter_mut().zip(residuals) {
            let products =
                self.history.iter().zip(&self.linear.coefficients).map(|(s, &c)| s.wrapping_mul(i64::from(c)));
            let sum = products.fold(0i64, i64::wrapping_add);
            let next = i64::from(residual).wrapping_add(sum >> self.linear.shift);
            *sample = next as i32;
            self.history.copy_within(..MAX_ORDER - 1, 1);
            self.history[0] = next;
        }
    }
}

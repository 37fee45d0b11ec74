//! What a predictor left over, in Rice codes (RFC 9639, section 9.2.7): the bulk of the bits of a file, and of the time
//! that it takes to read it.
//!
//! A Rice code with parameter k is a number of zeros q, a one, and k bits r, and says 2^k q + r. Where a code ends is
//! known only when its zeros have been counted, so the codes wait for one another. What can be saved is the rest: a few
//! codes at a time are taken out of one window of the bit stream as if it held all of them whole; when their lengths
//! say that it did not, which is rare, they are read again one by one. And while the codes wait, the predictor works on
//! those before: it waits too, for each sample needs the last, and a processor does both in the time of one.

use pulp::{Scalar, Simd, WithSimd};
use symphonia::core::errors::{Error, Result};

use super::bits::{Bits, WINDOW};
use super::predict::{MAX_ORDER, Predictor};

/// Reads the residual of a subframe, of a predictor of order `order`, and puts what the predictor makes of it into
/// `samples`: [`MAX_ORDER`] numbers that are not part of the block, then the block, of which `order` samples are
/// known. Returns a bound on the residual's absolute values.
pub fn read<P: Predictor>(bits: &mut Bits<'_>, order: usize, samples: &mut [i32], mut predictor: P) -> Result<u32> {
    let parameter_bits = match bits.unsigned(2)? {
        0 => 4,
        1 => 5,
        _ => return Err(Error::DecodeError("flac: reserved residual coding")),
    };
    let partitions = 1usize << bits.unsigned(4)?;
    let block = samples.len() - MAX_ORDER;
    let length = block / partitions;
    // The predictor's first samples are no residual and lie in the first partition.
    if length * partitions != block || length < order {
        return Err(Error::DecodeError("flac: impossible residual partitions"));
    }
    let mut bound = 0;
    let mut from = MAX_ORDER + order;
    for n in 1..=partitions {
        let end = MAX_ORDER + n * length;
        let (known, predictor) = (&mut samples[..end], &mut predictor);
        bound = bound.max(match bits.unsigned(parameter_bits)? as u32 {
            escape if escape + 1 == 1 << parameter_bits => escaped(bits, known, from, predictor)?,
            0 => quick(Rice::<4, true, P> { bits, k: 0, samples: known, from, predictor })?,
            k @ 1..=10 => quick(Rice::<4, false, P> { bits, k, samples: known, from, predictor })?,
            k => quick(Rice::<2, false, P> { bits, k, samples: known, from, predictor })?,
        });
        from = end;
    }
    Ok(bound)
}

/// With the instructions that this machine has to count zeros and to shift; otherwise they are several each. The newest
/// ones of all (AVX-512) have nothing to add, and double the code.
fn quick<O: WithSimd>(op: O) -> O::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return Simd::vectorize(simd, op);
    }
    Simd::vectorize(Scalar, op)
}

/// An escaped partition: numbers in two's complement, of a width that it states.
fn escaped<P: Predictor>(bits: &mut Bits<'_>, samples: &mut [i32], from: usize, predictor: &mut P) -> Result<u32> {
    let width = bits.unsigned(5)? as u32;
    for at in from..samples.len() {
        let residual = bits.signed(width)? as i32;
        predictor.extend(samples, at, [residual]);
    }
    // Of 31 bits at most.
    Ok(1 << width)
}

/// As many samples are predicted at once.
const GROUP: usize = 4;

/// A partition of Rice codes, `samples[from..]`, with the parameter `k`, which is zero if `ZERO` says so. `N` codes are
/// taken out of a window, which has room for their k + 1 bits and, as encoders choose k, nearly always for their zeros:
/// 13 for four codes of k = 10.
struct Rice<'a, 'b, const N: usize, const ZERO: bool, P> {
    bits: &'a mut Bits<'b>,
    k: u32,
    samples: &'a mut [i32],
    from: usize,
    predictor: &'a mut P,
}

impl<const N: usize, const ZERO: bool, P: Predictor> WithSimd for Rice<'_, '_, N, ZERO, P> {
    /// A bound on the residual's absolute values.
    type Output = Result<u32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> Result<u32> {
        let Rice { bits: outer, k, samples, from: mut at, predictor: kept } = self;
        // Copies, so that they may live in registers.
        let (mut bits, mut predictor) = (outer.clone(), kept.clone());
        let shortest = (k + 1) * N as u32;
        let mut longest = shortest;
        let mut bound = 0;
        while at + GROUP <= samples.len() {
            let mut residuals = [0; GROUP];
            for residuals in residuals.as_chunks_mut::<N>().0 {
                let mut window = bits.window()?;
                let mut length = shortest;
                for residual in residuals.iter_mut() {
                    let zeros = window.leading_zeros();
                    length += zeros;
                    // The one, and k bits behind it.
                    window = window.wrapping_shl(zeros);
                    *residual = if ZERO {
                        unfold(zeros)
                    } else {
                        // Like unfold, but half of the number and the sign come from their own places. The one is
                        // carried into what 2^k q lacks.
                        let carried = u64::from(zeros).wrapping_sub(1) << (k - 1);
                        let sign = (window << k) as i64 >> 63;
                        ((window >> (64 - k)).wrapping_add(carried) as i64 ^ sign) as i32
                    };
                    window <<= k + 1;
                }
                if length <= WINDOW {
                    bits.skip(length);
                    longest = longest.max(length);
                } else {
                    (*residuals, bound) = one_by_one(&mut bits, k, bound)?;
                }
            }
            predictor.extend(samples, at, residuals);
            at += GROUP;
        }
        while at < samples.len() {
            let residual: [i32; 1];
            (residual, bound) = one_by_one(&mut bits, k, bound)?;
            predictor.extend(samples, at, residual);
            at += 1;
        }
        *outer = bits;
        *kept = predictor;
        // One code may have had all the zeros of its window.
        Ok(bound.max((longest - shortest + 1) << k))
    }
}

/// Codes of any length, and the greatest of `bound` and their absolute values. A residual that does not fit its 32 bits
/// is damage, and wraps.
#[cold]
#[inline(never)]
fn one_by_one<const N: usize>(bits: &mut Bits<'_>, k: u32, mut bound: u32) -> Result<([i32; N], u32)> {
    let mut residuals = [0; N];
    for residual in &mut residuals {
        let zeros = bits.unary()?;
        *residual = unfold((zeros << k) | bits.unsigned(k)? as u32);
        bound = bound.max(residual.unsigned_abs());
    }
    Ok((residuals, bound))
}

/// The number that a code stands for. 0, 1, 2, 3, 4 are 0, -1, 1, -2, 2 (section 9.2.7.3): the lowest bit is the sign.
#[inline(always)]
fn unfold(code: u32) -> i32 {
    (code >> 1) as i32 ^ -((code & 1) as i32)
}

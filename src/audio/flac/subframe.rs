//! One channel of a frame, or the difference of two (RFC 9639, section 9.2).

use symphonia::core::errors::{Error, Result};

use super::bits::Bits;
use super::predict::{Clear, Fixed, Linear, MAX_ORDER, Scalar};
#[cfg(target_arch = "x86_64")]
use super::quad::{Quad, Sum};
use super::residual;

/// Reads a subframe whose samples have `bits_per_sample` bits (1 to 33). `samples` are [`MAX_ORDER`] zeros, then the
/// block, which is set modulo 2^32.
pub fn read(bits: &mut Bits<'_>, bits_per_sample: u32, samples: &mut [i32]) -> Result<()> {
    let bad = |what| Err(Error::DecodeError(what));
    // A zero, six bits of type, and whether low bits are wasted.
    let head = bits.unsigned(8)? as usize;
    // Low bits that are zero in all samples are not coded (section 9.2.2).
    let wasted = if head & 1 == 1 { bits.unary()?.saturating_add(1) } else { 0 };
    if wasted >= bits_per_sample {
        return bad("flac: more wasted bits than bits");
    }
    let width = bits_per_sample - wasted;
    match head >> 1 {
        0 => samples[MAX_ORDER..].fill(bits.signed(width)? as i32),
        1 => {
            for sample in &mut samples[MAX_ORDER..] {
                *sample = bits.signed(width)? as i32;
            }
        }
        kind @ 8..=12 => fixed(bits, width, kind - 8, samples)?,
        kind @ 32..=63 => linear(bits, width, kind - 31, samples)?,
        _ => return bad("flac: reserved subframe"),
    }
    if wasted > 0 {
        for sample in &mut samples[MAX_ORDER..] {
            *sample = sample.checked_shl(wasted).unwrap_or(0);
        }
    }
    Ok(())
}

fn fixed(bits: &mut Bits<'_>, width: u32, order: usize, samples: &mut [i32]) -> Result<()> {
    start(bits, width, order, samples)?;
    let known = &samples[..MAX_ORDER + order];
    match order {
        0 => residual::read(bits, order, samples, Fixed::<0>::after(known)),
        1 => residual::read(bits, order, samples, Fixed::<1>::after(known)),
        2 => residual::read(bits, order, samples, Fixed::<2>::after(known)),
        3 => residual::read(bits, order, samples, Fixed::<3>::after(known)),
        _ => residual::read(bits, order, samples, Fixed::<4>::after(known)),
    }?;
    Ok(())
}

fn linear(bits: &mut Bits<'_>, width: u32, order: usize, samples: &mut [i32]) -> Result<()> {
    let first = start(bits, width, order, samples)?;
    let precision = bits.unsigned(4)? as u32 + 1;
    let shift = bits.signed(5)?;
    if precision == 16 || shift < 0 {
        return Err(Error::DecodeError("flac: forbidden predictor"));
    }
    let mut linear = Linear { coefficients: [0; MAX_ORDER], shift: shift as u32 };
    for c in &mut linear.coefficients[..order] {
        *c = bits.signed(precision)? as i32;
    }
    if width > 32 {
        residual::read(bits, order, samples, Clear::after(&first[..order], &linear))?;
        return Ok(());
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        if linear.is_narrow(width, 0) {
            let here = bits.clone();
            let bound = quad::<i32>(simd, bits, order, samples, &linear)?;
            if linear.is_narrow(width, bound) {
                return Ok(());
            }
            // Nothing forbids such residuals, but they are rare: once more, with wider sums.
            *bits = here;
        }
        quad::<i64>(simd, bits, order, samples, &linear)?;
        return Ok(());
    }
    let known = &samples[..MAX_ORDER + order];
    match order {
        0..=4 => residual::read(bits, order, samples, Scalar::<4>::after(known, &linear)),
        5..=8 => residual::read(bits, order, samples, Scalar::<8>::after(known, &linear)),
        9..=12 => residual::read(bits, order, samples, Scalar::<12>::after(known, &linear)),
        _ => residual::read(bits, order, samples, Scalar::<MAX_ORDER>::after(known, &linear)),
    }?;
    Ok(())
}

#[cfg(target_arch = "x86_64")]
fn quad<S: Sum>(
    simd: pulp::x86::V3,
    bits: &mut Bits<'_>,
    order: usize,
    samples: &mut [i32],
    linear: &Linear,
) -> Result<u32> {
    let known = &samples[..MAX_ORDER + order];
    match order {
        0..=4 => residual::read(bits, order, samples, Quad::<S, 4>::after(simd, known, linear)),
        5..=8 => residual::read(bits, order, samples, Quad::<S, 8>::after(simd, known, linear)),
        9..=12 => residual::read(bits, order, samples, Quad::<S, 12>::after(simd, known, linear)),
        13..=16 => residual::read(bits, order, samples, Quad::<S, 16>::after(simd, known, linear)),
        17..=24 => residual::read(bits, order, samples, Quad::<S, 24>::after(simd, known, linear)),
        _ => residual::read(bits, order, samples, Quad::<S, MAX_ORDER>::after(simd, known, linear)),
    }
}

/// The samples that a predictor starts from are written as they are. Up to 33 bits are returned, 32 go to `samples`.
fn start(bits: &mut Bits<'_>, width: u32, order: usize, samples: &mut [i32]) -> Result<[i64; MAX_ORDER]> {
    if MAX_ORDER + order > samples.len() {
        return Err(Error::DecodeError("flac: a predictor longer than the block"));
    }
    let mut first = [0; MAX_ORDER];
    for (first, sample) in first.iter_mut().zip(&mut samples[MAX_ORDER..][..order]) {
        *first = bits.signed(width)?;
        *sample = *first as i32;
    }
    Ok(first)
}

//! One channel of a frame, or the difference of two (RFC 9639, section 9.2).

use symphonia::core::errors::{Error, Result};

use super::bits::Bits;
use super::predict::{Clear, Fixed, Linear, MAX_ORDER, Narrow, Wide};
use super::residual;
use super::quad::Quad;
use pulp::x86::V3;

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
    let known = &samples[..MAX_ORDER + order];
    if linear.is_narrow(width, 0) {
        let here = bits.position();
        let bound = if let Some(v3) = V3::try_new() { match order {
            0..=4 => residual::read(bits, order, samples, Quad::<4>::after(v3, known, &linear)),
            5..=8 => residual::read(bits, order, samples, Quad::<8>::after(v3, known, &linear)),
            9..=12 => residual::read(bits, order, samples, Quad::<12>::after(v3, known, &linear)),
            13..=16 => residual::read(bits, order, samples, Quad::<16>::after(v3, known, &linear)),
            17..=24 => residual::read(bits, order, samples, Quad::<24>::after(v3, known, &linear)),
            _ => residual::read(bits, order, samples, Quad::<MAX_ORDER>::after(v3, known, &linear)),
        }? } else { match order {
            0..=4 => residual::read(bits, order, samples, Narrow::<4>::after(known, &linear)),
            5..=8 => residual::read(bits, order, samples, Narrow::<8>::after(known, &linear)),
            9..=12 => residual::read(bits, order, samples, Narrow::<12>::after(known, &linear)),
            13..=16 => residual::read(bits, order, samples, Narrow::<16>::after(known, &linear)),
            17..=24 => residual::read(bits, order, samples, Narrow::<24>::after(known, &linear)),
            _ => residual::read(bits, order, samples, Narrow::<MAX_ORDER>::after(known, &linear)),
        }? };
        if linear.is_narrow(width, bound) {
            return Ok(());
        }
        // Nothing known beforehand forbids such residuals, but they are rare: once more, with wider sums.
        bits.rewind(here);
    }
    let known = &samples[..MAX_ORDER + order];
    match order {
        _ if width > 32 => residual::read(bits, order, samples, Clear::after(&first[..order], &linear)),
        0..=4 => residual::read(bits, order, samples, Wide::<4>::after(known, &linear)),
        5..=8 => residual::read(bits, order, samples, Wide::<8>::after(known, &linear)),
        9..=12 => residual::read(bits, order, samples, Wide::<12>::after(known, &linear)),
        _ => residual::read(bits, order, samples, Wide::<MAX_ORDER>::after(known, &linear)),
    }?;
    Ok(())
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

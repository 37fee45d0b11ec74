//! The one weighted ridge regression that alternating least squares, fold-in and hand-over share.
//!
//! Given the Gram matrix `G = YᵀY` of *all* rows of the other side, and the entries (row `yᵢ`, confidence `cᵢ ≥ 1`,
//! target `tᵢ`) that were observed, its solution is `x = A⁻¹b` with
//!
//! ```text
//! A = G + Σ(cᵢ−1) yᵢyᵢᵀ + λI        b = Σ cᵢtᵢ yᵢ
//! ```
//!
//! Hu, Koren & Volinsky 2008, equation 4 and the speed-up below it: every unobserved row has confidence 1 and target 0.
//! `A` is either built and factorised (Cholesky: exact), or only multiplied with, a few times (conjugate gradient from
//! where `x` was: Takács, Pilászy & Tikk, "Applications of the conjugate gradient method for implicit feedback
//! collaborative filtering", RecSys 2011).
//!
//! The second works in the coordinates of `G`'s eigenvectors, where `G` is its eigenvalues `Λ`: a product with it is `d`
//! multiplications instead of `d²`, whatever λ the row has, and `Λ + λI` is a preconditioner that costs nothing (Hestenes
//! & Stiefel 1952 with the preconditioner of Jacobi). It takes away what makes `A` ill-conditioned, the spectrum that
//! all rows share: two steps then go as far as three without it.

use pulp::{Arch, Simd, WithSimd};

use super::eigen::Eigen;
use super::rows::{Gram, Layout, Panel, Rows, TALL, add_products};
use crate::error::{Error, Result};

/// Entries that are taken together; their rows stay in the nearest cache (12 KiB at 40 dimensions).
const BLOCK: usize = 64;
/// How often the ridge is raised, tenfold each time, where rounding has made the matrix indefinite.
const RIDGE_TRIES: usize = 6;
/// A squared residual (in the preconditioner's measure) that is nothing, in `f32`.
pub const CONVERGED: f32 = 1e-20;

/// What was observed of one row.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a> {
    /// All rows of the other side.
    pub rows: &'a Rows,
    /// Which of them, `[entries]`.
    pub indices: &'a [u32],
    /// `cᵢ ≥ 1`, `[entries]`.
    pub confidence: &'a [f32],
    /// `tᵢ`, `[entries]`.
    pub target: &'a [f32],
}

impl<'a> Entries<'a> {
    fn blocks(self) -> impl Iterator<Item = (&'a [u32], &'a [f32], &'a [f32])> {
        let blocks = self.indices.chunks(BLOCK).zip(self.confidence.chunks(BLOCK)).zip(self.target.chunks(BLOCK));
        blocks.map(|((indices, confidence), target)| (indices, confidence, target))
    }
}

/// Dispatches on the tile of a layout: of a tile of K registers, U entries side by side, enough to hide the latency of an
/// addition.
macro_rules! with_tile {
    ($layout:expr, $k:ident, $u:ident, $run:expr) => {
        with_tile!(@ $layout, $k, $u, $run, 1: 4, 2: 4, 3: 4, 4: 2, 5: 2, 6: 2, 7: 1, 8: 1)
    };
    (@ $layout:expr, $k:ident, $u:ident, $run:expr, $($tile:literal: $side_by_side:literal),*) => {
        match $layout.tile {
            $($tile => {
                const $k: usize = $tile;
                const $u: usize = $side_by_side;
                $run
            })*
            _ => unreachable!("a layout has tiles of 1 to 8 registers"),
        }
    };
}

/// The parts of conjugate gradient that need the entries, for rows whose entries come a few at a time. `x` and `out` are
/// rows of a [`Rows`], with their padding.
impl Entries<'_> {
    /// `out += Σ (ct − (c−1) y·x) y`: of the residual what the entries say. Returns `Σ ct y·x`.
    pub fn add_residual(self, x: &[f32], out: &mut [f32]) -> f64 {
        let layout = self.rows.layout();
        with_tile!(layout, K, U, Arch::new().dispatch(Pass::<K, U, true, true> { entries: self, x, out }))
    }

    /// `out += Σ (c−1) (y·x) y`. Returns `xᵀ Σ(c−1)yyᵀ x`.
    pub fn add_product(self, x: &[f32], out: &mut [f32]) -> f64 {
        let layout = self.rows.layout();
        with_tile!(layout, K, U, Arch::new().dispatch(Pass::<K, U, false, true> { entries: self, x, out }))
    }

    /// `xᵀ Σ(c−1)yyᵀ x`
    pub fn square(self, x: &[f32]) -> f64 {
        let layout = self.rows.layout();
        with_tile!(layout, K, U, Arch::new().dispatch(Pass::<K, U, false, false> { entries: self, x, out: &mut [] }))
    }
}

/// One pass over entries; see [`Table::pass`].
struct Pass<'a, const K: usize, const U: usize, const RESIDUAL: bool, const ADD: bool> {
    entries: Entries<'a>,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl<const K: usize, const U: usize, const RESIDUAL: bool, const ADD: bool> WithSimd for Pass<'_, K, U, RESIDUAL, ADD> {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let Pass { entries, x, out } = self;
        let table = Table::<K> { data: entries.rows.padded(), stride: x.len() };
        if ADD {
            return table.pass::<S, U, RESIDUAL, true>(simd, entries, tiles::<S, K>(x), tiles_mut::<S, K>(out));
        }
        // Nothing is added to it.
        let mut none = [[simd.splat_f32s(0.0); K]; 1];
        table.pass::<S, U, RESIDUAL, false>(simd, entries, tiles::<S, K>(x), &mut none)
    }
}

/// Solves such regressions, one after the other, in the same working space.
pub struct WeightedRidge {
    layout: Layout,
    arch: Arch,
    /// `A` without its ridge in the upper triangle `[height, width]`.
    a: Vec<f32>,
    /// Its factor; `b`, then `U⁻ᵀb`, in column `d`.
    u: Vec<f32>,
    /// `√(c−1) y` of gathered entries `[BLOCK, d]`.
    scaled: Rows,
    /// Residual, direction, `A` times it, and the preconditioner; the first is `b` in the exact solve.
    vectors: Rows,
    b: Vec<f64>,
    x: Rows,
}

impl WeightedRidge {
    pub fn new(d: usize) -> WeightedRidge {
        let layout = Layout::of(d);
        WeightedRidge {
            layout,
            arch: Arch::new(),
            a: vec![0.0; layout.height() * layout.width()],
            u: vec![0.0; layout.height() * layout.width()],
            scaled: Rows::zeros(BLOCK, d),
            vectors: Rows::zeros(4, d),
            b: vec![0.0; d],
            x: Rows::zeros(1, d),
        }
    }

    /// The solution `[d]`, and `bᵀx`: by so much does it lower the row's loss, against `x = 0`.
    ///
    /// # Errors
    /// `Invalid` where the numbers that come in are not finite.
    pub fn solve(&mut self, gram: &Gram, ridge: f32, entries: Entries) -> Result<(&[f32], f64)> {
        self.assemble(gram, entries);
        self.factorise(ridge)?;
        self.substitute()
    }

    /// `A⁻¹(b + v)` `[d]`: with a pull `v` beside the entries', as a prior has.
    ///
    /// # Errors
    /// As [`WeightedRidge::solve`].
    pub fn solve_with(&mut self, gram: &Gram, ridge: f32, entries: Entries, v: &[f32]) -> Result<&[f32]> {
        self.assemble(gram, entries);
        self.b.iter_mut().zip(v).for_each(|(b, &v)| *b += f64::from(v));
        self.factorise(ridge)?;
        Ok(self.substitute()?.0)
    }

    /// Improves `x` (a row of a [`Rows`], with its padding) by `steps` of conjugate gradient. Returns by how much the
    /// row's loss is now lower than at `x = 0`.
    ///
    /// `x` and the entries' rows are in the coordinates of the eigenvectors of the rows' Gram matrix.
    ///
    /// # Errors
    /// As [`WeightedRidge::solve`].
    pub fn improve(&mut self, gram: &Eigen, ridge: f32, entries: Entries, steps: usize, x: &mut [f32]) -> Result<f64> {
        if entries.confidence.iter().zip(entries.target).all(|(c, t)| c * t == 0.0) {
            x.fill(0.0);
            return Ok(0.0);
        }
        let (layout, arch, diagonal) = (self.layout, self.arch, gram.values.padded());
        let vectors = self.vectors.padded_mut();
        let lowered = with_tile!(
            layout,
            K,
            U,
            arch.dispatch(Descent::<K, U> { diagonal, ridge, entries, steps, x: &mut *x, vectors })
        );
        // Without a branch for each number.
        let finite = x.iter().fold(true, |finite, x| finite & x.is_finite());
        if lowered.is_finite() && finite { Ok(lowered) } else { Err(not_finite()) }
    }

    /// `A` without its ridge, and `b`.
    fn assemble(&mut self, gram: &Gram, entries: Entries) {
        let stride = self.layout.stride;
        self.a.copy_from_slice(&gram.data);
        self.b.fill(0.0);
        for (indices, c, t) in entries.blocks() {
            // Of a block summed in `f32`, of all blocks in `f64`.
            let b = &mut self.vectors.padded_mut()[..stride];
            b.fill(0.0);
            let z = &mut self.scaled.padded_mut()[..indices.len() * stride];
            self.arch.dispatch(Gather { from: entries.rows.padded(), stride, indices, c, t, z, b });
            self.b.iter_mut().zip(&*b).for_each(|(sum, b)| *sum += f64::from(*b));
            add_products(z, self.layout, &mut self.a);
        }
    }

    /// The Cholesky factor of `A`.
    fn factorise(&mut self, ridge: f32) -> Result<()> {
        let (d, width) = (self.layout.d, self.layout.width());
        let diagonal = self.a.iter().step_by(width + 1).take(d).sum::<f32>() / d as f32;
        if !diagonal.is_finite() {
            return Err(not_finite());
        }
        // In f32 a ridge far below the rounding of the diagonal is lost, and a rank-deficient matrix may then come
        // out indefinite. It is raised to that rounding (2⁻²³ ≈ 1.2e-7), in steps, as little as serves.
        let mut lambda = ridge;
        for _ in 0..RIDGE_TRIES {
            self.u.copy_from_slice(&self.a);
            for i in 0..d {
                self.u[i * width + i] += lambda;
                self.u[i * width + d] = self.b[i] as f32;
            }
            if self.arch.dispatch(Cholesky { u: &mut self.u, d, width }) {
                return Ok(());
            }
            lambda = (lambda * 10.0).max(diagonal * f32::EPSILON);
        }
        Err(Error::invalid("regularisation", "enough to make the equations solvable", ridge))
    }

    fn substitute(&mut self) -> Result<(&[f32], f64)> {
        let (d, width) = (self.layout.d, self.layout.width());
        self.arch.dispatch(Back { u: &self.u, d, width, x: self.x.padded_mut() });
        let x = self.x.row(0);
        let lowered = self.b.iter().zip(x).map(|(b, &x)| b * f64::from(x)).sum::<f64>();
        if lowered.is_finite() && x.iter().all(|x| x.is_finite()) { Ok((x, lowered)) } else { Err(not_finite()) }
    }
}

fn not_finite() -> Error {
    Error::invalid("vectors and confidences", "finite numbers", "overflow or NaN in a least squares solve")
}

/// `z = √(c−1) y` of some entries, and `b += c t y`.
struct Gather<'a> {
    from: &'a [f32],
    stride: usize,
    indices: &'a [u32],
    c: &'a [f32],
    t: &'a [f32],
    z: &'a mut [f32],
    b: &'a mut [f32],
}

impl WithSimd for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Gather { from, stride, indices, c, t, z, b } = self;
        let b = S::as_mut_simd_f32s(b).0;
        for (((z, &i), &c), &t) in z.chunks_exact_mut(stride).zip(indices).zip(c).zip(t) {
            let y = S::as_simd_f32s(&from[i as usize * stride..][..stride]).0;
            let (root, weight) = (simd.splat_f32s((c - 1.0).sqrt()), simd.splat_f32s(c * t));
            for ((z, y), b) in S::as_mut_simd_f32s(z).0.iter_mut().zip(y).zip(&mut *b) {
                *z = simd.mul_f32s(root, *y);
                *b = simd.mul_add_f32s(weight, *y, *b);
            }
        }
    }
}

/// From the upper triangle of `A` to `U` with `UᵀU = A`, in place; every column beside it becomes `U⁻ᵀ` times itself.
/// False where `A` is not positive definite (or not finite).
struct Cholesky<'a> {
    u: &'a mut [f32],
    d: usize,
    width: usize,
}

impl WithSimd for Cholesky<'_> {
    type Output = bool;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> bool {
        let Cholesky { u, d, width } = self;
        let registers = width / S::F32_LANES;
        for i in (0..d).step_by(TALL) {
            // A panel of rows at a time: first what all finished rows take from it, as a product,
            let (done, rest) = u.split_at_mut(i * width);
            let panel = &mut rest[..TALL * width];
            Panel::<false> { z: done, stride: width, i, registers, width }.run(simd, panel);
            // then what each of its rows takes from those below. Rows begin at a whole register, left of the diagonal,
            // where nothing is read.
            for k in i..d.min(i + TALL) {
                let (done, later) = panel.split_at_mut((k + 1 - i) * width);
                let row = &mut done[(k - i) * width..];
                let pivot = row[k];
                if !(pivot > 0.0 && pivot.is_finite()) {
                    return false;
                }
                let inverse = simd.splat_f32s(1.0 / pivot.sqrt());
                for x in &mut S::as_mut_simd_f32s(row).0[k / S::F32_LANES..] {
                    *x = simd.mul_f32s(*x, inverse);
                }
                for (j, later) in (k + 1..d).zip(later.chunks_exact_mut(width)) {
                    let factor = simd.splat_f32s(-row[j]);
                    let first = j / S::F32_LANES;
                    let (later, row) = (S::as_mut_simd_f32s(later).0, S::as_simd_f32s(row).0);
                    for (x, r) in later[first..].iter_mut().zip(&row[first..]) {
                        *x = simd.mul_add_f32s(factor, *r, *x);
                    }
                }
            }
        }
        true
    }
}

/// Solves `U x = b`, with `b` in column `d`; `x` is padded.
struct Back<'a> {
    u: &'a [f32],
    d: usize,
    width: usize,
    x: &'a mut [f32],
}

impl WithSimd for Back<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Back { u, d, width, x } = self;
        x.fill(0.0);
        for k in (0..d).rev() {
            let row = &u[k * width..(k + 1) * width];
            let first = k / S::F32_LANES;
            let mut sum = simd.splat_f32s(0.0);
            // `x` is still zero up to k, and beyond `d`.
            for (u, x) in S::as_simd_f32s(row).0[first..].iter().zip(&S::as_simd_f32s(x).0[first..]) {
                sum = simd.mul_add_f32s(*u, *x, sum);
            }
            x[k] = (row[d] - simd.reduce_sum_f32s(sum)) / row[k];
        }
    }
}

/// Conjugate gradient, preconditioned. All vectors are padded.
struct Descent<'a, const K: usize, const U: usize> {
    /// `Λ`
    diagonal: &'a [f32],
    ridge: f32,
    entries: Entries<'a>,
    steps: usize,
    x: &'a mut [f32],
    /// Room for four.
    vectors: &'a mut [f32],
}

impl<const K: usize, const U: usize> WithSimd for Descent<'_, K, U> {
    type Output = f64;

    /// With `q(x) = xᵀAx − 2bᵀx`, what the row adds to the loss, and the residual `r = b − Ax`: `−q = bᵀx + rᵀx`, and a
    /// step of length α along `p` lowers `q` by `α rᵀz`, with `z` the residual times the preconditioner. So the loss
    /// costs nothing.
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let Descent { diagonal, ridge, entries, steps, x, vectors } = self;
        let (zero, lambda) = (simd.splat_f32s(0.0), simd.splat_f32s(ridge));
        let other = Table::<K> { data: entries.rows.padded(), stride: x.len() };
        let mut vectors = vectors.chunks_exact_mut(x.len()).map(|v| tiles_mut::<S, K>(v));
        let mut next = || vectors.next().expect("four vectors");
        let (r, p, ap, inverse) = (next(), next(), next(), next());
        let (diagonal, x) = (tiles::<S, K>(diagonal), tiles_mut::<S, K>(x));

        // r = Σ (ct − (c−1) y·x) y − (Λ+λ)x
        r.fill([zero; K]);
        let known = other.pass::<S, U, true, true>(simd, entries, x, r);
        let (mut rz, mut rx) = (zero, zero);
        for tile in 0..x.len() {
            for k in 0..K {
                let a = simd.add_f32s(diagonal[tile][k], lambda);
                let residual = simd.sub_f32s(r[tile][k], simd.mul_f32s(a, x[tile][k]));
                let inverted = simd.div_f32s(simd.splat_f32s(1.0), a);
                let z = simd.mul_f32s(inverted, residual);
                (r[tile][k], inverse[tile][k], p[tile][k]) = (residual, inverted, z);
                rz = simd.mul_add_f32s(residual, z, rz);
                rx = simd.mul_add_f32s(residual, x[tile][k], rx);
            }
        }
        let mut rz = simd.reduce_sum_f32s(rz);
        let mut lowered = known + f64::from(simd.reduce_sum_f32s(rx));

        for step in 1..=steps {
            if rz < CONVERGED {
                break;
            }
            // pᵀAp = Σ (c−1)(y·p)² + pᵀ(Λ+λ)p. Of the last step only this is wanted, for its length.
            let last = step == steps;
            let apart = if last {
                other.pass::<S, U, false, false>(simd, entries, p, ap)
            } else {
                ap.fill([zero; K]);
                other.pass::<S, U, false, true>(simd, entries, p, ap)
            };
            let mut pap = zero;
            for tile in 0..x.len() {
                for k in 0..K {
                    let p = p[tile][k];
                    let product = simd.mul_f32s(simd.add_f32s(diagonal[tile][k], lambda), p);
                    pap = simd.mul_add_f32s(product, p, pap);
                    ap[tile][k] = simd.add_f32s(ap[tile][k], product);
                }
            }
            let alpha = rz / (simd.reduce_sum_f32s(pap) + apart as f32);
            lowered += f64::from(alpha) * f64::from(rz);
            let (plus, minus) = (simd.splat_f32s(alpha), simd.splat_f32s(-alpha));
            for (x, p) in x.as_flattened_mut().iter_mut().zip(p.as_flattened()) {
                *x = simd.mul_add_f32s(plus, *p, *x);
            }
            if last {
                break;
            }
            let mut sum = zero;
            for tile in 0..x.len() {
                for k in 0..K {
                    let residual = simd.mul_add_f32s(minus, ap[tile][k], r[tile][k]);
                    let z = simd.mul_f32s(inverse[tile][k], residual);
                    (r[tile][k], ap[tile][k]) = (residual, z);
                    sum = simd.mul_add_f32s(residual, z, sum);
                }
            }
            let before = std::mem::replace(&mut rz, simd.reduce_sum_f32s(sum));
            let beta = simd.splat_f32s(rz / before);
            for (p, z) in p.as_flattened_mut().iter_mut().zip(ap.as_flattened()) {
                *p = simd.mul_add_f32s(beta, *p, *z);
            }
        }
        lowered
    }
}

/// A padded vector, `K` registers at a time.
#[inline(always)]
fn tiles<S: Simd, const K: usize>(v: &[f32]) -> &[[S::f32s; K]] {
    S::as_simd_f32s(v).0.as_chunks().0
}

#[inline(always)]
fn tiles_mut<S: Simd, const K: usize>(v: &mut [f32]) -> &mut [[S::f32s; K]] {
    S::as_mut_simd_f32s(v).0.as_chunks_mut().0
}

/// Padded rows, taken `K` registers at a time.
#[derive(Clone, Copy)]
struct Table<'a, const K: usize> {
    data: &'a [f32],
    stride: usize,
}

impl<const K: usize> Table<'_, K> {
    #[inline(always)]
    fn row<S: Simd>(&self, i: u32) -> &[[S::f32s; K]] {
        tiles::<S, K>(&self.data[i as usize * self.stride..][..self.stride])
    }

    /// `out += Σ wᵢyᵢ` where `ADD`, and `Σ vᵢ (yᵢ·x)`, with `vᵢ` and `wᵢ` of [`weigh`].
    #[inline(always)]
    fn pass<S: Simd, const U: usize, const RESIDUAL: bool, const ADD: bool>(
        &self,
        simd: S,
        entries: Entries,
        x: &[[S::f32s; K]],
        out: &mut [[S::f32s; K]],
    ) -> f64 {
        let mut sum = 0.0;
        // A row of one tile stays in registers between its two uses.
        if let ([x], [out]) = (x, &mut *out) {
            for (indices, c, t) in entries.blocks() {
                let mut sums = [[simd.splat_f32s(0.0); K]; U];
                let mut of_block = [0.0f32; U];
                // No closure: it would be compiled without the instruction set.
                macro_rules! take {
                    ($u:expr, $i:expr, $c:expr, $t:expr) => {
                        let y = &self.row::<S>($i)[0];
                        let mut products = simd.mul_f32s(y[0], x[0]);
                        for k in 1..K {
                            products = simd.mul_add_f32s(y[k], x[k], products);
                        }
                        let yx = simd.reduce_sum_f32s(products);
                        let (v, w) = weigh::<RESIDUAL>($c, $t, yx);
                        of_block[$u] += v * yx;
                        if ADD {
                            let w = simd.splat_f32s(w);
                            for k in 0..K {
                                sums[$u][k] = simd.mul_add_f32s(w, y[k], sums[$u][k]);
                            }
                        }
                    };
                }
                let (many, rest) = indices.as_chunks::<U>();
                let ((c, c_rest), (t, t_rest)) = (c.as_chunks::<U>(), t.as_chunks::<U>());
                for ((i, c), t) in many.iter().zip(c).zip(t) {
                    for u in 0..U {
                        take!(u, i[u], c[u], t[u]);
                    }
                }
                for ((&i, &c), &t) in rest.iter().zip(c_rest).zip(t_rest) {
                    take!(0, i, c, t);
                }
                sum += f64::from(of_block.iter().sum::<f32>());
                if ADD {
                    for sums in sums {
                        for k in 0..K {
                            out[k] = simd.add_f32s(out[k], sums[k]);
                        }
                    }
                }
            }
            return sum;
        }
        let mut weights = [0.0f32; BLOCK];
        for (indices, c, t) in entries.blocks() {
            let mut of_block = 0.0;
            for (weight, ((&i, &c), &t)) in weights.iter_mut().zip(indices.iter().zip(c).zip(t)) {
                let mut sums = [simd.splat_f32s(0.0); K];
                for (y, x) in self.row::<S>(i).iter().zip(x) {
                    for k in 0..K {
                        sums[k] = simd.mul_add_f32s(y[k], x[k], sums[k]);
                    }
                }
                let mut products = sums[0];
                for more in &sums[1..] {
                    products = simd.add_f32s(products, *more);
                }
                let yx = simd.reduce_sum_f32s(products);
                let (v, w) = weigh::<RESIDUAL>(c, t, yx);
                of_block += v * yx;
                *weight = w;
            }
            sum += f64::from(of_block);
            if ADD {
                self.add::<S, U>(simd, indices, &weights, out);
            }
        }
        sum
    }

    /// `out += Σ wᵢyᵢ`
    #[inline(always)]
    fn add<S: Simd, const U: usize>(&self, simd: S, indices: &[u32], w: &[f32], out: &mut [[S::f32s; K]]) {
        let (many, rest) = indices.as_chunks::<U>();
        let (many_w, rest_w) = w[..indices.len()].as_chunks::<U>();
        for (tile, out) in out.iter_mut().enumerate() {
            let mut sums = [[simd.splat_f32s(0.0); K]; U];
            for (indices, w) in many.iter().zip(many_w) {
                for u in 0..U {
                    let (y, w) = (&self.row::<S>(indices[u])[tile], simd.splat_f32s(w[u]));
                    for k in 0..K {
                        sums[u][k] = simd.mul_add_f32s(w, y[k], sums[u][k]);
                    }
                }
            }
            for (&i, &w) in rest.iter().zip(rest_w) {
                let (y, w) = (&self.row::<S>(i)[tile], simd.splat_f32s(w));
                for k in 0..K {
                    sums[0][k] = simd.mul_add_f32s(w, y[k], sums[0][k]);
                }
            }
            for sums in sums {
                for k in 0..K {
                    out[k] = simd.add_f32s(out[k], sums[k]);
                }
            }
        }
    }
}

/// What an entry counts in a pass over all with the vector `x`: `(v, w)`. For the residual `v = ct` and
/// `w = ct − (c−1) y·x`; for a product with the matrix both are `(c−1) y·x`, so that `Σ v (y·x)` is `xᵀ Σ(c−1)yyᵀ x`.
#[inline(always)]
fn weigh<const RESIDUAL: bool>(c: f32, t: f32, yx: f32) -> (f32, f32) {
    if RESIDUAL { (c * t, c * t - (c - 1.0) * yx) } else { ((c - 1.0) * yx, (c - 1.0) * yx) }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;
    use crate::linalg::dot;

    /// The slow clear version: every matrix written out, in `f64`, solved by elimination.
    fn plain(gram: &Array2<f32>, ridge: f64, y: &Array2<f32>, c: &[f32], t: &[f32]) -> Vec<f64> {
        let d = y.ncols();
        let mut a = gram.mapv(f64::from);
        let mut b = vec![0.0; d];
        for (row, (c, t)) in y.rows().into_iter().zip(c.iter().zip(t)) {
            for i in 0..d {
                b[i] += f64::from(*c) * f64::from(*t) * f64::from(row[i]);
                for j in 0..d {
                    a[[i, j]] += f64::from(c - 1.0) * f64::from(row[i]) * f64::from(row[j]);
                }
            }
        }
        a.diag_mut().mapv_inplace(|x| x + ridge);
        for k in 0..d {
            for i in k + 1..d {
                let factor = a[[i, k]] / a[[k, k]];
                (k..d).for_each(|j| a[[i, j]] -= factor * a[[k, j]]);
                b[i] -= factor * b[k];
            }
        }
        for k in (0..d).rev() {
            b[k] = (b[k] - (k + 1..d).map(|j| a[[k, j]] * b[j]).sum::<f64>()) / a[[k, k]];
        }
        b
    }

    struct Case {
        other: Array2<f32>,
        y: Array2<f32>,
        c: Vec<f32>,
        t: Vec<f32>,
        indices: Vec<u32>,
    }

    impl Case {
        fn new(d: usize, n: usize) -> Case {
            Case {
                other: Array2::from_shape_fn((2 * d, d), |(i, j)| {
                    (((i * 13 + j * 29 + i * j) % 97) as f32 - 48.0) / 100.0
                }),
                y: Array2::from_shape_fn((n, d), |(i, j)| (((i * 31 + j * 17 + i * j) % 101) as f32 - 50.0) / 100.0),
                c: (0..n).map(|i| 1.0 + (i % 40) as f32).collect(),
                t: (0..n).map(|i| (i % 3) as f32 / 2.0).collect(),
                indices: (0..n as u32).collect(),
            }
        }

        fn entries<'a>(&'a self, rows: &'a Rows) -> Entries<'a> {
            Entries { rows, indices: &self.indices, confidence: &self.c, target: &self.t }
        }
    }

    const SHAPES: [(usize, usize); 12] = [
        (1, 1),
        (7, 0),
        (7, BLOCK - 1),
        (16, 20),
        (40, 3),
        (40, BLOCK),
        (40, BLOCK + 1),
        (64, 9),
        (65, 3 * BLOCK + 5),
        (128, 70),
        (150, 40),
        (256, 33),
    ];

    #[test]
    fn the_exact_solve_equals_the_plain_one_in_every_layout() {
        for (d, n) in SHAPES {
            let case = Case::new(d, n);
            let gram = Gram::of_array(case.other.view());
            let expected = plain(&gram.to_matrix(), 0.5, &case.y, &case.c, &case.t);
            let rows = Rows::of(case.y.view());
            let mut solver = WeightedRidge::new(d);
            let (x, lowered) = solver.solve(&gram, 0.5, case.entries(&rows)).unwrap();
            x.iter().zip(&expected).for_each(|(x, e)| assert!((f64::from(*x) - e).abs() < 1e-4, "{d} {n}: {x} {e}"));
            let b: f64 = (0..n)
                .map(|i| {
                    let yx = case.y.row(i).iter().zip(&expected).map(|(y, x)| f64::from(*y) * x).sum::<f64>();
                    f64::from(case.c[i] * case.t[i]) * yx
                })
                .sum();
            assert!((lowered - b).abs() <= 1e-4 * (1.0 + b), "{d} {n}: {lowered} {b}");
        }
    }

    #[test]
    fn conjugate_gradient_comes_to_the_exact_solution_and_knows_the_loss_on_its_way() {
        for (d, n) in SHAPES {
            let case = Case::new(d, n);
            // Everything in the coordinates of the eigenvectors, as `improve` wants it.
            let (mut other, mut rows) = (Rows::of(case.other.view()), Rows::of(case.y.view()));
            let eigen = Gram::of(&other).eigen().unwrap();
            other.rotate(&eigen);
            rows.rotate(&eigen);
            let gram = Gram::of(&other);
            let mut solver = WeightedRidge::new(d);
            let (exact, lowest) = solver.solve(&gram, 5.0, case.entries(&rows)).map(|(x, l)| (x.to_vec(), l)).unwrap();
            let start: Vec<f32> = (0..d).map(|i| (i % 5) as f32 / 50.0).collect();
            let mut before = f64::NEG_INFINITY;
            for steps in [0, 1, 2, 3, 5, 200] {
                let mut x = Rows::zeros(1, d);
                x.row_mut(0).copy_from_slice(&start);
                let lowered = solver.improve(&eigen, 5.0, case.entries(&rows), steps, x.padded_mut()).unwrap();
                assert!(x.padded()[d..].iter().all(|&pad| pad == 0.0));
                // −q(x) = 2bᵀx − xᵀAx, from its definition.
                let quadratic = {
                    let a = gram.to_matrix().mapv(f64::from);
                    let v = x.row(0).iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
                    let mut q = 5.0 * v.iter().map(|v| v * v).sum::<f64>();
                    for i in 0..d {
                        q += v[i] * (0..d).map(|j| a[[i, j]] * v[j]).sum::<f64>();
                    }
                    for i in 0..n {
                        let (c, t) = (f64::from(case.c[i]), f64::from(case.t[i]));
                        let yx = f64::from(dot(rows.row(i), x.row(0)));
                        q += (c - 1.0) * yx * yx - 2.0 * c * t * yx;
                    }
                    q
                };
                let size = lowest.abs() + quadratic.abs() + 1e-3;
                assert!((lowered + quadratic).abs() <= 1e-3 * size, "{d} {n} {steps}: {lowered} {quadratic}");
                assert!(lowered >= before - 1e-4 * size && lowered <= lowest + 1e-4 * size, "{d} {n} {steps}");
                before = lowered;
                if steps == 200 {
                    let x = x.row(0).iter().zip(&exact);
                    x.for_each(|(x, e)| assert!((x - e).abs() < 2e-4, "{d} {n}: {x} {e}"));
                }
            }
        }
    }

    #[test]
    fn without_entries_that_differ_from_the_rest_one_step_is_exact() {
        // Confidence 1 is what the unobserved have: A = Λ + λ, which is the preconditioner.
        let case = Case { c: vec![1.0; 30], ..Case::new(40, 30) };
        let mut rows = Rows::of(case.y.view());
        let eigen = Gram::of(&rows).eigen().unwrap();
        rows.rotate(&eigen);
        let mut solver = WeightedRidge::new(40);
        let exact = solver.solve(&Gram::of(&rows), 2.0, case.entries(&rows)).unwrap().0.to_vec();
        let mut x = Rows::zeros(1, 40);
        solver.improve(&eigen, 2.0, case.entries(&rows), 1, x.padded_mut()).unwrap();
        x.row(0).iter().zip(&exact).for_each(|(x, e)| assert!((x - e).abs() < 1e-4, "{x} {e}"));
    }

    #[test]
    fn what_was_only_refused_has_no_place() {
        let case = Case { t: vec![0.0; 9], ..Case::new(40, 9) };
        let rows = Rows::of(case.y.view());
        let gram = Gram::of(&rows).eigen().unwrap();
        let mut x = Rows::of(Array2::ones((1, 40)).view());
        let lowered = WeightedRidge::new(40).improve(&gram, 1.0, case.entries(&rows), 3, x.padded_mut()).unwrap();
        assert!(lowered == 0.0 && x.row(0) == [0.0; 40]);
    }

    #[test]
    fn a_ridge_below_rounding_still_solves_and_nan_is_an_error() {
        let y = Array2::from_elem((1, 20), 300.0f32); // rank one: 19 of 20 pivots are rounding
        let rows = Rows::of(y.view());
        let entries = Entries { rows: &rows, indices: &[0], confidence: &[40.0], target: &[1.0] };
        let mut solver = WeightedRidge::new(20);
        let (x, _) = solver.solve(&Gram::of(&rows), 1e-9, entries).unwrap();
        let score = dot(x, rows.row(0));
        assert!((score - 1.0).abs() < 0.01, "{score}");
        let bad = Gram::from_matrix(Array2::from_elem((20, 20), f32::NAN).view());
        assert!(solver.solve(&bad, 1.0, entries).is_err());
        let gram = Gram::of(&rows).eigen().unwrap();
        let infinite = Entries { confidence: &[f32::INFINITY], ..entries };
        assert!(solver.improve(&gram, 1.0, infinite, 3, Rows::zeros(1, 20).padded_mut()).is_err());
    }
}

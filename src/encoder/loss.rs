//! What training makes small: each loss is a plain function from the network's outputs to its value and its derivative by
//! them, in closed form. So it is the same on every device, and a device need only carry the derivative back.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// How far a prediction is from its target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Loss {
    /// The squared distance to the unit target, as in the post ([`squared_error`]).
    #[default]
    Mse,
    /// One less the cosine ([`cosine_distance`]): the length of the output is free.
    Cosine,
    /// Which target of the batch is this track's, and which track is this target's ([`info_nce`])?
    Contrastive,
}

/// A loss over a batch, and its derivative by each output `[b, d]`.
pub type Graded = (f64, Array2<f32>);

/// `1/b Σ w |y - t|²` of outputs `y` `[b, d]`, targets `t` `[b, d]` and weights `w` `[b]`.
pub fn squared_error(outputs: ArrayView2<f32>, targets: ArrayView2<f32>, weights: ArrayView1<f32>) -> Graded {
    let share = weights.mapv(|w| f64::from(w) / outputs.nrows().max(1) as f64).insert_axis(Axis(1));
    let missed = &outputs.mapv(f64::from) - &targets.mapv(f64::from);
    let value = (&missed * &missed * &share).sum();
    (value, (missed * share * 2.0).mapv(|x| x as f32))
}

/// `1/b Σ w (1 - cos(y, t))`, with shapes as in [`squared_error`].
pub fn cosine_distance(outputs: ArrayView2<f32>, targets: ArrayView2<f32>, weights: ArrayView1<f32>) -> Graded {
    let share = weights.mapv(|w| f64::from(w) / outputs.nrows().max(1) as f64);
    let (predicted, wanted) = (Directions::of(outputs), Directions::of(targets));
    let cosines = (&predicted.units * &wanted.units).sum_axis(Axis(1));
    let value = (&share * &(1.0 - cosines)).sum();
    (value, predicted.back(wanted.units * -&share.insert_axis(Axis(1))))
}

/// The symmetric InfoNCE within a batch (van den Oord et al. 2018; in both directions as in Radford et al. 2021): with
/// `s_ij = cos(y_i, t_j) / temperature`,
///
/// `1/2b Σ_i w_i (-log softmax_j(s_ij)[i] - log softmax_j(s_ji)[i])`.
///
/// Every other target of the batch is a negative, that of another track of the same artist too: such targets are close, and
/// telling them apart is what a listener of that artist asks for. A batch of one track has nothing to tell apart and loses
/// nothing.
pub fn info_nce(
    outputs: ArrayView2<f32>,
    targets: ArrayView2<f32>,
    weights: ArrayView1<f32>,
    temperature: f64,
) -> Graded {
    let share = weights.mapv(|w| 0.5 * f64::from(w) / outputs.nrows().max(1) as f64);
    let (predicted, wanted) = (Directions::of(outputs), Directions::of(targets));
    let logits = predicted.units.dot(&wanted.units.t()) / temperature;
    let (by_track, d_rows) = cross_entropy(logits.clone(), |i| i);
    let (by_target, d_columns) = cross_entropy(logits.reversed_axes(), |i| i);
    let value = (&share * &(by_track + by_target)).sum();
    let column = share.insert_axis(Axis(1));
    let d_logits = d_rows * &column + (d_columns * &column).reversed_axes();
    (value, predicted.back(d_logits.dot(&wanted.units) / temperature))
}

/// NT-Xent (Chen et al. 2020, eq. 1) of `2n` outputs `[2n, d]`, of which `i` and `n + i` are two views of one track: the
/// mean over all of `-log softmax_{j ≠ i}(cos(y_i, y_j) / temperature)[the other view of i]`.
pub fn nt_xent(outputs: ArrayView2<f32>, temperature: f64) -> Graded {
    let rows = outputs.nrows();
    let views = Directions::of(outputs);
    let mut logits = views.units.dot(&views.units.t()) / temperature;
    // No view is its own candidate.
    logits.diag_mut().fill(f64::NEG_INFINITY);
    let (losses, d_logits) = cross_entropy(logits, |i| (i + rows / 2) % rows);
    let share = 1.0 / rows.max(1) as f64;
    let d_units = (&d_logits + &d_logits.t()).dot(&views.units) * (share / temperature);
    (losses.sum() * share, views.back(d_units))
}

/// Rows `[b, d]` scaled to unit length.
struct Directions {
    units: Array2<f64>,
    /// `[b]`
    lengths: Array1<f64>,
}

/// What is shorter is scaled as if it had this length: a derivative must stay finite, and what points nowhere needs none that
/// is right.
const SHORTEST: f64 = 1e-6;

impl Directions {
    fn of(rows: ArrayView2<f32>) -> Directions {
        let rows = rows.mapv(f64::from);
        let lengths = (&rows * &rows).sum_axis(Axis(1)).mapv(|square| square.sqrt().max(SHORTEST));
        Directions { units: rows / lengths.view().insert_axis(Axis(1)), lengths }
    }

    /// The derivative by the rows from that by the units `u`: `(d - (d·u) u) / length`.
    fn back(self, d_units: Array2<f64>) -> Array2<f32> {
        let along = (&d_units * &self.units).sum_axis(Axis(1)).insert_axis(Axis(1));
        ((d_units - self.units * along) / self.lengths.insert_axis(Axis(1))).mapv(|x| x as f32)
    }
}

/// The cross-entropy of each row of `logits` `[n, n]` with the column `truth(row)`, `[n]`, and its derivative by the logits.
fn cross_entropy(mut logits: Array2<f64>, truth: impl Fn(usize) -> usize) -> (Array1<f64>, Array2<f64>) {
    let mut losses = Array1::zeros(logits.nrows());
    for (i, mut row) in logits.outer_iter_mut().enumerate() {
        let highest = row.fold(f64::NEG_INFINITY, |h, &x| h.max(x));
        let own = row[truth(i)] - highest;
        row.mapv_inplace(|x| (x - highest).exp());
        let total = row.sum();
        losses[i] = total.ln() - own;
        row /= total;
        row[truth(i)] -= 1.0;
    }
    (losses, logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// What `tests/golden/losses.py` wrote, with PyTorch's autograd in 64 bits.
    #[derive(Deserialize)]
    struct Golden {
        temperature: f64,
        outputs: Vec<Vec<f32>>,
        targets: Vec<Vec<f32>>,
        weights: Vec<f32>,
        losses: std::collections::BTreeMap<String, Expected>,
    }

    #[derive(Deserialize)]
    struct Expected {
        value: f64,
        derivative: Vec<Vec<f64>>,
    }

    fn matrix(rows: &[Vec<f32>]) -> Array2<f32> {
        Array2::from_shape_fn((rows.len(), rows[0].len()), |(i, j)| rows[i][j])
    }

    /// Each loss by its name, of these targets and weights.
    type Named<'a> = Vec<(&'static str, Box<dyn Fn(ArrayView2<f32>) -> Graded + 'a>)>;

    fn losses<'a>(targets: &'a Array2<f32>, weights: &'a Array1<f32>, temperature: f64) -> Named<'a> {
        vec![
            ("mse", Box::new(|y| squared_error(y, targets.view(), weights.view()))),
            ("cosine", Box::new(|y| cosine_distance(y, targets.view(), weights.view()))),
            ("contrastive", Box::new(move |y| info_nce(y, targets.view(), weights.view(), temperature))),
            ("nt_xent", Box::new(move |y| nt_xent(y, temperature))),
        ]
    }

    #[test]
    fn values_and_derivatives_are_pytorch_s() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/losses.json")).unwrap();
        let (outputs, targets) = (matrix(&golden.outputs), matrix(&golden.targets));
        let weights = Array1::from(golden.weights);
        let ours = losses(&targets, &weights, golden.temperature);
        assert_eq!(ours.len(), golden.losses.len());
        for (name, loss) in ours {
            let (value, derivative) = loss(outputs.view());
            let expected = &golden.losses[name];
            assert!(
                (value - expected.value).abs() < 1e-12 * expected.value.abs(),
                "{name}: {value} {}",
                expected.value
            );
            for (ours, theirs) in derivative.iter().zip(expected.derivative.iter().flatten()) {
                assert!((f64::from(*ours) - theirs).abs() < 1e-7 * theirs.abs() + 1e-12, "{name}: {ours} {theirs}");
            }
        }
    }

    #[test]
    fn derivatives_are_the_slopes_of_the_values() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut noise = |n| Array2::from_shape_simple_fn((n, 5), || rng.random_range(-1.0f32..1.0));
        let (outputs, targets) = (noise(6), noise(6));
        let weights = Array1::from(vec![1.0, 0.0, 2.0, 0.5, 1.5, 1.0]);
        for (name, loss) in losses(&targets, &weights, 0.3) {
            let (_, derivative) = loss(outputs.view());
            for place in ndarray::indices((6, 5)) {
                let at = |change: f32| {
                    let mut moved = outputs.clone();
                    moved[place] += change;
                    (loss(moved.view()).0, f64::from(moved[place]))
                };
                let ((above, x), (below, y)) = (at(1e-3), at(-1e-3));
                let slope = (above - below) / (x - y);
                assert!((slope - f64::from(derivative[place])).abs() < 2e-5, "{name} {place:?}: {slope} {derivative}");
            }
        }
    }

    #[test]
    fn known_structures_have_their_known_losses() {
        let right = ndarray::array![[2.0f32, 0.0], [0.0, 0.5]];
        let wrong = ndarray::array![[0.0f32, 2.0], [0.5, 0.0]];
        let targets = ndarray::array![[1.0f32, 0.0], [0.0, 1.0]];
        let ones = Array1::ones(2);
        assert_eq!(squared_error(right.view(), targets.view(), ones.view()).0, (1.0 + 0.25) / 2.0);
        assert_eq!(cosine_distance(right.view(), targets.view(), ones.view()).0, 0.0);
        assert_eq!(cosine_distance(wrong.view(), targets.view(), ones.view()).0, 1.0);
        // Told apart by a logit of 1 / temperature: log(1 + e^(-1/temperature)).
        let contrast = |y: &Array2<f32>| info_nce(y.view(), targets.view(), ones.view(), 0.5).0;
        assert!((contrast(&right) - (-2f64).exp().ln_1p()).abs() < 1e-12);
        assert!((contrast(&wrong) - 2f64.exp().ln_1p()).abs() < 1e-12);
        // Two pairs of equal views at a right angle: one of three candidates is right, two have cosine 0.
        let views = ndarray::array![[1.0f32, 0.0], [0.0, 1.0], [3.0, 0.0], [0.0, 3.0]];
        assert!((nt_xent(views.view(), 1.0).0 - (2.0 * (-1f64).exp()).ln_1p()).abs() < 1e-12);
    }

    #[test]
    fn what_points_nowhere_and_a_batch_of_one_stay_finite() {
        let (zeros, targets, one) = (Array2::<f32>::zeros((1, 3)), Array2::ones((1, 3)), Array1::ones(1));
        for (name, loss) in losses(&targets, &one, 0.1).into_iter().take(3) {
            let (value, derivative) = loss(zeros.view());
            assert!(value.is_finite() && derivative.iter().all(|d| d.is_finite()), "{name}");
        }
        let (value, derivative) = info_nce(targets.view(), targets.view(), one.view(), 0.1);
        assert!(value == 0.0 && derivative.iter().all(|&d| d == 0.0));
        let pair = ndarray::array![[1.0f32, 2.0], [2.0, -1.0]];
        assert_eq!(nt_xent(pair.view(), 0.1).0, 0.0, "the only candidate is the right one");
    }
}

//! Ranking metrics.
//!
//! Conventions. A *ranking* is a list of items, best first, each once. *Relevant* items are given sorted, each once, and
//! at least one; gains are binary. *Excluded* items (those of the training, say) are sorted and none is relevant; they
//! are no candidates: never ranked, never counted. The metrics of one listener's ranking are between 0 and 1, and are
//! averaged over listeners with [`mean_se`]. Coverage and Gini are of all lists together ([`Exposure`]).

use serde::{Deserialize, Serialize};

/// Of the relevant items, the share among the first `k`; of `k` where more are relevant, so that 1 can be reached.
pub fn recall_at(ranking: &[u32], relevant: &[u32], k: usize) -> f64 {
    let hits = ranking.iter().take(k).filter(|i| relevant.binary_search(i).is_ok()).count();
    hits as f64 / k.min(relevant.len()) as f64
}

#[test]
fn recall_by_hand() {
    assert_eq!(recall_at(&[5, 1, 9, 3], &[3, 5, 7], 2), 0.5);
    assert_eq!(recall_at(&[5, 1, 9, 3], &[3, 5, 7], 4), 2.0 / 3.0);
    assert_eq!(recall_at(&[5, 3], &[3, 5, 7], 2), 1.0);
}

/// Normalised discounted cumulative gain: the gain at rank `r` (from 1) counts `1 / log2(r + 1)`; 1 is the best ranking.
pub fn ndcg_at(ranking: &[u32], relevant: &[u32], k: usize) -> f64 {
    let discount = |rank: usize| 1.0 / ((rank + 2) as f64).log2(); // `rank` from 0
    let gained: f64 = (ranking.iter().take(k).enumerate())
        .filter(|(_, item)| relevant.binary_search(item).is_ok())
        .map(|(rank, _)| discount(rank))
        .sum();
    gained / (0..k.min(relevant.len())).map(discount).sum::<f64>()
}

#[test]
fn ndcg_by_hand() {
    assert_eq!(ndcg_at(&[7, 5, 3], &[3, 5, 7], 3), 1.0);
    // Hits at ranks 1 and 3 of two relevant: (1 + 1/2) / (1 + 1/log2(3)).
    assert!((ndcg_at(&[5, 1, 3], &[3, 5], 3) - 1.5 / (1.0 + 1.0 / 3f64.log2())).abs() < 1e-12);
    assert_eq!(ndcg_at(&[1, 2], &[3], 2), 0.0);
}

/// Average precision: the mean, over the relevant items that could stand among the first `k`, of the precision at the
/// rank of each: `Σ_r hit(r) · (hits up to r) / r  /  min(k, relevant)`. Averaged over listeners it is MAP@k.
pub fn average_precision_at(ranking: &[u32], relevant: &[u32], k: usize) -> f64 {
    let (mut hits, mut sum) = (0.0, 0.0);
    for (rank, item) in ranking.iter().take(k).enumerate() {
        if relevant.binary_search(item).is_ok() {
            hits += 1.0;
            sum += hits / (rank + 1) as f64;
        }
    }
    sum / k.min(relevant.len()) as f64
}

#[test]
fn average_precision_by_hand() {
    // Hits at ranks 1 and 3: precisions 1 and 2/3.
    assert!((average_precision_at(&[5, 1, 3, 9], &[3, 5], 4) - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
    assert_eq!(average_precision_at(&[5, 1, 3, 9], &[3, 5], 2), 0.5);
    assert_eq!(average_precision_at(&[5, 3], &[3, 5, 7], 2), 1.0);
    assert_eq!(average_precision_at(&[1, 2], &[3], 2), 0.0);
}

/// The items `0..n` that are not `excluded` (sorted), in order.
fn candidates(n: usize, excluded: &[u32]) -> impl Iterator<Item = u32> {
    let mut excluded = excluded.iter().copied().peekable();
    (0..n as u32).filter(move |item| excluded.next_if_eq(item).is_none())
}

/// The area under the ROC curve: how likely a relevant item scores above another candidate; ties count half. `scores`
/// has one for each item. `None` where no candidate is relevant, or all are.
pub fn auc(scores: &[f32], relevant: &[u32], excluded: &[u32]) -> Option<f64> {
    let positives = relevant.len();
    let negatives = scores.len().checked_sub(positives + excluded.len())?;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut bars: Vec<f32> = relevant.iter().map(|&i| scores[i as usize]).collect();
    bars.sort_unstable_by(f32::total_cmp);
    // Mann and Whitney's U, one negative at a time: twice the relevant above it, and once those that it ties with.
    let mut relevant = relevant.iter().copied().peekable();
    let mut doubled = 0;
    for item in candidates(scores.len(), excluded) {
        if relevant.next_if_eq(&item).is_none() {
            let score = scores[item as usize];
            let not_above = bars.partition_point(|&bar| bar <= score);
            let below = bars.partition_point(|&bar| bar < score);
            doubled += 2 * (positives - not_above) as u64 + (not_above - below) as u64;
        }
    }
    Some(doubled as f64 / 2.0 / (positives as f64 * negatives as f64))
}

#[test]
fn auc_by_hand() {
    assert_eq!(auc(&[0.1, 0.9, 0.5, 0.4], &[1], &[]), Some(1.0));
    assert_eq!(auc(&[0.1, 0.9, 0.5, 0.4], &[0, 1], &[]), Some(0.5));
    assert_eq!(auc(&[0.1, 0.9, 0.5, 0.4], &[0, 2], &[1]), Some(0.5));
    assert_eq!(auc(&[0.1, 0.9, 0.5, 0.4], &[2], &[1]), Some(1.0));
    assert_eq!(auc(&[0.3, 0.3, 0.3], &[2], &[]), Some(0.5));
    assert_eq!(auc(&[0.0, -0.0, 1.0], &[0], &[]), Some(0.25));
    assert_eq!(auc(&[0.5, 0.5], &[0, 1], &[]), None);
    assert_eq!(auc(&[0.5, 0.5], &[0], &[1]), None);
    assert_eq!(auc(&[0.5], &[], &[]), None);
}

/// The first `k` candidates by falling score. Equal scores stand in an order that is fixed but arbitrary (a hash of
/// item and `salt`), so that a method which scores all items alike is no better than chance, whatever the items' order
/// says.
pub fn rank(scores: &[f32], k: usize, salt: u64, excluded: &[u32]) -> Vec<u32> {
    let better = |&a: &u32, &b: &u32| {
        scores[b as usize].total_cmp(&scores[a as usize]).then_with(|| mix(a, salt).cmp(&mix(b, salt)))
    };
    let mut order: Vec<u32> = candidates(scores.len(), excluded).collect();
    if k < order.len() && k > 0 {
        order.select_nth_unstable_by(k - 1, better);
    }
    order.truncate(k);
    order.sort_unstable_by(better);
    order
}

/// SplitMix64's finaliser: every bit of the output depends on every bit of the input.
fn mix(item: u32, salt: u64) -> u64 {
    let mut z = salt.wrapping_add(u64::from(item) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn a_ranking_falls_and_ties_are_in_no_order_of_the_items() {
    assert_eq!(rank(&[0.1, 0.9, 0.5, 0.4], 3, 0, &[]), [1, 2, 3]);
    assert_eq!(rank(&[0.1, 0.9, 0.5, 0.4], 3, 0, &[0, 2]), [1, 3]);
    assert_eq!(rank(&[1.0], 5, 0, &[]), [0]);
    let tied = rank(&[0.0; 1000], 1000, 3, &[]);
    assert_ne!(tied, (0..1000).collect::<Vec<_>>());
    assert_eq!(tied[..10], rank(&[0.0; 1000], 10, 3, &[]));
    let first_half = tied[..500].iter().filter(|&&i| i < 500).count();
    assert!((200..300).contains(&first_half), "{first_half}"); // 250 ± 3 × 11
}

/// A mean over listeners.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MeanSe {
    pub mean: f64,
    /// The standard error of the mean.
    pub se: f64,
    /// Listeners.
    pub n: usize,
}

/// The mean and its standard error (with `n − 1`; 0 for fewer than two values).
pub fn mean_se(values: &[f64]) -> MeanSe {
    let n = values.len();
    let mean = if n == 0 { 0.0 } else { values.iter().sum::<f64>() / n as f64 };
    let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
    let se = if n < 2 { 0.0 } else { (squares / (n - 1) as f64 / n as f64).sqrt() };
    MeanSe { mean, se, n }
}

#[test]
fn mean_and_standard_error_by_hand() {
    assert_eq!(mean_se(&[1.0, 3.0]), MeanSe { mean: 2.0, se: 1.0, n: 2 });
    assert_eq!(mean_se(&[5.0]), MeanSe { mean: 5.0, se: 0.0, n: 1 });
    assert_eq!(mean_se(&[]).n, 0);
}

/// For each item, where it stands in the catalogue by its number of plays: the share of items with fewer, plus half of
/// those with as many. Its mean over the catalogue is 0.5; over what is recommended, more means a bias to the popular.
pub fn popularity_percentiles(plays: &[u32]) -> Vec<f64> {
    let mut sorted = plays.to_vec();
    sorted.sort_unstable();
    let standing = |p: &u32| {
        let (fewer, not_more) = (sorted.partition_point(|q| q < p), sorted.partition_point(|q| q <= p));
        (fewer + not_more) as f64 / 2.0 / sorted.len() as f64
    };
    plays.iter().map(standing).collect()
}

#[test]
fn popularity_percentiles_by_hand() {
    assert_eq!(popularity_percentiles(&[7, 0, 7, 100]), [0.5, 0.125, 0.5, 0.875]);
    assert_eq!(popularity_percentiles(&[3]), [0.5]);
    assert!(popularity_percentiles(&[]).is_empty());
}

/// Groups of listeners, of which each is left out once for a standard error.
const GROUPS: usize = 20;

/// What all lists together show: for each item, in how many it stands.
///
/// Coverage and Gini are of the lists of all listeners, not means over them. Their standard errors are of the
/// delete-a-group jackknife (P. Kott 2001): each of 20 groups of listeners is left out in turn, and
/// `se² = (G − 1)/G · Σ (θ₍g₎ − mean)²`. It is that of *this number* of listeners: more lists cover more.
#[derive(Clone, Debug)]
pub struct Exposure {
    /// `[GROUPS][items]`
    counts: Vec<Vec<u32>>,
}

impl Exposure {
    pub fn new(items: usize) -> Exposure {
        Exposure { counts: vec![vec![0; items]; GROUPS] }
    }

    /// Takes in the list of listener number `listener`.
    pub fn show(&mut self, listener: usize, list: &[u32]) {
        let counts = &mut self.counts[listener % GROUPS];
        list.iter().for_each(|&item| counts[item as usize] += 1);
    }

    /// Catalogue coverage: the share of the items that stand in at least one list.
    pub fn coverage(&self) -> MeanSe {
        self.jackknife(|counts| counts.iter().filter(|&&c| c > 0).count() as f64 / counts.len().max(1) as f64)
    }

    /// The Gini coefficient of how often each item is shown, over the whole catalogue: 0 where all are alike, towards 1
    /// where one has all.
    pub fn gini(&self) -> MeanSe {
        self.jackknife(|counts| gini(counts.to_vec()))
    }

    fn jackknife(&self, statistic: impl Fn(&[u32]) -> f64) -> MeanSe {
        let items = self.counts[0].len();
        let total: Vec<u32> = (0..items).map(|i| self.counts.iter().map(|group| group[i]).sum()).collect();
        let filled: Vec<&Vec<u32>> = self.counts.iter().filter(|group| group.iter().any(|&c| c > 0)).collect();
        let without = |group: &&Vec<u32>| {
            let rest: Vec<u32> = total.iter().zip(group.iter()).map(|(all, own)| all - own).collect();
            statistic(&rest)
        };
        let groups = filled.len();
        let se = if groups < 2 {
            0.0
        } else {
            // The squares about the mean, from the standard error of a mean: Σ(θ − θ̄)² = se² · G(G − 1).
            let spread = mean_se(&filled.iter().map(without).collect::<Vec<_>>()).se;
            spread * (groups - 1) as f64
        };
        MeanSe { mean: statistic(&total), se, n: groups }
    }
}

/// Of the counts, by the sum over their ranks: `Σ (2r − n − 1) c₍ᵣ₎ / (n Σc)`; 0 where there is none.
fn gini(mut counts: Vec<u32>) -> f64 {
    counts.sort_unstable();
    let (n, total) = (counts.len() as f64, counts.iter().map(|&c| f64::from(c)).sum::<f64>());
    let weighed: f64 = counts.iter().enumerate().map(|(i, &c)| (2.0 * (i + 1) as f64 - n - 1.0) * f64::from(c)).sum();
    if total > 0.0 { weighed / (n * total) } else { 0.0 }
}

#[test]
fn coverage_and_gini_by_hand() {
    let mut exposure = Exposure::new(4);
    exposure.show(0, &[0, 1]);
    exposure.show(1, &[0, 2]);
    // Shown 2, 1, 1, 0 times: (-3·0 − 1·1 + 1·1 + 3·2) / (4 · 4).
    assert_eq!((exposure.coverage().mean, exposure.gini().mean), (0.75, 6.0 / 16.0));
    // Without either listener 2 of 4 are covered: no spread; Gini is 1/2 both times.
    assert_eq!((exposure.coverage().se, exposure.gini().se), (0.0, 0.0));
    exposure.show(2, &[0]);
    // Leaving out one of three: 2/4, 2/4 and 3/4, so se² = 2/3 · (1/24).
    assert!((exposure.coverage().se - (2.0f64 / 3.0 / 24.0).sqrt()).abs() < 1e-12, "{:?}", exposure.coverage());
    assert_eq!(gini(vec![5, 5, 5]), 0.0);
    assert_eq!(gini(vec![0, 0, 0, 9]), 0.75);
    assert_eq!(Exposure::new(3).gini().mean, 0.0);
}

#[test]
fn the_jackknife_of_a_mean_is_its_standard_error() {
    // The share of lists that show item 0, were every list one group: the jackknife equals the formula of the mean.
    let mut exposure = Exposure::new(2);
    (0..GROUPS).for_each(|listener| exposure.show(listener, &[u32::from(listener % 3 == 0)]));
    let share = |counts: &[u32]| f64::from(counts[0]) / f64::from(counts[0] + counts[1]);
    let plain: Vec<f64> = (0..GROUPS).map(|listener| f64::from(u8::from(listener % 3 != 0))).collect();
    assert!((exposure.jackknife(share).se - mean_se(&plain).se).abs() < 1e-12);
}

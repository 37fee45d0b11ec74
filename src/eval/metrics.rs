//! Ranking metrics.
//!
//! Conventions. A *ranking* is a list of items, best first, each once. *Relevant* items are given sorted, each once, and
//! at least one; gains are binary. Every metric is of one listener, between 0 and 1, and is averaged over listeners
//! with [`mean_se`].

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

/// The area under the ROC curve: how likely a relevant item scores above another; ties count half. `scores` has one
/// for each item. `None` where no item is relevant, or all are.
pub fn auc(scores: &[f32], relevant: &[u32]) -> Option<f64> {
    let (positives, negatives) = (relevant.len(), scores.len().checked_sub(relevant.len())?);
    if positives == 0 || negatives == 0 {
        return None;
    }
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| scores[a as usize].total_cmp(&scores[b as usize]));
    // Mann and Whitney: the sum of the ranks of the relevant, the tied sharing their mean rank.
    let mut rank_sum = 0.0;
    let mut start = 0;
    while start < order.len() {
        let value = scores[order[start] as usize];
        let tied = order[start..].iter().take_while(|&&i| scores[i as usize] == value).count();
        let hits = order[start..start + tied].iter().filter(|i| relevant.binary_search(i).is_ok()).count();
        rank_sum += hits as f64 * (start as f64 + (tied as f64 + 1.0) / 2.0);
        start += tied;
    }
    let below = rank_sum - (positives * (positives + 1)) as f64 / 2.0;
    Some(below / (positives * negatives) as f64)
}

#[test]
fn auc_by_hand() {
    assert_eq!(auc(&[0.1, 0.9, 0.5, 0.4], &[1]), Some(1.0));
    assert_eq!(auc(&[0.1, 0.9, 0.5, 0.4], &[0, 1]), Some(0.5));
    assert_eq!(auc(&[0.3, 0.3, 0.3], &[2]), Some(0.5));
    assert_eq!(auc(&[0.0, -0.0, 1.0], &[0]), Some(0.25));
    assert_eq!(auc(&[0.5, 0.5], &[0, 1]), None);
    assert_eq!(auc(&[0.5], &[]), None);
}

/// Items by falling score. Equal scores stand in an order that is fixed but arbitrary (a hash of item and `salt`), so
/// that a method which scores all items alike is no better than chance, whatever the items' order says.
pub fn rank(scores: &[f32], k: usize, salt: u64) -> Vec<u32> {
    let better = |&a: &u32, &b: &u32| {
        scores[b as usize].total_cmp(&scores[a as usize]).then_with(|| mix(a, salt).cmp(&mix(b, salt)))
    };
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
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
    assert_eq!(rank(&[0.1, 0.9, 0.5, 0.4], 3, 0), [1, 2, 3]);
    assert_eq!(rank(&[1.0], 5, 0), [0]);
    let tied = rank(&[0.0; 1000], 1000, 3);
    assert_ne!(tied, (0..1000).collect::<Vec<_>>());
    assert_eq!(tied[..10], rank(&[0.0; 1000], 10, 3));
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

//! The best `k` hits so far, in all or with at most so many of a group.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};

use super::Hit;

/// The best `k` hits so far. Equal scores are in order of their keys, so that an answer depends on no order of visiting.
pub(super) struct Best {
    k: usize,
    /// Hits of one group that may be among them, where that is limited. Group 0 is no group.
    per_group: usize,
    hits: BTreeSet<Ranked>,
    groups: HashMap<u64, Vec<Ranked>>,
    threshold: f32,
}

impl Best {
    pub fn new(k: usize) -> Best {
        Best::with_limit(k, usize::MAX)
    }

    /// Dropping what is beyond `per_group` at once is exact: it could return only if a better one of its group fell out,
    /// and then `k` hits are better still.
    pub fn with_limit(k: usize, per_group: usize) -> Best {
        let threshold = if k == 0 || per_group == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Best { k, per_group, hits: BTreeSet::new(), groups: HashMap::new(), threshold }
    }

    /// A hit of a lower score cannot enter.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    pub fn push(&mut self, hit: Hit, group: u64) {
        let ranked = Ranked(hit);
        if self.k == 0 || self.per_group == 0 || hit.score < self.threshold {
            return;
        }
        if self.per_group != usize::MAX && group != 0 {
            let members = self.groups.entry(group).or_default();
            // Members that fell out since are worse than every hit.
            members.retain(|member| self.hits.contains(member));
            let at = members.partition_point(|member| *member < ranked);
            members.insert(at, ranked);
            if members.len() > self.per_group
                && let Some(worst) = members.pop()
            {
                if worst == ranked {
                    return;
                }
                self.hits.remove(&worst);
            }
        }
        self.hits.insert(ranked);
        if self.hits.len() > self.k {
            self.hits.pop_last();
        }
        if self.hits.len() == self.k {
            self.threshold = self.hits.last().map_or(f32::INFINITY, |worst| worst.0.score);
        }
    }

    pub fn len(&self) -> usize {
        self.hits.len()
    }

    /// Best first.
    pub fn into_sorted(self) -> Vec<Hit> {
        self.hits.into_iter().map(|ranked| ranked.0).collect()
    }
}

/// Ordered best first: highest score, then lowest key.
#[derive(Clone, Copy)]
struct Ranked(Hit);

impl PartialEq for Ranked {
    fn eq(&self, other: &Ranked) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Ranked) -> Ordering {
        other.0.score.total_cmp(&self.0.score).then(self.0.key.cmp(&other.0.key))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Ranked) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Against the slow clear version: sort all, take each while its group has room.
    #[test]
    fn a_limit_per_group_is_that_of_a_sorted_list() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..500 {
            let (k, limit) = (rng.random_range(0..12), rng.random_range(0..4));
            // Few scores, so that there are ties.
            let all: Vec<(Hit, u64)> = (0..rng.random_range(0..80))
                .map(|key| (Hit { key, score: rng.random_range(-5i8..5).into() }, rng.random_range(0..6)))
                .collect();
            let mut best = Best::with_limit(k, limit);
            all.iter().for_each(|(hit, group)| best.push(*hit, *group));

            let mut sorted = all.clone();
            sorted.sort_by_key(|(hit, _)| Ranked(*hit));
            let mut counts = HashMap::new();
            sorted.retain(|(_, group)| {
                let count = counts.entry(*group).or_insert(0);
                *count += 1;
                limit > 0 && (*group == 0 || *count <= limit)
            });
            let expected: Vec<Hit> = sorted.into_iter().take(k).map(|(hit, _)| hit).collect();
            assert_eq!(best.into_sorted(), expected, "{k} {limit}");
        }
    }
}

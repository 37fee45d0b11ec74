"""Writes tests/golden/ranking.json: random scores, histories and held-out pairs, and every ranking metric of them, from
its definition (NumPy) or by scikit-learn.

    pip install numpy==2.4.6 scikit-learn
    python tests/golden/ranking.py      (from the repository root)
"""

import json

import numpy as np
from sklearn.metrics import ndcg_score, roc_auc_score

USERS, TRACKS, LENGTHS = 40, 60, (1, 5, 10, 59)

rng = np.random.default_rng(11)
popularity = rng.exponential(size=TRACKS)
# Different within a row, and exact in float32: no order of ties can show.
scores = np.array([rng.permutation(TRACKS) / 64.0 - 0.3 for _ in range(USERS)])
met = rng.random((USERS, TRACKS)) < 0.05 + 0.2 * popularity / popularity.max()
met[0] = False  # a listener without a past
met[1, :-2] = True  # one with two candidates
# Every track is met by someone, so that it is in the catalogue.
met[rng.integers(2, USERS, TRACKS), np.arange(TRACKS)] = True
relevant = (rng.random((USERS, TRACKS)) < 0.1) & ~met
relevant[1, -1] = True
relevant[2] = False  # a listener without a future
repeated = met & (rng.random((USERS, TRACKS)) < 0.05)

plays = met.sum(axis=0)
percentile = np.array([(np.sum(plays < p) + np.sum(plays == p) / 2) / TRACKS for p in plays])
listeners = [u for u in range(USERS) if met[u].any() and relevant[u].any()]


def mean_se(values):
    values = np.array(values, dtype=float)
    return [values.mean(), values.std(ddof=1) / np.sqrt(len(values))]


def gini(counts):
    """Half of the mean absolute difference, relative to the mean."""
    differences = np.abs(counts[:, None] - counts[None, :]).mean()
    return float(differences / (2 * counts.mean()))


at = []
for k in LENGTHS:
    recall, ndcg, precision, popular = [], [], [], []
    counts = np.zeros(TRACKS)
    for u in listeners:
        candidates = np.flatnonzero(~met[u])
        order = candidates[np.argsort(-scores[u, candidates])]
        hits = relevant[u, order[:k]]
        recall.append(hits.sum() / min(k, relevant[u].sum()))
        ndcg.append(ndcg_score([relevant[u, candidates]], [scores[u, candidates]], k=k))
        precision.append(
            sum(hits[: r + 1].sum() / (r + 1) for r in range(len(hits)) if hits[r]) / min(k, relevant[u].sum())
        )
        popular.append(percentile[order[:k]].mean())
        counts[order[:k]] += 1
    at.append({
        "k": k,
        "recall": mean_se(recall),
        "ndcg": mean_se(ndcg),
        "map": mean_se(precision),
        "popularity": mean_se(popular),
        "coverage": float((counts > 0).mean()),
        "gini": gini(counts),
    })

aucs = []
for u in listeners:
    candidates = np.flatnonzero(~met[u])
    if 0 < relevant[u, candidates].sum() < len(candidates):
        aucs.append(roc_auc_score(relevant[u, candidates], scores[u, candidates]))


def pairs(matrix):
    return [[f"u{u:02}", f"t{t:02}"] for u, t in np.argwhere(matrix)]


golden = {
    "train": pairs(met),
    "held_out": pairs(relevant | repeated),
    "at": at,
    "auc": mean_se(aucs),
    "users": len(listeners),
}
# Rows are those of the listeners in the training part.
golden["scores"] = scores[met.any(axis=1)].tolist()
with open("tests/golden/ranking.json", "w") as file:
    json.dump(golden, file)

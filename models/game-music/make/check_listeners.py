#!/usr/bin/env python3
"""Are the simulated listeners fit to train on? Two questions.

1. Does matrix factorisation find structure in their plays? Recall@20 on held-out
   plays must be well above popularity's.
2. Is there room for a network between a linear model on mean-mel features and the
   ceiling, a model that is told the audio part `a` of every track's style? Both
   predict the unit-length ALS factors of tracks that were held out of their fit.

    pip install numpy librosa soundfile
    python3 models/game-music/make/check_listeners.py --events events.csv --truth truth.npz \\
        --tracks DIR/tracks.csv --features meanmel.npz

The features are computed once and kept (0.3 s per track). Half a minute otherwise.
"""

import argparse
import csv
from pathlib import Path

import numpy as np

# Confidence and regularisation that give the best recall of held-out plays here, among alpha 1, 4 and lambda 1 to 300.
FACTORS, ALPHA, LAMBDA, SWEEPS = 40, 1.0, 30.0, 12
ACTION_WEIGHT = {"play": 1.0, "like": 2.0, "add": 3.0}


def mean_mel(tracks):
    """[n, 256]: mean and standard deviation over time of debut's 128 log-mel bands."""
    import librosa
    import soundfile
    mel = librosa.filters.mel(sr=22050, n_fft=2048, n_mels=128, fmin=0, fmax=11025)
    with open(tracks, newline="") as f:
        rows = list(csv.DictReader(f))
    features = []
    for r in rows:
        with soundfile.SoundFile(tracks.parent / r["path"]) as f:
            want = int(27.9 * f.samplerate)
            f.seek(max(0, (f.frames - want) // 2))
            samples, rate = f.read(want, dtype="float32", always_2d=True).mean(1), f.samplerate
        samples = librosa.resample(samples, orig_sr=rate, target_sr=22050, res_type="soxr_mq")
        power = abs(librosa.stft(samples, n_fft=2048, hop_length=1024, center=False)) ** 2
        y = np.log1p(10000 * (mel @ power))
        features.append(np.r_[y.mean(1), y.std(1)])
    return [r["id"] for r in rows], np.array(features, np.float32)


def als(r, rng):
    """Implicit ALS (Hu, Koren & Volinsky 2008) on a dense [users, tracks] matrix of play weights -> (users, tracks)."""
    x, y = (rng.standard_normal((n, FACTORS)).astype(np.float32) * 0.1 for n in r.shape)

    def half(r, y):
        gram = y.T @ y + LAMBDA * np.eye(FACTORS, dtype=np.float32)
        out = np.zeros((len(r), FACTORS), np.float32)
        for i, row in enumerate(r):
            j = np.flatnonzero(row)
            c = ALPHA * row[j]
            out[i] = np.linalg.solve(gram + (y[j].T * c) @ y[j], y[j].T @ (1 + c))
        return out

    for _ in range(SWEEPS):
        x = half(r, y)
        y = half(r.T, x)
    return x, y


def recall_at(scores, seen, held, k=20):
    """Mean over users of |top k of the unseen, and held| / min(k, |held|)."""
    scores = np.where(seen, -np.inf, scores)
    top = np.argpartition(-scores, k, axis=1)[:, :k]
    hits = np.take_along_axis(held, top, 1).sum(1)
    of = np.minimum(k, held.sum(1))
    return (hits[of > 0] / of[of > 0]).mean()


def ridge_predict(x, y, train, penalties=(0.1, 1, 10, 100, 1000, 10000)):
    """Ridge of y on standardised x; the penalty is chosen on a fifth of the training tracks."""
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-9)
    mean = y[train].mean(0)

    def fit(rows, penalty):
        a = x[rows]
        return np.linalg.solve(a.T @ a + penalty * np.eye(x.shape[1]), a.T @ (y[rows] - mean))
    rows = np.flatnonzero(train)
    inner, outer = rows[np.arange(len(rows)) % 5 > 0], rows[np.arange(len(rows)) % 5 == 0]
    best = min(penalties, key=lambda p: ((x[outer] @ fit(inner, p) + mean - y[outer]) ** 2).sum())
    return x @ fit(rows, best) + mean


def quadratic(a):
    """Factors are no linear function of style (tastes are bumps in it): squares and products too."""
    i, j = np.triu_indices(a.shape[1])
    return np.hstack([a, a[:, i] * a[:, j]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--truth", type=Path, required=True, help="simulate_listeners.py --truth")
    parser.add_argument("--tracks", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True, help="mean-mel features, made if absent")
    args = parser.parse_args()
    rng = np.random.default_rng(0)

    truth = np.load(args.truth)
    ids = list(truth["ids"])
    if not args.features.exists():
        made, x = mean_mel(args.tracks)
        np.savez_compressed(args.features, ids=np.array(made), X=x)
    features = np.load(args.features)
    row = {k: i for i, k in enumerate(features["ids"])}
    mel = features["X"][[row[k] for k in ids]].astype(np.float64)

    track = {k: i for i, k in enumerate(ids)}
    users, r = {}, []
    with open(args.events, newline="") as f:
        for e in csv.DictReader(f):
            u = users.setdefault(e["user"], len(users))
            if e["action"] in ACTION_WEIGHT:
                r.append((u, track[e["track"]], ACTION_WEIGHT[e["action"]] * float(e["value"])))
    u, t, w = (np.array(c) for c in zip(*r))
    plays = np.zeros((len(users), len(ids)), np.float32)
    np.add.at(plays, (u, t), w)

    held = (plays > 0) & (rng.random(plays.shape) < 0.2)
    seen = (plays > 0) & ~held
    x, y = als(np.where(seen, plays, 0), rng)
    popular = np.broadcast_to((seen * 1.0).sum(0), plays.shape)
    print(f"{len(users)} listeners, {len(ids)} tracks, {np.mean(plays > 0):.1%} of pairs played")
    print(f"held-out plays, recall@20: ALS {recall_at(x @ y.T, seen, held):.3f}, "
          f"popularity {recall_at(popular, seen, held):.3f}, random {recall_at(rng.random(plays.shape), seen, held):.3f}")

    x, y = als(plays, rng)
    target = y / np.linalg.norm(y, axis=1, keepdims=True)
    print(f"mean cosine of two tracks' factors {np.mean(target @ target.T):.2f}; effective dimensions of the centred "
          f"factors {(lambda s: s.sum() ** 2 / (s ** 2).sum())(np.linalg.svd(target - target.mean(0))[1] ** 2):.0f}")
    models = {"mean factor": np.ones((len(ids), 1)), "mean-mel, ridge": mel,
              "oracle a, ridge": truth["a"], "oracle a, quadratic ridge": quadratic(truth["a"]),
              "oracle a and u, quadratic ridge": quadratic(truth["s"])}
    scores = {k: [] for k in [*models, "learned factor (ceiling)", "popularity"]}
    for _ in range(5):
        test = rng.permutation(len(ids)) < len(ids) // 5
        # Cold start: listeners rank the held-out tracks among themselves.
        total = ((target[test] - target[~test].mean(0)) ** 2).sum()
        liked = plays[:, test] > 0
        none = np.zeros_like(liked)
        for name, features in models.items():
            p = ridge_predict(features, target, ~test)[test]
            unit = p / np.linalg.norm(p, axis=1, keepdims=True)
            scores[name].append((1 - ((p - target[test]) ** 2).sum() / total, (unit * target[test]).sum(1).mean(),
                                 recall_at(x @ unit.T, none, liked)))
        scores["learned factor (ceiling)"].append((1, 1, recall_at(x @ target[test].T, none, liked)))
        scores["popularity"].append((np.nan, np.nan, recall_at(np.broadcast_to(1.0 * liked.sum(0), liked.shape), none, liked)))
    print(f"{'predicting unit factors of held-out tracks':44} R2     cosine recall@20 (mean of five random fifths)")
    for name, s in scores.items():
        print(f"  {name:42} {np.mean(s, 0)[0]:6.3f} {np.mean(s, 0)[1]:6.3f} {np.mean(s, 0)[2]:6.3f}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""How much of a popularity baseline's score on one split of the tracks is luck?

`debut evaluate` ranks the held-out tracks by the mean popularity of their artist or album, all that is known of a new
track's popularity. In this simulation popularity is independent of both, so the baseline should score as chance; on one
split of some 150 tracks, of which a few take most plays, it may not. This holds tracks out again and again.

    pip install numpy
    python3 models/game-music/make/popularity_luck.py tracks.csv events.csv
"""

import csv
import sys
from collections import defaultdict

import numpy as np

K, SPLITS, HELD_OUT = 20, 40, 0.2
tracks = {row["id"]: row for row in csv.DictReader(open(sys.argv[1], encoding="utf-8"))}
mass = defaultdict(lambda: [0.0, 0.0])  # (user, track) -> evidence for, evidence against; weights as in debut's defaults
weight = {"play": 1.0, "like": 2.0, "add": 3.0, "skip": 1.0}
for row in csv.DictReader(open(sys.argv[2], encoding="utf-8")):
    mass[row["user"], row["track"]][row["action"] == "skip"] += weight[row["action"]] * float(row["value"])
ids = sorted(tracks)
number = {track: i for i, track in enumerate(ids)}
loved, listeners = defaultdict(set), np.zeros(len(ids))
for (user, track), (good, bad) in mass.items():
    if good > 0:
        listeners[number[track]] += 1
    if good > bad:
        loved[user].add(number[track])

rng = np.random.default_rng(1)
artist, chance = [], []
for _ in range(SPLITS):
    held = np.flatnonzero(rng.random(len(ids)) < HELD_OUT)
    known = np.setdiff1d(np.arange(len(ids)), held)
    by_name = defaultdict(list)
    for i in known:
        for key in ("artist", "album"):
            if tracks[ids[i]][key]:
                by_name[key, tracks[ids[i]][key]].append(listeners[i])
    score = np.zeros(len(held))
    for j, i in enumerate(held):
        for key in ("artist", "album"):
            if by_name.get((key, tracks[ids[i]][key])):
                score[j] = np.mean(by_name[key, tracks[ids[i]][key]])
                break
    place = {i: j for j, i in enumerate(held)}
    positives = [[place[i] for i in liked if i in place] for liked in loved.values()]
    positives = [p for p in positives if p]

    def recall(scores):
        top = set(np.argsort(-scores, kind="stable")[:K])
        return np.mean([len(top.intersection(p)) / min(K, len(p)) for p in positives])

    artist.append(recall(score + 1e-6 * rng.random(len(held))))
    chance.append(recall(rng.random(len(held))))
for name, values in (("popularity of the artist or album", artist), ("one random order for everyone", chance)):
    print(f"{name}: recall@{K} over {SPLITS} splits: mean {np.mean(values):.4f}, "
          f"standard deviation {np.std(values, ddof=1):.4f}, {min(values):.4f} to {max(values):.4f}")

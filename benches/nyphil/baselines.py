#!/usr/bin/env python3
"""What knows the held-out works without hearing them: `python baselines.py --factors DIR --events CSV --tracks CSV --programmes DIR`.

The rows that `debut evaluate` does not have, on the same works, the same half of the listeners and by the same metrics, so that
both tables are one; `popularity of the artist or album` there and `popularity of the composer, works with sound` here must agree.
With --vectors FILE.npy (of `debut embed`, its ids beside it) a network's row too, and each row's difference from it, paired.

    composer mean           the mean direction of the composer's other works, all of them, heard or not
    kind mean               that of the works with the same forms and instruments in the title ("CONCERTO, VIOLIN")
    composer and kind       the sum of the two

    pip install numpy blake3
"""

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from blake3 import blake3

from match import facts
from programmes import plain, read

SEED = 1  # als.seed


def split(id, seed):
    """eval::split: where in 0..1 an id falls."""
    digest = blake3(seed.to_bytes(8, "little") + id.encode()).digest()
    return (int.from_bytes(digest[:8], "little") >> 11) / 2**53


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def measure(scores, relevant, k, user):
    """(recall@k, NDCG@k, AUC) of one listener, as eval/metrics.rs; ties fall at random, but fixed for a listener."""
    noise = np.random.default_rng(user).random(len(scores))
    top = np.lexsort((noise, -scores))[:k]
    hits = np.isin(top, relevant)
    discount = 1 / np.log2(np.arange(2, k + 2))
    recall = hits.sum() / min(k, len(relevant))
    ndcg = (hits * discount[: len(hits)]).sum() / discount[: min(k, len(relevant))].sum()
    good, bad = scores[relevant], np.delete(scores, relevant)
    if not len(bad):
        return recall, ndcg, np.nan
    return recall, ndcg, ((good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--factors", required=True, type=Path)
    parser.add_argument("--events", required=True)
    parser.add_argument("--tracks", required=True)
    parser.add_argument("--programmes", required=True, help="Programs/json of the archive")
    parser.add_argument("--vectors", type=Path)
    parser.add_argument("-k", type=int, default=20)
    args = parser.parse_args()

    ids = lambda name: (args.factors / name).read_text(encoding="utf-8").splitlines()
    tracks, users = {id: i for i, id in enumerate(ids("tracks.ids"))}, {id: i for i, id in enumerate(ids("users.ids"))}
    track_factors, user_factors = np.load(args.factors / "tracks.npy"), np.load(args.factors / "users.npy")
    plays = np.load(args.factors / "plays.npy")
    with open(args.tracks, encoding="utf-8") as file:
        heard = [row["id"] for row in csv.DictReader(file)]
    held_out = set(ids("held_out.ids"))
    positives = defaultdict(set)
    with open(args.events, encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["track"] in held_out and row["track"] in heard:
                positives[row["user"]].add(row["track"])
    new = sorted(set().union(*positives.values()))
    place = {id: i for i, id in enumerate(new)}
    listeners = [u for u in positives if u in users and split(u, SEED ^ 0x7573657273) >= 0.5]

    works, _ = read(args.programmes, 9999)
    composer = lambda id: works[id].composer
    def kind(id):
        said = facts(works[id].title, work=True)
        return frozenset(said["forms"]), frozenset(said["instruments"])

    known = np.linalg.norm(track_factors, axis=1) > 0
    directions, weights = unit(track_factors), plays / (plays + 10.0) * known  # as the network's targets are weighed
    everything = (directions * weights[:, None]).sum(0)
    def means(key):
        sums = defaultdict(lambda: np.zeros(track_factors.shape[1]))
        for id, row in tracks.items():
            if id in works:
                sums[key(id)] += directions[row] * weights[row]
        return unit(np.array([sums.get(key(id), everything) for id in new]))

    by_composer, with_sound = defaultdict(list), defaultdict(list)
    for id, row in tracks.items():
        if id in works:
            by_composer[composer(id)].append(plays[row])
            if id in heard:
                with_sound[composer(id)].append(plays[row])
    # Of a composer without another work, the mean of all, as `debut evaluate` has it.
    def popularity(of):
        all_works = [n for plays in of.values() for n in plays]
        return np.array([np.mean(of.get(composer(id), all_works)) for id in new])

    rows = {
        "random": np.zeros(len(new)),
        "popularity of the composer, works with sound": popularity(with_sound),
        "popularity of the composer, all works": popularity(by_composer),
        "composer mean": means(composer),
        "kind mean": means(kind),
        "composer and kind": unit(means(composer) + means(kind)),
    }
    if args.vectors:
        names = args.vectors.with_suffix(".ids").read_text(encoding="utf-8").splitlines()
        vector = dict(zip(names, np.load(args.vectors)))
        rows["network"] = unit(np.array([vector[id] for id in new]))
        rows["network and composer"] = unit(rows["network"] + rows["composer mean"])
        rows["network, composer and kind"] = unit(rows["network"] + rows["composer mean"] + rows["kind mean"])

    results = {}
    for name, of in rows.items():
        per_listener = []
        for user in listeners:
            scores = of if of.ndim == 1 else of @ user_factors[users[user]]
            per_listener.append(measure(np.asarray(scores, float), [place[id] for id in sorted(positives[user], key=place.get)], args.k, users[user]))
        results[name] = np.array(per_listener)
    print(f"{len(new)} held-out works with sound, {len(listeners)} listeners\n")
    print(f"| method | recall@{args.k} | NDCG@{args.k} | AUC |{' recall, less the network' + chr(39) + 's |' if args.vectors else ''}")
    print("|---|---|---|---|" + ("---|" if args.vectors else ""))
    cell = lambda v: f"{np.nanmean(v):.4f} ± {np.nanstd(v, ddof=1) / np.sqrt(np.isfinite(v).sum()):.4f}"
    for name, values in results.items():
        less = f" {cell(values[:, 0] - results['network'][:, 0])} |" if args.vectors else ""
        print(f"| {name} | {cell(values[:, 0])} | {cell(values[:, 1])} | {cell(values[:, 2])} |{less}")


if __name__ == "__main__":
    main()

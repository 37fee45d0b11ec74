"""What ranking does to new tracks: accuracy on what is known, and new tracks' share of the top 10.

    python benches/index/exposure.py EVENTS.csv... --debut target/release/debut

EVENTS are those of benches/factors/datasets.py. A random fifth of the pairs is held out, `debut factorize` learns from the
rest. Accuracy is NDCG@10 on the held-out pairs of 800 listeners, over all tracks that they have not met. For exposure 5 %
of the tracks are made new: their direction is a prediction of cosine 0.64 with the learned one (what the shipped model
reaches on tracks it has not met) and their norm, which nobody knows, is the median. Their fair share of the places is the
5 %. The rankings are those of `[recommend]`: candidates by cosine, ten a place, ranked by cosine + w·(popularity - 1/2),
and one place of ten promised to new tracks.
"""

import argparse
import csv
import subprocess
import tempfile
from pathlib import Path

import numpy as np

K = 10
CANDIDATES = 100
# α, λ, growth: those of benches/factors/run.py.
SETTINGS = {"lastfm2k": (1, 20, "log"), "gowalla": (40, 3, "linear"), "lastfm_kgat_part": (40, 3, "linear")}


def factors(debut, path, rows, folder):
    alpha, ridge, growth = SETTINGS.get(path.stem, (1, 20, "linear"))
    with open(folder / "train.csv", "w", newline="") as out:
        csv.writer(out).writerows(rows)
    settings = ["als.regularisation_exponent=0", f"als.regularisation={ridge}", f"confidence.alpha={alpha}"]
    settings += [f"confidence.growth={growth}", "confidence.half_life_days=0"]
    sets = [part for setting in settings for part in ("--set", setting)]
    command = [debut, "factorize", folder / "train.csv", "--out", folder / "factors", *sets]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ids = [{name: i for i, name in enumerate((folder / f"factors/{what}.ids").read_text().split("\n"))} for what in ("users", "tracks")]
    return *(np.load(folder / f"factors/{what}.npy") for what in ("users", "tracks")), *ids


def top(scores, k):
    best = np.argpartition(-scores, k, axis=1)[:, :k]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", type=Path, nargs="+")
    parser.add_argument("--debut", default="target/release/debut")
    args = parser.parse_args()
    print("| set | ranking | NDCG@10 | with the promised place | new tracks' share | with the promised place |")
    print("|---|---|---|---|---|---|")
    for path in args.events:
        rng = np.random.default_rng(0)
        head, *rows = csv.reader(open(path, newline=""))
        held = rng.random(len(rows)) < 0.2
        with tempfile.TemporaryDirectory() as folder:
            train = [head, *(row for row, out in zip(rows, held) if not out)]
            users, tracks, user_ids, track_ids = factors(args.debut, path, train, Path(folder))
        met, want = [set() for _ in users], [set() for _ in users]
        for row, out in zip(rows, held):
            user, track = user_ids.get(row[head.index("user")]), track_ids.get(row[head.index("track")])
            if user is not None and track is not None:
                (want if out else met)[user].add(track)
        asked = rng.permutation([u for u in range(len(users)) if want[u] - met[u] and met[u] and users[u].any()])[:800]
        norms = np.linalg.norm(tracks, axis=1)
        directions = tracks / np.maximum(norms, 1e-12)[:, None]
        median = np.median(norms)
        new = rng.random(len(tracks)) < 0.05
        noise = rng.standard_normal(tracks.shape)
        noise -= (noise * directions).sum(1, keepdims=True) * directions
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        predicted = np.where(new[:, None], 0.64 * directions + (1 - 0.64**2) ** 0.5 * noise, directions)
        taste = users[asked] / np.linalg.norm(users[asked], axis=1, keepdims=True)
        hidden = np.zeros((len(asked), len(tracks)), bool)
        for i, user in enumerate(asked):
            hidden[i, list(met[user])] = True

        def ranked(cosines, lengths, popularity, weight):
            cosines = np.where(hidden, -np.inf, cosines)
            if weight is None:
                return top(np.where(hidden, -np.inf, cosines * lengths), K)
            scores = np.full_like(cosines, -np.inf)
            best = top(cosines, CANDIDATES)
            np.put_along_axis(scores, best, np.take_along_axis(cosines + weight * (popularity - 0.5), best, 1), 1)
            return top(scores, K)

        def promised(lists, cosines):
            """The last place of a list without a new track is for the nearest one."""
            nearest = np.where(hidden | ~new, -np.inf, cosines).argmax(1)
            lists = lists.copy()
            without = ~new[lists].any(1)
            lists[without, -1] = nearest[without]
            return lists

        def ndcg(lists):
            discounts = 1 / np.log2(np.arange(K) + 2)
            gains = [[track in want[user] for track in row] @ discounts for user, row in zip(asked, lists)]
            ideal = [discounts[: len(want[user] - met[user])].sum() for user in asked]
            each = np.array(gains) / ideal
            return f"{each.mean():.4f} ± {each.std() / len(each) ** 0.5:.4f}"

        popularity = norms / (norms + median)
        unknown = np.where(new, 0.5, popularity), np.where(new, median, norms)
        known, cold = taste @ directions.T, taste @ predicted.T
        for weight in (0.0, 0.1, 0.2, 0.4, 0.8, None):
            name = "inner product" if weight is None else "cosine" if weight == 0 else f"cosine, popularity {weight}"
            warm, lists = ranked(known, norms, popularity, weight), ranked(cold, unknown[1], unknown[0], weight)
            # Places that are promised cost those that were last, as if each new track were a miss.
            with_place = np.where(~new[lists].any(1)[:, None] & (np.arange(K) == K - 1), -1, warm)
            shares = new[lists].mean(), new[promised(lists, cold)].mean()
            print(f"| {path.stem} | {name} | {ndcg(warm)} | {ndcg(with_place)} | {shares[0]:.4f} | {shares[1]:.4f} |", flush=True)


if __name__ == "__main__":
    main()

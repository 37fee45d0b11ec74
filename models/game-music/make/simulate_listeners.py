#!/usr/bin/env python3
"""A year of simulated listening to real tracks.

No public data set joins this music with listeners, so they are simulated; the
README beside this file says what that means for every score. How:

- A track's style is s = sqrt(share) * a + sqrt(1 - share) * u. The part `a` is what audio can
  explain: the first principal components of the teacher's tags. The part `u` is independent
  of the sound: partly common to an artist's tracks on an album, mostly the track's own.
- A track's popularity is a power law, drawn independently of its sound.
- Half of the catalogue is there when the year begins; the other albums come out during it, each within a few
  weeks. Nobody plays a track before the day it is released; from then on it is played as any other.
- A listener has one to four tastes, points in the same space, that drift during the year, and
  comes back in sessions. Tracks of a session are drawn with probability
  popularity * exp(beta * match). Whether a track is heard out, skipped, liked or put on a
  playlist follows the match too, with noise.

    pip install numpy
    python3 models/game-music/make/simulate_listeners.py --tracks DIR/tracks.csv --out events.csv [--share 0.6] [--seed 1]

Writes time,user,track,action,value in order of time: time in Unix seconds, value the fraction
heard of a play. With --releases FILE.csv the manifest again, with the day on which each track came out, for
`debut prepare`; with --truth FILE.npz also what no real log has: ids, a, u, s, popularity.
"""

import argparse
import csv
import datetime
import gzip
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
START = 1_735_689_600  # 2025-01-01 00:00 UTC: fixed, so that a seed gives the same file on any day
DAY = 86_400


@dataclass
class Settings:
    """Every constant of the simulated world."""

    share: float = 0.6
    """Share of the variance of style that the audio part holds. The README's second setting is 0.3."""
    dims: int = 12
    """Dimensions of style: the tags' components above that hold under 1 % of their variance each."""
    group: float = 0.25
    """Share of `u` that an artist's tracks on an album have in common: people follow games and
    composers. The rest is the track's own, so that a known album does not give a new track away."""
    users: int = 4000
    sessions: float = 14.0
    """Median sessions in the year; log-normal."""
    sessions_spread: float = 0.9
    """Standard deviation of its logarithm: the busiest 5 % come about 4.4 times as often as the median."""
    session_tracks: float = 9.0
    """Mean tracks of a session: half an hour of music."""
    zipf_shift: float = 20.0
    zipf_power: float = 0.95
    """Popularity of rank r is (r + shift)^-power (Zipf-Mandelbrot); the shift flattens the head, as logs show."""
    old: float = 0.5
    """Share of the tracks that are there from the start, by whole albums."""
    last_release: int = 320
    """Day of the year by which the last album begins to come out: the last tracks have a month to be heard."""
    album_days: int = 21
    """Days within which an album comes out, some tracks ahead of the others."""
    back_catalogue: int = 10
    """Years over which the albums that are there from the start came out. Nothing but their dates follows from it."""
    beta: float = 2.0
    """Pull of taste on what is played: a track one standard deviation better matched is
    exp(2) = 7 times as likely. At 1.5 factorisation finds less (recall@20 0.38 against 0.42), at 3
    listeners hear little beside their taste."""
    taste_noise: float = 0.5
    """Tastes lie around the styles of random tracks, this far off (standard deviation, per
    dimension): there are more fans where there is more music."""
    drift: float = 0.7
    """Standard deviation by which a taste moves in each dimension over the year."""
    explore: float = 0.1
    """Share of tracks played whatever the taste: radio, friends, charts."""
    action_noise: float = 1.0
    """Noise of the mood, in units of the match's standard deviation, on skips, likes and adds."""


def read_tags(path):
    """ids, [n, 50] probabilities."""
    opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)
    with opened as f:
        rows = [line.rstrip("\n").split("\t") for line in f if not line.startswith("#")][1:]
    return [r[0] for r in rows], np.array([[float(x) for x in r[1:]] for r in rows])


def audio_part(tags, dims):
    """Tag probabilities -> [n, dims] of zero mean, whose mean squared length is `dims`.

    Logits, because a tag at 0.02 and one at 0.10 differ as much to the ear as 0.2 and 0.6.
    Components keep half of their spread (their standard deviation to the power 1/2): unscaled,
    the first (electronic to acoustic) would be nearly all there is; whitened, faint differences
    that the teacher itself is unsure of would weigh as much as the loud ones.
    """
    p = np.clip(tags, 1e-3, 1 - 1e-3)
    x = np.log(p / (1 - p))
    x = (x - x.mean(0)) / x.std(0)
    u, d, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    a = u[:, :dims] * np.sqrt(d[:dims])
    return a * np.sqrt(dims / (a ** 2).sum(1).mean()), d ** 2 / (d ** 2).sum()


def independent_part(groups, dims, like, group_share, rng):
    """`u`: as `a` in size per dimension, but drawn without looking at the sound."""
    names, index = np.unique(groups, return_inverse=True)
    common = rng.standard_normal((len(names), dims))[index]
    own = rng.standard_normal((len(groups), dims))
    u = np.sqrt(group_share) * common + np.sqrt(1 - group_share) * own
    u = (u - u.mean(0)) / u.std(0) * like.std(0)
    return u


def releases(albums, cfg, rng):
    """The day on which each track came out, from the first of the simulated year; below 0 where it was there before."""
    names, index, sizes = np.unique(albums, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    # In random order, as many albums as the share holds; that one which crosses it counts as old.
    before = np.cumsum(sizes[order]) - sizes[order]
    old = np.empty(len(names), bool)
    old[order] = before < cfg.old * len(albums)
    new_day = rng.integers(1, cfg.last_release + 1, len(names))
    old_day = -rng.integers(cfg.album_days + 1, 365 * cfg.back_catalogue, len(names))
    return np.where(old, old_day, new_day)[index] + rng.integers(0, cfg.album_days + 1, len(albums))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def listener(number, s, log_popularity, released, cfg, rng):
    """One listener's year: arrays (time, track, action, value); actions 0 play, 1 skip, 2 like, 3 add."""
    n, dims = s.shape
    count = rng.choice([1, 2, 3, 4], p=[0.3, 0.35, 0.2, 0.15])
    tastes = s[rng.integers(n, size=count)] + cfg.taste_noise * rng.standard_normal((count, dims)) * s.std(0)
    moved = cfg.drift * rng.standard_normal((count, dims)) * s.std(0)
    weights = rng.dirichlet(np.full(count, 2.0))
    sessions = int(np.clip(rng.lognormal(np.log(cfg.sessions), cfg.sessions_spread), 2, 400))

    day = rng.integers(0, 365, sessions)
    hour = np.clip(rng.normal(19.5, 3.0, sessions), 0.0, 23.4)  # evenings
    start = np.sort(day * DAY + (hour * 3600).astype(np.int64))
    which = rng.choice(count, sessions, p=weights)
    taste = tastes[which] + moved[which] * (start / (365 * DAY))[:, None]
    # Unit spread over the tracks: beta then means the same for every taste and every share.
    match = taste @ s.T
    match = (match - match.mean(1, keepdims=True)) / match.std(1, keepdims=True)

    # Whoever comes on a track's first day may hear it.
    appeal = np.where(released * DAY <= start[:, None], log_popularity, -np.inf)

    length = np.clip(rng.poisson(cfg.session_tracks, sessions), 1, 30)
    most = length.max()
    # Gumbel noise + top k = drawing without replacement in proportion to exp(score).
    gumbel = rng.gumbel(size=match.shape)
    order = np.argpartition(-(appeal + cfg.beta * match + gumbel), most, axis=1)[:, :most]
    by_chance = np.argpartition(-(appeal + rng.gumbel(size=match.shape)), most, axis=1)[:, :most]
    order = rng.permuted(order, axis=1)
    order = np.where(rng.random(order.shape) < cfg.explore, by_chance, order)

    row, place = np.nonzero(np.arange(most) < length[:, None])
    track = order[row, place]
    # A session that drew the same track by taste and by chance plays it once.
    _, first = np.unique(row * n + track, return_index=True)
    row, place, track = row[first], place[first], track[first]
    m = match[row, track] + cfg.action_noise * rng.standard_normal(len(row))
    time = START + start[row] + place * 200 + rng.integers(0, 30, len(row))

    # A track that matches like the average one is skipped every third time; one that matches by
    # two standard deviations, every ninth. Two thirds and more of a song that is not skipped is heard.
    skipped = rng.random(len(row)) < sigmoid(-0.7 - 0.7 * m)
    heard = np.round(np.clip(rng.beta(6, 1 + np.exp(-0.5 * m)), 0.2, 1.0), 2)
    # Likes and adds are rare and say more: at a match two deviations above the average, 3 and 1.5 %; at four, 23 and 13 %.
    liked = ~skipped & (rng.random(len(row)) < sigmoid(-6.0 + 1.2 * m))
    added = ~skipped & (rng.random(len(row)) < sigmoid(-6.7 + 1.2 * m))
    times = np.concatenate([time, time[liked] + 60, time[added] + 90])
    tracks = np.concatenate([track, track[liked], track[added]])
    actions = np.concatenate([skipped.astype(int), np.full(liked.sum(), 2), np.full(added.sum(), 3)])
    values = np.concatenate([np.where(skipped, 1.0, heard), np.ones(liked.sum() + added.sum())])
    return times, np.full(len(times), number), tracks, actions, values


ACTIONS = ["play", "skip", "like", "add"]


def write_releases(path, manifest, table, days):
    """The manifest's rows with their dates; paths stay those of the same files."""
    first = datetime.datetime.fromtimestamp(START, datetime.timezone.utc).date()
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", newline="") as f:
        out = csv.DictWriter(f, list(table[0]), lineterminator="\n")
        out.writeheader()
        for row, day in zip(table, days.tolist()):
            file = os.path.relpath(manifest.parent / row["path"], path.parent)
            out.writerow({**row, "path": file, "released": first + datetime.timedelta(days=day)})
    partial.replace(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=Path, required=True, help="tracks.csv of fetch_audio.py")
    parser.add_argument("--tags", type=Path, default=HERE / "teacher_tags.tsv.gz")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=Settings.share)
    parser.add_argument("--users", type=int, default=Settings.users)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--releases", type=Path, help="writes the manifest with dates of release here")
    parser.add_argument("--truth", type=Path)
    args = parser.parse_args()
    cfg = Settings(share=args.share, users=args.users)
    if not 0 <= cfg.share <= 1:
        parser.error("--share is between 0 and 1")
    rng = np.random.default_rng(args.seed)

    tagged, tags = read_tags(args.tags)
    row_of = {k: i for i, k in enumerate(tagged)}
    with open(args.tracks, newline="") as f:
        table = [r for r in csv.DictReader(f) if r["id"] in row_of]
    # In the order of their ids, so that the same tracks give the same world whatever the file's order.
    table.sort(key=lambda r: r["id"])
    if len(table) < 100:
        raise SystemExit(f"{args.tracks}: {len(table)} of its ids are in {args.tags}; expected 100 or more")
    ids = [r["id"] for r in table]
    a, spectrum = audio_part(tags[[row_of[i] for i in ids]], cfg.dims)
    u = independent_part([r["album"] + "\t" + r["artist"] for r in table], cfg.dims, a, cfg.group, rng)
    s = np.sqrt(cfg.share) * a + np.sqrt(1 - cfg.share) * u

    rank = rng.permutation(len(ids)) + 1
    log_popularity = -cfg.zipf_power * np.log(rank + cfg.zipf_shift)

    # From a stream of its own, so that the tracks and tastes of a seed are those they were without dates.
    released = releases([r["album"] for r in table], cfg, np.random.default_rng([args.seed, 1]))

    parts = [listener(i, s, log_popularity, released, cfg, rng) for i in range(cfg.users)]
    time, user, track, action, value = (np.concatenate(x) for x in zip(*parts))
    order = np.lexsort((action, track, user, time))
    partial = args.out.with_name(args.out.name + ".partial")
    with open(partial, "w") as f:
        f.write("time,user,track,action,value\n")
        f.writelines(f"{t},u{n:04d},{ids[i]},{ACTIONS[c]},{v:g}\n"
                     for t, n, i, c, v in zip(*(x[order].tolist() for x in (time, user, track, action, value))))
    partial.replace(args.out)
    if args.releases:
        write_releases(args.releases, args.tracks, table, released)
    if args.truth:
        np.savez_compressed(args.truth, ids=np.array(ids), a=a, u=u, s=s, popularity=np.exp(log_popularity))

    say = lambda text: print(text, file=sys.stderr)
    say(f"{len(ids)} tracks, {cfg.users} listeners, {len(time)} events -> {args.out}")
    say("  " + ", ".join(f"{name} {np.sum(action == i)}" for i, name in enumerate(ACTIONS)))
    plays = np.bincount(track[action == 0], minlength=len(ids))
    say("plays per track: " + ", ".join(f"{q:.0%} {v:.0f}" for q, v in zip((0, .05, .25, .5, .75, .95, 1), np.quantile(plays, (0, .05, .25, .5, .75, .95, 1)))))
    say(f"released before the year: {np.mean(released < 0):.1%} of the tracks, in it {np.mean(released >= 0):.1%}, "
        f"with {np.mean(released[track[action == 0]] >= 0):.1%} of all plays")
    pairs = len(np.unique(user[action == 0] * len(ids) + track[action == 0]))
    each = np.bincount(user[action == 0], minlength=cfg.users)
    say(f"plays per listener: median {np.median(each):.0f}, 95% {np.quantile(each, .95):.0f}; "
        f"{pairs / cfg.users:.0f} different tracks each, {pairs / cfg.users / len(ids):.1%} of the catalogue")
    say(f"{cfg.dims} components hold {spectrum[:cfg.dims].sum():.1%} of the tags' variance "
        f"(first {spectrum[0]:.1%}, last {spectrum[cfg.dims - 1]:.1%})")
    say(f"variance of style that audio explains: {cfg.share * (a ** 2).sum() / (s ** 2).sum():.1%} "
        f"(share {cfg.share}); artist on album: {(1 - cfg.share) * cfg.group:.1%}")


if __name__ == "__main__":
    main()

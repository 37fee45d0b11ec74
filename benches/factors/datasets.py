"""Public data sets as event files for debut: `python datasets.py RAW OUT [SET …]`.

RAW is a folder with the files as their publishers name them (below); OUT gets one `SET.csv` each, with the columns
time,user,track,action,value. Nothing is downloaded here, and none of the data is part of this repository: fetch each
set from its publisher, under its publisher's terms. A set whose files are not in RAW is passed over.

ml100k      RAW/u.data, of ml-100k.zip. MovieLens, https://grouplens.org/datasets/movielens/100k/.
            For research; not for commercial use without permission; no redistribution. F. M. Harper and
            J. A. Konstan, The MovieLens Datasets, ACM TiiS 5 (2015). 100,000 ratings with their times.
ml1m        RAW/ratings.dat, of ml-1m.zip. https://grouplens.org/datasets/movielens/1m/, terms and paper as above.
            1,000,209 ratings with their times. A Parquet copy with the columns userID and movieID and no times
            (RAW/ml1m-ratings.parquet; needs pyarrow) is taken where ratings.dat is not there.
lastfm2k    RAW/user_artists.dat, of hetrec2011-lastfm-2k.zip. https://grouplens.org/datasets/hetrec-2011/.
            For research, with the permission of Last.fm, not commercial. I. Cantador, P. Brusilovsky and T. Kuflik,
            HetRec 2011. 92,834 pairs of listener and artist with their number of plays, which becomes `value`.
lastfm      RAW/last-fm/train.txt and test.txt (each line a user and his tracks, repeats being plays). Last-FM as the
            KGAT paper cut it from LFM-1b: https://github.com/xiangwang1223/knowledge_graph_attention_network,
            X. Wang et al., KDD 2019; M. Schedl, The LFM-1b Dataset, ICMR 2016: research only, not commercial.
lastfm_kgat_part
            RAW/last-fm/test.txt alone: a part that is small enough for two cores.
gowalla     RAW/gowalla/train.txt, test.txt and, where there is one, valid.txt. Check-ins as LightGCN cut them:
            https://github.com/kuandeng/LightGCN, X. He et al., SIGIR 2020; E. Cho, S. Myers and J. Leskovec, KDD 2011
            (https://snap.stanford.edu/data/loc-gowalla.html), for research.
amazonbook  RAW/amazon-book/train.txt and test.txt, of the same repository as `lastfm`. J. McAuley's Amazon reviews,
            https://jmcauley.ucsd.edu/data/amazon/, for research.

A rating of any height, a check-in or a review is an event "play" of value 1: that it happened is what is predicted.
Where a set has no times, all are 0, and a split by time is refused by what splits.
"""

import csv
import sys
from pathlib import Path


def movielens(path, separator):
    """time, user, track, value of each rating."""
    with open(path, encoding="latin-1") as lines:
        for line in lines:
            if line.startswith("#"):
                continue  # some copies have a heading
            user, item, _rating, time = line.split(separator)
            yield int(time), user, item, 1


def ml1m(raw):
    if (raw / "ratings.dat").is_file():
        yield from movielens(raw / "ratings.dat", "::")
        return
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(raw / "ml1m-ratings.parquet")
    for user, item in zip(table["userID"].to_pylist(), table["movieID"].to_pylist()):
        yield 0, user, item, 1


def lastfm2k(raw):
    with open(raw / "user_artists.dat", encoding="utf-8") as lines:
        for line in lines:
            user, artist, plays = line.split()
            if user == "userID":
                continue  # the heading, which some copies lack
            yield 0, user, artist, int(plays)


def histories(*paths):
    """Files of lines `user item item …`."""
    for path in paths:
        with open(path, encoding="ascii") as lines:
            for line in lines:
                user, *items = line.split()
                for item in items:
                    yield 0, user, item, 1


def gowalla(raw):
    valid = raw / "gowalla/valid.txt"
    parts = [raw / "gowalla/train.txt", raw / "gowalla/test.txt"] + [valid] * valid.is_file()
    return histories(*parts)


SETS = {
    "ml100k": (["u.data"], lambda raw: movielens(raw / "u.data", None)),
    "ml1m": (["ratings.dat|ml1m-ratings.parquet"], ml1m),
    "lastfm2k": (["user_artists.dat"], lastfm2k),
    "lastfm": (["last-fm/train.txt", "last-fm/test.txt"],
               lambda raw: histories(raw / "last-fm/train.txt", raw / "last-fm/test.txt")),
    "lastfm_kgat_part": (["last-fm/test.txt"], lambda raw: histories(raw / "last-fm/test.txt")),
    "gowalla": (["gowalla/train.txt", "gowalla/test.txt"], gowalla),
    "amazonbook": (["amazon-book/train.txt", "amazon-book/test.txt"],
                   lambda raw: histories(raw / "amazon-book/train.txt", raw / "amazon-book/test.txt")),
}


def main(raw, out, *names):
    raw, out = Path(raw), Path(out)
    unknown = set(names) - set(SETS)
    if unknown:
        sys.exit(f"no such set: {', '.join(sorted(unknown))}; there are {', '.join(SETS)}")
    out.mkdir(parents=True, exist_ok=True)
    for name in names or SETS:
        needs, read = SETS[name]
        missing = [need for need in needs if not any((raw / path).is_file() for path in need.split("|"))]
        if missing:
            print(f"{name}: passed over, {raw} has no {' and no '.join(missing)}")
            continue
        path, partial = out / f"{name}.csv", out / f"{name}.csv.partial"
        rows, users, tracks = 0, set(), set()
        with open(partial, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["time", "user", "track", "action", "value"])
            for time, user, track, value in read(raw):
                writer.writerow([time, user, track, "play", value])
                rows += 1
                users.add(user)
                tracks.add(track)
        partial.rename(path)
        print(f"{name}: {rows} events of {len(users)} users and {len(tracks)} tracks in {path}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

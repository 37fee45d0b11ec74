"""Public data sets as event files for debut: `python datasets.py RAW OUT [SET …]`.

RAW is a folder with the files as their publishers name them (below); OUT gets one `SET.csv` each, with the columns
time,user,track,action,value. Nothing is downloaded here, and none of the data is part of this repository: fetch each
set from its publisher, under its publisher's terms. A set whose files are not in RAW is passed over.

ml100k      RAW/u.data, of ml-100k.zip. MovieLens, https://grouplens.org/datasets/movielens/100k/.
            For research; not for commercial use without permission; no redistribution. F. M. Harper and
            J. A. Konstan, The MovieLens Datasets, ACM TiiS 5 (2015). 100,000 ratings with their times.
ml100k_actions
            The same ratings as three actions; see below.
mlsmall_actions
            RAW/ratings.csv, of ml-latest-small.zip, https://grouplens.org/datasets/movielens/latest/, in either of its
            versions (October 2016: 671 users; September 2018: 610). Terms and paper as above; its publisher calls it a
            development set, not for results that are to be shared: it is here for its 20 years of real times.
nyphil      RAW/nyphil/*.json, of Programs/json in https://github.com/nyphilarchive/PerformanceHistory (not complete.json).
            New York Philharmonic, CC0. Who conducts which work, with the dates of the concerts; those since 1970,
            where Unix time begins.
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

Sets of several actions, for actions.py. Of MovieLens every rating is a play, one of 4 or 5 stars also a like, and one of
less than 3 also a dislike. Of nyphil conductors and soloists are the listeners: every concert is a play of each work that
they conducted or played in, a work that they come back to in another season a like (at the first concert of that
season), and each programme a playlist of its works.
"""

import csv
import datetime
import json
import sys
from pathlib import Path


def movielens(path, separator):
    """Time, user, film and stars of each rating."""
    with open(path, encoding="latin-1") as lines:
        for line in lines:
            if line.startswith(("#", "userId")):
                continue  # some copies have a heading
            user, item, rating, time = line.split(separator)[:4]
            yield int(time), user, item, float(rating)


def plays(ratings):
    for time, user, item, _rating in ratings:
        yield time, user, item, "play", 1


def actions(ratings):
    for time, user, item, rating in ratings:
        yield time, user, item, "play", 1
        if rating >= 4:
            yield time, user, item, "like", 1
        elif rating < 3:
            yield time, user, item, "dislike", 1


def nyphil(raw):
    seasons = {}  # of a person and a work: the last season in which they met
    programmes = [p for path in sorted((raw / "nyphil").glob("*.json")) for p in json.loads(path.read_text())["programs"]]
    day = lambda concert: datetime.datetime.fromisoformat(concert["Date"][:10] + "T20:00:00+00:00")  # noqa: E731
    concerts = [(int(day(c).timestamp()), p) for p in programmes for c in p["concerts"] if c["Date"] >= "1970"]
    concerts.sort(key=lambda pair: pair[0])
    listed = set()
    for time, programme in concerts:
        works = [work for work in programme["works"] if "interval" not in work and work["ID"][0] != "*"]
        met = {}
        for work in works:
            people = [work.get("conductorName"), *(soloist["soloistName"] for soloist in work["soloists"])]
            for person in {" ".join(name.split()) for name in people if name and name.strip()}:
                met[person, work["ID"].split("*")[0]] = None  # its movements are one work
        for person, work in sorted(met):
            yield time, person, work, "play", 1
            if seasons.setdefault((person, work), programme["season"]) != programme["season"]:
                seasons[person, work] = programme["season"]
                yield time, person, work, "like", 1
        if programme["id"] not in listed:
            listed.add(programme["id"])
            for work in sorted({work["ID"].split("*")[0] for work in works}):
                yield time, f"playlist:{programme['id']}", work, "add", 1


def ml1m(raw):
    if (raw / "ratings.dat").is_file():
        yield from plays(movielens(raw / "ratings.dat", "::"))
        return
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(raw / "ml1m-ratings.parquet")
    for user, item in zip(table["userID"].to_pylist(), table["movieID"].to_pylist()):
        yield 0, user, item, "play", 1


def lastfm2k(raw):
    with open(raw / "user_artists.dat", encoding="utf-8") as lines:
        for line in lines:
            user, artist, count = line.split()
            if user == "userID":
                continue  # the heading, which some copies lack
            yield 0, user, artist, "play", int(count)


def histories(*paths):
    """Files of lines `user item item …`."""
    for path in paths:
        with open(path, encoding="ascii") as lines:
            for line in lines:
                user, *items = line.split()
                for item in items:
                    yield 0, user, item, "play", 1


def gowalla(raw):
    valid = raw / "gowalla/valid.txt"
    parts = [raw / "gowalla/train.txt", raw / "gowalla/test.txt"] + [valid] * valid.is_file()
    return histories(*parts)


SETS = {
    "ml100k": (["u.data"], lambda raw: plays(movielens(raw / "u.data", None))),
    "ml100k_actions": (["u.data"], lambda raw: actions(movielens(raw / "u.data", None))),
    "mlsmall_actions": (["ratings.csv"], lambda raw: actions(movielens(raw / "ratings.csv", ","))),
    "nyphil": (["nyphil/2004-05_TO_2010-11.json"], nyphil),
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
            for time, user, track, action, value in read(raw):
                writer.writerow([time, user, track, action, value])
                rows += 1
                users.add(user)
                tracks.add(track)
        partial.rename(path)
        print(f"{name}: {rows} events of {len(users)} users and {len(tracks)} tracks in {path}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])

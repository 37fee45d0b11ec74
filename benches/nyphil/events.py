#!/usr/bin/env python3
"""Soloists as listeners: `python events.py --programmes DIR --tracks DIR/tracks.csv --out DIR`.

Every concert in which a soloist took part in a work is a play of that work by him. Written are the events of all works, with
sound or not, since all of them teach the factors.

    events.csv   time,user,track,action,value: soloist, work id, play, 1
    split.csv    id,part of the works with sound: a quarter by hash is `test`, a tenth of the others `valid`, the rest `train`

debut takes no time before 1970 or after today, and the programmes cover more years than lie between. So time runs SLOWER times
slower, from 1970 on, the order kept: a half-life of 56 days in a setting would be one of 224 here (the recipe uses none).
"""

import argparse
import csv
import hashlib
import os
from collections import Counter
from pathlib import Path

from programmes import read

BEGIN = -4_039_286_400  # 1842-01-01: the orchestra's first season
SLOWER = 4  # 2011 becomes 2012


def part_of(id):
    """A work's part, the same whatever other works there are."""
    draw = [int.from_bytes(hashlib.blake2b(f"{what} {id}".encode(), digest_size=8).digest()) / 2**64 for what in ("test", "valid")]
    return "test" if draw[0] < 0.25 else "valid" if draw[1] < 0.1 else "train"


def write(path, header, rows):
    part = path.with_name(path.name + ".part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)
    os.replace(part, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--programmes", required=True, help="Programs/json of the archive")
    parser.add_argument("--tracks", required=True, help="tracks.csv of render.py")
    parser.add_argument("--until", type=int, default=2011, help="the first season that is left out")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    _, performances = read(args.programmes, args.until)
    events = sorted(((p.time - BEGIN) // SLOWER, p.soloist, p.work, "play", 1) for p in performances)
    with open(args.tracks, encoding="utf-8") as file:
        heard = [row["id"] for row in csv.DictReader(file)]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "events.csv", ["time", "user", "track", "action", "value"], events)
    parts = [(id, part_of(id)) for id in heard]
    write(out / "split.csv", ["id", "part"], parts)
    known = {event[2] for event in events}
    print(f"{len(events)} plays of {len(known)} works by {len({e[1] for e in events})} soloists; "
          f"{sum(id in known for id in heard)} works with sound: {dict(Counter(part for _, part in parts))}")


if __name__ == "__main__":
    main()

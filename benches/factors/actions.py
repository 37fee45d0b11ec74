"""Several actions, and how soon they age: `python actions.py DATA [SET …]`, with DATA the folder that datasets.py filled
and `debut` (see --debut) built in release. Needs no package.

One table for each set. Rows are settings of `debut evaluate factors`: each action alone, one matrix for all with likes of
several weights, a factorisation for each action, and, for the one matrix, half-lives and windows.

The log is cut at several moments. Each time all that was before is learned from, and the tenth of the events after it
predicted: for each listener of both, all tracks that he has not met are ranked; relevant is what he meets and does more
for than against. Alpha and the regularisation of each row are chosen from the grid below at every cut anew, by the mean
NDCG@10 at the earlier cuts, of which the first two serve for nothing else. So every row has its own settings, and none
has seen what it is scored on.

A figure is the mean over listeners of each listener's mean over the cuts, with its standard error; the difference is
that of the same listeners from the row "one matrix, likes 2, nothing ages", paired. All rows rank the same tracks for the
same listeners; but without playlists a few tracks are not known that only playlists hold.

"Folded in" are listeners who come after the fit: with factorisations per action they are solved from all their actions
at once, as `debut recommend` does, instead of action by action.
"""

import argparse
import csv
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Shares of the events, by time: where the log is cut, each time with a tenth of it after the cut.
TUNING, REPORTED = [0.3, 0.4], [0.5, 0.6, 0.7, 0.8, 0.9]
GRID = list(itertools.product([1, 4, 16, 64], [10, 30]))  # alpha, regularisation
ONE_THREAD = os.environ | {"RAYON_NUM_THREADS": "1"}
NOTHING_AGES = {"confidence.half_life_days": 0}
METHODS = ["als", "als, folded in"]


def per_action(**weights):
    return {f"per_action.{name}": weight for name, weight in weights.items()}


BASE = "one matrix, likes 2, nothing ages"
ACTIONS = {
    "plays alone": per_action(play=1),
    "likes alone": per_action(like=1),
    "one matrix, no likes": {"confidence.like": 0},
    "one matrix, likes 1": {"confidence.like": 1},
    BASE: {},
    "one matrix, likes 4": {"confidence.like": 4},
    "per action, plays 1, likes 1": per_action(play=1, like=1),
    "per action, plays 1, likes 2": per_action(play=1, like=2),
    "per action, plays 1, likes 4": per_action(play=1, like=4),
}
PLAYLISTS = {
    "playlists alone": per_action(add=1),
    "one matrix, no playlists": {"confidence.playlist": 0},
    "per action, plays 1, likes 2, playlists 1": per_action(play=1, like=2, add=1),
}
HALF_LIVES, WINDOWS = [28, 56, 84, 112, 224, 365, 1460], [28, 90, 365]
RECENCY = {f"half-life {days} days": {"confidence.half_life_days": days} for days in HALF_LIVES}
RECENCY |= {f"window {days} days": {"confidence.window_days": days} for days in WINDOWS}
SETS = {
    "ml100k_actions": ACTIONS | RECENCY,
    "mlsmall_actions": ACTIONS | RECENCY,
    "nyphil": ACTIONS | PLAYLISTS | RECENCY,
}


class Cut:
    """A log up to the end of what is predicted, and the share of it that is."""

    def __init__(self, header, events, share, path):
        self.path = path
        until = round((share + 0.1) * len(events))
        self.test_share = 1 - share * len(events) / until
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *events[:until]])

    def run(self, debut, settings):
        """For each method, each listener's (NDCG@10, recall@20); and for how many what was ranked. None where there is nothing
        to learn from."""
        with tempfile.TemporaryDirectory() as scratch:
            scores = Path(scratch) / "scores.csv"
            command = [debut, "evaluate", "factors", "--events", self.path, "--test-share", self.test_share]
            command += ["--listeners", scores, "-k", "10,20", "--json"]
            command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=ONE_THREAD)
            if done.returncode != 0 and "at least one that carries weight" in done.stderr:
                return None  # a window that is shorter than a pause in the log
            if done.returncode != 0:
                sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            with open(scores, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        found = {line["method"]: {} for line in lines}
        for row in rows:
            ndcg, recall = found[row["method"]].setdefault(row["user"], [None, None])
            found[row["method"]][row["user"]] = [float(row["ndcg"]), recall] if row["k"] == "10" else [ndcg, float(row["recall"])]
        return found, tuple(lines[0][name] for name in ("users", "repeated"))


def by_listener(runs, method, listeners):
    """Each listener's means over the cuts; `listeners` are those of each cut. Where there was nothing to learn from, nothing is hit."""
    found = {}
    for run, users in zip(runs, listeners):
        for user in users:
            found.setdefault(user, []).append(run[0][method][user] if run else [0.0, 0.0])
    return {user: [statistics.fmean(v) for v in zip(*values)] for user, values in found.items()}


def mean_se(values):
    return statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))


def cell(values, sign=""):
    mean, se = mean_se(values)
    return f"{mean:{sign}.4f} ± {se:.4f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; all that are there")
    parser.add_argument("--debut", default="target/release/debut", type=Path)
    parser.add_argument("--jobs", default=2, type=int, help="runs at a time")
    parser.add_argument("--json", type=Path, help="writes all means here, too")
    arguments = parser.parse_args()
    arguments.debut = arguments.debut.resolve()
    unknown = set(arguments.sets) - set(SETS)
    if unknown:
        sys.exit(f"no such set: {', '.join(sorted(unknown))}")
    record = []
    for name in arguments.sets or [s for s in SETS if (arguments.data / f"{s}.csv").is_file()]:
        with open(arguments.data / f"{name}.csv", newline="", encoding="utf-8") as file:
            header, *events = csv.reader(file)
        events.sort(key=lambda event: int(event[0]))
        years = (int(events[-1][0]) - int(events[0][0])) / 86400 / 365.25
        rows = {row: NOTHING_AGES | settings for row, settings in SETS[name].items()}
        with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(arguments.jobs) as pool:
            cuts = {share: Cut(header, events, share, Path(scratch) / f"{share}.csv") for share in TUNING + REPORTED}

            def run(job):
                row, (alpha, regularisation), share = job
                settings = rows[row] | {"confidence.alpha": alpha, "als.regularisation": regularisation}
                return cuts[share].run(arguments.debut, settings)

            jobs = list(itertools.product(rows, GRID, cuts))
            done = dict(zip(jobs, pool.map(run, jobs)))

        def ndcg(row, grid, share, method):
            run = done[row, grid, share]
            return statistics.fmean(v[0] for v in run[0][method].values()) if run else 0.0

        best, runs = {}, {}
        for row, method in itertools.product(rows, METHODS):
            if any(run and method not in run[0] for run in (done[row, GRID[0], share] for share in cuts)):
                continue
            for share in REPORTED:
                earlier = [cut for cut in cuts if cut < share]
                best[row, method] = max(GRID, key=lambda grid: sum(ndcg(row, grid, cut, method) for cut in earlier))
                runs.setdefault((row, method), []).append(done[row, best[row, method], share])
        ranked = [{run[1] for run in same if run} for same in zip(*runs.values())]
        assert all(len(one) == 1 for one in ranked), f"not the same was ranked: {ranked}"

        listeners = [run[0]["als"].keys() for run in runs[BASE, "als"]]
        base = by_listener(runs[BASE, "als"], "als", listeners)
        table = [("popularity", None, by_listener(runs[BASE, "als"], "popularity", listeners))]
        for row, method in runs:
            label = row if method == "als" else f"{row}: folded in"
            table.append((label, best[row, method], by_listener(runs[row, method], method, listeners)))
        print(f"\n{name}: {len(events)} events in {years:.1f} years, {len(base)} listeners in {len(REPORTED)} cuts\n")
        print("| | last alpha, λ | NDCG@10 | difference | recall@20 | difference |")
        print("|---|---|---|---|---|---|", flush=True)
        for label, grid, of in table:
            cells = []
            for metric in range(2):
                cells.append(cell([values[metric] for values in of.values()]))
                cells.append("" if label == BASE else cell([of[user][metric] - base[user][metric] for user in of], "+"))
            grid_text = f"{grid[0]}, {grid[1]}" if grid else ""
            print(f"| {label} | {grid_text} | {' | '.join(cells)} |", flush=True)
            record.append({"set": name, "row": label, "grid": grid, "cells": cells})
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What each part of the recipe is worth: the network trained without it, or with another in its place.

Every row is one change to the recipe of models/game-music/make/recipe.toml, trained with a few seeds on one
split, and scored on the held-out tracks. The figures are means over seeds with their standard errors, beside
the difference to the recipe with the same seeds, which is what tells: a seed's luck is common to a pair of runs.

    python3 benches/training/ablations.py WORK [--split track artist time] [--seeds 1 2 3] [--only NAME ...]

WORK is that of models/game-music/make/make.sh (its data set and events must be there). Finished runs are kept in
WORK/ablations and not run again, so the script can be stopped, and rows added. Needs Python 3.11, no packages.
A run takes some five minutes of two cores.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
RECIPE = HERE.parent.parent / "models/game-music/make/recipe.toml"
METRICS = ["map", "auc", "recall", "ndcg", "cosine"]


def run(debut, *arguments):
    """The lines of JSON that a verb prints."""
    done = subprocess.run([debut, *map(str, arguments), "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, arguments))}: exit {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def scores(debut, work, share, split, name, row, seed):
    """The metrics of one run, with the sound alone and with the artist's songs; trained where that was not done."""
    out = work / "ablations" / split / name / str(seed)
    kept = out / "scores.json"
    data, events = work / f"data-{share}", work / f"events-{share}.csv"
    made_by = json.dumps({"row": row, "recipe": RECIPE.read_text(), "data": (data / "data.toml").read_text()})
    if kept.exists():
        found = json.loads(kept.read_text())
        if found["made_by"] == made_by:
            return found["methods"]
        raise SystemExit(f"{out}: of another recipe or other data; remove the folder to run it again")
    factors = work / f"factors-{share}-{split}"
    if not (factors / "factors.toml").exists():
        run(debut, "--config", RECIPE, "factorize", events, "--split", data / f"splits/{split}.csv", "--out", factors)
    settings = [x for s in row.get("set", []) for x in ("--set", s)]
    run(debut, "--config", RECIPE, "--set", f"train.seed={seed}", *settings, "train", "--data", data,
        "--factors", factors, "--out", out, "--name", name, *row.get("train", []))
    lines = run(debut, "evaluate", "--model", out, "--factors", factors, "--events", events, "--data", data,
                *row.get("evaluate", []))
    methods = {line["method"]: line for line in lines if "method" in line}
    if "network" not in methods:
        raise SystemExit(f"{out}: evaluate printed no line of the network")
    partial = kept.with_suffix(".partial")
    partial.write_text(json.dumps({"made_by": made_by, "methods": methods}))
    partial.replace(kept)
    for checkpoint in ("last.safetensors", "best.safetensors"):
        (out / checkpoint).unlink(missing_ok=True)  # 190 MB a run
    return methods


def mean_se(values):
    n = len(values)
    mean = sum(values) / n
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else float("nan")


def of(methods, method, metric):
    found = methods[method][metric]
    return found["mean"] if isinstance(found, dict) else found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=Path, default=HERE / "ablations.toml")
    parser.add_argument("--split", nargs="+", default=["track"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--share", default="0.6", help="as make.sh's SHARE")
    parser.add_argument("--debut", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/debut"))
    args = parser.parse_args()
    rows = tomllib.loads(args.rows.read_text())
    rows = {name: row for name, row in rows.items() if not args.only or name in args.only}

    for split in args.split:
        table = {}
        for seed in args.seeds:
            for name, row in rows.items():
                print(f"{split}: {name}, seed {seed}", file=sys.stderr)
                table.setdefault(name, []).append(scores(args.debut, args.work, args.share, split, name, row, seed))
        print(f"\n{split}, seeds {args.seeds}\n")
        print("| change | " + " | ".join(METRICS) + " | recall, to the recipe |")
        print("|---|" + "---|" * (len(METRICS) + 1))
        for name, runs in table.items():
            method = rows[name].get("method", "network")
            cells = [mean_se([of(r, method, m) for r in runs]) for m in METRICS]
            beside = [of(a, method, "recall") - of(b, "network", "recall") for a, b in zip(runs, table.get("recipe", []))]
            difference = "{:+.4f} ± {:.4f}".format(*mean_se(beside)) if beside and name != "recipe" else ""
            print(f"| {rows[name]['what']} | " + " | ".join(f"{m:.4f} ± {s:.4f}" for m, s in cells) + f" | {difference} |")


if __name__ == "__main__":
    main()

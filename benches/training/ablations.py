#!/usr/bin/env python3
"""What each part of the recipe is worth, and what few labels leave of it: the network trained with one thing changed.

    python3 benches/training/ablations.py WORK [--rows FILE] [--split track] [--seeds 1 2 3] [--only ROW ...]

Every row of FILE (ablations.toml here, or few_labels.toml) is one change to the recipe of models/game-music/make/recipe.toml,
trained with a few seeds on one split, and scored on the held-out tracks. The figures are means over seeds with their standard
errors, beside the difference to the first row with the same seeds, which is what tells: a seed's luck is common to a pair of
runs.

WORK is that of models/game-music/make/make.sh (its data set and events must be there). Finished runs are kept in
WORK/ablations and not run again, so the script can be stopped, and rows added. Needs Python 3.11 and `pip install numpy blake3`.
A run of 40 epochs takes two to three minutes of two cores, all of both files four hours.

A row: `what` it is; `set`, settings; `train`, further arguments, in which {ROW} is the run of another row with the same seed and
{pre} that of [pre], made by `debut pretrain`; `of`, whose network it scores another way; `evaluate`, arguments; `artist = true`
for the network and the artist's songs; `choose`, how {chosen} is made (below).
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
from blake3 import blake3

HERE = Path(__file__).parent
RECIPE = HERE.parent.parent / "models/game-music/make/recipe.toml"
METRICS = ["map", "auc", "recall", "ndcg", "cosine"]


class Bench:
    def __init__(self, args, split):
        self.debut, self.work, self.split, self.share = args.debut, args.work, split, args.share
        self.data, self.events = args.work / f"data-{args.share}", args.work / f"events-{args.share}.csv"
        self.factors = args.work / f"factors-{args.share}-{split}"
        self.rows = tomllib.loads(args.rows.read_text())
        self.common = self.rows.pop("common", {}).get("set", [])
        self.pre = self.rows.pop("pre", None)
        wanted = self.data / f"splits/{split}.csv"
        if not (self.factors / "factors.toml").exists():
            self.run("factorize", self.events, "--split", wanted, "--out", self.factors)
        if (self.factors / "split.csv").read_text() != wanted.read_text():
            raise SystemExit(f"{self.factors}: of another split than {wanted}; remove the folder to make it again")

    def run(self, verb, *arguments, settings=()):
        """The objects that a verb prints. (Exit 1 of `embed`: some tracks could not be heard.)"""
        settings = [x for s in settings for x in ("--set", s)]
        command = [self.debut, "--config", RECIPE, *settings, verb, *arguments, "--json"]
        done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        if done.returncode != 0 and (verb, done.returncode) != ("embed", 1):
            raise SystemExit(f"{' '.join(map(str, command))}: exit {done.returncode}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def folder(self, name, seed):
        return self.work / "ablations" / f"{self.share}-{self.split}" / name / str(seed)

    def made_by(self, row):
        row = {key: value for key, value in row.items() if key != "what"}
        texts = [RECIPE, self.data / "data.toml", self.factors / "factors.toml"]
        from_rows = [x[1:-1] for x in row.get("train", []) if x[:1] == "{" and x[1:-1] in self.rows]
        from_rows += [row["choose"]["model"]] if "choose" in row else []
        after = [self.pre] * ("{pre}" in row.get("train", [])) + [self.rows[name] for name in from_rows]
        return {"row": row, "common": self.common, "texts": [t.read_text() for t in texts], "after": [self.made_by(r) for r in after]}

    def is_made(self, out, made_by):
        """Whether the run is there, of this recipe and this data."""
        kept = out / "made_by.json"
        if not kept.exists():
            return False
        if json.loads(kept.read_text()) != made_by:
            raise SystemExit(f"{out}: of another recipe or other data; remove the folder to run it again")
        return True

    def keep(self, out, made_by):
        # 190 MB a run; of pre-training the best is what is started from.
        for checkpoint in ["last.safetensors"] + ["best.safetensors"] * (out / "model.toml").exists():
            (out / checkpoint).unlink(missing_ok=True)
        partial = out / "made_by.partial"
        partial.write_text(json.dumps(made_by))
        partial.replace(out / "made_by.json")

    def pretrained(self):
        """One start for all seeds: what is asked is what a start is worth, not what luck it has."""
        out, made_by = self.folder("pre", 1), self.made_by(self.pre)
        if not self.is_made(out, made_by):
            self.run("pretrain", "--data", self.data, "--factors", self.factors, "--out", out, settings=self.pre["set"])
            self.keep(out, made_by)
        return out

    def trained(self, name, seed):
        """The run of a row, made where it is not."""
        row = self.rows[name]
        if "of" in row:
            return self.trained(row["of"], seed)
        out, made_by = self.folder(name, seed), self.made_by(row)
        if self.is_made(out, made_by):
            return out
        print(f"{self.split}: {name}, seed {seed}", file=sys.stderr)
        arguments = []
        for argument in row.get("train", []):
            if argument == "{pre}":
                argument = self.pretrained()
            elif argument == "{chosen}":
                argument = self.chosen(out, seed, **row["choose"])
            elif argument[:1] == "{":
                argument = self.trained(argument[1:-1], seed)
            arguments.append(argument)
        self.run("train", "--data", self.data, "--factors", self.factors, "--out", out, "--name", name, *arguments,
                 settings=[f"train.seed={seed}", *self.common, *row.get("set", [])])
        self.keep(out, made_by)
        return out

    def chosen(self, out, seed, model, share):
        """Which tracks to label next: a file with the ids of those that the run of `model` was labelled with, and of as many
        others as make `share` of all, those of which its answers to one window and to all windows differ most.
        """
        teacher = self.trained(model, seed)
        with open(self.factors / "split.csv", encoding="utf-8") as file:
            parts = {row["id"]: row["part"] for row in csv.DictReader(line for line in file if line[0] != "#")}
        plays = zip((self.factors / "tracks.ids").read_text().splitlines(), np.load(self.factors / "plays.npy"))
        training = {name for name, n in plays if n > 0 and parts.get(name) == "train"}
        vectors = []
        out.mkdir(parents=True, exist_ok=True)
        for windows in (1, 6):
            at = out / f"windows-{windows}.npy"
            self.run("embed", "--manifest", self.work / "audio/released.csv", "--model", teacher, "--segments", windows, "--out", at)
            vectors.append(dict(zip(at.with_suffix(".ids").read_text().splitlines(), np.load(at))))
        differ = {name: 1 - float(one @ vectors[1][name]) for name, one in vectors[0].items() if name in vectors[1]}
        labelled = set(self.labelled(sorted(training), seed, float(self.rows[model]["train"][1])))
        others = sorted(training - labelled, key=lambda name: -differ.get(name, 0))
        file = out / "chosen.ids"
        file.write_text("\n".join([*sorted(labelled), *others[: round(share * len(training)) - len(labelled)]]) + "\n")
        return file

    def labelled(self, names, seed, share):
        """As `debut train --labelled SHARE` draws them: by BLAKE3 of the seed and the id."""
        def place(name):
            digest = blake3((seed ^ 0x6C6162).to_bytes(8, "little") + name.encode()).digest()
            return (int.from_bytes(digest[:8], "little") >> 11) / 2**53

        return [name for name in names if place(name) < share]

    def scores(self, names, seed):
        """{row: {metric: value}} of one seed; one evaluation for all rows that ask for the same."""
        found = {}
        for asked in {tuple(self.rows[name].get("evaluate", [])) for name in names}:
            of = [name for name in names if tuple(self.rows[name].get("evaluate", [])) == asked]
            runs = {self.rows[name].get("of", name): self.trained(name, seed) for name in of}
            models = [x for run in runs.values() for x in ("--model", run)]
            lines = self.run("evaluate", *models, "--factors", self.factors, "--events", self.events, "--data", self.data, *asked)
            methods = {line["method"]: line for line in lines if "method" in line}
            for name in of:
                called = tomllib.loads((runs[self.rows[name].get("of", name)] / "model.toml").read_text())["name"]
                method = "network" if len(runs) == 1 else f"network {called}"
                # Where no artist has other songs, nothing joins, and there is no such line.
                line = methods.get(method + (" + artist" if self.rows[name].get("artist") else ""), methods[method])
                found[name] = {m: line[m]["mean"] if isinstance(line[m], dict) else line[m] for m in METRICS}
        return found


def mean_se(values):
    n = len(values)
    mean = sum(values) / n
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else float("nan")


def shown(mean_and_se, sign=""):
    mean, se = mean_and_se
    return f"{mean:{sign}.4f}" + ("" if math.isnan(se) else f" ± {se:.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=Path, default=HERE / "ablations.toml")
    parser.add_argument("--split", default="track", choices=["track", "artist", "time"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--share", default="0.6", help="as make.sh's SHARE")
    parser.add_argument("--debut", default=os.path.join(os.environ.get("CARGO_TARGET_DIR", "target"), "release/debut"))
    args = parser.parse_args()
    bench = Bench(args, args.split)
    if unknown := set(args.only or []) - set(bench.rows):
        raise SystemExit(f"--only: no row {', '.join(sorted(unknown))} in {args.rows}")
    names = [name for name in bench.rows if not args.only or name in args.only]
    seeds = [bench.scores(names, seed) for seed in args.seeds]

    print(f"\n{args.split}, seeds {args.seeds}\n")
    print("| change | " + " | ".join(METRICS) + f" | recall, less {bench.rows[names[0]]['what']} |")
    print("|---|" + "---|" * (len(METRICS) + 1))
    for name in names:
        cells = [shown(mean_se([seed[name][m] for seed in seeds])) for m in METRICS]
        less = shown(mean_se([seed[name]["recall"] - seed[names[0]]["recall"] for seed in seeds]), "+")
        print(f"| {bench.rows[name]['what']} | " + " | ".join(cells) + f" | {less} |")


if __name__ == "__main__":
    main()

"""debut's implicit ALS beside implicit's and irspack's: `python run.py DATA [SET …]`, with DATA the folder that
datasets.py filled and `debut` (see --debut) built in release.

One table: data set × engine, with the CPU seconds of a full iteration (both halves), NDCG@10, recall@20 and peak memory.

The same for all engines: the data, the threads, the dimensions, the iterations, and the loss of Hu, Koren and Volinsky
2008, Σ c (p − x·y)² + λ (Σ‖x‖² + Σ‖y‖²) with c = 1 + α r, plain λ. r is the number of plays, or ln(1 + plays) where SETS
says so. implicit and irspack take 3 steps of conjugate gradient; debut, whose steps are preconditioned, 2 (its default)
or 3. Each run is a process of its own; the engines take turns, and the table has medians over the runs. Seconds are CPU seconds
(user and system, of all threads), which a busy machine disturbs less than the wall's.

Of each user with 5 tracks or more, 20 % are held out, chosen at random; all tracks that he has not met are ranked for
him. Quality is that of the first run's factors, over a fixed sample of users, by one function for all engines. Memory
is the peak of the whole process, the Python engines' with the interpreter and its libraries, and, in brackets, what it
grew by after these were loaded, matrix and factors included. debut's is from its start.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

# α, λ and growth for each set: the best of a grid of α {1, 4, 10, 40} and plain λ {.05, 1, 5, 20}.
SETS = {
    "ml100k": (1, 20, "linear"),
    "ml1m": (1, 20, "linear"),
    "lastfm2k": (1, 20, "log"),
    "lastfm_kgat_part": (40, 3, "linear"),
    "gowalla": (40, 3, "linear"),
    "amazonbook": (40, 3, "linear"),
}
ENGINES = ["implicit CG", "implicit Cholesky", "irspack CG", "debut CG", "debut CG, 3 steps", "debut Cholesky"]


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb():
    """Of this program; getrusage would count the process that started it, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# --- the data ------------------------------------------------------------------------------------------------------


def split(path, growth, seed):
    """Training matrix of r [users, tracks] and held-out tracks by user, from the events of a set."""
    import csv

    import numpy as np
    import scipy.sparse as sp

    users, tracks, rows, columns, values = {}, {}, [], [], []
    with open(path, newline="", encoding="utf-8") as file:
        for event in csv.DictReader(file):
            rows.append(users.setdefault(event["user"], len(users)))
            columns.append(tracks.setdefault(event["track"], len(tracks)))
            values.append(float(event["value"]))
    plays = sp.csr_matrix((values, (rows, columns)), dtype=np.float32)  # pairs that come twice are summed
    random = np.random.default_rng(seed)
    entries = plays.tocoo()
    order = np.lexsort((random.random(plays.nnz), entries.row))
    length = np.bincount(entries.row, minlength=plays.shape[0])
    first = np.concatenate([[0], np.cumsum(length)])
    place = np.arange(plays.nnz) - first[entries.row[order]]
    test = np.where(length >= 5, np.rint(0.2 * length), 0).astype(int)
    held_out = np.zeros(plays.nnz, dtype=bool)
    held_out[order] = place < test[entries.row[order]]
    part = lambda kept: sp.csr_matrix(  # noqa: E731
        (entries.data[kept], (entries.row[kept], entries.col[kept])), shape=plays.shape
    )
    train, rest = part(~held_out), part(held_out)
    return train, rest, (train.log1p() if growth == "log" else train)


def write_events(path, train):
    """The training plays for debut: u0000001 is row 1, so that names sort as numbers do."""
    entries = train.tocoo()
    with open(path, "w", encoding="ascii") as file:
        file.write("time,user,track,action,value\n")
        for user, track, value in zip(entries.row, entries.col, entries.data):
            file.write(f"0,u{user:07},t{track:07},play,{value:g}\n")


# --- the engines: each run is a process that writes users, tracks and a report into a folder ------------------------


def run_python(engine, folder, settings):
    """In the process of one run."""
    import numpy as np
    import scipy.sparse as sp

    if engine.startswith("implicit"):
        from implicit.cpu.als import AlternatingLeastSquares
    else:
        from irspack.recommenders.ials import IALSRecommender
    before = peak_mb()
    r = sp.load_npz(settings["matrix"])
    times = [cpu()]
    if engine.startswith("implicit"):
        model = AlternatingLeastSquares(
            factors=settings["dimensions"],
            regularization=settings["regularisation"],
            alpha=1.0,
            use_cg=engine.endswith("CG"),
            iterations=settings["iterations"],
            num_threads=settings["threads"],
            random_state=settings["seed"],
        )
        r.data = 1 + settings["alpha"] * r.data  # implicit takes c itself
        model.fit(r, show_progress=False, callback=lambda *_: times.append(cpu()))
        users, tracks = model.user_factors, model.item_factors
    else:
        r.data = settings["alpha"] * r.data  # irspack adds its unobserved weight, 1
        model = IALSRecommender(
            r,
            n_components=settings["dimensions"],
            alpha0=1.0,
            reg=settings["regularisation"],
            nu=0.0,
            loss_type="ORIGINAL",
            solver_type="CG",
            max_cg_steps=3,
            n_threads=settings["threads"],
            random_seed=settings["seed"],
        )
        trainer = model._create_trainer()
        times = [cpu()]
        for _ in range(settings["iterations"]):
            trainer.run_epoch()
            times.append(cpu())
        users, tracks = trainer.core_trainer.user, trainer.core_trainer.item
    peak = peak_mb()
    # The first iteration has the transpose in it, and cold caches.
    seconds = statistics.median(b - a for a, b in zip(times[1:], times[2:]))
    np.savez(folder / "factors.npz", users=users, tracks=tracks)
    report = {"seconds": seconds, "peak": peak, "grown": peak - before}
    (folder / "report.json").write_text(json.dumps(report))


# A process inherits the peak memory of the one that starts it. So runs are started by this one, which is small.
LAUNCHER = """
import json, os, subprocess, sys
for line in sys.stdin:
    process = subprocess.Popen(json.loads(line), stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    print(json.dumps([process.returncode, used.ru_maxrss / 1024, output]), flush=True)
"""


class Launcher:
    def __init__(self, threads):
        environment = os.environ | {
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": str(threads),
            "RAYON_NUM_THREADS": str(threads),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, *command):
        """Runs it; its peak memory in MB and standard output."""
        self.process.stdin.write(json.dumps([str(word) for word in command]) + "\n")
        self.process.stdin.flush()
        code, peak, output = json.loads(self.process.stdout.readline())
        if code != 0:
            sys.exit(f"{' '.join(map(str, command))} ended with {code}")
        return peak, output


def run_debut(launcher, engine, folder, settings):
    import numpy as np

    peak, output = launcher.run(
        *(settings["debut"], "factorize", settings["events"], "--out", folder / "factors", "--json"),
        *("--set", f"als.iterations={settings['iterations']}"),
        *("--set", f"als.dimensions={settings['dimensions']}"),
        *("--set", f"als.regularisation={settings['regularisation']}"),
        *("--set", "als.regularisation_exponent=0"),
        *("--set", f"als.seed={settings['seed']}"),
        *("--set", f"als.solver={engine.split()[1].strip(',').lower()}"),
        *(("--set", "als.cg_steps=3") if "3 steps" in engine else ()),
        *("--set", f"confidence.alpha={settings['alpha']}"),
        *("--set", f"confidence.growth={settings['growth']}"),
        *("--set", "confidence.half_life_days=0"),
    )
    seconds = statistics.median(json.loads(output)["cpu_seconds"][1:])
    shapes = np.load(folder / "factors/users.npy"), np.load(folder / "factors/tracks.npy")
    factors = []
    for name, rows, values in zip(("users", "tracks"), settings["shape"], shapes):
        # Rows by number; what has no training event has a row of zeros.
        whole = np.zeros((rows, settings["dimensions"]), dtype=np.float32)
        numbers = [int(line[1:]) for line in (folder / f"factors/{name}.ids").read_text().split()]
        whole[numbers] = values
        factors.append(whole)
    np.savez(folder / "factors.npz", users=factors[0], tracks=factors[1])
    (folder / "report.json").write_text(json.dumps({"seconds": seconds, "peak": peak, "grown": peak}))


# --- quality -------------------------------------------------------------------------------------------------------


def quality(folder, train, rest, listeners):
    """(mean, standard error) of NDCG@10 and recall@20; of k relevant at most."""
    import numpy as np

    factors = np.load(folder / "factors.npz")
    users, tracks = factors["users"], factors["tracks"]
    discount = 1 / np.log2(np.arange(2, 12))
    ndcg, recall = [], []
    for user in listeners:
        scores = tracks @ users[user]
        scores[train.indices[train.indptr[user] : train.indptr[user + 1]]] = -np.inf
        relevant = rest.indices[rest.indptr[user] : rest.indptr[user + 1]]
        best = np.argpartition(-scores, 20)[:20]
        hits = np.isin(best[np.argsort(-scores[best], kind="stable")], relevant)
        ndcg.append(discount[hits[:10]].sum() / discount[: len(relevant)].sum())
        recall.append(hits.sum() / min(20, len(relevant)))
    return [(np.mean(v), np.std(v, ddof=1) / np.sqrt(len(v))) for v in (ndcg, recall)]


# --- the table -----------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}; all that are there")
    parser.add_argument("--debut", default="target/release/debut", type=Path)
    parser.add_argument("--engines", default=";".join(ENGINES), help="separated by semicolons")
    parser.add_argument("--dimensions", default=40, type=int)
    parser.add_argument("--iterations", default=15, type=int)
    parser.add_argument("--threads", default=1, type=int)
    parser.add_argument("--runs", default=5, type=int)
    parser.add_argument("--users", default=3000, type=int, help="users of whom quality is measured")
    parser.add_argument("--seed", default=1, type=int)
    parser.add_argument("--json", type=Path, help="writes all runs here, too")
    parser.add_argument("--run", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        folder = Path(arguments.run[1])
        run_python(arguments.run[0], folder, json.loads((folder / "settings.json").read_text()))
        return
    launcher = Launcher(arguments.threads)
    import numpy as np
    import scipy.sparse as sp

    engines = arguments.engines.split(";")
    unknown = (set(engines) - set(ENGINES)) | (set(arguments.sets) - set(SETS))
    if unknown:
        sys.exit(f"no such engine or set: {', '.join(sorted(unknown))}")
    record = []
    print(f"d = {arguments.dimensions}, {arguments.iterations} iterations, {arguments.threads} thread(s), "
          f"medians of {arguments.runs} alternating runs\n")
    print("| set | users × tracks, pairs | engine | CPU s/iteration | ÷ debut CG | NDCG@10 | recall@20 | peak MB (grown) |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.sets or [s for s in SETS if (arguments.data / f"{s}.csv").is_file()]:
        alpha, regularisation, growth = SETS[name]
        train, rest, r = split(arguments.data / f"{name}.csv", growth, arguments.seed)
        listeners = np.flatnonzero(np.diff(rest.indptr) > 0)
        listeners = np.random.default_rng(0).permutation(listeners)[: arguments.users]
        with tempfile.TemporaryDirectory() as scratch:
            scratch = Path(scratch)
            sp.save_npz(scratch / "matrix.npz", r.astype(np.float32), compressed=False)
            write_events(scratch / "events.csv", train)
            settings = {
                "matrix": str(scratch / "matrix.npz"), "events": str(scratch / "events.csv"), "alpha": alpha,
                "regularisation": regularisation, "growth": growth, "shape": r.shape,
                "debut": str(arguments.debut), "dimensions": arguments.dimensions,
                "iterations": arguments.iterations, "threads": arguments.threads, "seed": arguments.seed,
            }
            reports, qualities = {engine: [] for engine in engines}, {}
            for run in range(arguments.runs):
                for engine in engines:
                    folder = scratch / "run"
                    folder.mkdir(exist_ok=True)
                    (folder / "settings.json").write_text(json.dumps(settings))
                    if engine.startswith("debut"):
                        run_debut(launcher, engine, folder, settings)
                    else:
                        launcher.run(sys.executable, __file__, "-", "--run", engine, folder)
                    reports[engine].append(json.loads((folder / "report.json").read_text()))
                    if run == 0:
                        qualities[engine] = quality(folder, train, rest, listeners)
        median = lambda engine, key: statistics.median(r[key] for r in reports[engine])  # noqa: E731
        for engine in engines:
            seconds = median(engine, "seconds")
            ratio = f"{seconds / median('debut CG', 'seconds'):.2f}" if "debut CG" in engines else ""
            cells = [f"{mean:.4f} ± {se:.4f}" for mean, se in qualities[engine]]
            size = f"{r.shape[0]} × {r.shape[1]}, {r.nnz}"
            memory = f"{median(engine, 'peak'):.0f} ({median(engine, 'grown'):.0f})"
            print(f"| {name} | {size} | {engine} | {seconds:.4f} | {ratio} | {' | '.join(cells)} | {memory} |", flush=True)
            record.append({"set": name, "engine": engine, "runs": reports[engine], "quality": qualities[engine]})
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1, default=float))


if __name__ == "__main__":
    main()

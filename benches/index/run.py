"""The index beside faiss, hnswlib, usearch and voyager: one table a size.

    pip install -r benches/index/requirements.txt
    python benches/index/run.py FOLDER --sizes 1000000 --engines debut,faiss-flat,faiss-ivf,hnswlib,usearch,voyager

FOLDER takes the vectors and the catalogue (about 550 bytes a track) and results.jsonl, which the table is made from
(--table prints it again). Every engine runs in a process of its own, on the same vectors and queries, one after another;
a query is timed alone, in microseconds of its thread: a wall clock measures who else is at work. The true answers are
faiss's exact ones.

Tracks: 200 styles, 20,000 artists around them, and the tracks around those, with a spectrum that falls as the root of
the dimension; of unit length, with norms of a power law. Queries: tracks that are not among them, and listeners, who are
sums of one to six tracks and noise.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

D = 40
K = 10
QUERIES = 500
RECALLS = (0.95, 0.99)


def vectors(rng, styles, n):
    spectrum = np.arange(1, D + 1, dtype=np.float32) ** -0.5
    x = styles[rng.integers(0, len(styles), n)] + 0.5 * spectrum * rng.standard_normal((n, D), dtype=np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def generate(folder, n):
    if (folder / "users.f32").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(n)
    spectrum = np.arange(1, D + 1, dtype=np.float32) ** -0.5
    styles = spectrum * rng.standard_normal((200, D), dtype=np.float32)
    artists = styles[rng.integers(0, 200, 20_000)]
    artists += 0.6 * spectrum * rng.standard_normal(artists.shape, dtype=np.float32)
    for name, count in ("items", n), ("more", 20_000), ("songs", QUERIES):
        with open(folder / f"{name}.f32", "wb") as out:
            for first in range(0, count, 250_000):
                out.write(vectors(rng, artists, min(250_000, count - first)).astype("<f4").tobytes())
    (1 / (1 + rng.permutation(n)) ** 0.6).astype("<f4").tofile(folder / "norms.f32")
    users = []
    for i in range(QUERIES):
        taste = vectors(rng, artists, 1 + i % 6).sum(0) + 0.3 * spectrum * rng.standard_normal(D)
        users.append(taste / np.linalg.norm(taste))
    np.array(users, dtype="<f4").tofile(folder / "users.f32")


def load(folder, name):
    return np.fromfile(folder / f"{name}.f32", dtype="<f4").reshape(-1, D)


def cpu():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def say(**line):
    print(json.dumps(line), flush=True)


def timed(queries, ask):
    """Microseconds of this thread, and of the wall."""
    times, walls, answers = [], [], []
    for query in queries:
        wall, started = time.perf_counter(), time.thread_time()
        answers.append(ask(query[None]))
        times.append((time.thread_time() - started) * 1e6)
        walls.append((time.perf_counter() - wall) * 1e6)
    (p50, p99), (wall50, wall99) = np.percentile(times, [50, 99]), np.percentile(walls, [50, 99])
    return {"p50": p50, "p99": p99, "wall50": wall50, "wall99": wall99}, np.array(answers).reshape(len(queries), -1)


WIDTHS = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]


def build(engine, items, threads):
    """The index of one of the peers, over all `items` `[n][d]`."""
    n = len(items)
    if engine == "faiss-flat":
        import faiss

        index = faiss.IndexFlatIP(D)
        index.add(items)
    elif engine == "faiss-ivf":
        import faiss

        faiss.omp_set_num_threads(threads)
        lists = round(4 * n**0.5)
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(D), D, lists, faiss.METRIC_INNER_PRODUCT)
        index.train(items[:: max(1, n // (lists * 48))])
        index.add(items)
        faiss.omp_set_num_threads(1)
    elif engine == "hnswlib":
        import hnswlib

        index = hnswlib.Index("ip", D)
        index.init_index(n, ef_construction=128, M=16)
        for first in range(0, n, 500_000):
            index.add_items(items[first : first + 500_000], num_threads=threads)
            print(f"hnswlib: {first}, {cpu():.0f} CPU s", file=sys.stderr)
    elif engine == "usearch":
        from usearch.index import Index

        index = Index(ndim=D, metric="ip", dtype="f32", connectivity=16, expansion_add=128)
        index.add(np.arange(n), items, threads=threads)
    elif engine == "voyager":
        import voyager

        index = voyager.Index(voyager.Space.InnerProduct, D, M=16, ef_construction=128, max_elements=n)
        for first in range(0, n, 500_000):
            index.add_items(items[first : first + 500_000], num_threads=threads)
            print(f"voyager: {first}, {cpu():.0f} CPU s", file=sys.stderr)
    return index


def save(engine, index, path):
    if engine.startswith("faiss"):
        import faiss

        faiss.write_index(index, str(path))
    else:
        (index.save_index if engine == "hnswlib" else index.save)(str(path))


def restore(engine, path, n):
    if engine.startswith("faiss"):
        import faiss

        return faiss.read_index(str(path))
    if engine == "hnswlib":
        import hnswlib

        index = hnswlib.Index("ip", D)
        index.load_index(str(path), max_elements=n)
        return index
    if engine == "usearch":
        from usearch.index import Index

        return Index.restore(str(path))
    import voyager

    return voyager.Index.load(str(path))


def asking(engine, index):
    """What asks for the top of `[1][d]`, what sets how far it looks, and the settings to try."""
    if engine == "faiss-flat":
        return lambda q: index.search(q, K)[1], lambda _: None, [0]
    if engine == "faiss-ivf":
        def steer(step):
            index.nprobe = step

        return lambda q: index.search(q, K)[1], steer, [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512]
    if engine == "hnswlib":
        return lambda q: index.knn_query(q, K, num_threads=1)[0], index.set_ef, WIDTHS
    if engine == "usearch":
        def steer(step):
            index.expansion_search = step

        return lambda q: index.search(q[0], K, threads=1).keys, steer, WIDTHS
    width = [0]

    def steer(step):
        width[0] = step

    return lambda q: index.query(q[0], K, query_ef=width[0])[0], steer, WIDTHS


def measure(folder, engine, threads, keep, build_only):
    """One of the peers: build (or open what was kept), then the fewest candidates that reach each recall."""
    n = (folder / "items.f32").stat().st_size // (4 * D)
    import faiss

    faiss.omp_set_num_threads(1)
    kept = folder / "kept" / engine
    if keep and kept.with_suffix(".json").exists():
        built = json.loads(kept.with_suffix(".json").read_text())
        before, started = resident(), time.perf_counter()
        index = restore(engine, kept, n)
        say(**built)
        say(what="open", tracks=n, seconds=time.perf_counter() - started, resident_per_track=(resident() - before) / n)
    else:
        items = load(folder, "items")
        before, started, used = resident(), time.perf_counter(), cpu()
        index = build(engine, items, threads)
        built = dict(what="build", tracks=n, seconds=time.perf_counter() - started, cpu=cpu() - used, threads_to_build=threads)
        say(**built)
        say(what="open", tracks=n, resident_per_track=(resident() - before) / n)
        if keep:
            kept.parent.mkdir(exist_ok=True)
            save(engine, index, kept)
            # Last, so that what it stands beside is whole.
            kept.with_suffix(".json").write_text(json.dumps(built))
        del items
        if build_only:
            return
    ask, steer, steps = asking(engine, index)
    truths = {}
    for who in ("users", "songs"):
        path = folder / f"truth-{who}.npy"
        if not path.exists():
            flat = faiss.IndexFlatIP(D)
            flat.add(load(folder, "items"))
            np.save(path, flat.search(load(folder, who), K)[1])
        truths[who] = np.load(path)
    for who in ("users", "songs"):
        queries, truth = load(folder, who), truths[who]
        wanted = [1.0] if engine == "faiss-flat" else list(RECALLS)
        for step in steps:
            steer(step)
            ask(queries[:1])
            times, answers = timed(queries, ask)
            recall = np.mean([len(set(a) & set(t)) / K for a, t in zip(answers, truth)])
            while wanted and recall >= wanted[0] - 1e-3 * (engine == "faiss-flat"):
                say(what="query", tracks=n, who=who, how=f"recall {wanted.pop(0)}", threads=1, recall=recall, **times)
        for recall in wanted:
            say(what="query", tracks=n, who=who, how=f"recall {recall}", threads=1, recall=None, p50=None, p99=None)


def ours(binary, folder):
    catalogue = folder / "catalogue"
    shutil.rmtree(catalogue, ignore_errors=True)
    d = str(D)
    yield [binary, "ingest", catalogue, folder / "items.f32", folder / "norms.f32", d]
    yield [binary, "build", catalogue]
    yield [binary, "ask", catalogue, folder / "users.f32", folder / "songs.f32", d, "--insert", folder / "more.f32"]


def build_ours():
    command = ["cargo", "bench", "--profile", "release", "--bench", "index", "--no-run", "--message-format=json"]
    root = Path(__file__).resolve().parents[2]
    lines = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    built = [json.loads(line) for line in lines]
    return next(b["executable"] for b in built if b.get("executable") and b["target"]["name"] == "index")


def table(results):
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    last = {}
    for row in rows:
        last[tuple(row.get(key) for key in ("engine", "tracks", "what", "who", "how", "threads", "lists", "readers"))] = row
    of = lambda **wanted: [r for r in last.values() if all(r.get(k) == v for k, v in wanted.items())]
    number = lambda x, form="{:.0f}": "–" if x is None else form.format(x)
    for n in sorted({r["tracks"] for r in last.values()}):
        print(f"\n{n:,} tracks, d = {D}\n")
        print("| engine | build: wall s / CPU s | memory, B a track | listeners: recall, p50 / p99 µs | tracks: recall, p50 / p99 µs |")
        print("|---|---|---|---|---|")
        for engine in dict.fromkeys(r["engine"] for r in of(tracks=n)):
            build = of(tracks=n, engine=engine, what="build")
            memory = of(tracks=n, engine=engine, what="open")[-1:]
            cells = [number(b["seconds"]) + " / " + number(b["cpu"]) for b in build] or ["–"]
            hows = list(dict.fromkeys(r["how"] for r in of(tracks=n, engine=engine, what="query", threads=1)))
            for how in hows:
                asked = []
                for who in ("users", "songs"):
                    found = of(tracks=n, engine=engine, what="query", who=who, how=how)
                    parts = []
                    for r in sorted(found, key=lambda r: r["threads"]):
                        threads = "" if r["threads"] == 1 else f"; {r['threads']} threads "
                        recall = number(r.get("recall"), "{:.3f}, ") if not threads else ""
                        parts.append(threads + recall + number(r.get("p50", r.get("mean"))) + " / " + number(r.get("p99")))
                    asked.append("".join(parts) or "–")
                print(f"| {engine}, {how} | {cells[0]} | {number(memory[0]['resident_per_track']) if memory else '–'} | {asked[0]} | {asked[1]} |")
        for r in of(tracks=n, engine="debut"):
            if r["what"] in ("ingest", "insert", "open") or (r["what"] == "build"):
                print("   ", json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sizes", default="1000000")
    parser.add_argument("--engines", default="debut,faiss-flat,faiss-ivf,hnswlib,usearch,voyager")
    parser.add_argument("--binary", help="the bench `index` as it was built, rather than building it")
    parser.add_argument("--table", action="store_true", help="only print the table of what was measured")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=2, help="threads that build a peer")
    parser.add_argument("--keep", action="store_true", help="keep the peers that are built, and open those that were kept")
    parser.add_argument("--build-only", action="store_true", help="build the peers, with --keep, and ask them nothing")
    args = parser.parse_args()
    if args.measure:
        return measure(args.folder, args.measure, args.threads, args.keep, args.build_only)
    results = args.folder / "results.jsonl"
    if not args.table:
        engines = args.engines.split(",")
        binary = args.binary or (build_ours() if "debut" in engines else None)
        for n in map(int, args.sizes.split(",")):
            folder = args.folder / str(n)
            generate(folder, n)
            for engine in engines:
                again = [sys.executable, __file__, folder, "--measure", engine, "--threads", str(args.threads)]
                again += ["--keep"] * args.keep + ["--build-only"] * args.build_only
                for command in ours(binary, folder) if engine == "debut" else [again]:
                    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
                    with open(results, "a") as out:
                        out.writelines(json.dumps({"engine": engine, **json.loads(line)}) + "\n" for line in lines)
                    print(f"{n} {engine}: {len(lines)} lines, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    table(results)


if __name__ == "__main__":
    main()

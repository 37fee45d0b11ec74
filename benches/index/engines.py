"""The catalogue handed over to engines that others run, and verified there: LanceDB and PostgreSQL with pgvector.

    pip install -r benches/index/engines.txt
    python benches/index/engines.py FOLDER --tracks 100000 --engines lancedb,pgvector

FOLDER takes the catalogue, its exports and the engines' data (about 2 kB a track). The script

1. makes a catalogue of synthetic tracks in the space of the shipped model: `debut ingest` of two clips tells the space,
   `debut import` takes the tracks, with languages and years;
2. exports it (`debut export`) and loads tracks.parquet into each engine;
3. asks debut and the engine the same: what is like a track, without a filter, in a language, of some years, and both.
   Lists for a track are ranked by the cosine alone, so the two lists are alike but for rounding; debut searches exactly;
4. ingests one more clip and removes a track, exports what changed since (`debut export --since`), brings that to the
   engine, and asks (exactly) for the new track and for the one that is gone.

Overlap is the mean share of debut's first ten that the engine's first ten have. Engines scan exactly first, then with the
index that they are used with. Times are medians on the clock of the wall, of one query after another by one client.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent))
from run import vectors  # noqa: E402

K = 10
QUERIES = 100
HERE = Path(__file__).resolve().parents[2]
LANGUAGES = ["en", "de", "pt", "fi"]
SHARES = [0.7, 0.25, 0.045, 0.005]
FILTERS = {
    "none": ({}, "true"),
    "language": ({"languages": ["pt"]}, "language = 'pt'"),
    "years": ({"years": [1990, 1999]}, "year BETWEEN 1990 AND 1999"),
    "both": ({"languages": ["fi"], "years": [1990, 1999]}, "language = 'fi' AND year BETWEEN 1990 AND 1999"),
}


class Debut:
    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.environment = os.environ | {"DEBUT_MODEL": str(HERE / "models/game-music")}

    def __call__(self, catalogue, *arguments, stdin=None):
        command = [self.program, "--catalogue", self.folder / catalogue, *arguments, "--json"]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=self.environment)
        if done.returncode:
            sys.exit(f"{command}: {done.returncode}\n{done.stdout[-500:]}\n{done.stderr[-2000:]}")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def export(self, name, *since):
        shutil.rmtree(self.folder / name, ignore_errors=True)
        started = time.monotonic()
        told = self("catalogue", "export", self.folder / name, *since)[0]
        return told, time.monotonic() - started


def clips():
    return sorted(p for p in (HERE / "audio-samples").rglob("*") if p.suffix in (".ogg", ".mp3", ".flac"))


def make(debut, n):
    """A catalogue of n synthetic tracks, in the space of the shipped model."""
    folder = debut.folder
    for made in "catalogue", "few", "few-exported":
        shutil.rmtree(folder / made, ignore_errors=True)
    debut("few", "ingest", *clips()[:2])
    debut("few", "export", folder / "few-exported")
    space = json.loads((folder / "few-exported/space.json").read_text())
    assert space["dimensions"] == 40, "the vectors of run.py have 40 numbers"
    rng = np.random.default_rng(n)
    spectrum = np.arange(1, 41, dtype=np.float32) ** -0.5
    styles = spectrum * rng.standard_normal((200, 40), dtype=np.float32)
    artists = styles[rng.integers(0, 200, 20_000)]
    artists += 0.6 * spectrum * rng.standard_normal(artists.shape, dtype=np.float32)
    (folder / "made").mkdir(parents=True, exist_ok=True)
    manifest = {name: space[name] for name in ("format", "space", "dimensions", "description")}
    (folder / "made/space.json").write_text(json.dumps(manifest))
    with_norms = (1 / (1 + rng.permutation(n)) ** 0.6).astype(np.float32)
    writer = None
    for first in range(0, n, 100_000):
        m = min(100_000, n - first)
        table = pa.table({
            "id": [f"track {i:09}" for i in range(first, first + m)],
            "title": [f"Title {i}" for i in range(first, first + m)],
            "artist": [f"artist {i}" for i in rng.integers(0, 20_000, m)],
            "language": rng.choice(LANGUAGES, m, p=SHARES),
            "year": pa.array(rng.integers(1950, 2027, m), pa.int32()),
            "norm": with_norms[first:first + m],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors(rng, artists, m).ravel()), 40),
        })
        writer = writer or pq.ParquetWriter(folder / "made/tracks.parquet", table.schema)
        writer.write_table(table)
    writer.close()
    started = time.monotonic()
    debut("catalogue", "import", folder / "made")
    print(f"debut import: {n} tracks in {time.monotonic() - started:.1f} s")


def ask_debut(debut, ids, condition, catalogue="catalogue"):
    # Exact, also where the catalogue is large enough for lists.
    lines = "".join(json.dumps({"track": id, "k": K} | condition) + "\n" for id in ids)
    exact = ("--set", f"index.lists_above={2**40}")
    answers = debut(catalogue, *exact, "recommend", "--queries", "-", stdin=lines)
    return [[hit["track"] for hit in answer["recommendations"]] for answer in answers]


def rows(folder, name):
    # What was predicted of a track is null where debut never heard it, and LanceDB takes no such vectors.
    return pq.read_table(folder / name / "tracks.parquet").drop_columns("predicted")


def matrix(column):
    return np.stack(column.to_numpy())


class Lance:
    """Embedded; one table, a column of vectors."""

    name = "LanceDB"

    def __init__(self, folder):
        import lancedb

        shutil.rmtree(folder / "lancedb", ignore_errors=True)
        self.folder = folder / "lancedb"
        self.db = lancedb.connect(self.folder)
        self.nprobes = None

    def load(self, folder):
        self.table = self.db.create_table("tracks", rows(folder, "export"))

    def index(self):
        from lancedb.index import IvfFlat

        lists = max(1, int(self.table.count_rows() ** 0.5))
        self.table.create_index("vector", config=IvfFlat(distance_type="dot", num_partitions=lists))
        self.nprobes = max(8, lists // 8)
        return f"IVF_FLAT, {lists} lists, {self.nprobes} probes"

    def ask(self, vector, where, k, exact):
        query = self.table.search(vector).distance_type("dot").where(where, prefilter=True).limit(k).select(["id", "_distance"])
        query = query.bypass_vector_index() if exact else query.nprobes(self.nprobes)
        return [row["id"] for row in query.to_list()]

    def follow(self, changed, removed):
        self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(changed)
        for id in removed:
            self.table.delete(f"id = '{id}'")

    def bytes(self):
        return sum(p.stat().st_size for p in self.folder.rglob("*") if p.is_file())


class Pgvector:
    """PostgreSQL in a folder of its own (pgserver), with the vector extension."""

    name = "pgvector"
    columns = ("id", "title", "artist", "language", "year", "norm", "seq", "vector")

    def __init__(self, folder):
        import pgserver
        import psycopg

        self.server = pgserver.get_server(folder / "postgres", cleanup_mode="stop")
        self.db = psycopg.connect(self.server.get_uri(), autocommit=True)
        self.db.execute("DROP TABLE IF EXISTS tracks")
        self.db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        self.db.execute("SET maintenance_work_mem = '512MB'; SET max_parallel_maintenance_workers = 1")
        self.db.execute("SET hnsw.ef_search = 200")

    def put(self, table, into):
        text = lambda vector: "[" + ",".join(map(str, vector)) + "]"
        with self.db.cursor().copy(f"COPY {into} ({', '.join(self.columns)}) FROM STDIN") as out:
            for batch in table.select(self.columns).to_batches(10_000):
                for row in zip(*(column.to_pylist() for column in batch.columns)):
                    out.write_row([*row[:-1], text(row[-1])])

    def load(self, folder):
        self.db.execute(
            "CREATE TABLE tracks (id text PRIMARY KEY, title text, artist text, language text, year int, norm real,"
            " seq bigint, vector vector(40) NOT NULL)"
        )
        self.put(rows(folder, "export"), "tracks")
        self.db.execute("CREATE INDEX ON tracks (language, year)")
        self.db.execute("ANALYZE tracks")

    def index(self):
        self.db.execute("CREATE INDEX ON tracks USING hnsw (vector vector_ip_ops) WITH (m = 16, ef_construction = 64)")
        return "HNSW, m 16, ef_search 200"

    def ask(self, vector, where, k, exact):
        text = "[" + ",".join(map(str, vector)) + "]"
        self.db.execute(f"SET enable_indexscan = {'off' if exact else 'on'}")
        found = self.db.execute(f"SELECT id FROM tracks WHERE {where} ORDER BY vector <#> %s::vector LIMIT {k}", [text])
        return [row[0] for row in found]

    def follow(self, changed, removed):
        names = ", ".join(f"{c} = EXCLUDED.{c}" for c in self.columns[1:])
        with self.db.transaction():
            self.db.execute("CREATE TEMP TABLE changed (LIKE tracks) ON COMMIT DROP")
            self.put(changed, "changed")
            self.db.execute(f"INSERT INTO tracks SELECT * FROM changed ON CONFLICT (id) DO UPDATE SET {names}")
            self.db.execute("DELETE FROM tracks WHERE id = ANY(%s)", [removed])

    def bytes(self):
        return self.db.execute("SELECT pg_total_relation_size('tracks')").fetchone()[0]


ENGINES = {"lancedb": Lance, "pgvector": Pgvector}


def compare(engine, how, exact, queries, truth, results):
    for name, (_, where) in FILTERS.items():
        shared, spent, short = [], [], 0
        for (id, vector), expected in zip(queries, truth[name]):
            started = time.monotonic()
            found = engine.ask(vector, where, K + 1, exact)
            spent.append(time.monotonic() - started)
            # debut leaves out the track that asks.
            found = [other for other in found if other != id][:K]
            short += len(found) < len(expected)
            shared.append(len(set(found) & set(expected)) / max(1, len(expected)))
        p50 = 1e3 * float(np.median(spent))
        print(f"  {how:<32} {name:<9} overlap {np.mean(shared):.4f}, {p50:7.2f} ms, {short} lists too short")
        results.append({
            "engine": engine.name, "how": how, "filter": name, "overlap": float(np.mean(shared)), "p50_ms": p50, "short": short,
        })


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tracks", type=int, default=100_000)
    parser.add_argument("--engines", default="lancedb,pgvector")
    parser.add_argument("--debut", default=HERE / "target/release/debut")
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    debut = Debut(given.debut, folder)

    make(debut, given.tracks)
    last, gone = clips()[2], "track 000000000"
    told, spent = debut.export("export")
    size = sum(p.stat().st_size for p in (folder / "export").iterdir())
    print(f"debut export: {told['tracks']} tracks in {spent:.1f} s, {size / told['tracks']:.0f} bytes a track")
    table = rows(folder, "export")
    rng = np.random.default_rng(0)
    chosen = np.sort(rng.choice(table.num_rows, QUERIES, replace=False))
    ids = table["id"].take(chosen).to_pylist()
    queries = list(zip(ids, matrix(table["vector"].take(chosen))))
    truth = {name: ask_debut(debut, ids, condition) for name, (condition, _) in FILTERS.items()}
    for name, lists in truth.items():
        print(f"debut, {name}: {np.mean([len(l) for l in lists]):.1f} tracks a list")

    results, engines = [], []
    for name in given.engines.split(","):
        engine = ENGINES[name](folder)
        engines.append(engine)
        started = time.monotonic()
        engine.load(folder)
        print(f"{engine.name}: loaded in {time.monotonic() - started:.1f} s, {engine.bytes() / table.num_rows:.0f} bytes a track")
        compare(engine, "exact", True, queries, truth, results)
        started = time.monotonic()
        how = engine.index()
        built = time.monotonic() - started
        print(f"  {how}: built in {built:.1f} s, {engine.bytes() / table.num_rows:.0f} bytes a track with it")
        compare(engine, how, False, queries, truth, results)

    # One track comes, one goes.
    new = debut("catalogue", "ingest", last)[0]
    debut("catalogue", "remove", gone)
    told, spent = debut.export("changed", "--since", folder / "export")
    changed = rows(folder, "changed")
    removed = pq.read_table(folder / "changed/removed.parquet")["id"].to_pylist()
    print(f"debut export --since: {told['tracks']} changed, {told['removed']} removed, in {spent:.2f} s: {changed['id'].to_pylist()}")
    assert new["track"] in changed["id"].to_pylist() and gone in removed
    position = changed["id"].to_pylist().index(new["track"])
    vector = matrix(changed["vector"])[position]
    expected = ask_debut(debut, [new["track"]], {})[0]
    for engine in engines:
        near_gone = table["vector"][0].values.to_numpy()
        before = engine.ask(near_gone, "true", 1, True)
        started = time.monotonic()
        engine.follow(changed, removed)
        spent = time.monotonic() - started
        found = engine.ask(vector, "true", K + 1, True)
        shared = len(set(found[1:]) & set(expected)) / K
        still = gone in engine.ask(near_gone, "true", K, True)
        arrived = found[0] == new["track"]
        print(
            f"{engine.name}: followed in {spent:.2f} s; the new track {'is' if arrived else 'IS NOT'} there, its list overlaps"
            f" {shared:.2f}; the removed one was {'first' if before == [gone] else 'NOT THERE'} and {'IS STILL THERE' if still else 'is gone'}"
        )
        results.append({"engine": engine.name, "arrived": arrived, "overlap": shared, "removed": not still})
    (folder / "engines.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))


if __name__ == "__main__":
    main()

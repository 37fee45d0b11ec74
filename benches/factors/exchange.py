"""Factors between debut and the programs they are for: `python exchange.py DEBUT`, with DEBUT the built program.

Fits a small model with the real `implicit` package (and, where pyspark and Java are there, with Spark MLlib), takes it
into debut and back, and asserts that names and numbers are the same on every leg and that the original program
recommends the same from what it loads. NumPy arrays stand for LightFM's embeddings, which are nothing else.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

USERS, TRACKS, D = 300, 200, 16


def debut(*arguments):
    done = subprocess.run([sys.argv[1], *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"debut {' '.join(map(str, arguments))}: {done.stderr}")


def plays():
    import scipy.sparse as sp

    random = np.random.default_rng(1)
    taste = random.normal(size=(USERS, 4)) @ random.normal(size=(4, TRACKS))
    return sp.csr_matrix(random.poisson(np.exp(taste - 2)).astype(np.float32))


def write_names(path, names):
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def same(folder, users, tracks, names):
    """What debut keeps is what went in."""
    assert np.array_equal(np.load(folder / "users.npy"), users.astype(np.float32))
    assert np.array_equal(np.load(folder / "tracks.npy"), tracks.astype(np.float32))
    for kind in ("users", "tracks"):
        assert (folder / f"{kind}.ids").read_text(encoding="utf-8").splitlines() == names[kind]


NAMES = {"users": [f"user {i} 🎧" for i in range(USERS)], "tracks": [f"track,{i}" for i in range(TRACKS)]}


def implicit(folder):
    from implicit.cpu.als import AlternatingLeastSquares

    matrix = plays()
    for dtype in (np.float32, np.float64):
        here = folder / np.dtype(dtype).name
        here.mkdir()
        model = AlternatingLeastSquares(factors=D, regularization=0.5, iterations=5, num_threads=1, random_state=1, dtype=dtype)
        model.fit(matrix, show_progress=False)
        model.save(str(here / "model.npz"))
        write_names(here / "model.users.ids", NAMES["users"])
        write_names(here / "model.tracks.ids", NAMES["tracks"])
        debut("factors", "import", here / "model.npz", "--from", "implicit", "--out", here / "factors")
        same(here / "factors", model.user_factors, model.item_factors, NAMES)
        assert "regularisation = 0.5\n" in (here / "factors/factors.toml").read_text()
        debut("factors", "export", here / "factors", "--to", "implicit", "--out", here / "back.npz")
        back = AlternatingLeastSquares.load(str(here / "back.npz"))
        assert (back.factors, back.regularization) == (D, 0.5)
        everyone = np.arange(USERS)
        recommended = [m.recommend(everyone, matrix, N=10) for m in (model, back)]
        assert (recommended[0][0] == recommended[1][0]).mean() > 0.999  # float64 is rounded
        assert np.allclose(recommended[0][1], recommended[1][1], atol=1e-5)
        # A fold-in is the same solve, with the same λ; implicit does it in the precision of the factors.
        again = [m.recalculate_user(everyone, matrix) for m in (model, back)]
        assert np.allclose(*again, atol=1e-4 if dtype == np.float32 else 5e-3)
    print("implicit: saved, imported, exported, loaded; vectors, names, recommendations and fold-in agree")


def arrays(folder):
    random = np.random.default_rng(2)
    users, tracks = random.normal(size=(USERS, D)), random.normal(size=(TRACKS, D)).astype(np.float32)
    (folder / "lightfm").mkdir()
    np.save(folder / "lightfm/users.npy", users)
    np.save(folder / "lightfm/tracks.npy", np.asfortranarray(tracks))
    for kind in NAMES:
        write_names(folder / f"lightfm/{kind}.ids", NAMES[kind])
    debut("factors", "import", folder / "lightfm", "--from", "npy", "--out", folder / "factors")
    same(folder / "factors", users, tracks, NAMES)
    debut("factors", "export", folder / "factors", "--to", "npy", "--out", folder / "back")
    same(folder / "back", users, tracks, NAMES)
    print("NumPy: float64 and Fortran order in, float32 out")


def spark(folder):
    try:
        from pyspark.ml.recommendation import ALS, ALSModel
        from pyspark.sql import SparkSession
    except ImportError:
        print("Spark: passed over, no pyspark")
        return
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    for name in ("spark.driver.bindAddress", "spark.driver.host"):
        builder = builder.config(name, "127.0.0.1")
    session = builder.getOrCreate()
    random = np.random.default_rng(3)
    # Every third id only, in an order of its own.
    ratings = [(int(u) * 3, int(t) * 3, 1.0) for u, t in zip(random.integers(0, 50, 900), random.integers(0, 40, 900))]
    als = ALS(rank=6, maxIter=2, implicitPrefs=True, userCol="user", itemCol="item", ratingCol="r", seed=1)
    model = als.fit(session.createDataFrame(ratings, ["user", "item", "r"]))
    model.save(str(folder / "model"))

    def table(frame):
        rows = sorted((row["id"], list(row["features"])) for row in frame.collect())
        return [i for i, _ in rows], np.array([v for _, v in rows], dtype=np.float32)

    users, tracks = table(model.userFactors), table(model.itemFactors)
    debut("factors", "import", folder / "model", "--from", "spark", "--numbered", "--out", folder / "factors")
    names = {"users": [str(i) for i in users[0]], "tracks": [str(i) for i in tracks[0]]}
    same(folder / "factors", users[1], tracks[1], names)
    debut("factors", "export", folder / "factors", "--to", "spark", "--out", folder / "back")
    back = ALSModel.load(str(folder / "back"))
    assert back.rank == 6
    for (_, expected), frame in ((users, back.userFactors), (tracks, back.itemFactors)):
        ids, found = table(frame)
        assert ids == list(range(len(expected))) and np.array_equal(found, expected)
    first = back.recommendForAllUsers(3).collect()
    assert len(first) == len(users[0])
    session.stop()
    print("Spark: saved, imported, exported, loaded; vectors and ids agree")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    for step in (implicit, arrays, spark):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                step(Path(scratch))
            except ImportError as missing:
                print(f"{step.__name__}: passed over, {missing}")

"""Writes tests/golden/als.json: a small matrix with plays and skips, one half-iteration of implicit ALS on it solved
densely by NumPy in float64, and the loss that the `implicit` package reaches.

    pip install numpy==2.4.6 scipy==1.17.1 implicit==0.7.3
    python tests/golden/als.py      (from the repository root)
"""

import json
import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import scipy.sparse as sp
from implicit.cpu.als import AlternatingLeastSquares

USERS, TRACKS, D, REGULARISATION, ITERATIONS = 60, 45, 8, 10.0, 100

rng = np.random.default_rng(7)
taste = rng.normal(size=(USERS, 4)) @ rng.normal(size=(4, TRACKS))
met = rng.random((USERS, TRACKS)) < 1 / (1 + np.exp(2.5 - taste))
confidence = np.where(met, np.round(1 + 20 * rng.exponential(size=met.shape), 3), 0.0)
preference = np.where(rng.random(met.shape) < 0.15, 0.0, 1.0)  # implicit knows no fractions: a skip is p = 0

# Hu, Koren & Volinsky 2008, equation 4, with every matrix written out.
tracks = np.round(rng.normal(size=(TRACKS, D)) * 0.4, 5)
users = np.zeros((USERS, D))
for u in range(USERS):
    c = np.where(met[u], confidence[u], 1.0)
    p = np.where(met[u], preference[u], 0.0)
    users[u] = np.linalg.solve(tracks.T @ np.diag(c) @ tracks + REGULARISATION * np.eye(D), tracks.T @ (c * p))


def loss(x, y):
    """Equation 3, over all pairs."""
    c, p = np.where(met, confidence, 1.0), np.where(met, preference, 0.0)
    return float((c * (p - x @ y.T) ** 2).sum() + REGULARISATION * ((x**2).sum() + (y**2).sum()))


# implicit takes c itself, negative for p = 0.
signed = sp.csr_matrix(np.where(met, confidence * np.where(preference > 0, 1, -1), 0.0).astype(np.float32))
losses = []
for seed in range(5):
    model = AlternatingLeastSquares(
        factors=D, regularization=REGULARISATION, alpha=1.0, iterations=ITERATIONS, use_cg=False, num_threads=1,
        random_state=seed, dtype=np.float64,
    )
    model.fit(signed, show_progress=False)
    losses.append(loss(model.user_factors.astype(np.float64), model.item_factors.astype(np.float64)))
print("losses of five seeds:", [round(v, 3) for v in losses])

golden = {
    "users": USERS,
    "tracks": TRACKS,
    "dimensions": D,
    "regularisation": REGULARISATION,
    "entries": [
        [int(u), int(t), float(confidence[u, t]), float(preference[u, t])] for u, t in zip(*np.nonzero(met))
    ],
    "track_factors": tracks.tolist(),
    "user_factors": np.round(users, 7).tolist(),
    "iterations": ITERATIONS,
    "implicit_loss": float(np.median(losses)),
}
with open("tests/golden/als.json", "w") as file:
    json.dump(golden, file, separators=(",", ":"))
    file.write("\n")

"""Writes tests/golden/baselines.json: MFCCs and their differences by librosa, principal components by NumPy, of random
input, for the tests of src/encoder/baseline.

    pip install numpy librosa
    python tests/golden/baselines.py      (from the repository root)
"""
import json

import librosa
import numpy as np

FRAMES, BANDS, GAIN = 12, 40, 10_000.0

rng = np.random.default_rng(5)
# Powers over 90 dB, some silent; the input is rounded first, so that the file holds exactly what was transformed.
power = 10 ** rng.uniform(-7, 2, (FRAMES, BANDS))
power[3, :7] = 0
log_mel = np.round(np.log1p(GAIN * power), 6)
power = np.expm1(log_mel) / GAIN
mfcc = librosa.feature.mfcc(
    S=librosa.power_to_db(power.T, ref=1.0, amin=1e-10, top_db=None), n_mfcc=13, dct_type=2, norm="ortho")
descriptors = np.concatenate([mfcc] + [librosa.feature.delta(mfcc, width=3, order=order) for order in (1, 2)])

# 30 rows of 9 features that vary in four directions mostly.
x = rng.normal(size=(30, 4)) * [9, 5, 3, 1.5] @ rng.normal(size=(4, 9)) + rng.normal(size=(30, 9)) + 7
x = np.round(x, 6)
values, vectors = np.linalg.eigh(np.cov(x.T))
values, vectors = values[::-1], vectors[:, ::-1]
count = 1 + int(np.searchsorted(np.cumsum(values) / values.sum(), 0.95))

golden = {
    "log_mel": log_mel.tolist(),
    "descriptors": descriptors.T.tolist(),
    "pca_x": x.tolist(),
    "pca_variance": [values[:count].tolist()],
    "pca_projected": ((x - x.mean(axis=0)) @ vectors[:, :count]).tolist(),
}
with open("tests/golden/baselines.json", "w") as file:
    json.dump({name: np.round(rows, 6).tolist() for name, rows in golden.items()}, file)
print({name: np.shape(rows) for name, rows in golden.items()})

"""Writes the golden mel powers that tests/audio.rs compares our resampler and mel with: soxr's best quality, then librosa.

    pip install numpy librosa soxr
    python tests/golden/resample.py

Run from the repository root. The signal is made of the same formulas in the test: a tone that rises to 9.6 kHz (or 0.4 of
the rate, where that is less), noise, and an impulse.
"""
import librosa
import numpy as np
import soxr

RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192000]


def signal(rate):
    n = rate * 6 // 5
    t = np.arange(n) / rate
    top = min(9600.0, 0.4 * rate)
    rising = 0.4 * np.sin(2 * np.pi * (100 * t + (top - 100) / 2.4 * t**2))
    state, noise = 1, np.empty(n)
    for i in range(n):
        state = (state * 1664525 + 1013904223) % 2**32
        noise[i] = state / 2**31 - 1
    x = rising + 0.05 * noise
    x[n // 2] += 0.5
    return x.astype(np.float32)


rows = []
for rate in RATES:
    x = signal(rate).astype(np.float64)
    y = x if rate == 22050 else soxr.resample(x, rate, 22050, quality="VHQ")
    power = librosa.feature.melspectrogram(
        y=y[2048:2048 + 20480], sr=22050, n_fft=2048, hop_length=1024, center=False, window="hann", power=2.0,
        n_mels=128, fmin=0.0, fmax=11025.0, htk=False, norm="slaney", dtype=np.float64)
    rows.append(power.T)
golden = np.stack(rows).astype(np.float32)
np.save("tests/golden/resampled_mel.npy", golden)
print(golden.shape)

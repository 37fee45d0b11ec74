"""Writes the golden mel spectrograms that tests/audio.rs compares ours with.

    pip install numpy librosa soundfile
    python tests/golden/mel.py [CLIP]

Run from the repository root. With CLIP (any audio file) its seconds 5 to 7 become music.wav first; the committed
music.wav is from "Tonatiuh" by yd (CC0-1.0), from the music of the game Red Eclipse. librosa computes in double
precision, so that the difference that the test sees is ours alone.
"""
import sys

import librosa
import numpy as np
import soundfile

RATE = 22050


def synthetic():
    """A rising tone, a low chord and noise over 60 dB of range: something in every band, from loud to soft."""
    t = np.arange(RATE * 3 // 2) / RATE
    rising = 0.4 * np.sin(2 * np.pi * (100 * t + 3500 * t**2))
    chord = sum(0.1 * np.sin(2 * np.pi * f * t) for f in (55, 110.5, 220.25))
    noise = np.random.default_rng(1).standard_normal(t.size) * 10 ** (-1 - 2 * t / t[-1])
    return rising + chord + 0.3 * noise


def mel(samples):
    return librosa.feature.melspectrogram(
        y=samples.astype(np.float64), sr=RATE, n_fft=2048, hop_length=1024, center=False, window="hann",
        power=2.0, n_mels=128, fmin=0.0, fmax=11025.0, htk=False, norm="slaney", dtype=np.float64)


if len(sys.argv) > 1:
    clip, _ = librosa.load(sys.argv[1], sr=RATE, mono=True, offset=5, duration=2)
    soundfile.write("tests/golden/music.wav", clip, RATE, subtype="PCM_16")
soundfile.write("tests/golden/synthetic.wav", np.clip(synthetic(), -1, 1), RATE, subtype="PCM_16")

for name in ("music", "synthetic"):
    # The samples that the test reads: 16-bit integers over 32768.
    samples, rate = soundfile.read(f"tests/golden/{name}.wav", dtype="float64")
    assert rate == RATE and samples.ndim == 1
    power = mel(samples).T.astype(np.float32)
    np.save(f"tests/golden/{name}_mel.npy", power)
    print(name, power.shape, "power", power.min(), "to", power.max())

#!/usr/bin/env python3
"""What a public tagging network hears in the middle 30 s of every track.

The network is MSD_musicnn (Pons & Serra, "musicnn: Pre-trained convolutional
neural networks for music audio tagging", ISMIR late-breaking 2019), trained
on the Million Song Dataset; ISC licence. Its PyPI wheel carries the weights as
a TensorFlow 1 checkpoint, which is read here without TensorFlow.

    pip install numpy soundfile librosa torch mutagen
    pip download --no-deps musicnn==0.1.0
    python3 models/game-music/make/teacher_tags.py \\
        --wheel musicnn-0.1.0-py3-none-any.whl --tracks DIR/tracks.csv --out teacher_tags.tsv

1.7 s per track on one core; tracks already in --out are not done again. The
result is committed as teacher_tags.tsv.gz, so nobody needs to run this.
"""

import argparse
import csv
import gzip
import io
import struct
import sys
import time
import zipfile
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
import torch.nn.functional as F

# Order of the outputs, as in the wheel's configuration.py.
TAGS = """rock,pop,alternative,indie,electronic,female vocalists,dance,00s,alternative rock,jazz,beautiful,metal,
chillout,male vocalists,classic rock,soul,indie rock,Mellow,electronica,80s,folk,90s,chill,instrumental,punk,oldies,
blues,hard rock,ambient,acoustic,experimental,female vocalist,guitar,Hip-Hop,70s,party,country,easy listening,sexy,
catchy,funk,electro,heavy metal,Progressive rock,60s,rnb,indie pop,sad,House,happy""".replace("\n", "").split(",")
RATE, N_FFT, HOP, MELS = 16_000, 512, 256, 96  # the network's front end
PATCH = 187  # frames: 3 s, the length that it was trained on
SECONDS = 30.0  # the same middle excerpt that debut hears


# --- the checkpoint ---------------------------------------------------------------------------

def varint(b, i):
    value = shift = 0
    while True:
        byte = b[i]
        i += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, i


def table_block(b, handle):
    """Entries of one block of a LevelDB table: keys share prefixes with their predecessor."""
    offset, i = varint(handle, 0)
    size, _ = varint(handle, i)
    if b[offset + size]:
        raise SystemExit("compressed checkpoint index: not a file of the musicnn 0.1.0 wheel")
    b = b[offset:offset + size]
    end = size - 4 - 4 * struct.unpack("<I", b[-4:])[0]  # restart points follow the entries
    i, key = 0, b""
    while i < end:
        shared, i = varint(b, i)
        fresh, i = varint(b, i)
        length, i = varint(b, i)
        key = key[:shared] + b[i:i + fresh]
        i += fresh
        yield key.decode(), b[i:i + length]
        i += length


def fields(message):
    """(number, value) of a protobuf message; enough kinds for BundleEntryProto."""
    i = 0
    while i < len(message):
        tag, i = varint(message, i)
        if tag & 7 == 0:
            value, i = varint(message, i)
        elif tag & 7 == 2:
            length, i = varint(message, i)
            value, i = message[i:i + length], i + length
        else:  # fixed32: a checksum
            value, i = message[i:i + 4], i + 4
        yield tag >> 3, value


def read_checkpoint(wheel, model="MSD_musicnn"):
    """name -> float32 array, from a TensorFlow tensor bundle (.index is a LevelDB table)."""
    with zipfile.ZipFile(wheel) as z:
        index = z.read(f"musicnn/{model}/.index")
        data = z.read(f"musicnn/{model}/.data-00000-of-00001")
    footer, i = index[-48:], 0
    for _ in range(2):
        _, i = varint(footer, i)
    weights = {}
    for _, handle in table_block(index, footer[i:]):
        for name, entry in table_block(index, handle):
            if not name or "Adam" in name:
                continue
            shape, offset, size = [], 0, 0
            for number, value in fields(entry):
                if number == 2:
                    shape = [dict(fields(dim)).get(1, 0) for n, dim in fields(value) if n == 2]
                elif number == 4:
                    offset = value
                elif number == 5:
                    size = value
            weights[name] = np.frombuffer(data[offset:offset + size], "<f4").reshape(shape).copy()
    return weights


# --- the network ------------------------------------------------------------------------------

class Musicnn:
    """Forward pass of the wheel's models.py (inference: batch norm with its moving statistics)."""

    def __init__(self, weights):
        self.w = {k: torch.from_numpy(v) for k, v in weights.items()}

    def name(self, layer, i):
        return layer if i == 0 else f"{layer}_{i}"

    def norm(self, x, i, channel):
        n = self.name("batch_normalization", i)
        shape = [1] * x.dim()
        shape[channel] = -1
        # epsilon 0.001: the default of tf.layers
        scale = self.w[n + "/gamma"] / torch.sqrt(self.w[n + "/moving_variance"] + 1e-3)
        shift = self.w[n + "/beta"] - self.w[n + "/moving_mean"] * scale
        return x * scale.view(shape) + shift.view(shape)

    def conv(self, x, i):
        n = self.name("conv2d", i)
        kernel = self.w[n + "/kernel"].permute(3, 2, 0, 1)  # [h, w, in, out] -> [out, in, h, w]
        return F.relu(F.conv2d(x, kernel, self.w[n + "/bias"]))

    @torch.inference_mode()
    def __call__(self, patches):
        """[n, 187, 96] log-mel -> [n, 50] tag probabilities."""
        x = self.norm(torch.from_numpy(patches)[:, None], 0, 1)  # [n, 1, time, mel]
        front = []
        for i in range(5):  # two timbral blocks (7 frames high), three temporal ones (128, 64, 32)
            high = self.w[self.name("conv2d", i) + "/kernel"].shape[0]
            before = (high - 1) // 2  # TensorFlow's "same": the odd frame goes behind
            h = self.conv(F.pad(x, (0, 0, before, high - 1 - before)), i)
            front.append(self.norm(h, i + 1, 1).amax(dim=3))  # over all mel bands: [n, channels, time]
        front = torch.cat(front, 1).transpose(1, 2)  # [n, time, 561]
        layers = [front]
        for i in range(5, 8):  # mid-end: 64 filters over 7 frames and all features, residual
            h = self.conv(F.pad(layers[-1][:, None], (0, 0, 3, 3)), i)  # [n, 64, time, 1]
            h = self.norm(h, i + 1, 1)[..., 0].transpose(1, 2)
            layers.append(h if i == 5 else h + layers[-1])
        features = torch.cat(layers, 2)  # [n, time, 753]
        # [n, 753, 2] -> flat: max and mean interleaved, as tf.layers.flatten leaves them
        pooled = torch.stack([features.amax(1), features.mean(1)], 2).flatten(1)
        h = F.relu(self.norm(pooled, 9, 1) @ self.w["dense/kernel"] + self.w["dense/bias"])
        return torch.sigmoid(self.norm(h, 10, 1) @ self.w["dense_1/kernel"] + self.w["dense_1/bias"]).numpy()


# --- the ear ----------------------------------------------------------------------------------

def middle(path):
    """Mono 16 kHz samples of the middle 30 s (the whole, if shorter)."""
    try:
        with soundfile.SoundFile(path) as f:
            want = int(SECONDS * f.samplerate)
            f.seek(max(0, (f.frames - want) // 2))
            samples, rate = f.read(want, dtype="float32", always_2d=True), f.samplerate
    except soundfile.LibsndfileError:  # m4a: through ffmpeg, as librosa does
        import mutagen
        length = mutagen.File(path).info.length
        samples, rate = librosa.load(path, sr=None, mono=False, offset=max(0.0, (length - SECONDS) / 2), duration=SECONDS)
        samples = np.atleast_2d(samples).T
    return librosa.resample(samples.mean(1), orig_sr=rate, target_sr=RATE, res_type="soxr_hq")


def patches(samples):
    """[n, 187, 96]: log10(1 + 10000 mel), 3 s each, next to each other."""
    mel = librosa.feature.melspectrogram(y=samples, sr=RATE, n_fft=N_FFT, hop_length=HOP, n_mels=MELS).T
    # The wheel keeps mel power as float16 (above 65504 that would be infinite; music stays far below).
    mel = np.log10(10000 * mel.astype(np.float16).astype(np.float32) + 1).astype(np.float32)
    return np.stack([mel[i:i + PATCH] for i in range(0, len(mel) - PATCH + 1, PATCH)])


def open_text(path, mode):
    if not str(path).endswith(".gz"):
        return open(path, mode)
    # No name and no time inside: the same tags give the same bytes.
    return io.TextIOWrapper(gzip.GzipFile(path, mode + "b", mtime=0))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--tracks", type=Path, required=True, help="tracks.csv of fetch_audio.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = Musicnn(read_checkpoint(args.wheel))

    done = {}
    if args.out.exists():
        with open_text(args.out, "r") as f:
            done = {line.split("\t", 1)[0]: line for line in f if not line.startswith(("#", "id\t"))}
    with open(args.tracks, newline="") as f:
        tracks = list(csv.DictReader(f))
    started, made = time.time(), 0

    def write():
        with open_text(args.out, "w") as f:
            f.write("# Tag probabilities by the network MSD_musicnn (musicnn 0.1.0, Jordi Pons, ISC licence),\n"
                    "# mean over the ten 3 s patches of each track's middle 30 s. Made by teacher_tags.py.\n")
            f.write("\t".join(["id", *TAGS]) + "\n")
            f.writelines(done[k] for k in sorted(done))

    for number, track in enumerate(tracks, 1):
        if track["id"] in done:
            continue
        try:
            samples = middle(args.tracks.parent / track["path"])
            tags = network(patches(samples)).mean(0)
        except Exception as error:  # one bad file must not cost the others; it has no row then
            print(f"  left out {track['id']}: {error}", file=sys.stderr)
            continue
        done[track["id"]] = "\t".join([track["id"], *(f"{p:.4f}" for p in tags)]) + "\n"
        made += 1
        if made % 50 == 0:
            write()
            print(f"[{number}/{len(tracks)}] {(time.time() - started) / made:.2f} s per track", file=sys.stderr, flush=True)
    write()
    print(f"{len(done)} tracks tagged", file=sys.stderr)


if __name__ == "__main__":
    main()

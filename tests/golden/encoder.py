"""The network in PyTorch, as the oracle of debut's.

    pip install torch safetensors numpy blake3
    python tests/golden/encoder.py models/NAME          from the repository root

builds the network that the folder's model.toml describes, loads its model.safetensors, shows it three made-up songs,
and writes what it answers, before scaling to unit length, to the folder's golden.npy: float32 [3, dimensions]. The test
tests/encoder_golden.rs compares debut's answers with it, for every model folder that has one.

    python tests/golden/encoder.py --small              writes tests/golden/small-model itself first: seeded weights
"""

import sys
import tomllib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import max_pool1d, relu


class AudioEncoder(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.pools = c["pools"]
        self.register_buffer("input_mean", torch.zeros(c["mel_bands"]))
        self.register_buffer("input_std", torch.ones(c["mel_bands"]))
        channels = [c["mel_bands"], *c["channels"]]
        for i in range(4):
            setattr(self, f"conv{i + 1}", nn.Conv1d(channels[i], channels[i + 1], c["kernel"]))
        first, second = c["dense"]
        self.dense1 = nn.Linear(3 * channels[4], first)
        self.dense2 = nn.Linear(first, second)
        self.output = nn.Linear(second, c["dimensions"])

    def forward(self, mels):  # [n, frames, mel_bands]
        x = ((mels - self.input_mean) / self.input_std).transpose(1, 2)
        for i in range(4):
            x = relu(getattr(self, f"conv{i + 1}")(x))
            if i < len(self.pools):
                x = max_pool1d(x, self.pools[i])
        rms = torch.sqrt(x.square().mean(2) + 1e-12)
        x = torch.cat([x.mean(2), x.amax(2), rms], 1)
        return self.output(relu(self.dense2(relu(self.dense1(x)))))


def songs(frames, bands):
    """Three songs made of integers, so that any language makes the same: a grain of noise under a rising tone, with
    values from 0 to 9 as log-mel bands have. Number = ((h >> 16) & 255) / 128 + tone, h = 32-bit hash of the place."""
    n, t, m = np.meshgrid(np.arange(3), np.arange(frames), np.arange(bands), indexing="ij")
    h = (t * 2654435761 + m * 2246822519 + n * 3266489917 + 374761393) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 2246822519) & 0xFFFFFFFF
    distance = np.abs(m * 16 - (t * (n + 1) * 4) % (bands * 16))
    tone = np.maximum(0, 112 - distance) / 16
    return (((h >> 16) & 255) / 128 + tone).astype(np.float32)


def make_small(folder):
    """A model folder with 22 KB of weights seeded noise. Width, kernel and pools are the preset's; there are
    fewer bands, channels and units."""
    import blake3

    torch.manual_seed(20130)
    config = dict(mel_bands=16, frames=599, channels=[16, 16, 24, 24], kernel=4, pools=[4, 2, 2], dense=[32, 32], dimensions=40)
    net = AudioEncoder(config)
    weights = {}
    for name, value in net.state_dict().items():
        name = name.replace("input_", "input.")
        if name == "input.mean":
            value = 2 + torch.rand(16)
        elif name == "input.std":
            value = 1 + torch.rand(16)
        else:
            value = 2 * value  # so that the answers are not all near 0
        weights[name] = value.half().contiguous()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    digest = blake3.blake3((folder / "model.safetensors").read_bytes()).hexdigest()
    lines = [f"{key} = {value}" for key, value in config.items()] + ["dropout = 0.5"]
    text = (
        f'name = "small"\nspace = "space-golden"\ntypical_norm = 1.0\nweights = "{digest}"\n\n[encoder]\n'
        + "\n".join(lines)
        + "\n\n[front_end]\nsample_rate = 22050\nwindow_length = 2048\nhop_length = 1024\nmel_bands = 16\n"
        + "f_min = 0.0\nf_max = 11025.0\nframes = 599\nlog_gain = 10000.0\n"
    )
    seal = f"# BLAKE3 of the lines below: {blake3.blake3(text.encode()).hexdigest()}\n"
    (folder / "model.toml").write_text(seal + text)


def main():
    folder = Path("tests/golden/small-model") if sys.argv[1] == "--small" else Path(sys.argv[1])
    if sys.argv[1] == "--small":
        make_small(folder)
    config = tomllib.loads((folder / "model.toml").read_text())["encoder"]
    net = AudioEncoder(config).eval()
    state = load_file(folder / "model.safetensors")
    net.load_state_dict({name.replace("input.", "input_"): value.float() for name, value in state.items()})
    with torch.no_grad():
        answers = net(torch.from_numpy(songs(config["frames"], config["mel_bands"]))).numpy()
    np.save(folder / "golden.npy", answers)
    print(folder / "golden.npy", answers.shape, "largest", np.abs(answers).max())


main()

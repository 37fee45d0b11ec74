"""Mixed blocks of Layer III, which no encoder writes: every short block of a file of LAME is declared mixed, and
decoded by ffmpeg.

Needs ffmpeg with libmp3lame (5.1 made the committed files). From the repository root: python tests/golden/mixed.py
Writes tests/golden/mixed-{8,32}k.mp3 and the mean of the decoded channels beside them, 32-bit floats, little-endian.
"""

import struct
import subprocess

BITRATES = [
    [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320],
    [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
]
CLICKS = "0.6*exp(-60*mod(t\\,0.071))*(2*random(0)-1)|0.6*exp(-50*mod(t+0.03\\,0.083))*(2*random(1)-1)"


def frames(data):
    """The offset and the length of each frame."""
    at = 0
    while at + 4 <= len(data):
        _, b, c, _ = data[at : at + 4]
        family = {3: 0, 2: 1, 0: 2}[b >> 3 & 3]
        rate = [44100, 48000, 32000][c >> 2 & 3] >> family
        low = int(family > 0)
        length = (72 if low else 144) * BITRATES[low][c >> 4] * 1000 // rate + (c >> 1 & 1)
        yield at, length, low
        at += length


def mixed(data):
    """Sets mixed_block_flag in the side information of all short blocks; their number too."""
    data, changed = bytearray(data), 0
    for start, _, low in frames(data):
        bit = lambda at: data[start + 4 + at // 8] >> (7 - at % 8) & 1
        channels = 1 if data[start + 3] >> 6 == 3 else 2
        # main_data_begin, private bits, scfsi.
        at = (8 if low else 9) + ([1, 2] if low else [5, 3])[channels - 1] + (0 if low else 4 * channels)
        for _ in range((1 if low else 2) * channels):
            # part2_3_length, big_values, global_gain, scalefac_compress.
            switch = at + 12 + 9 + 8 + (9 if low else 4)
            # window_switching_flag and block_type 2.
            if bit(switch) and bit(switch + 1) and not bit(switch + 2):
                flag = switch + 3
                data[start + 4 + flag // 8] |= 1 << (7 - flag % 8)
                changed += 1
            at = switch + 1 + 22 + (2 if low else 3)
    return bytes(data), changed


def run(*arguments, data=None):
    return subprocess.run(["ffmpeg", "-v", "error", *arguments], input=data, stdout=subprocess.PIPE, check=True).stdout


for rate, seconds, bitrate in [(8000, 0.8, "32k"), (32000, 0.25, "96k")]:
    source = ["-f", "lavfi", "-i", f"aevalsrc={CLICKS}:s={rate}:d={seconds}:c=stereo"]
    plain = ["-write_xing", "0", "-id3v2_version", "0", "-joint_stereo", "0", "-f", "mp3", "-"]
    data, changed = mixed(run(*source, "-c:a", "libmp3lame", "-b:a", bitrate, *plain))
    decoded = run("-f", "mp3", "-i", "-", "-c:a", "pcm_f32le", "-f", "f32le", "-", data=data)
    samples = struct.unpack(f"<{len(decoded) // 4}f", decoded)
    mean = [(left + right) / 2 for left, right in zip(samples[::2], samples[1::2])]
    name = f"tests/golden/mixed-{rate // 1000}k"
    open(name + ".mp3", "wb").write(data)
    open(name + ".f32", "wb").write(struct.pack(f"<{len(mean)}f", *mean))
    print(f"{name}: {changed} mixed blocks, {len(mean)} samples up to {max(map(abs, mean)):.2f}")

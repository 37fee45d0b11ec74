#!/usr/bin/env bash
# Writes the seed corpus of the fuzz targets from the files of the tests: bash fuzz/seed.sh [MORE_AUDIO_FOLDERS]
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p corpus/hear corpus/packets corpus/formats
for folder in ../tests/data "$@"; do
    find "$folder" -type f -size -65k -exec cp {} corpus/hear/ \;
done
python3 - <<'PY'
import glob, os, re, struct

def seed(path, codec, extra, packets):
    # Each packet with its byte of trims; the first eight with one of each kind.
    body = b"".join(struct.pack("<BH", 9 * i if i < 8 else 0, len(p)) + p for i, p in enumerate(packets))
    open("corpus/packets/" + os.path.basename(path), "wb").write(struct.pack("<BH", codec, len(extra)) + extra + body)

# mp3 and ADTS: packets cut at their sync words. FLAC: at its own.
def cut(data, sync, mask):
    at = [i for i in range(len(data) - 1) if data[i] == sync and data[i + 1] & mask == mask]
    return [data[a:b] for a, b in zip(at, at[1:] + [len(data)]) if b - a > 16][:24]

# The packets of the first track of an MP4 file (ISO 14496-12: sample sizes, samples to chunks, chunk offsets).
def mp4_packets(data):
    def table(name, entry):
        at = data.index(name) + 4
        head = 8 if name == b"stsz" else 4
        count, = struct.unpack_from(">I", data, at + head)
        return [struct.unpack_from(entry, data, at + head + 4 + i * struct.calcsize(entry)) for i in range(count)]
    sizes = [size for size, in table(b"stsz", ">I")]
    runs, packets = table(b"stsc", ">3I"), []
    for chunk, (at,) in enumerate(table(b"stco", ">I"), 1):
        per_chunk = [n for first, n, _ in runs if first <= chunk][-1]
        for size in sizes[len(packets):len(packets) + per_chunk]:
            packets.append(data[at:at + size])
            at += size
    return packets

# Ogg pages (RFC 3533, section 6).
def pages(data):
    at, found = 0, []
    while at + 27 <= len(data) and data[at:at + 4] == b"OggS":
        end = at + 27 + data[at + 26] + sum(data[at + 27:at + 27 + data[at + 26]])
        found.append(data[at:end])
        at = end
    return found

def with_serial(page, serial):
    page = bytearray(page)
    page[14:18], page[22:26] = struct.pack("<I", serial), bytes(4)
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04c11db7 if crc >> 31 else 0)) & 0xffffffff
    page[22:26] = struct.pack("<I", crc)
    return bytes(page)

data = lambda path: open(path, "rb").read()
for path in glob.glob("../tests/data/*.mp3"):
    seed(path, 0, b"", cut(data(path), 0xff, 0xe0))
for path in glob.glob("../tests/data/*.aac"):
    packets = cut(data(path), 0xff, 0xf0)
    # AudioSpecificConfig: object type, rate and channels as the ADTS header has them.
    _, _, c, d = packets[0][:4]
    config = ((c >> 6) + 1) << 11 | (c >> 2 & 15) << 7 | ((c & 1) << 2 | d >> 6) << 3
    seed(path, 1, struct.pack(">H", config), [p[7 if p[1] & 1 else 9:] for p in packets])
for path in glob.glob("../tests/data/*.m4a"):
    if b"mp4a" in data(path):
        # DecoderSpecificInfo, tag 5, its length in four bytes as ffmpeg writes it.
        config = re.search(rb"\x05\x80\x80\x80(.)", data(path)[data(path).index(b"esds"):], re.S)
        start = data(path).index(b"esds") + config.end()
        seed(path, 1, data(path)[start:start + config[1][0]], mp4_packets(data(path))[:24])
for path in glob.glob("../tests/data/*.flac"):
    seed(path, 3, data(path)[8:42], cut(data(path), 0xff, 0xf8))
for path in glob.glob("../tests/data/*.og[ga]") + glob.glob("../tests/data/*.opus"):
    packets, part = [], b""
    for page in pages(data(path)):
        body = 27 + page[26]
        for lace in page[27:body]:
            part += page[body:body + lace]
            body += lace
            if lace < 255:
                packets.append(part)
                part = b""
    vorbis = packets[0][1:7] == b"vorbis"
    seed(path, 2 if vorbis else 4, packets[0] + packets[2] if vorbis else packets[0], packets[2:24])
for coding in range(12):
    # 22,050 Hz in stereo, bytes of all values.
    seed(f"pcm-{coding}", 5 | 3 << 4 | 1 << 6, bytes([coding]), [bytes(range(256)), bytes(range(0, 256, 3))])

# Streams one behind the other, and side by side.
ogg = {name: pages(data("../tests/data/" + name)) for name in ["steps.ogg", "sweep.ogg", "steps-mono.opus"]}
for first, second in [("steps.ogg", "sweep.ogg"), ("steps.ogg", "steps-mono.opus"), ("steps-mono.opus", "steps.ogg")]:
    a, b = [[with_serial(page, n) for page in ogg[name]] for n, name in [(1, first), (2, second)]]
    open(f"corpus/hear/chained-{first}-{second}", "wb").write(b"".join(a + b))
    # The pages that begin a stream come first.
    mixed = [a[0], b[0]]
    for i in range(1, max(len(a), len(b))):
        mixed += a[i:i + 1] + b[i:i + 1]
    open(f"corpus/hear/multiplexed-{first}-{second}", "wb").write(b"".join(mixed))
text = open("fuzz_targets/tiny-model.toml", "rb").read()
open("corpus/formats/model", "wb").write(b"\x02" + text)
open("corpus/formats/factors", "wb").write(b"\x03" + open("../models/game-music/factors/factors.toml", "rb").read().split(b"\n", 1)[1])
about = b'{"seconds":1.0,"start_seconds":[0.0,0.5],"tiled":false,"tags":{},"format":"wav","codec":"pcm","source_rate":22050,"channels":1}'
# The weights of that network: one tensor behind the other, all zero but the deviations.
def tensor(name, *shape):
    global at
    count = 1
    for n in shape:
        count *= n
    at, begin = at + 2 * count, at
    return f'"{name}":{{"dtype":"F16","shape":{list(shape)},"data_offsets":[{begin},{at}]}}'

at, tensors, before = 0, [], 8
for i, n in enumerate([8, 8, 12, 12], 1):
    tensors += [tensor(f"conv{i}.bias", n), tensor(f"conv{i}.weight", n, before, 4)]
    before = n
for name, n, inputs in [("dense1", 24, 36), ("dense2", 24, 24), ("output", 5, 24)]:
    tensors += [tensor(f"{name}.bias", n), tensor(f"{name}.weight", n, inputs)]
tensors += [tensor("input.mean", 8), tensor("input.std", 8)]
header = ('{"__metadata__":{"format":"pt"},' + ",".join(tensors) + "}").encode()
open("corpus/formats/weights", "wb").write(b"\x01" + struct.pack("<Q", len(header)) + header + b"\0\x3c" * (at // 2))
# NumPy's arrays: 3 vectors of 2 numbers; in an archive, as implicit has them.
import io, zipfile
def npy(dtype, shape, body):
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + body
array = npy("<f4", "(3, 2)", struct.pack("<6f", *range(6)))
open("corpus/formats/npy", "wb").write(b"\x06" + array)
archive = io.BytesIO()
with zipfile.ZipFile(archive, "w") as z:
    for name, body in [("user_factors", array), ("item_factors", array), ("regularization", npy("<f8", "()", bytes(8)))]:
        z.writestr(name + ".npy", body)
open("corpus/formats/npz", "wb").write(b"\x04" + archive.getvalue())
line = b'{"windows":["HASH0","HASH1"],"about":' + about + b'}'
open("corpus/formats/cache", "wb").write(b"\x00" + line + b"\n" + bytes(2 * 64))
PY
# A table of Spark's, where the program is built: half of the factors that it writes.
debut=../target/release/debut
if [ -x "$debut" ]; then
    scratch=$(mktemp -d)
    printf 'time,user,track\n1,a,x\n1,b,x\n1,b,y\n' > "$scratch/plays.csv"
    "$debut" factorize "$scratch/plays.csv" --out "$scratch/factors" --set als.dimensions=3 > /dev/null
    "$debut" factors export "$scratch/factors" --to spark --out "$scratch/spark" > /dev/null
    (printf '\005'; cat "$scratch"/spark/itemFactors/*.parquet) > corpus/formats/spark
    rm -r "$scratch"
fi
echo "seeds: $(ls corpus/hear | wc -l) files, $(ls corpus/packets | wc -l) streams, $(ls corpus/formats | wc -l) of our own formats"

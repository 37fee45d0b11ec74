#!/usr/bin/env bash
# Writes the seed corpus of the fuzz targets from the files of the tests: bash fuzz/seed.sh [MORE_AUDIO_FOLDERS]
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p corpus/hear corpus/packets corpus/formats
for folder in ../tests/data "$@"; do
    find "$folder" -type f -size -65k -exec cp {} corpus/hear/ \;
done
python3 - <<'PY'
import glob, os, struct

def chunks(*parts):
    return b"".join(struct.pack("<H", len(p)) + p for p in parts)

# mp3 and ADTS: packets cut at their sync words. FLAC: at its own.
def cut(data, sync, mask):
    at = [i for i in range(len(data) - 1) if data[i] == sync and data[i + 1] & mask == mask]
    return [data[a:b][:4096] for a, b in zip(at, at[1:] + [len(data)]) if b - a > 16][:24]

for path in glob.glob("../tests/data/*.mp3"):
    open("corpus/packets/" + os.path.basename(path), "wb").write(b"\x00" + chunks(b"", *cut(open(path, "rb").read(), 0xff, 0xe0)))
for path in glob.glob("../tests/data/*.aac"):
    raw = [p[7:] for p in cut(open(path, "rb").read(), 0xff, 0xf0)]
    open("corpus/packets/" + os.path.basename(path), "wb").write(b"\x01" + chunks(b"\x12\x10", *raw))
for path in glob.glob("../tests/data/*.flac"):
    data = open(path, "rb").read()
    open("corpus/packets/" + os.path.basename(path), "wb").write(b"\x03" + chunks(data[8:42], *cut(data, 0xff, 0xf8)))
for path in glob.glob("../tests/data/*.og[ga]") + glob.glob("../tests/data/*.opus"):
    # Ogg pages to packets (RFC 3533, section 6).
    data, at, packets, part = open(path, "rb").read(), 0, [], b""
    while at + 27 <= len(data) and data[at:at + 4] == b"OggS":
        n = data[at + 26]
        body = at + 27 + n
        for lace in data[at + 27:body]:
            part += data[body:body + lace]
            body += lace
            if lace < 255:
                packets.append(part[:4096])
                part = b""
        at = body
    vorbis = packets[0][1:7] == b"vorbis"
    extra = packets[0] + packets[2] if vorbis else packets[0]
    # A setup header is longer than a chunk may be where it is large; such a seed is of no use.
    if len(extra) <= 4096:
        kind = b"\x02" if vorbis else b"\x04"
        open("corpus/packets/" + os.path.basename(path), "wb").write(kind + chunks(extra, *packets[2:24]))
text = open("fuzz_targets/tiny-model.toml", "rb").read()
open("corpus/formats/model", "wb").write(b"\x02" + text)
open("corpus/formats/factors", "wb").write(b"\x03" + open("../models/game-music/factors/factors.toml", "rb").read())
about = b'{"seconds":1.0,"start_seconds":[0.0,0.5],"tiled":false,"tags":{},"format":"wav","codec":"pcm","source_rate":22050,"channels":1}'
head = b"debutmel" + struct.pack("<4I", 1, 2, 4, 8) + b"0123456789abcdef" + struct.pack("<I", len(about)) + about + bytes(32)
open("corpus/formats/cache", "wb").write(b"\x00" + head + 2 * (bytes(64) + bytes(32)))
PY
echo "seeds: $(ls corpus/hear | wc -l) files, $(ls corpus/packets | wc -l) streams, $(ls corpus/formats | wc -l) of our own formats"

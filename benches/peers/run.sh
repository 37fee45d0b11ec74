#!/usr/bin/env bash
# Sets the peers up and prints the comparison as Markdown:
#
#     benches/peers/run.sh --music DIR      five tracks of 3 to 5 minutes, stereo 44.1 kHz, picked from a folder
#     benches/peers/run.sh --music FILE...  exactly these
#     benches/peers/run.sh                  the tracks of last time
#
# Needs (Debian): ffmpeg python3 python3-venv coreutils, and cargo. Everything else comes from the Python and Rust package registries, at
# the versions of requirements.txt and the Cargo.lock files. What it makes is kept and used again:
#     $DEBUT_PEERS_VENV  the Python environment                           (target/peers-venv)
#     $DEBUT_PEERS_WORK  the encoded tracks, results.jsonl, table.md      (target/peers-work)
# About 10 minutes once that is there. Run it on a machine that does nothing else.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
venv=${DEBUT_PEERS_VENV:-$target/peers-venv}
work=${DEBUT_PEERS_WORK:-$target/peers-work}
TRACKS=5

say() { echo "$*" >&2; }
fail() { say "run.sh: $*"; exit 1; }

music=()
if [ "${1:-}" = --music ]; then
    shift
    music=("$@")
    [ $# -gt 0 ] || fail "--music takes a folder or files"
elif [ $# -gt 0 ]; then
    fail "expected --music, found $1"
fi
for tool in ffmpeg ffprobe python3 cargo shuf; do
    command -v "$tool" >/dev/null || fail "$tool is missing; on Debian: apt-get install ffmpeg python3 python3-venv coreutils, and rustup"
done

# Python.
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    say "setting up $venv"
    [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --requirement "$here/requirements.txt" >&2
    cp "$here/requirements.txt" "$venv/installed.txt"
fi

# Rust: ours as a bench of the main crate, so that it is built as the program is; the others are crates of their own.
say "building"
built() { python3 -c '
import json, sys
for line in sys.stdin:
    if line.startswith("{") and (made := json.loads(line)).get("executable") and made["target"]["name"] == sys.argv[1]:
        print(made["executable"])' "$1"; }
bench() { (cd "$root" && cargo bench --quiet --profile release --bench "$1" --no-run --message-format=json | built "$1"); }
ours=$(bench peers)
network=$(bench network)
program() { cargo build --quiet --release --locked --manifest-path "$here/$1/Cargo.toml" --target-dir "$target/peers" --message-format=json | built "$1"; }
bare=$(program bare)
bliss=$(program bliss)
[ -x "$ours" ] && [ -x "$network" ] && [ -x "$bare" ] && [ -x "$bliss" ] || fail "a program was not built"

# Music.
mkdir -p "$work/files"
eligible() { # stereo, 44.1 kHz, 3 to 5 minutes
    local found
    found=$(ffprobe -v error -select_streams a:0 -show_entries stream=sample_rate,channels:format=duration -of default=nw=1:nk=1 "$1" 2>/dev/null) || return 1
    awk 'NR == 1 && $1 != 44100 || NR == 2 && $1 != 2 || NR == 3 && !($1 > 180 && $1 < 300) { bad = 1 } END { exit bad || NR != 3 }' <<<"$found"
}
if [ ${#music[@]} -gt 0 ]; then
    files=()
    if [ -d "${music[0]}" ]; then
        # Shuffled, the same way every time, so that neighbours of one album are unlikely.
        while IFS= read -r file; do
            ! eligible "$file" || files+=("$file")
            [ ${#files[@]} -lt $TRACKS ] || break
        done < <(find -L "${music[0]}" -type f \( -iname '*.flac' -o -iname '*.wav' -o -iname '*.ogg' -o -iname '*.mp3' -o -iname '*.m4a' -o -iname '*.opus' \) |
            LC_ALL=C sort | shuf --random-source=<(yes))
        [ ${#files[@]} -gt 0 ] || fail "no stereo track of 3 to 5 minutes at 44.1 kHz in ${music[0]}"
    else
        files=("${music[@]}")
    fi
    : >"$work/tracks.partial"
    for file in "${files[@]}"; do
        name=$(basename "${file%.*}" | tr -c 'A-Za-z0-9\n' _)
        echo "$name" >>"$work/tracks.partial"
        encode() { # FORMAT.EXTENSION, codec options; aside first, so that a broken run leaves no half file
            local to="$work/files/$name.$1"
            [ -s "$to" ] || {
                ffmpeg -nostdin -v error -y -i "$from" -map 0:a:0 -map_metadata -1 "${@:2}" "$work/partial.${1##*.}" </dev/null
                mv "$work/partial.${1##*.}" "$to"
            }
        }
        say "encoding $name"
        from=$file
        encode wav.wav -ac 2 -ar 44100 -c:a pcm_s16le
        from=$work/files/$name.wav.wav
        encode flac.flac -c:a flac
        encode mp3-cbr.mp3 -c:a libmp3lame -b:a 192k
        encode mp3-vbr.mp3 -c:a libmp3lame -q:a 2
        encode m4a.m4a -c:a aac -b:a 192k
        encode ogg.ogg -c:a libvorbis -q:a 5
        encode opus.opus -c:a libopus -b:a 128k
    done
    mv "$work/tracks.partial" "$work/tracks"
fi
[ -s "$work/tracks" ] || fail "which music? run.sh --music DIR"

say "measuring"
"$venv/bin/python" "$here/measure.py" "$work" "$ours" "$bare" "$bliss" >"$work/results.jsonl"
"$venv/bin/python" "$here/network.py" --rounds 4 --batches 1 32 --beside "$network --json" >"$work/network.jsonl"
"$venv/bin/python" "$here/train.py" --beside "$network --train" >"$work/train.jsonl"
{
    echo "## Front end: file to 599×128 log-mel"
    echo
    "$venv/bin/python" "$here/table.py" "$work/results.jsonl"
    echo
    echo "## Network"
    echo
    "$venv/bin/python" "$here/table.py" --network "$work/network.jsonl"
    echo
    echo "## Training"
    echo
    sed 's/^/    /' "$work/train.jsonl"
} | tee "$work/table.md"

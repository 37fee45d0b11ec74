#!/usr/bin/env bash
# Makes the shipped model again, from the audio up: 2.2 GB of audio, more than half an hour on two cores.
#
#   models/game-music/make/make.sh [WORK]
#
# WORK (default: runs/game-music) holds the audio, the events, the spectrograms and the runs; nothing of it is committed.
# Needs Rust, Python 3 with `pip install numpy mutagen`, and Debian's apt-get and dpkg-deb. Run from the repository root.
set -euo pipefail
here=models/game-music/make
work=${1:-runs/game-music}
share=${SHARE:-0.6}     # of the variance of taste that audio can explain; the card reports 0.3 too
split=${SPLIT:-track}   # track, artist or time
tracks=$work/audio/released.csv   # beside tracks.csv, so that its paths are the same: audio/<album>/<name>

cargo build --release
debut=${CARGO_TARGET_DIR:-target}/release/debut

python3 $here/fetch_audio.py --out "$work/audio"
python3 $here/simulate_listeners.py --tracks "$work/audio/tracks.csv" --out "$work/events-$share.csv" --share "$share" \
  --releases "$tracks"

"$debut" prepare --audio "$tracks" --events "$work/events-$share.csv" --cache "$work/spectrograms" --windows 6 \
  --out "$work/data-$share"
"$debut" --config $here/recipe.toml factorize "$work/events-$share.csv" --split "$work/data-$share/splits/$split.csv" \
  --out "$work/factors-$share-$split"
"$debut" --config $here/recipe.toml train --data "$work/data-$share" --factors "$work/factors-$share-$split" \
  --name game-music --out "$work/model-$share-$split"
"$debut" evaluate --model "$work/model-$share-$split" --data "$work/data-$share" --factors "$work/factors-$share-$split" \
  --events "$work/events-$share.csv" --save | tee "$work/scores-$share-$split.md"

if [ "${INSTALL:-no}" = yes ]; then   # puts the result where the shipped model is; needs pip install pyarrow torch
  to=models/game-music
  cp "$work/model-$share-$split"/{model.toml,model.safetensors,space.json,curve.svg} $to/
  mkdir -p $to/factors && cp "$work/factors-$share-$split"/* $to/factors/
  cp "$tracks" $to/tracks.csv
  python3 $here/pack_events.py "$work/events-$share.csv" $to/factors/held_out.ids $to/events.parquet
  python3 tests/golden/encoder.py $to
fi

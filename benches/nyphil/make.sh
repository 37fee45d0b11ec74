#!/usr/bin/env bash
# The whole bench: `benches/nyphil/make.sh [WORK]`, from the repository's root. About an hour on two cores, and 1.5 GB.
#
# WORK (default: runs/nyphil) gets the sources, the audio, the events and the run. The join is committed (join.csv); with
# MATCH=yes it is made again, and compared. Needs Rust, git, `sudo apt-get install fluidsynth fluid-soundfont-gm`, and
# Python 3.11 with `pip install mido numpy soundfile blake3`.
set -euo pipefail
here=benches/nyphil
work=${1:-runs/nyphil}
src=$work/src
programmes=$src/PerformanceHistory/Programs/json
midi=(--midi "composer-classifier=$src/composer-classifier/midi/classical"
      --midi "Music-Generator-App=$src/Music-Generator-App/Drive-Files/Datasets/midi-classical-music/data")

cargo build --release
debut=${CARGO_TARGET_DIR:-target}/release/debut

$here/fetch.sh "$work"
if [ "${MATCH:-no}" = yes ]; then
  python3 $here/match.py --programmes "$programmes" "${midi[@]}" --out "$work/join.csv"
  diff -q "$work/join.csv" $here/join.csv || true   # the collections may have changed
fi
python3 $here/render.py --join $here/join.csv "${midi[@]}" --out "$work"
python3 $here/events.py --programmes "$programmes" --tracks "$work/tracks.csv" --out "$work"

"$debut" prepare --audio "$work/tracks.csv" --events "$work/events.csv" --cache "$work/spectrograms" --windows 6 \
  --out "$work/data"
# A quarter of the works with sound is held out.
"$debut" --config $here/recipe.toml factorize "$work/events.csv" --split "$work/split.csv" --out "$work/factors"
for seed in 1 2 3; do
  "$debut" --config $here/recipe.toml --set train.seed=$seed train --data "$work/data" --factors "$work/factors" --name nyphil \
    --out "$work/model-$seed"
done
"$debut" evaluate --model "$work/model-1" --model "$work/model-2" --model "$work/model-3" --data "$work/data" --factors "$work/factors" --events "$work/events.csv" \
  --segments 6 -k 10 | tee "$work/scores.md"
for seed in 1 2 3; do
  "$debut" embed --manifest "$work/tracks.csv" --model "$work/model-$seed" --segments 6 --out "$work/vectors-$seed.npy"
  python3 $here/baselines.py --factors "$work/factors" --events "$work/events.csv" --tracks "$work/tracks.csv" \
    --programmes "$programmes" --vectors "$work/vectors-$seed.npy" -k 10 | tee -a "$work/scores.md"
done

#!/usr/bin/env bash
# Fetches what the other scripts read: `fetch.sh WORK`. About 0.5 GB; nothing of it is part of this repository.
#
# The programmes are CC0. The MIDI collections name no licence, or one that cannot cover every file: they stay on your machine.
set -euo pipefail
src=$1/src
mkdir -p "$src"
for repository in nyphilarchive/PerformanceHistory mevers303/composer-classifier azrapamuk/Music-Generator-App; do
  to=$src/${repository#*/}
  [ -e "$to" ] || { git clone --depth 1 "https://github.com/$repository" "$to.part" && mv "$to.part" "$to"; }
done

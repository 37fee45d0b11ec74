#!/usr/bin/env python3
"""Renders every joined work as one file of sound: `python render.py --join join.csv --midi NAME=DIR … --out DIR`.

Six pieces of 30 s a work, one after the other, so that `debut prepare --windows 6` hears each: the middle of up to six movements
(of more, six spread evenly), and where there are fewer, more places of each, spread evenly over it. Debian's fluidsynth with
FluidR3_GM, mono, 22,050 Hz; every piece at the same loudness, so that a sequencer's level gives nothing away. Nothing is random.

    sudo apt-get install fluidsynth fluid-soundfont-gm      pip install mido numpy soundfile

Writes DIR/audio/WORK.flac and DIR/tracks.csv (path,id,artist,title,album,released; the artist is the composer, the year is not
known). What exists is kept, so it may be stopped and started again. About an hour on one core.
"""

import argparse
import csv
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import mido
import numpy as np
import soundfile

RATE = 22_050
PIECES, SECONDS = 6, 30
TICKS_A_SECOND = 960  # 480 a beat at 120 beats a minute
RMS = 0.08


def events_of(path):
    """[(seconds, message)] of all tracks, in order, without meta and system messages."""
    midi, now, out = mido.MidiFile(path, clip=True), 0.0, []
    for message in midi:  # merged, with the times in seconds that the tempo changes give
        now += message.time
        if hasattr(message, "channel"):
            out.append((now, message))
    return out


def cut(events, start, seconds, path):
    """Writes what sounds from `start` as a MIDI file of its own. Programmes, controllers and bends that were set before, and
    notes that are held, begin it; all notes and sounds off end it: without that a held organ sounds for ever.
    """
    state, held, before, body = {}, {}, {}, []
    for at, message in events:
        if at >= start + seconds:
            break
        note = (message.channel, message.note) if message.type in ("note_on", "note_off") else None
        if note and message.type == "note_on" and message.velocity:
            held[note] = message
        elif note:
            held.pop(note, None)
        if at >= start:
            body.append((at - start, message))
        elif note is None:
            state[message.type, message.channel, getattr(message, "control", getattr(message, "note", 0))] = message
        if at < start:
            before = dict(held)
    order = {"control_change": 0, "program_change": 1}  # a bank comes before its programme
    opening = sorted(state.values(), key=lambda m: order.get(m.type, 2)) + list(before.values())
    track, last = mido.MidiTrack(), 0
    for at, message in [(0.0, m) for m in opening] + body:
        tick = round(at * TICKS_A_SECOND)
        track.append(message.copy(time=tick - last))
        last = tick
    end = round(seconds * TICKS_A_SECOND) - last
    for channel in range(16):
        for control in (64, 123, 120):
            track.append(mido.Message("control_change", channel=channel, control=control, value=0, time=max(end, 0)))
            end = 0
    out = mido.MidiFile(type=0, ticks_per_beat=480)
    out.tracks.append(track)
    out.save(path)


def sound(midi, soundfont, scratch):
    """Mono samples of a MIDI file, float32 [n]; stopped after a minute, or 64 MB."""
    raw = scratch / "out.raw"
    raw.unlink(missing_ok=True)
    subprocess.run(["fluidsynth", "-ni", "-q", "-R", "0", "-r", str(RATE), "-T", "raw", "-O", "s16", "-E", "little", "-g", "0.4",
                    "-o", "synth.chorus.active=0", "-o", "synth.polyphony=96", "-o", "synth.dynamic-sample-loading=1", "-F", str(raw), soundfont, str(midi)],
                   check=True, timeout=60, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20)))
    return np.fromfile(raw, "<i2").reshape(-1, 2).mean(1).astype(np.float32) / 32_768


def piece(events, place, soundfont, scratch):
    """SECONDS of sound about `place` (0 to 1) of a movement, or None where that is silence."""
    ends = [at for at, m in events if m.type in ("note_on", "note_off")]
    first, length = min(ends), max(ends) - min(ends)
    start = first + max(0.0, length * place - SECONDS / 2)
    start = max(first, min(start, first + length - SECONDS))
    midi = scratch / "cut.mid"
    cut(events, start, min(SECONDS, length) + 1, midi)
    samples = sound(midi, soundfont, scratch)[: int(min(SECONDS, length) * RATE)]
    if not len(samples) or (level := float(np.sqrt(np.mean(samples**2)))) < 1e-4:
        return None
    samples = np.resize(samples, SECONDS * RATE)  # a shorter movement begins again
    return samples * min(RMS / level, 0.98 / float(np.abs(samples).max()))


def natural(path):
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", path)]


def places(n):
    """The (movement, place) of every piece, of n movements."""
    if n >= PIECES:
        return [(round(i * (n - 1) / (PIECES - 1)), 0.5) for i in range(PIECES)]
    each = [PIECES // n + (i < PIECES % n) for i in range(n)]
    return [(i, (j + 1) / (k + 1)) for i, k in enumerate(each) for j in range(k)]


def movements_of(files):
    """The events of up to PIECES files, spread evenly over all; what cannot be read, or has no note, is passed over."""
    chosen = [files[i] for i, _ in places(len(files))] if len(files) > PIECES else files
    for path in chosen:
        try:
            events = events_of(path)
            if any(m.type == "note_on" for _, m in events):
                yield events
        except Exception as error:  # mido raises whatever its parser met: these are files from the wild
            print(f"{path}: {error}", file=sys.stderr)


def render(files, out, soundfont):
    """False where not one movement gave a sound."""
    movements, pieces = list(movements_of(files)), []
    with tempfile.TemporaryDirectory() as scratch:
        for movement, place in places(len(movements)) if movements else []:
            try:
                samples = piece(movements[movement], place, soundfont, Path(scratch))
            except (subprocess.SubprocessError, ValueError) as error:
                print(f"{out.stem}: {error}", file=sys.stderr)
                continue
            if samples is not None:
                pieces.append(samples)
    if not pieces:
        return False
    pieces = [pieces[i % len(pieces)] for i in range(PIECES)]
    part = out.with_suffix(".part")
    soundfile.write(part, np.concatenate(pieces), RATE, format="FLAC", subtype="PCM_16")
    os.replace(part, out)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--join", required=True)
    parser.add_argument("--midi", action="append", required=True, metavar="NAME=DIR", help="as for match.py")
    parser.add_argument("--out", required=True)
    parser.add_argument("--soundfont", default="/usr/share/sounds/sf2/FluidR3_GM.sf2")
    args = parser.parse_args()

    folders = dict(collection.split("=", 1) for collection in args.midi)
    works, files = {}, defaultdict(list)
    for row in csv.DictReader(open(args.join, encoding="utf-8")):
        works[row["work"]] = row
        files[row["work"]].append(row["path"] if row["repository"] not in folders else str(Path(folders[row["repository"]], row["path"])))
    audio = Path(args.out, "audio")
    audio.mkdir(parents=True, exist_ok=True)
    made = []
    for i, (id, work) in enumerate(works.items()):
        out = audio / f"{id}.flac"
        if out.exists() or render(sorted(files[id], key=natural), out, args.soundfont):
            made.append((f"audio/{out.name}", id, work["composer"], work["title"], "", ""))
        print(f"\r{i + 1} of {len(works)}", end="", file=sys.stderr)
    print(f": {len(made)} works have sound", file=sys.stderr)
    part = Path(args.out, "tracks.csv.part")
    with open(part, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["path", "id", "artist", "title", "album", "released"])
        table.writerows(made)
    os.replace(part, part.with_suffix(""))


if __name__ == "__main__":
    main()

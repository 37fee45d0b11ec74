"""Lets our front end and its peers take turns over the same files, one thread and two; JSON lines to standard output.

    measure.py WORK OURS BARE BLISS

WORK is the folder that run.sh prepared: `tracks` names the tracks, `files/NAME.FORMAT.EXTENSION` are they in every
format. OURS, BARE and BLISS are the Rust programs. A line is one of
    {"machine": {...}}                                            where and when
    {"peer": P, "version": V} or {"peer": P, "missing": REASON}
    {"peer": P, "format": F, "threads": T, "cpu_ms": [one per track], "wall_ms": W, "failed": [...]}
    {"peer": P, "format": F, "difference": D}                     to our spectrogram, see `difference`

Every program stays running and is handed one batch (all tracks in one format) after the other, so that what a noisy
machine does in one minute hits all of them alike; the least time of several rounds counts.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
FORMATS = ["mp3-cbr", "mp3-vbr", "m4a", "ogg", "opus", "flac", "wav"]
PYTHON = [
    "librosa windowed",
    "soundfile + soxr",
    "torchcodec + torchaudio",
    "PyAV + swr",
    "ffmpeg pipe",
    "librosa whole",
    "essentia",
]
# They decode whole tracks and take up to 2 s for each, so two rounds (one with two threads) have to do.
SLOW = {"librosa whole", "essentia", "bliss-audio"}
ROUNDS = {1: 4, 2: 3}
SLOW_ROUNDS = {1: 2, 2: 1}
# From this band on (10.2 kHz) a spectrogram shows how the resampler ends its pass band; no two do it alike.
BANDS_COMPARED = 123
SHAPE = (599, 128)


def say(**line):
    print(json.dumps(line), flush=True)


def note(text):
    print(text, file=sys.stderr, flush=True)


class Program:
    """A peer that is running and waits for batches."""

    def __init__(self, peer, command, threads, out=None):
        self.peer = peer
        self.command = [*command, "--threads", str(threads)] + (["--out", str(out)] if out else [])
        self.cannot = {}  # format: its answer, not asked for again
        self.start()

    def start(self):
        pipe = subprocess.PIPE
        self.errors = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)

    def hear(self, format, paths, starts):
        """The program's answer to one batch."""
        if format in self.cannot:
            return self.cannot[format]
        batch = json.dumps(list(zip(paths, starts))) if self.peer in PYTHON else "\t".join(paths)
        self.process.stdin.write(batch + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if line:
            answer = json.loads(line)
        else:
            # essentia ends in a segmentation fault when it meets a second file whose codec it does not know.
            reason = f"the program ended with status {self.process.wait()}"
            note(f"{self.peer}, {format}: {reason}")
            self.start()
            answer = {"cpu_ms": [None] * len(paths), "wall_ms": None, "failed": [reason] * len(paths)}
        if any(answer["failed"]):
            self.cannot[format] = answer
        return answer

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def busy():
    """The share of all cores that others use, over two seconds; 0 where nobody says."""
    def idle_and_all():
        times = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
        return times[3] + times[4], sum(times)

    try:
        idle, total = idle_and_all()
        time.sleep(2)
        idle, total = [later - before for later, before in zip(idle_and_all(), (idle, total))]
        return round(1 - idle / total, 3)
    except OSError:
        return 0.0


def machine():
    cpu = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu[0] if cpu else platform.machine(),
        "cores": os.cpu_count(),
        "busy": busy(),
    }


def missing(peer):
    """Why a Python peer cannot run here; None where it can, whose version is then said."""
    command = [sys.executable, HERE / "front_end.py", peer, "--version"]
    asked = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if asked.returncode == 0:
        say(peer=peer, version=asked.stdout.strip().split("\n")[-1])
        return None
    return asked.stderr.strip().split("\n")[-1] or f"exit status {asked.returncode}"


def difference(out, peer, path):
    """Largest |difference| of the log-mel between a peer and us; None where the peer gave none."""
    name = os.path.basename(path)
    theirs = out / peer / f"{name}.npy"
    if not theirs.exists():
        return None
    ours = np.fromfile(out / "ours" / f"{name}.f32", dtype="<f4").reshape(SHAPE)
    return float(np.abs(np.load(theirs) - ours)[:, :BANDS_COMPARED].max())


def starts_of(ours, format, paths, originals):
    """Where our excerpts begin, on the clock of a decoder that takes off the encoder's delay.

    symphonia leaves the delay of AAC (1024 frames) in and counts it to the track, which is then longer than what was
    encoded.
    """
    answer = ours.hear(format, paths, [0.0] * len(paths))
    if any(answer["failed"]):
        sys.exit(f"ours failed: {answer['failed']}")
    extra = [found - true if found - true > 0.001 else 0.0 for found, true in zip(answer["seconds"], originals)]
    return [start - more for start, more in zip(answer["start"], extra)]


def main():
    work = Path(sys.argv[1])
    commands = dict(zip(["ours", "bare symphonia", "bliss-audio"], ([path] for path in sys.argv[2:5])))
    tracks = (work / "tracks").read_text().split("\n")[:-1]
    paths = {f: [str(next((work / "files").glob(f"{t}.{f}.*"))) for t in tracks] for f in FORMATS}
    seconds = []
    for path in paths["wav"]:
        with wave.open(path) as file:
            seconds.append(file.getnframes() / file.getframerate())

    say(machine=machine(), tracks=tracks, seconds=seconds)
    for peer in PYTHON:
        if reason := missing(peer):
            say(peer=peer, missing=reason)
        else:
            commands[peer] = [sys.executable, str(HERE / "front_end.py"), peer]

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        starts = {}
        for threads in [1, 2]:
            programs = []
            for peer, command in commands.items():
                (out / peer).mkdir(exist_ok=True)
                programs.append(Program(peer, command, threads, out / peer if threads == 1 else None))
            if not starts:
                starts = {f: starts_of(programs[0], f, paths[f], seconds) for f in FORMATS}
            for program in programs:
                # Fast ones hear everything once before it counts, slow ones one file; with two threads, one format.
                note(f"warming up {program.peer}, {threads} thread(s)")
                for f in FORMATS if threads == 1 and program.peer not in SLOW else FORMATS[:1]:
                    n = 1 if program.peer in SLOW and threads == 1 else len(tracks)
                    program.hear(f, paths[f][:n], starts[f][:n])
            for turn in range(ROUNDS[threads]):
                for f in FORMATS:
                    note(f"{threads} thread(s), round {turn + 1}, {f}")
                    for program in programs:
                        if program.peer in SLOW and turn >= SLOW_ROUNDS[threads]:
                            continue
                        # Twice the tracks for two threads: an odd number would leave one of them waiting.
                        answer = program.hear(f, paths[f] * threads, starts[f] * threads)
                        kept = {key: answer[key] for key in ["cpu_ms", "wall_ms", "failed"]}
                        say(peer=program.peer, format=f, threads=threads, **kept)
            for program in programs:
                program.end()
        for peer in PYTHON:
            for f in FORMATS:
                differences = [difference(out, peer, path) for path in paths[f]]
                if peer in commands and None not in differences:
                    say(peer=peer, format=f, difference=max(differences))
    say(machine=machine())


if __name__ == "__main__":
    main()

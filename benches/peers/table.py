"""The JSON lines of measure.py, or with --network those of network.py, as Markdown: table.py [--network] FILE."""

import json
import sys

ORDER = [
    "ours",
    "bare symphonia",
    "librosa windowed",
    "soundfile + soxr",
    "PyAV + swr",
    "torchcodec + torchaudio",
    "ffmpeg pipe",
    "librosa whole",
    "bliss-audio",
    "essentia",
]


def markdown(head, rows):
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def cell(value, ours, digits=1):
    """A time, and how many times ours it is."""
    if value is None:
        return "–"
    return f"{value:.{digits}f}" if value is ours else f"{value:.{digits}f} ({value / ours:.2f}×)"


def cpu(measured):
    """Mean over the tracks of the least of the rounds; None where a track failed."""
    if not measured or any(any(line["failed"]) for line in measured):
        return None
    rounds = [line["cpu_ms"] for line in measured]
    return sum(min(times) for times in zip(*rounds)) / len(rounds[0])


def wall(measured):
    """Least of the rounds, per track."""
    if not measured or any(any(line["failed"]) for line in measured):
        return None
    return min(line["wall_ms"] / len(line["cpu_ms"]) for line in measured)


def times(lines, peers, formats, threads, statistic):
    rows = []
    for f in formats:
        of = {
            peer: statistic([x for x in lines if (x.get("peer"), x.get("format"), x.get("threads")) == (peer, f, threads)])
            for peer in peers
        }
        rows.append([f] + [cell(of[peer], of["ours"]) for peer in peers])
    return markdown(["format", *peers], rows)


def network(lines):
    """Songs a second of each engine, and how many times it ours are."""
    columns = list(dict.fromkeys((x["threads"], x["batch"]) for x in lines))
    speeds = {(x["engine"], x["threads"], x["batch"]): x["songs_per_second"] for x in lines}
    rows = []
    for engine in sorted(dict.fromkeys(x["engine"] for x in lines), key=lambda engine: engine != "debut"):
        of = [(speeds[engine, *column], speeds.get(("debut", *column))) for column in columns]
        ratio = lambda speed, ours: "" if engine == "debut" or not ours else f" (ours × {ours / speed:.2f})"
        rows.append([engine] + [f"{speed:.0f}{ratio(speed, ours)}" for speed, ours in of])
    plural = lambda n: f"{n} thread" + "s" * (n > 1)
    return markdown(["songs a second", *(f"{plural(threads)}, batch {batch}" for threads, batch in columns)], rows)


def main():
    lines = [json.loads(line) for line in open(sys.argv[-1])]
    if sys.argv[1] == "--network":
        print(network(lines))
        return
    timed = [x for x in lines if "threads" in x]
    formats = list(dict.fromkeys(x["format"] for x in timed))
    peers = [peer for peer in ORDER if any(x["peer"] == peer for x in timed)]
    places = [x for x in lines if "machine" in x]
    place = places[0]["machine"]
    minutes = [f"{int(s) // 60}:{int(s) % 60:02}" for s in places[0]["seconds"]]
    print(f"{place['date']}, {place['cores']} cores of {place['cpu']}, {len(minutes)} tracks ({', '.join(minutes)}).")
    if place["busy"] > 0.1:
        print(f"**{place['busy']:.0%} of the machine was busy before it began: these times are too high.**")
    print("\nCPU ms per track, one thread (× ours):\n")
    print(times(timed, peers, formats, 1, cpu))
    print("Wall ms per track, two threads (× ours):\n")
    print(times(timed, peers, formats, 2, wall))
    print("CPU ms per track, two threads (× ours):\n")
    print(times(timed, peers, formats, 2, cpu))

    print("Largest difference of log-mel to ours, bands 0 to 122:\n")
    differences = {(x["peer"], x["format"]): x["difference"] for x in lines if "difference" in x}
    compared = [peer for peer in ORDER if any(p == peer for p, _ in differences)]
    shown = lambda value: "–" if value is None else f"{value:.1e}"
    print(markdown(["format", *compared], [[f] + [shown(differences.get((p, f))) for p in compared] for f in formats]))

    versions = [f"{x['peer']}: {x['version']}" for x in lines if "version" in x]
    if versions:
        print("; ".join(versions) + ".\n")
    absent = [f"- {x['peer']}: {x['missing']}" for x in lines if "missing" in x]
    for peer in peers:
        for f in formats:
            reasons = [r for x in timed if (x["peer"], x["format"]) == (peer, f) for r in x["failed"] if r]
            if reasons:
                absent.append(f"- {peer}, {f}: {reasons[0]}")
    if absent:
        print("Missing:\n\n" + "\n".join(absent))


if __name__ == "__main__":
    main()

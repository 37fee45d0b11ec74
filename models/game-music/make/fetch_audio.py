#!/usr/bin/env python3
"""Fetch the music that the model `game-music` is trained on.

Real soundtracks, from Debian's game packages (section games of main, so free
to copy). Every package is downloaded with `apt-get download`, its music of
30 s or more is extracted, the package is deleted.

    pip install mutagen            # reads tags and durations
    sudo apt-get update
    python3 models/game-music/make/fetch_audio.py --out DIR [--pack DIR]

Writes below DIR:
    audio/<album>/<name>.<ext>     763 files, 2.2 GB
    tracks.csv                     path,id,artist,title,album,released
    LICENSES.tsv                   id, package, source path, licence, copyright
    dropped.tsv                    what was left out, and why
    copyright/<package>            the packages' own copyright files

It may be stopped and started again: packages that are done are not fetched
again. Needs Debian bookworm (other releases have other packages; those that
cannot be had are named and skipped).
"""

import argparse
import csv
import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unicodedata
import urllib.parse
import zipfile
from pathlib import Path, PurePosixPath

import mutagen

# Debian bookworm. Packages whose music is only tracker modules (pingus, tecnoballz, ..) are not here:
# debut does not read modules.
PACKAGES = """
ufoai-music 0ad-data naev-data supertux-data supertuxkart-data wesnoth-1.16-music widelands-data
warzone2100-music drascula-music hedgewars-data colobot-common-sounds freedroidrpg-data nexuiz-music
singularity-music unknown-horizons hyperrogue-music warmux-data ardentryst davegnukem-data
fillets-ng-data redeclipse-data flare-game marsshooter-data starfighter-data plee-the-bear-data
pushover-data planetblupi-music-ogg wizznic-data trackballs-data enigma-data fretsonfire-songs-sectoid
amoebax-data megaglest-data adonthell-data openclonk-data fretsonfire-songs-muldjord xmoto-data
neverball-common freecol extremetuxracer-data scorched3d-data lordsawar-data searchandrescue-data
btanks-data torus-trooper-data gunroar-data mu-cade-data lugaru-data zaz-data pinball-data
asc-music pangzero pink-pony-data frozen-bubble-data
""".split()

SUFFIXES = {".ogg", ".oga", ".opus", ".mp3", ".wav", ".flac"}
ARCHIVES = {".pk3", ".zip"}
MIN_SECONDS = 30.0  # the network hears 27.9 s
MIN_BYTES = 150_000  # 30 s of the leanest Vorbis here is more: skips thousands of effects unopened
# Long enough, but speech, weather, engines, or one instrument's layer of a piece that is here as a whole.
NOT_MUSIC = re.compile(
    r"/(sfx|soundfx|speech|voices?|ambient|ambience|weather|tilesets|sequencer|video|wav/misc)/"
    r"|audio/sounds/|searchandrescue/sounds/|sound/default/misc/|Sounds/(AMB_|Wind|DesertAmbient)"
    r"|/(guitar|rhythm)\.ogg$|wind_ambient|nolok_speech|steamLocomotive")
# A faster take of the same piece, as SuperTuxKart plays in the last lap, or a raw mix: the base
# version is kept. Keeping both would put the same song on both sides of the split.
VARIANT = re.compile(r"_(fast|hurry|raw|f)$")
# Other takes, edits and copies of a recording that is here under another name: pairs whose log-mel
# spectrograms look alike on average and whose frame-to-frame changes correlate at some lag
# (above 0.25; unrelated tracks stay below 0.1).
SAME_RECORDING = {
    "warmux/olivier_militon_apnee2": "warmux/olivier_militon_apnee",
    "supertux/battle_theme": "flare_game/battle_theme",
    "starfighter/through_space": "singularity/through_space",
    "drascula/track30": "drascula/track1",
    "freedroidrpg/techbattle": "freedroidrpg/ambientbattle",
    "warzone2100/track3_enhanced": "warzone2100/track3",
    "warzone2100/menu_enhanced": "warzone2100/menu",
    "supertux/cave_old": "supertux/cave",
    "colobot/music011": "colobot/music010",
    "nexuiz/sixtyfour_revisited": "nexuiz/sixtyfour",
    "pinball/introp": "pinball/game",
    "plee_the_bear/title_screen": "plee_the_bear/bonus",
}
# Where debian/copyright is prose: what it says of the music, read by hand.
READ_BY_HAND = {
    "wesnoth-1.16-music": ("GPL-2+", "the Wesnoth project and the composers named in the tags"),
    "nexuiz-music": ("GPL-2+", "2002-2009 Alientrap, Lee Vermeulen, and the composers named in the tags"),
    "singularity-music": ("CC-BY-SA-3.0", "2007-2008, 2012 Max McCracken"),
    "warmux-data": ("GPL-2+", "2001-2011 the Warmux team and the composers named in the file names"),
    "fillets-ng-data": ("GPL-2", "ALTAR interactive"),
    "plee-the-bear-data": ("CC-BY-SA-3.0", "2005-2011 Julien Jorge, David Michineau and others"),
    "enigma-data": ("GPL", "the Enigma team"),
    "openclonk-data": ("CC-BY, CC0 or ISC, per file", "the OpenClonk team and contributors"),
    "fretsonfire-songs-sectoid": ("Expat", "2006-2007 Carlos Viola Iborra (Sectoid)"),
    "searchandrescue-data": ("GPL", "1999-2004 WolfPack Entertainment"),
    "fretsonfire-songs-muldjord": ("CC-BY-SA-3.0", "2009 El Senator (Muldjord)"),
    "torus-trooper-data": ("BSD-2-Clause", "2004 Kenta Cho"),
    "mu-cade-data": ("BSD-2-Clause", "2006 Kenta Cho"),
    "gunroar-data": ("BSD-2-Clause", "2005 Kenta Cho"),
}


def slug(text):
    """`07_-_Vermöcsar` -> `07_vermocsar`: ASCII, lower case, stable."""
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "_", text).strip("_")


def album_of(package):
    """`supertux-data` -> `supertux`, `wesnoth-1.16-music` -> `wesnoth`."""
    name = re.sub(r"-(data|music|music-ogg|common-sounds|common|musics|music-high)$", "", package)
    return slug(re.sub(r"-[0-9.]+$", "", name))


def progress(text):
    print(text, file=sys.stderr, flush=True)


# --- one package -----------------------------------------------------------------------------

def download(package, folder):
    """The .deb in `folder`, or None with the reason on stderr."""
    done = subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, text=True)
    debs = list(Path(folder).glob("*.deb"))
    if done.returncode or not debs:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        progress(f"  skipped {package}: {reason}")
        return None
    return debs[0]


def save(stream, local):
    local.parent.mkdir(parents=True, exist_ok=True)
    with open(local, "wb") as f:
        shutil.copyfileobj(stream, f)


def extract(deb, package, out):
    """Music files and the copyright file of one .deb -> (list of source paths, local copies)."""
    files = []
    folder = out / "incoming" / package
    shutil.rmtree(folder, ignore_errors=True)
    dpkg = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=dpkg.stdout, mode="r|") as tar:
        for member in tar:
            source = member.name.removeprefix("./")
            if member.isfile() and source == f"usr/share/doc/{package}/copyright":
                (out / "copyright").mkdir(exist_ok=True)
                (out / "copyright" / package).write_bytes(tar.extractfile(member).read())
            suffix = PurePosixPath(source).suffix.lower()
            if not member.isfile() or suffix not in SUFFIXES | ARCHIVES or member.size < MIN_BYTES:
                continue
            local = folder / source
            save(tar.extractfile(member), local)
            if suffix in SUFFIXES:
                files.append((source, local))
                continue
            with zipfile.ZipFile(local) as archive:  # UFO:AI, Nexuiz and 0 A.D. keep their data zipped
                for entry in archive.infolist():
                    name = PurePosixPath(entry.filename)
                    safe = not name.is_absolute() and ".." not in name.parts
                    if safe and name.suffix.lower() in SUFFIXES and entry.file_size >= MIN_BYTES:
                        inside = folder / (source + "!") / name
                        save(archive.open(entry), inside)
                        files.append((f"{source}!/{name}", inside))
            local.unlink()
    if dpkg.wait():
        raise SystemExit(f"dpkg-deb failed on {deb}")
    return files


def first(tags, *keys):
    for key in keys:
        value = (tags or {}).get(key)
        if value:
            text = " ".join(str(value[0] if isinstance(value, list) else value).split())
            if text and text.lower() not in ("unknown", "<unknown>", "unknown artist", "none", "untitled", "no artist", "artist"):
                return text
    return ""


def describe(local, source, package, deb_name):
    """What the tags say, as a dict; None if it is no music of 30 s."""
    try:
        media = mutagen.File(local, easy=True)
    except Exception as error:  # mutagen raises many kinds; a broken file is simply not used
        return None, f"unreadable: {error}"
    if media is None or media.info is None:
        return None, "not audio"
    seconds = float(getattr(media.info, "length", 0))
    if seconds < MIN_SECONDS:
        return None, f"short: {seconds:.1f} s"
    tags = media.tags if media.tags is not None else {}
    date = re.match(r"(\d{4})(-\d\d(-\d\d)?)?", first(tags, "date", "year", "originaldate"))
    stem = PurePosixPath(source).stem
    return {
        "package": package, "deb": deb_name, "source": source, "seconds": round(seconds, 2),
        "album": album_of(package), "stem": stem,
        "artist": first(tags, "artist", "albumartist", "composer"),
        "title": first(tags, "title") or re.sub(r"[_\s]+", " ", stem).strip(),
        "released": date.group(0) if date and 1950 <= int(date.group(1)) <= 2030 else "",
        "sha256": hashlib.sha256(local.read_bytes()).hexdigest(),
        "bytes": local.stat().st_size,
    }, None


def one_package(package, out, number):
    """Fetch, extract, describe; the result is kept as state/<package>.json."""
    state = out / "state" / f"{package}.json"
    if state.exists():
        return json.loads(state.read_text())
    with tempfile.TemporaryDirectory(dir=out) as folder:
        deb = download(package, folder)
        if deb is None:
            return None
        # apt writes the epoch's colon as %3a
        deb_name = urllib.parse.unquote(deb.name)
        files = extract(deb, package, out)
    tracks, dropped = [], []
    for source, local in files:
        track, reason = describe(local, source, package, deb_name)
        if track is None:
            dropped.append([package, source, reason])
            local.unlink()
        else:
            tracks.append(track)
    result = {"tracks": tracks, "dropped": dropped}
    state.parent.mkdir(exist_ok=True)
    partial = state.with_suffix(".partial")
    partial.write_text(json.dumps(result))
    partial.rename(state)
    progress(f"[{number}/{len(PACKAGES)}] {package}: {len(tracks)} tracks, "
             f"{sum(t['seconds'] for t in tracks) / 60:.0f} min")
    return result


# --- duplicates and ids -----------------------------------------------------------------------

def without_duplicates(tracks):
    """One version of each recording -> (kept, dropped rows). The first in package order is kept."""
    kept, dropped, by_hash, by_name = [], [], {}, {}
    # Base versions before their variants, so that the base is the one kept.
    def is_variant(t):
        return bool(VARIANT.search(slug(t["stem"])))
    for t in sorted(tracks, key=lambda t: (PACKAGES.index(t["package"]), is_variant(t), t["source"])):
        base = VARIANT.sub("", slug(t["stem"]))
        name = slug(t["title"]) if t["artist"] else ""
        twin = by_hash.get(t["sha256"])
        reason = "same bytes"
        if twin is None:
            twin, reason = by_name.get((t["album"], base)), "variant"
            if twin and not is_variant(t):  # same file name in two folders: two tracks, unless equally long
                twin = twin if abs(twin["seconds"] - t["seconds"]) < 1.0 else None
        if twin is None and name:
            twin, reason = by_name.get((slug(t["artist"]), name)), "same artist and title, same length"
            if twin and abs(twin["seconds"] - t["seconds"]) > 0.02 * t["seconds"]:
                twin = None
        if twin is not None:
            dropped.append([t["package"], t["source"], f"{reason} as {twin['package']}: {twin['source']}"])
            continue
        by_hash[t["sha256"]] = t
        by_name.setdefault((t["album"], base), t)
        if name:
            by_name.setdefault((slug(t["artist"]), name), t)
        kept.append(t)
    return kept, dropped


def give_ids(tracks):
    """id = <album>/<stem>; where two stems of an album collide, folders come before the stem."""
    for t in tracks:
        t["folders"] = 0
    while True:
        count = {}
        for t in tracks:
            parts = PurePosixPath(t["source"]).with_suffix("").parts
            t["id"] = f"{t['album']}/{slug('_'.join(parts[-1 - t['folders']:]))}"
            count[t["id"]] = count.get(t["id"], 0) + 1
        if len(count) == len(tracks):
            return
        for t in tracks:
            if count[t["id"]] > 1:
                t["folders"] += 1


def sensible_names(tracks):
    """Names that are none: home pages and programs' "<Unknown>" as artists, one title for a whole album.

    HyperRogue's files all carry one title: where three share one, the file name is the better title.
    """
    count = {}
    for t in tracks:
        count[t["album"], t["title"]] = count.get((t["album"], t["title"]), 0) + 1
    for t in tracks:
        if re.match(r"https?:|www\.|<", t["artist"]):
            t["artist"] = ""
        if count[t["album"], t["title"]] >= 3:
            t["title"] = re.sub(r"[_\s-]+", " ", t["stem"]).strip()


# --- licences (machine-readable debian/copyright, DEP-5) --------------------------------------

def paragraphs(text):
    """DEP-5 paragraphs as dicts of field -> text."""
    result, field = [{}], None
    for line in text.splitlines():
        if not line.strip():
            result.append({})
        elif line[0] in " \t":
            if field and result[-1]:
                result[-1][field] = result[-1].get(field, "") + "\n" + line.strip()
        elif ":" in line:
            field, value = line.split(":", 1)
            field = field.strip().lower().replace("licence", "license")
            result[-1][field] = value.strip()
    return [p for p in result if p]


def matches(pattern, source):
    """How specifically a DEP-5 pattern names an installed file: 0 for `*`, -1 for no match.

    Patterns name the source tree, we have the installed tree, so a pattern's leading folders may
    be missing: the most folders that still match count.
    """
    if pattern in ("*", "./*"):
        return 0
    parts = pattern.removeprefix("./").split("/")
    for i in range(len(parts)):
        tail = "/".join(parts[i:])
        if tail in ("*", "*.*"):
            break
        if fnmatch.fnmatchcase(source, "*/" + tail) or fnmatch.fnmatchcase(PurePosixPath(source).name, tail):
            return 1 + len(tail.replace("*", ""))
    return -1


def licence_of(track, out):
    """(licence, copyright, how it was found)."""
    path = out / "copyright" / track["package"]
    if not path.exists():
        return "see the package", "", "no copyright file in the package"
    text = path.read_text(errors="replace")
    stanzas = [p for p in paragraphs(text) if "files" in p and "license" in p]
    best, best_score = None, -1
    for p in stanzas:
        for pattern in p["files"].replace(",", " ").split():
            score = matches(pattern, track["source"])
            if score >= best_score and score >= 0:  # DEP-5: the last that matches wins
                best, best_score = p, score
    if best is None and track["package"] in READ_BY_HAND:
        return *READ_BY_HAND[track["package"]], "copyright file, read by hand"
    if best is None:
        return "see copyright/" + track["package"], "", "not machine-readable"
    licence = best["license"].splitlines()[0] or "see copyright/" + track["package"]
    owner = " | ".join(" ".join(x.split()) for x in best.get("copyright", "").splitlines() if x.strip())
    return licence, owner[:300], "named file or folder" if best_score > 0 else "package default"


# --- the excerpt pack -------------------------------------------------------------------------

def from_pack(pack, known, out):
    """Excerpts of the pack whose source track is not among ours, as rows and licence rows."""
    rows, licences = [], []
    with open(pack / "LICENSES.tsv", newline="") as f:
        source = {r["file"]: r for r in csv.DictReader(f, delimiter="\t", quoting=csv.QUOTE_NONE)}
    with open(pack / "labels.csv", newline="") as f:
        labels = list(csv.DictReader(f))
    for r in labels:
        where = source[r["file"]]
        named = re.search(r"Debian \w+ package (\S+) \(.*?\), (\S.*?)(?: from [\d.]+ s)?; ", where["source"])
        if named and (named.group(1), named.group(2)) in known:
            continue
        album = r["album"] or "classical_render"
        track_id = f"{album}/{slug(PurePosixPath(r['file']).stem)}"
        rows.append([os.path.relpath(pack / r["file"], out), track_id, r["artist"] or r["composer"], r["title"], album, ""])
        licences.append([track_id, "excerpt pack", where["source"], where["licence"], where["copyright"], "named by the pack"])
    return rows, licences


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the music, 2.2 GB")
    parser.add_argument("--pack", type=Path, help="folder of excerpts with labels.csv and LICENSES.tsv, added to the tracks")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    tracks, dropped = [], []
    for number, package in enumerate(PACKAGES, 1):
        result = one_package(package, args.out, number)
        if result is None:
            dropped.append([package, "", "package not available"])
            continue
        tracks += result["tracks"]
        dropped += result["dropped"]
    known = {(t["package"], t["source"]) for t in tracks}
    noise = [t for t in tracks if NOT_MUSIC.search("/" + t["source"])]
    dropped += [[t["package"], t["source"], "not music"] for t in noise]
    tracks, twins = without_duplicates([t for t in tracks if t not in noise])
    dropped += twins
    give_ids(tracks)
    dropped += [[t["package"], t["source"], f"same recording as {SAME_RECORDING[t['id']]}"] for t in tracks if t["id"] in SAME_RECORDING]
    tracks = [t for t in tracks if t["id"] not in SAME_RECORDING]
    sensible_names(tracks)

    rows, licences = [], []
    for t in sorted(tracks, key=lambda t: t["id"]):
        suffix = PurePosixPath(t["source"]).suffix.lower()
        path = Path("audio") / (t["id"] + suffix)
        here, incoming = args.out / path, args.out / "incoming" / t["package"] / t["source"]
        here.parent.mkdir(parents=True, exist_ok=True)
        if not here.exists() and not incoming.exists():
            (args.out / "state" / f"{t['package']}.json").unlink()
            raise SystemExit(f"{here} is gone; run again to fetch {t['package']} anew")
        if not here.exists():
            incoming.rename(here)
        rows.append([path.as_posix(), t["id"], t["artist"], t["title"], t["album"], t["released"]])
        licences.append([t["id"], t["deb"], t["source"], *licence_of(t, args.out)])
    shutil.rmtree(args.out / "incoming", ignore_errors=True)
    ours = {r[0] for r in rows}
    for stale in (args.out / "audio").glob("*/*"):  # of an earlier run under other rules
        if stale.relative_to(args.out).as_posix() not in ours:
            stale.unlink()
    if args.pack:
        more, more_licences = from_pack(args.pack, known, args.out)
        taken = {r[1] for r in rows}
        rows += [r for r in more if r[1] not in taken]
        licences += [r for r in more_licences if r[0] not in taken]

    def write(name, header, table, **how):
        partial = args.out / (name + ".partial")
        with open(partial, "w", newline="") as f:
            w = csv.writer(f, lineterminator="\n", **how)
            w.writerow(header)
            w.writerows([[re.sub(r"\s+", " ", str(x)) for x in row] for row in table])
        partial.rename(args.out / name)

    tsv = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None}
    write("tracks.csv", ["path", "id", "artist", "title", "album", "released"], rows)
    write("LICENSES.tsv", ["id", "package", "source", "licence", "copyright", "found_by"], licences, **tsv)
    write("dropped.tsv", ["package", "source", "reason"], [d for d in dropped if not d[2].startswith("short")], **tsv)
    minutes = sum(t["seconds"] for t in tracks) / 60
    progress(f"{len(rows)} tracks ({len(tracks)} from Debian, {minutes / 60:.1f} h), "
             f"{len(twins)} duplicates dropped, {len({r[4] for r in rows})} albums")


if __name__ == "__main__":
    main()

"""The New York Philharmonic's programmes, as its archive publishes them (Programs/json, CC0): who played which work, when."""

import json
import re
import unicodedata
from collections import namedtuple
from datetime import datetime, timezone
from pathlib import Path

# Who stands among the soloists and makes no music.
SILENT = {"Dancer", "Choreographer", "Narrator", "Speaker", "Actor", "Host", "Special Guest", "None", "Sing-Along"}

Work = namedtuple("Work", "composer title")
Performance = namedtuple("Performance", "time soloist instrument work")


def plain(text):
    """Lower case without accents."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()


def title_of(field):
    """A title is a string, or {"_": the rest, "em": words in italics} without their order."""
    if isinstance(field, dict):
        field = " ".join(str(part) for part in (field.get("em", ""), field.get("_", "")))
    return " ".join(field.split())


def read(folder, until):
    """All works (id -> Work), and a Performance for every soloist, work and concert before the season that begins in `until`.

    The part of an id behind `*` is a movement: a work is what stands before it, under the title of its first performance.
    Names that are empty, and those who make no music, are left out. Times are Unix seconds, negative before 1970; the clock of the evening is not used.
    """
    works, performances = {}, []
    for path in sorted(Path(folder).glob("[12]*.json")):  # not complete.json, which holds them all again
        for programme in json.loads(path.read_text(encoding="utf-8"))["programs"]:
            if int(programme["season"][:4]) >= until:
                continue
            times = [int(datetime.fromisoformat(c["Date"].replace("Z", "+00:00")).astimezone(timezone.utc).timestamp())
                     for c in programme["concerts"]]
            seen = set()
            for entry in programme["works"]:
                id = entry["ID"].split("*")[0]
                if id == "0" or "workTitle" not in entry:
                    continue
                works.setdefault(id, Work(re.sub(r"\s+", " ", entry.get("composerName", "")), title_of(entry["workTitle"])))
                for soloist in entry.get("soloists", []):
                    name = " ".join(soloist.get("soloistName", "").split())
                    if name and soloist.get("soloistInstrument") not in SILENT and (name, id) not in seen:  # several movements in one concert are one performance
                        seen.add((name, id))
                        performances += [Performance(t, name, soloist.get("soloistInstrument", ""), id) for t in times]
    return works, performances

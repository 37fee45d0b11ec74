#!/usr/bin/env python3
"""Which MIDI files are which works: `python match.py --programmes DIR --midi NAME=DIR … --out join.csv`.

A file is a movement of a work if the composer is the same and one of these holds, best first:

  catalogue    the same opus, K., BWV, D., HWV, RV, Hob. or S. number, and form, instrument, number or key agree too
  number       the same number of a catalogue; nothing else is said of the file
  form         the same form, instruments and number ("Piano Concerto No. 1"), or key, without a catalogue
  title        every distinctive word of the title ("Messiah", "Danse macabre")
  alias        a name of it in another language or in short, from the list below

and nothing contradicts: catalogue, form, instruments, number, key; no arrangement, by either side's words, and no
rendering of a work with other instruments (guitar alone, or keyboard alone for a work with orchestra). What the file is
called decides; text inside it is not trusted. A file goes to one work, and the same notes are taken once.

    pip install mido
"""

import argparse
import csv
import hashlib
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path

import mido

from programmes import plain, read

# Surnames as the collections spell them -> as the archive does.
SPELLING = {"rachmaninov": "rachmaninoff", "haendel": "handel", "skriabin": "scriabin", "mussorgski": "musorgsky",
            "stravinski": "stravinsky", "mendelsonn": "mendelssohn", "buxehude": "buxtehude", "saint": "saint-saens",
            "rimsky": "rimsky-korsakov", "de-falla": "falla", "vaughan": "vaughan williams", "balakirew": "balakirev",
            "strauss_j": "strauss", "suppe": "suppe", "coleridge": "coleridge-taylor"}

FORMS = {"concerto": "concerto con concert concierto concertino", "symphony": "symphony sinfonia symphonie", "sonata": "sonata sonate sonatina",
         "quartet": "quartet", "quintet": "quintet", "trio": "trio", "suite": "suite", "overture": "overture ouverture",
         "mass": "mass missa", "requiem": "requiem", "variations": "variations variation", "prelude": "prelude preludes",
         "fugue": "fugue", "toccata": "toccata", "partita": "partita", "rhapsody": "rhapsody rhapsodie", "waltz": "waltz waltzes valse",
         "mazurka": "mazurka mazurkas", "nocturne": "nocturne nocturnes", "etude": "etude etudes study studies",
         "ballade": "ballade ballades", "scherzo": "scherzo scherzos", "polonaise": "polonaise polonaises", "impromptu": "impromptu impromptus",
         "fantasy": "fantasy fantasia fantaisie", "march": "march marches", "serenade": "serenade serenata",
         "divertimento": "divertimento", "cantata": "cantata", "song": "song songs lied lieder", "romance": "romance romances romanze",
         "rondo": "rondo rondos", "septet": "septet", "octet": "octet", "invention": "invention inventions",
         "bagatelle": "bagatelle bagatelles", "dance": "dance dances", "intermezzo": "intermezzo intermezzi", "ecossaise": "ecossaise ecossaises", "sextet": "sextet"}
FORM_OF = {word: form for form, words in FORMS.items() for word in words.split()}
# A movement may be of one of these forms inside a larger one; the first word of a name is not enough to contradict.
LARGE = {"concerto", "symphony", "sonata", "quartet", "quintet", "trio", "suite", "mass", "requiem", "overture", "cantata",
         "septet", "octet", "partita", "sextet"}
ORCHESTRAL = {"concerto", "symphony", "overture", "mass", "requiem"}

INSTRUMENTS = {"piano": "piano pianos", "violin": "violin violins", "cello": "cello violoncello", "viola": "viola", "flute": "flute flutes",
               "clarinet": "clarinet", "oboe": "oboe", "bassoon": "bassoon", "horn": "horn", "trumpet": "trumpet", "organ": "organ",
               "harp": "harp", "guitar": "guitar", "harpsichord": "harpsichord harpsichords clavier claviers", "strings": "strings string",
               "bass": "contrabass", "mandolin": "mandolin mandolins", "trombone": "trombone", "piccolo": "piccolo", "percussion": "percussion"}
INSTRUMENT_OF = {word: name for name, words in INSTRUMENTS.items() for word in words.split()}

# Neither side may say one of these: another setting of the music, or unknown which music.
ARRANGED = re.compile(r"\barr\b|\barr\.|arranged|transcri|unspecified|incomplete|see [a-z]+gesang|guitare|\bversion\b|potpourri|medley|quadrille|\bthemes from\b")

# (composer's surname, what the file's name matches, how the title begins): other languages and short forms.
ALIASES = [
    ("mozart", r"figaro|nozze", "MARRIAGE OF FIGARO"), ("mozart", r"zauberflote|magic flute", "MAGIC FLUTE"),
    ("mozart", r"don giovanni", "DON GIOVANNI"), ("mozart", r"cosi fan", "COSI FAN TUTTE"), ("mozart", r"requiem", "REQUIEM"),
    ("saint-saens", r"carnaval des animaux", "CARNIVAL OF THE ANIMALS"), ("verdi", r"traviat", "TRAVIATA, LA"),
    ("verdi", r"rigolett", "RIGOLETTO"), ("verdi", r"aida", "AIDA"), ("verdi", r"requiem|vdreq", "REQUIEM"),
    ("verdi", r"destino", "FORZA DEL DESTINO"), ("verdi", r"maschera", "BALLO IN MASCHERA"), ("verdi", r"doncarlo", "DON CARLO"),
    ("verdi", r"anvil", "TROVATORE"), ("verdi", r"donnaemobile", "RIGOLETTO"),
    ("tchaikovsky", r"nutcr|^nut\d|gp\d?nut|^nut ", "NUTCRACKER, THE"), ("tchaikovsky", r"swan ?lake", "SWAN LAKE"),
    ("tchaikovsky", r"1812", "OVERTURE SOLENNELLE 1812"), ("tchaikovsky", r"sleeping", "SLEEPING BEAUTY"),
    ("mendelssohn", r"midsummer", "MIDSUMMER NIGHT'S DREAM, OP. 61"), ("handel", r"mesiah|messiah", "MESSIAH"),
    ("bach", r"matthew passion", "ST. MATTHEW PASSION"), ("bach", r"john passion", "ST. JOHN PASSION"),
    ("bach", r"christmas oratorio|weihnachtsoratorium", "CHRISTMAS ORATORIO"), ("bizet", r"carmen", "CARMEN"),
    ("gershwin", r"porgy|summertime", "PORGY AND BESS"), ("gershwin", r"rhapsody in blue", "RHAPSODY IN BLUE, PIANO"),
    ("rossini", r"barb|sevil", "BARBIERE DI SIVIGLIA"), ("rossini", r"tell", "GUILLAUME TELL"),
    ("rimsky-korsakov", r"schehera|shehera", "SCHEHERAZADE, OP. 35"), ("musorgsky", r"pictures", "PICTURES AT AN EXHIBITION"),
    ("wagner", r"meistersinger", "MEISTERSINGER, DIE, WWV"), ("wagner", r"tann?hau", "TANNHAUSER"), ("wagner", r"lohengrin", "LOHENGRIN"),
    ("wagner", r"walk[uy]", "WALKURE, DIE"), ("wagner", r"traume", "WESENDONCK LIEDER"), ("holst", r"planets", "PLANETS, THE"),
    ("vivaldi", r"spring|primavera", "CONCERTO, VIOLIN, E MAJOR, RV 269"), ("vivaldi", r"winter|inverno", "CONCERTO, VIOLIN, F MINOR, RV 297"),
    ("vivaldi", r"autumn|autunno", "CONCERTO, VIOLIN, F MAJOR, RV 293"), ("vivaldi", r"summer|estate", "CONCERTO, VIOLIN, G MINOR, RV 315"),
    ("haydn", r"creation|schopfung", "CREATION, THE"), ("strauss", r"danube|donau", "AN DER SCHONEN, BLAUEN DONAU"),
    ("strauss", r"fledermaus", "FLEDERMAUS, DIE"), ("offenbach", r"hoffmann|barcarol", "TALES OF HOFFMANN"),
    ("falla", r"amor brujo", "EL AMOR BRUJO"), ("grieg", r"mountain king|morning mood", "PEER GYNT"),
    ("faure", r"requiem", "REQUIEM"), ("brahms", r"requiem", "REQUIEM, DEUTSCHES"),
    ("chopin", r"^nocturne|^chopin nocturne|^chno ", "NOCTURNES (ORIG. SOLO PIANO)"),
    ("chopin", r"^waltz|^chopin valse|^chwa ", "WALTZES (ALL SOLO PIANO)"), ("chopin", r"^etude|^chet ", "ETUDES"),
    ("rachmaninoff", r"paganini|pagvar|pgvr", "RHAPSODY ON A THEME OF PAGANINI"), ("rachmaninoff", r"^rachconc 1", "CONCERTO, PIANO, NO. 1"),
    ("tchaikovsky", r"^tchpc 1", "CONCERTO, PIANO, NO. 1"), ("tchaikovsky", r"^tchsers", "SERENADE FOR STRINGS"),
    ("mozart", r"figaro|nozze", "NOZZE DI FIGARO"),
]

# Files that were looked at and are not what they are called, or not what the rules took them for.
WRONG = re.compile(r"Monat.Mai.Op39|Slavonic.Dance.No\.?10|Chelsea.Notebook|Bwv052[89].Sonate|romantic.pieces.op75|Leonore", re.I)

STOP = set("""the and of for in on to from a an der die das des la le les il et un une von del di da du de los el with by
major minor flat sharp no op opus mov movement movements mvt old new first second third part act aria air chorus scene finale orchestra orch solo
voice vocal two three four five six seven eight nine ten twelve twenty works work movs ballet opera oratorio general book adagio allegro andante largo presto
menuet minuet menuetto selections excerpts excerpt complete revised original poem symphonic tone""".split())


def surname_of(composer):
    return re.sub(r"\[.*?\]", "", plain(composer)).split(",")[0].strip()


def facts(text, work):
    """What a title or a name says: catalogue numbers, forms, instruments, numbers, key, words."""
    text = plain(text)
    text = re.sub(r"\b(bwv|hwv|op|k|rv)?\.? ?\d+ ?- ?\d+_? ?(?=[a-z /]|$)", lambda m: " " if m[1] and not work else m[0], text)
    flat = re.sub(r"[^a-z0-9#'/]+", " ", text.replace("_", " "))
    flat = re.sub(r"\b(moz)k(\d+)[a-z]?\b", r"k \2", flat)
    flat = re.sub(r"\b(tch|men|brahms|beet|schub|chop)[a-z]*op(\d+)[a-z]?\b", r"op \2", flat)
    flat = re.sub(r"([a-z])0*(\d)", r"\1 \2", flat)
    flat = re.sub(r"\b(\d+)(?:st|nd|rd|th)\b(?! *mov)", r"no \1", flat)
    flat = re.sub(r"(\d)([a-z])", r"\1 \2", flat)
    catalogue = set()
    patterns = {"op": r"\bop(?:us)? (\d+)(?: ([ab])\b)?", "k": r"\bkv? (\d+)(?: ([a-h])\b)?", "bwv": r"\bbwv (\d+)", "hwv": r"\bhwv (\d+)", "rv": r"\brv (\d+)",
                "d": r"\bd (\d{2,3})\b", "s": r"\bs (\d{2,3})\b", "woo": r"\bwoo (\d+)"}
    for system, pattern in patterns.items():
        for match in re.finditer(pattern, flat):
            letter = match[2] if match.re.groups > 1 else None  # K. 297 and K. 297b are two works; a file may say more than a title
            catalogue.add((system, match[1] + (letter or "")))
            if letter and not work:
                catalogue.add((system, match[1]))
    hob = re.search(r"\bh(?:ob)? ([ivx]+) ?[a-z]? (\d+)", flat)
    if hob:
        catalogue.add(("hob " + hob[1], hob[2]))
    numbers = [int(n) for n in re.findall(r"\b(?:no|n|nr|number|#) ?(\d+)", flat)]
    before, _, after = flat.partition(" op ") if work else (flat, "", "")
    serial = [int(n) for n in re.findall(r"\bno (\d+)", before)] if work else numbers
    sub = [int(n) for n in re.findall(r"\bno (\d+)", after)] if work else numbers
    key = re.search(r"\b([a-g])( ?flat| ?sharp)? (major|minor|moll|dur)\b", flat)
    words = re.findall(r"[a-z']+", flat)
    return {
        "flat": flat, "catalogue": catalogue, "serial": serial, "sub": sub,
        "forms": {FORM_OF[w] for w in words if w in FORM_OF},
        "instruments": {INSTRUMENT_OF[w] for w in words if w in INSTRUMENT_OF},
        "key": (key[1] + (key[2] or "").strip() + {"moll": "minor", "dur": "major"}.get(key[3], key[3])) if key else None,
        "words": {w.strip("'") for w in words},
    }


def distinctive(title, surname):
    """The words by which a title is known, of its first part: `DANSE MACABRE, OP. 40` -> danse, macabre."""
    head = re.split(r"[(\[]|, (?:op|k|bwv|d|hwv|wwv|h|rv)\b", plain(title))[0]
    words = {w for w in re.findall(r"[a-z]+", head) if len(w) > 2 and w not in STOP}
    return words - set(FORM_OF) - set(INSTRUMENT_OF) - {surname}


def judge(work, file):
    """(score, rule) of a pair, or None. `work` and `file` are facts; the composer is the same."""
    shared = {system for system, _ in work["catalogue"]} & {system for system, _ in file["catalogue"]}
    same = work["catalogue"] & file["catalogue"]
    if shared and not same:
        return None
    large = (work["forms"] & LARGE, file["forms"] & LARGE)
    if all(large) and not large[0] & large[1]:
        return None
    if same and work["forms"] and file["forms"] and not work["forms"] & file["forms"] and not large[0]:
        return None
    if work["instruments"] and file["instruments"] and not work["instruments"] & file["instruments"] - {"strings"}:
        return None
    if file["instruments"] - {"strings"} and large[0] & {"symphony", "overture"}:
        return None
    if work["key"] and file["key"] and work["key"] != file["key"]:
        return None
    if work["sub"] and not set(work["sub"]) & set(file["sub"]):
        return None
    if work["serial"] and file["serial"] and not set(work["serial"]) & set(file["serial"]):
        return None
    agree = (bool(work["forms"] & file["forms"]) + bool(work["instruments"] & file["instruments"])
             + bool(set(work["serial"] + work["sub"]) & set(file["serial"])) + bool(work["key"] and work["key"] == file["key"])
             + bool(work["title"] & file["words"]))
    if same:
        return (4 + agree, "catalogue") if agree else (3, "number")
    if large[0] & large[1] & {"concerto", "sonata", "symphony"} and work["instruments"] - {"strings"} == file["instruments"] - {"strings"}:
        if work["instruments"] or "symphony" in large[0]:
            if work["serial"] and set(work["serial"]) & set(file["serial"]) or work["key"] and work["key"] == file["key"]:
                return (2 + agree / 10, "form")
            if work["only"] and not work["serial"] and not file["serial"] and not file["catalogue"]:
                return (2 + agree / 10, "form")
    if work["title"] and work["title"] <= file["words"] and any(len(w) > 4 for w in work["title"]):
        if work["forms"] - {"suite", "overture"} <= file["forms"] and set(work["serial"]) <= set(file["serial"]):
            return (1 + len(work["title"]) / 10, "title")
    return None


def notes_of(path):
    """(fingerprint of the notes, programmes that sound) of a MIDI file; None where it cannot be read or is hardly a piece."""
    try:
        midi = mido.MidiFile(path, clip=True)
    except Exception:  # mido raises whatever its parser met: these are files from the wild
        return None
    notes, programmes = [], set()
    for track in midi.tracks:
        tick, current = 0, defaultdict(int)
        for message in track:
            tick += message.time
            if message.type == "program_change":
                current[message.channel] = message.program
            elif message.type == "note_on" and message.velocity:
                notes.append((round(tick / midi.ticks_per_beat * 24), message.note))
                if message.channel != 9:
                    programmes.add(current[message.channel])
    if len(notes) < 60:
        return None
    first = min(notes)[0]
    digest = hashlib.blake2b(repr(sorted({(t - first, n) for t, n in notes})).encode(), digest_size=8).hexdigest()
    return digest, programmes


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--programmes", required=True, help="Programs/json of the archive")
    parser.add_argument("--until", type=int, default=2011, help="the first season that is left out")
    parser.add_argument("--midi", action="append", required=True, metavar="NAME=DIR", help="a collection: DIR/Composer/… or DIR/composer-….mid")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()

    works, performances = read(args.programmes, args.until)
    plays = Counter(p.work for p in performances)
    soloists = Counter(work for work, _ in {(p.work, p.soloist) for p in performances})
    by_surname = defaultdict(lambda: defaultdict(list))
    for id in plays:
        by_surname[surname_of(works[id].composer)][works[id].composer].append(id)
    candidates = {}
    for surname, composers in by_surname.items():
        # Of composers of one name the most played is meant, but for the Strausses, who are told apart by titles.
        chosen = list(composers) if surname == "strauss" else [max(composers, key=lambda c: sum(plays[id] for id in composers[c]))]
        candidates[surname] = []
        for id in sorted((id for c in chosen for id in composers[c]), key=int):
            said = facts(works[id].title, work=True)
            if ARRANGED.search(plain(works[id].title).replace("arr. sussmayr", "")):  # who completed Mozart's requiem
                continue
            said.update(id=id, title=distinctive(works[id].title, surname))
            candidates[surname].append(said)
        for said in candidates[surname]:
            alike = [o for o in candidates[surname] if o["forms"] == said["forms"] and o["instruments"] == said["instruments"]]
            said["only"] = len(alike) == 1

    rows, seen, lost = [], set(), Counter()
    for collection in args.midi:
        name, folder = collection.split("=", 1)
        root = Path(folder)
        for path in sorted(p for p in root.rglob("*") if p.suffix.lower() == ".mid"):
            inside = path.relative_to(root)
            surname, text = (inside.parts[0], str(Path(*inside.parts[1:]))) if len(inside.parts) > 1 else inside.name.split("-", 1) if "-" in inside.name else (None, "")
            if surname is None:
                continue
            surname = SPELLING.get(plain(surname), plain(surname))
            text = re.sub(r"\.mid$", "", text, flags=re.I)
            if "chorale" in text.lower() and not re.search(r"/Bwv\d", text):
                continue  # numbered like movements of cantatas, which they are only in part
            if WRONG.search(str(inside)):
                lost["looked at, and wrong"] += 1
                continue
            if surname not in candidates or ARRANGED.search(plain(text.replace("_", " "))) or ("liszt" in plain(text) and surname != "liszt"):
                lost["no such composer here, or an arrangement"] += 1
                continue
            said = facts(text, work=False)
            aliases = tuple(plain(start) for who, pattern, start in ALIASES if who == surname and re.search(pattern, said["flat"].strip()))
            found = []
            for work in candidates[surname]:
                verdict = judge(work, said) if surname != "strauss" or not said["catalogue"] else None
                title = plain(works[work["id"]].title)
                if aliases and title.startswith(aliases) and not (work["catalogue"] and said["catalogue"]):
                    verdict = max(verdict or (0, ""), (1.6 if title in aliases else 1.5, "alias"))
                if verdict:
                    found.append((*verdict, plays[work["id"]], work))
            if not found:
                lost["no work"] += 1
                continue
            score, rule, _, work = max(found, key=lambda f: (f[0], f[2], f[3]["id"]))
            notes = notes_of(path)
            if notes is None:
                lost["unreadable, or under 60 notes"] += 1
                continue
            digest, programmes = notes
            if (work["id"], digest) in seen:
                lost["the same notes"] += 1
                continue
            guitar = programmes <= set(range(24, 32))
            keyboard = programmes <= set(range(0, 8)) and bool(work["forms"] & ORCHESTRAL)
            if guitar and "guitar" not in work["instruments"] or keyboard:
                lost["other instruments"] += 1
                continue
            seen.add((work["id"], digest))
            rows.append((work["id"], name, str(inside), score, rule))

    rows.sort(key=lambda r: (-soloists[r[0]], int(r[0]), r[1], r[2]))  # the best known works first
    with open(args.out, "w", newline="", encoding="utf-8") as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["work", "composer", "title", "soloists", "repository", "path", "score", "rule"])
        for id, name, path, score, rule in rows:
            table.writerow([id, works[id].composer, works[id].title, soloists[id], name, path, f"{score:.1f}", rule])
    joined = {r[0] for r in rows}
    print(f"{len(rows)} files of {len(joined)} works; rules {dict(Counter(r[4] for r in rows))}; left out {dict(lost)}", file=sys.stderr)
    print(f"performances of joined works: {sum(plays[w] for w in joined)} of {sum(plays.values())}", file=sys.stderr)


if __name__ == "__main__":
    main()

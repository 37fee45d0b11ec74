#!/usr/bin/env python3
"""The events that come with the model: those of the tracks it was trained on, as Parquet.

    pip install pyarrow
    python3 models/game-music/make/pack_events.py events.csv factors/held_out.ids models/game-music/events.parquet

The held-out tracks' events stay out, so that in the demo these tracks are new to everyone.
"""

import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

events, held_out, out = sys.argv[1:]
table = pa.csv.read_csv(events)
with open(held_out, encoding="utf-8") as file:
    held = pa.array(file.read().splitlines())
table = table.filter(pc.invert(pc.is_in(table["track"], held)))
table = table.set_column(table.schema.get_field_index("value"), "value", table["value"].cast(pa.float32()))
pq.write_table(table, out, compression="zstd", compression_level=19, use_dictionary=["user", "track", "action"])
print(f"{table.num_rows} events in {out}")

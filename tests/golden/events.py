"""An event file by TensorBoard's own writer, as the oracle of debut's.

    pip install tensorboard
    python tests/golden/events.py                    from the repository root: writes the golden file
    python tests/golden/events.py runs/mine          prints what TensorBoard reads in a folder of debut's
"""

import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter


def scalars(wall_time, step, values):
    values = [Summary.Value(tag=tag, simple_value=value) for tag, value in values]
    return Event(wall_time=wall_time, step=step, summary=Summary(value=values))


if len(sys.argv) > 1:
    events = EventAccumulator(sys.argv[1]).Reload()
    for tag in events.Tags()["scalars"]:
        print(tag, [(s.step, round(s.value, 6)) for s in events.Scalars(tag)])
else:
    long = "a/tag/that/is/longer/than/one/hundred/and/twenty-seven/bytes/" * 3
    with Path("tests/golden/events.out.tfevents.golden").open("wb") as file:
        writer = RecordWriter(file)
        for event in [
            Event(wall_time=1_700_000_000.25, file_version="brain.Event:2"),
            scalars(1_700_000_001.5, 1, [("loss/train", 0.75), ("loss/valid", 1.0), ("wait_seconds", 0.0)]),
            scalars(1_700_000_002.0, 300, [("learning_rate", 1e-30), (long, -1.5e30)]),
        ]:
            writer.write(event.SerializeToString())

"""A training step of the network in PyTorch beside ours: samples per second, in 32-bit floats.

    python train.py --beside "PROGRAM --train" [--songs 384] [--rounds 3]

The network, its dropout, the squared distance and Nesterov momentum are those of `src/encoder`; PyTorch's batch is one
that lies in memory already, and it takes part in the best of its layouts, [batch, 128, 599]. Each turn is a process of
its own; the two take turns, `rounds` times for each batch size and number of threads, and the median of each counts:

    {"engine":"torch","batch":32,"threads":1,"samples_per_cpu_second":69.8,"samples_per_second":69.2,"peak_mb":900.1}

PROGRAM is run with `--batch`, `--threads` and `--songs` and prints a line of the same form. CPU seconds are those of
all threads of a process, `peak_mb` is the most memory that it ever had.

On a GPU, with PyTorch's own batch lying there already:

    python train.py --device cuda [--bf16] --batches 128 --threads 16 --songs 64000 --beside "PROGRAM --train --device wgpu"

`updates_per_second` is what the goal is in: the 750,000 updates of the 2014 post in less than an hour are 208.
"""

import argparse
import json
import resource
import shlex
import statistics
import subprocess
import sys
import time

FIGURES = ["samples_per_cpu_second", "samples_per_second", "updates_per_second", "peak_mb"]


def torch_turn(batch, threads, songs, device, bf16):
    import torch
    from torch import nn

    torch.set_num_threads(threads)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            channels = [128, 256, 256, 512, 512]
            units = [1536, 2048, 2048, 40]
            self.convolutions = nn.ModuleList(nn.Conv1d(a, b, 4) for a, b in zip(channels, channels[1:]))
            self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in zip(units, units[1:]))
            self.dropout = nn.Dropout(0.5)

        def forward(self, x):
            for i, convolution in enumerate(self.convolutions):
                x = convolution(x)
                # The pool before the ReLU: the same numbers for less work.
                x = torch.relu(nn.functional.max_pool1d(x, [4, 2, 2][i]) if i < 3 else x)
            x = torch.cat([x.mean(2), x.amax(2), (x.square().mean(2) + 1e-12).sqrt()], 1)
            for layer in self.dense[:2]:
                x = self.dropout(torch.relu(layer(x)))
            return self.dense[2](x)

    torch.manual_seed(1)
    network = Network().to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    mels = torch.rand(batch, 128, 599, device=device)
    targets = nn.functional.normalize(torch.randn(batch, 40, device=device), dim=1)

    def step():
        optimiser.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            answers = network(mels)
        (answers.float() - targets).square().sum(1).mean().backward()
        optimiser.step()

    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    for _ in range(1 if device == "cpu" else 20):
        step()
    wait()
    steps = -(-songs // batch)
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    done = steps * batch
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"engine": "torch", "batch": batch, "threads": threads} | dict(zip(FIGURES, [done / cpu, done / wall, steps / wall, peak]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=384, help="samples in a turn, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--beside", default="", help="a program that takes turns with PyTorch")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="PyTorch's")
    parser.add_argument("--bf16", action="store_true", help="mixed precision, for both")
    parser.add_argument("--turn", type=int, nargs=2, metavar=("BATCH", "THREADS"), help="one turn of PyTorch")
    args = parser.parse_args()
    if args.turn:
        print(json.dumps(torch_turn(*args.turn, args.songs, args.device, args.bf16)))
        return
    for threads in args.threads:
        for batch in args.batches:
            commands = [[sys.executable, __file__, "--turn", batch, threads, "--songs", args.songs, "--device", args.device]]
            commands[0] += ["--bf16"] * args.bf16
            if args.beside:
                ours = ["--batch", batch, "--threads", threads, "--songs", args.songs]
                commands.append([*shlex.split(args.beside), *ours, *["--bf16"] * args.bf16])
            turns = {}
            for _ in range(args.rounds):
                for command in commands:
                    line = json.loads(subprocess.check_output([str(part) for part in command]))
                    turns.setdefault(line["engine"], []).append(line)
            for engine, lines in turns.items():
                medians = {figure: round(statistics.median(line[figure] for line in lines), 1) for figure in FIGURES}
                print(json.dumps({"engine": engine, "batch": batch, "threads": threads, **medians}), flush=True)


if __name__ == "__main__":
    main()

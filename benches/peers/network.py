"""The network in PyTorch, ONNX Runtime and OpenVINO: songs embedded per second, in 32-bit floats.

    python network.py [--songs 512] [--rounds 5] [--beside "PROGRAM --json"]

reads the shipped weights and prints one JSON line per engine, batch size and number of threads:

    {"engine":"openvino","batch":32,"threads":2,"songs_per_cpu_second":262.0,"songs_per_second":501.3}

Each engine gets spectrograms [batch, 128, 599], the layout that it likes, already in memory. The engines take turns,
`rounds` times, `songs` songs a turn, and the best turn of each is printed. PROGRAM takes turns with them: it is run
with `--batch`, `--threads` and `--songs` and prints a line of the same form. CPU seconds are those of all threads of
the process. An engine that is not installed is left out.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

MODEL = Path(__file__).parents[2] / "models" / "game-music" / "model.safetensors"
BATCHES = [1, 16, 32]
THREADS = [1, 2]
POOLS = [4, 2, 2]
CONVOLUTIONS = ["conv1", "conv2", "conv3", "conv4"]
DENSE = ["dense1", "dense2", "output"]
RMS_FLOOR = 1e-12


def weights(path):
    """The tensors of a safetensors file, as 32-bit floats."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            numbers = np.frombuffer(data[start + first : start + end], {"F16": np.float16, "F32": np.float32}[entry["dtype"]])
            tensors[name] = numbers.astype(np.float32).reshape(entry["shape"])
    return tensors


def reference(w, mels):
    """The network in NumPy and 64 bits, [b, 128, 599] to [b, 40]: what every engine must say."""
    x = ((mels - w["input.mean"][:, None]) / w["input.std"][:, None]).astype(np.float64)
    for i, name in enumerate(CONVOLUTIONS):
        windows = np.lib.stride_tricks.sliding_window_view(x, 4, axis=2)  # [b, c, t, 4]
        x = np.einsum("bctk,ock->bot", windows, w[f"{name}.weight"], optimize=True) + w[f"{name}.bias"][:, None]
        pool = POOLS[i] if i < len(POOLS) else 1
        frames = x.shape[2] // pool
        x = np.maximum(x[:, :, : frames * pool].reshape(*x.shape[:2], frames, pool).max(3), 0)
    x = np.concatenate([x.mean(2), x.max(2), np.sqrt((x * x).mean(2) + RMS_FLOOR)], 1)
    for name in DENSE:
        x = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
        x = np.maximum(x, 0) if name != DENSE[-1] else x
    return x


def torch_engine(w, threads):
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    w = {name: torch.from_numpy(x) for name, x in w.items()}
    mean, std = w["input.mean"][:, None], w["input.std"][:, None]

    @torch.inference_mode()
    def run(mels):
        torch.set_num_threads(threads)
        x = (torch.from_numpy(mels) - mean) / std
        for i, name in enumerate(CONVOLUTIONS):
            x = F.relu(F.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"]))
            x = F.max_pool1d(x, POOLS[i]) if i < len(POOLS) else x
        x = torch.cat([x.mean(2), x.amax(2), (x.square().mean(2) + RMS_FLOOR).sqrt()], 1)
        for name in DENSE:
            x = F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])
            x = F.relu(x) if name != DENSE[-1] else x
        return x.numpy()

    return run


def onnx_model(w):
    """The network as an ONNX file's bytes: `mels` [b, 128, 599] to `answer` [b, 40]."""
    from onnx import TensorProto, checker, helper, numpy_helper

    constants, nodes = [], []

    def constant(name, x):
        constants.append(numpy_helper.from_array(np.asarray(x), name))
        return name

    def node(kind, *inputs, **attributes):
        name = f"{kind}{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    x = node("Sub", "mels", constant("mean", w["input.mean"][:, None]))
    x = node("Div", x, constant("std", w["input.std"][:, None]))
    for i, name in enumerate(CONVOLUTIONS):
        tensors = [constant(f"{name}.{kind}", w[f"{name}.{kind}"]) for kind in ("weight", "bias")]
        x = node("Relu", node("Conv", x, *tensors))
        if i < len(POOLS):
            x = node("MaxPool", x, kernel_shape=[POOLS[i]], strides=[POOLS[i]])
    axis = constant("axis", np.array([2], np.int64))
    squares = node("ReduceMean", node("Mul", x, x), axis, keepdims=0)
    rms = node("Sqrt", node("Add", squares, constant("floor", np.float32(RMS_FLOOR))))
    x = node("Concat", node("ReduceMean", x, axis, keepdims=0), node("ReduceMax", x, axis, keepdims=0), rms, axis=1)
    for name in DENSE:
        x = node("Gemm", x, constant(f"{name}.weight", w[f"{name}.weight"]), constant(f"{name}.bias", w[f"{name}.bias"]), transB=1)
        x = node("Relu", x) if name != DENSE[-1] else x
    nodes.append(helper.make_node("Identity", [x], ["answer"]))
    tensor = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "network", [tensor("mels", ["b", 128, 599])], [tensor("answer", ["b", 40])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    return model.SerializeToString()


def onnxruntime_engine(w, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_model(w), options, providers=["CPUExecutionProvider"])
    return lambda mels: session.run(None, {"mels": mels})[0]


def openvino_engine(w, threads):
    import openvino

    core = openvino.Core()
    # On processors that have bfloat16 the default precision is that.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = core.read_model(onnx_model(w))
    compiled = {}

    def run(mels):
        if len(mels) not in compiled:
            # A fixed shape, which is faster here than one that may change.
            model.reshape([len(mels), 128, 599])
            compiled[len(mels)] = core.compile_model(model, "CPU", settings)
        return compiled[len(mels)](mels)[0]

    return run


ENGINES = {"torch": torch_engine, "onnxruntime": onnxruntime_engine, "openvino": openvino_engine}


def turn(run, mels, songs):
    """Songs per CPU second and per second."""
    calls = math.ceil(songs / len(mels))
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        run(mels)
    done = calls * len(mels)
    return done / (time.process_time() - cpu), done / (time.perf_counter() - wall)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--songs", type=int, default=512, help="songs in a turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--beside", default="", help="a program that takes turns with the engines")
    args = parser.parse_args()

    w = weights(MODEL)
    noise = np.random.default_rng(1).uniform(0, 9, (max(args.batches), 128, 599)).astype(np.float32)
    truth = reference(w, noise[:2])
    for threads in args.threads:
        engines = {}
        for name in args.engines:
            try:
                engines[name] = ENGINES[name](w, threads)
            except ImportError as error:
                print(f"{name} is left out: {error}", file=sys.stderr)
        for batch in args.batches:
            mels = np.ascontiguousarray(noise[:batch])
            best = {}

            def note(name, *speeds):
                best[name] = [max(pair) for pair in zip(speeds, best.get(name, (0, 0)))]

            for name, run in engines.items():
                worst = np.abs(run(mels)[:2] - truth[: min(2, batch)]).max()
                assert worst < 1e-4, f"{name} says something else: {worst}"
            for _ in range(args.rounds):
                for name, run in engines.items():
                    run(mels)
                    note(name, *turn(run, mels, args.songs))
                if args.beside:
                    command = [*shlex.split(args.beside), "--batch", batch, "--threads", threads, "--songs", args.songs]
                    line = json.loads(subprocess.check_output([str(part) for part in command]))
                    note(line["engine"], line["songs_per_cpu_second"], line["songs_per_second"])
            for name, (cpu, wall) in best.items():
                speeds = {"songs_per_cpu_second": round(cpu, 1), "songs_per_second": round(wall, 1)}
                print(json.dumps({"engine": name, "batch": batch, "threads": threads, **speeds}), flush=True)


if __name__ == "__main__":
    main()

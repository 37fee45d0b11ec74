"""The front end as others would write it in Python: file to log-mel [599, 128] of the middle 27.86 s.

    front_end.py PEER [--threads T] [--out DIR]

reads batches from standard input, one JSON list of [path, start in seconds] a line, and answers each with one line:
the CPU milliseconds of each path (user and system, child processes included) and the wall milliseconds of the whole
batch, which T processes work through together. `--out DIR` writes the spectrograms as .npy. `front_end.py PEER
--version` says which libraries it is, or why it cannot run.

Every peer is told where the excerpt begins, so that none pays for looking; ours finds out by itself. All hear the mean
of the two channels and end with ln(1 + 1e4 mel power); filters and windows that a careful user would build once
are built before the clock starts, those that a library builds anew in every call are not.
"""

import argparse
import json
import os

for name in ["OMP", "MKL", "OPENBLAS", "NUMBA", "VECLIB_MAXIMUM", "NUMEXPR"]:
    os.environ[f"{name}_NUM_THREADS"] = "1"  # before numpy is loaded

import resource
import subprocess
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from multiprocessing import get_context

import numpy as np

RATE = 22_050
WINDOW = 2048
HOP = 1024
BANDS = 128
SAMPLES = 614_400  # 599 frames
SECONDS = SAMPLES / RATE
# ffmpeg's mono is (left + right) / √2 where samples are floats; this makes it their mean.
SWR_MONO = np.float32(0.5**0.5)


def exactly(samples):
    """Some decoders give a few samples more or less at a cut."""
    samples = samples[:SAMPLES]
    return np.pad(samples, (0, SAMPLES - len(samples)))


def log(power):
    """Mel power to [599, 128]."""
    return np.log1p(1e4 * power)


def numpy_mel():
    """numpy and scipy alone, in single precision: the window, the transform, the filters."""
    import librosa.filters
    import scipy.fft
    from scipy.signal.windows import hann

    window = hann(WINDOW, sym=False).astype(np.float32)
    filters = librosa.filters.mel(sr=RATE, n_fft=WINDOW, n_mels=BANDS).T.copy()  # [1025, 128]

    def mel(samples):
        frames = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
        spectrum = scipy.fft.rfft(frames * window, axis=1)
        return log((spectrum.real**2 + spectrum.imag**2) @ filters)

    return mel


def librosa_mel():
    import librosa

    def mel(samples):
        power = librosa.feature.melspectrogram(
            y=samples, sr=RATE, n_fft=WINDOW, hop_length=HOP, n_mels=BANDS, center=False
        )
        return log(power.T)

    return mel


def librosa_windowed():
    import librosa

    mel = librosa_mel()
    return lambda path, start: mel(exactly(librosa.load(path, sr=RATE, offset=start, duration=SECONDS + 0.01)[0]))


def librosa_whole():
    import librosa

    mel = librosa_mel()

    def hear(path, start):
        samples, _ = librosa.load(path, sr=RATE)
        return mel(exactly(samples[round(start * RATE) :]))

    return hear


def soundfile_soxr():
    import soundfile
    import soxr

    mel = numpy_mel()

    def hear(path, start):
        with soundfile.SoundFile(path) as file:
            file.seek(round(start * file.samplerate))
            frames = file.read(round((SECONDS + 0.01) * file.samplerate), dtype="float32", always_2d=True)
            return mel(exactly(soxr.resample(frames.mean(axis=1), file.samplerate, RATE)))

    return hear


def torchcodec_torchaudio():
    import torch

    # torchaudio's last release was built for another CUDA than torch's newest, and refuses it. Nothing here uses CUDA.
    torch.version.cuda = None
    import torchaudio
    from torchcodec.decoders import AudioDecoder

    torch.set_num_threads(1)
    mel = torchaudio.transforms.MelSpectrogram(
        RATE, n_fft=WINDOW, hop_length=HOP, n_mels=BANDS, center=False, norm="slaney", mel_scale="slaney"
    )

    def hear(path, start):
        decoder = AudioDecoder(path, sample_rate=RATE, num_channels=1)
        begin = start + (decoder.metadata.begin_stream_seconds_from_header or 0.0)
        samples = decoder.get_samples_played_in_range(begin, begin + SECONDS + 0.01).data[0, :SAMPLES] * SWR_MONO.item()
        samples = torch.nn.functional.pad(samples, (0, SAMPLES - len(samples)))
        return torch.log1p(1e4 * mel(samples)).T.numpy()

    return hear


def pyav_swr():
    import av

    mel = numpy_mel()

    def hear(path, start):
        with av.open(path) as container:
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1
            begin = start + float((stream.start_time or 0) * stream.time_base)
            container.seek(int((begin - 0.1) / stream.time_base), stream=stream)
            resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
            parts, have, skip = [], 0, None
            for frame in container.decode(stream):
                if skip is None:
                    skip = max(0, round((begin - frame.time) * RATE))
                for resampled in resampler.resample(frame):
                    parts.append(resampled.to_ndarray()[0])
                    have += len(parts[-1])
                if have >= skip + SAMPLES:
                    break
            return mel(SWR_MONO * exactly(np.concatenate(parts)[skip:]))

    return hear


def ffmpeg_pipe():
    mel = numpy_mel()

    def hear(path, start):
        command = ["ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-ss", f"{start:.6f}", "-i", path]
        command += ["-t", f"{SECONDS + 0.01:.6f}", "-ac", "1", "-ar", str(RATE), "-f", "f32le", "-"]
        pcm = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        return mel(SWR_MONO * exactly(np.frombuffer(pcm, dtype="<f4")))

    return hear


def essentia_monoloader():
    import essentia
    import essentia.standard as es

    essentia.log.infoActive = False
    window = es.Windowing(type="hann", size=WINDOW, normalized=False, zeroPhase=False)
    spectrum = es.Spectrum(size=WINDOW)
    bands = es.MelBands(
        inputSize=WINDOW // 2 + 1,
        numberBands=BANDS,
        sampleRate=RATE,
        lowFrequencyBound=0,
        highFrequencyBound=RATE / 2,
        warpingFormula="slaneyMel",
        weighting="linear",
        normalize="unit_tri",
        type="power",
    )

    def hear(path, start):
        samples = es.MonoLoader(filename=path, sampleRate=RATE)()
        samples = exactly(samples[round(start * RATE) :])
        frames = es.FrameGenerator(samples, frameSize=WINDOW, hopSize=HOP, startFromZero=True, lastFrameToEndOfFile=True)
        return log(np.array([bands(spectrum(window(frame))) for frame in frames])[: 1 + (SAMPLES - WINDOW) // HOP])

    return hear


# What each is, and the packages whose versions say which.
PEERS = {
    "librosa windowed": (librosa_windowed, ["librosa", "soundfile", "soxr"]),
    "librosa whole": (librosa_whole, ["librosa", "soundfile", "soxr"]),
    "soundfile + soxr": (soundfile_soxr, ["soundfile", "soxr", "scipy"]),
    "torchcodec + torchaudio": (torchcodec_torchaudio, ["torchcodec", "torchaudio", "torch"]),
    "PyAV + swr": (pyav_swr, ["av", "scipy"]),
    "ffmpeg pipe": (ffmpeg_pipe, ["scipy"]),
    "essentia": (essentia_monoloader, ["essentia"]),
}


def libraries(peer):
    named = [f"{package} {version(package)}" for package in PEERS[peer][1]]
    if peer == "ffmpeg pipe":
        first = subprocess.run(["ffmpeg", "-version"], stdout=subprocess.PIPE, text=True, check=True).stdout
        named.insert(0, "ffmpeg " + first.split()[2])
    return ", ".join(named)


def cpu_seconds():
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def prepare(peer, out):
    global hear, folder
    warnings.filterwarnings("ignore")
    hear, folder = PEERS[peer][0](), out


def measure(task):
    """CPU milliseconds of one path, and the reason if it failed."""
    path, start = task
    before = cpu_seconds()
    try:
        mel = hear(path, start)
    except Exception as problem:
        return None, f"{type(problem).__name__}: {problem}".split("\n")[0]
    spent = 1e3 * (cpu_seconds() - before)
    assert mel.shape == (599, BANDS), mel.shape
    if folder:
        np.save(os.path.join(folder, os.path.basename(path) + ".npy"), mel)
    return round(spent, 3), None


def main():
    parser = argparse.ArgumentParser(description="One peer of the front end.")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out")
    parser.add_argument("--version", action="store_true")
    arguments = parser.parse_args()
    prepare(arguments.peer, arguments.out)
    if arguments.version:
        print(libraries(arguments.peer))
        return
    pool = None
    if arguments.threads > 1:
        # Processes, not threads: Python runs one thread at a time.
        inputs = (arguments.peer, arguments.out)
        pool = ProcessPoolExecutor(arguments.threads, get_context("spawn"), prepare, inputs)
    for line in sys.stdin:
        batch = json.loads(line)
        before = time.perf_counter()
        results = list((pool.map if pool else map)(measure, batch))
        wall = 1e3 * (time.perf_counter() - before)
        cpu, failed = zip(*results)
        print(json.dumps({"cpu_ms": cpu, "wall_ms": round(wall, 3), "failed": failed}), flush=True)


if __name__ == "__main__":
    main()

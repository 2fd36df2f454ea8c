#!/usr/bin/env python3
"""Compares the rate of `sightline predict` on many images with what the cores can compute.

The ideal rate is the number of cores divided by the mean CPU time that one image takes on one thread, for decoding,
preprocessing and inference. These times and the rate are measured in turns, and the medians over the rounds are printed.
The machine must have no other load; with other load, the last column says what the ratio would be if the cores did
nothing else: the CPU time of the three steps divided by that of the whole process, its start included. Exit code 1 if the rate is below --least of the ideal one.

usage: scripts/predict-ratio.py [--model M] [--models DIR] [--binary FILE] [--count 2000] [--rounds 3] [--least 0.95]
                                [--predict-flags "--annotate DIR"] [IMAGE|DIR...]

Images are the photographs of tests/photos and of $SIGHTLINE_TEST_SHARED/photos, if neither files nor folders are named.
"""

import argparse
import json
import os
import re
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
# Most different images whose CPU time is measured: each takes three seconds.
MOST_MEASURED = 8


def run(*command):
    return subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True).stdout


def images(paths):
    """Returns the image files that `paths` name, at most MOST_MEASURED, spread evenly."""
    if not paths:
        shared = os.environ.get("SIGHTLINE_TEST_SHARED", ROOT / "../shared/real")
        paths = [ROOT / "tests/photos", Path(shared) / "photos"]
    files = []
    for path in map(Path, paths):
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        files += [file for file in found if file.suffix.lower() in EXTENSIONS]
    if not files:
        sys.exit("predict-ratio: no images")
    step = max(1, -(-len(files) // MOST_MEASURED))
    return files[::step]


def cpu_ms(args, file):
    """Returns the CPU time of decoding, preprocessing and inference of one image on one thread, in milliseconds."""
    flags = ["--rounds", 1, "--round-ms", 400, "--connections", 1, "--image", file, "--json"]
    line = json.loads(run(args.binary, "bench", *args.model_flags, *flags))[0]
    return [line["stages"][stage] for stage in ("decode", "preprocess", "inference")]


def rate(args, folder, work):
    """Returns the images per second of one run of predict, and the CPU time of the process per image in milliseconds."""
    output = work / "results.jsonl"
    output.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    flags = [*args.model_flags, "--output", output, *shlex.split(args.predict_flags)]
    printed = run(args.binary, "predict", *flags, folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    per_second = float(re.search(r"([0-9.]+) per second", printed)[1])
    return per_second, cpu * 1e3 / args.count


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("images", nargs="*")
    parser.add_argument("--binary", default=ROOT / "target/release/sightline")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--models")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--least", type=float, default=0.95)
    parser.add_argument("--predict-flags", default="")
    args = parser.parse_args()
    args.model_flags = ["--model", args.model, *(["--models", args.models] if args.models else [])]
    cores = len(os.sched_getaffinity(0))
    files = images(args.images)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        folder = work / "images"
        folder.mkdir()
        for number in range(args.count):
            file = files[number % len(files)]
            shutil.copyfile(file, folder / f"{number:06}{file.suffix}")
        print(f"{args.count} copies of {len(files)} images, {args.model}, {cores} cores, load average {os.getloadavg()[0]:.1f}")
        print(" decode  preprocess  inference  ideal/s  predict/s  ratio  CPU ms of predict  of ideal CPU")
        ratios = []
        for _ in range(args.rounds):
            stages = [statistics.mean(stage) for stage in zip(*(cpu_ms(args, file) for file in files))]
            ideal = cores / sum(stages) * 1e3
            per_second, cpu = rate(args, folder, work)
            ratios.append(per_second / ideal)
            decode, preprocess, inference = stages
            print(f"{decode:7.2f} {preprocess:11.2f} {inference:10.2f} {ideal:8.1f} {per_second:10.1f} {ratios[-1]:6.3f} {cpu:18.2f} {sum(stages) / cpu:13.3f}")
    ratio = statistics.median(ratios)
    print(f"predict reaches {ratio:.3f} of the ideal rate (median of {args.rounds} rounds; at least {args.least} expected)")
    sys.exit(ratio < args.least)


main()

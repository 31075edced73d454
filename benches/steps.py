#!/usr/bin/env python3
"""What a step costs by its place: 120 RUNs on each other, each of which makes a layer.

    benches/steps.py [--runs 10] [--steps 120] [STRATA]

A step's time is from its start to the next one's, as `--progress rawjson` says them: key, sandbox, command, and what of the layer is
not made in the background. The table has medians over all runs, milliseconds, and the ratio of the last steps to the first; goal: at
most 1.2. The first four steps do not count: the first unpacks the base image.

STRATA is the binary, else $STRATA, else target/release/strata. $STRATA_TEST_DIR is where the stores are made, on a file system that
overlays can be mounted on. Needs Debian's busybox-static.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
from datetime import datetime

# How many steps make a row of the table.
WINDOW = 11


def make_base(strata, folder):
    root = folder / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy(shutil.which("busybox"), root / "bin/busybox")
    for name in ("sh", "echo"):
        (root / "bin" / name).symlink_to("busybox")
    archive = folder / "rootfs.tar"
    subprocess.run(["tar", "-C", root, "--owner=0", "--group=0", "-cf", archive, "."], check=True)
    subprocess.run([*strata, "import", archive, "-t", "base"], check=True, stdout=subprocess.DEVNULL)


def build(binary, parent, steps):
    """The milliseconds of each step but the last, in order."""
    with tempfile.TemporaryDirectory(dir=parent, prefix="strata-steps.") as folder:
        folder = pathlib.Path(folder)
        strata = [binary, "--root", folder / "store"]
        make_base(strata, folder)
        context = folder / "context"
        context.mkdir()
        lines = ["FROM base", *(f"RUN echo {n} >/f{n}" for n in range(steps))]
        (context / "Dockerfile").write_text("\n".join(lines) + "\n")
        command = [*strata, "build", "--progress", "rawjson", "-t", "app", context]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        # A step is said when it begins, and again, with `completed`, when it ends.
        starts = []
        for line in said.splitlines():
            for vertex in json.loads(line).get("vertexes", []):
                if " RUN " in vertex["name"] and "completed" not in vertex:
                    starts.append(datetime.fromisoformat(vertex["started"]).timestamp() * 1000)
        assert len(starts) == steps, f"{len(starts)} steps of {steps}"
        return [b - a for a, b in zip(starts, starts[1:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("strata", nargs="?", default=os.environ.get("STRATA", "target/release/strata"))
    args = parser.parse_args()
    parent = os.environ.get("STRATA_TEST_DIR")
    binary = pathlib.Path(args.strata).resolve()
    runs = [build(binary, parent, args.steps) for _ in range(args.runs)]

    def row(first):
        times = [run[n] for run in runs for n in range(first, min(first + WINDOW, args.steps - 1))]
        print(f"steps {first + 1:3} to {first + len(times) // len(runs):3}  median {statistics.median(times):6.2f} ms")
        return statistics.median(times)

    early = row(4)
    for first in range(WINDOW + 19, args.steps - WINDOW - 1, 30):
        row(first)
    late = row(args.steps - 1 - WINDOW)
    print(f"the last to the first: {late / early:.2f} (goal: 1.2)")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""What reports on images cost: seconds of clock and processor, and peak memory, beside the goals.

    benches/sight.py [--dir DIR] [--scale S] [--images N] [--runs R] [GROUP...]

Groups: big (a 1 GB image in the store), store (N images that share bases), away (the big image in archives and layouts, from
tables of contents that nobody has). All of them unless given. DIR keeps what was made, for the next time.

The big image: S × 1 GB in 32,000 files and ten COPY layers, some of which overwrite, repeat or chmod what lower ones have. The store:
twenty bases of 3,000 files each, and N images with one to three layers of their own. Each figure is the best of R runs, read by
wait4(2); memory is the most that the process held, and never less than this script, some 15 MiB.

$STRATA is the binary (target/release/strata).
"""

import argparse, concurrent.futures, contextlib, os, pathlib, random, shutil, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
STRATA = os.environ.get("STRATA", f"{TARGET}/release/strata")

BIG_FILES = 32_000
BIG_LAYERS = 10
BASES = 20
BASE_FILES = 3_000
WORDS = [w.encode() for w in "layer digest whiteout chain blob index tag of the and to in is it for stage graph".split()]


def content(rng, size):
    """Bytes that compress as those of programs do: a half of it noise, a half words."""
    out = bytearray()
    while len(out) < size:
        out += rng.randbytes(96)
        out += b" ".join(rng.choices(WORDS, k=20))
    return bytes(out[:size])


def size_of_file(rng, mean):
    """Many small ones, few large ones."""
    return min(int(rng.paretovariate(1.2) * mean / 6), mean * 400)


def tree(path, rng, files, mean, folders=40):
    """A tree of files below `path`; the same for the same generator."""
    for at in range(files):
        folder = path / f"part{at % 7}" / f"folder{at % folders}"
        if at < folders * 7:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file-{at}.dat").write_bytes(content(rng, size_of_file(rng, mean)))


def apart(work):
    """Does it in a process of its own: what a process is started with counts as memory that it held."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("the input could not be made")


class Bench:
    def __init__(self, options, work):
        self.options, self.work = options, work
        self.rows = []

    def strata(self, store, *arguments):
        command = [STRATA, "--root", self.work / store, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def measure(self, name, goal, command, before=lambda: None):
        """The best of some runs of a command."""
        best = None
        for _ in range(self.options.runs):
            before()
            with open(os.devnull, "w") as null:
                start = time.monotonic()
                process = subprocess.Popen([str(c) for c in command], stdout=null)
                _, status, usage = os.wait4(process.pid, 0)
                wall = time.monotonic() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                sys.exit(f"{name} failed: {command}")
            run = (wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
            best = run if best is None else tuple(map(min, best, run))
        wall, cpu, peak = best
        print(f"| {name:<44} | {wall:7.3f} | {cpu:7.3f} | {peak:6.0f} | {goal} |", flush=True)

    def made(self, name, make):
        """What `make` makes in the folder `name`, unless it is there."""
        folder = self.work / name
        if not folder.exists():
            half = self.work / f"{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir(parents=True)
            print(f"making {folder}", file=sys.stderr)
            apart(lambda: make(half))
            half.rename(folder)
        return folder

    def big(self):
        """The context of the big image, and the image in a store."""
        def make(folder):
            rng = random.Random(1)
            mean = int(self.options.scale * 1e9 / BIG_FILES / 0.78)
            lines = ["FROM scratch"]
            for layer in range(BIG_LAYERS):
                tree(folder / f"c{layer}", rng, BIG_FILES // BIG_LAYERS, mean)
                # Every third layer goes over the one before; the others have a place of their own.
                lines.append(f"COPY c{layer} /srv/app{layer - layer % 3 // 2}")
            lines += ["COPY --chmod=755 c0/part1 /srv/app0/part1", "COPY c4/part2 /opt/copy"]
            (folder / "Dockerfile").write_text("\n".join(lines) + "\n")

        context = self.made("big", make)
        if not (self.work / "big-store").exists():
            self.strata("big-store", "build", "-q", "--progress", "quiet", "-t", "big", context)
            self.strata("big-store", "tag", "big", "big:2")
        return context

    def many(self):
        """The store of many images."""
        if not (self.work / "many-store").exists():
            apart(self.make_many)

    def make_many(self):
        def base(context, number):
            rng = random.Random(number)
            tree(context / "tree", rng, BASE_FILES, 2_000)
            (context / "Dockerfile").write_text("FROM scratch\nCOPY tree /usr\nCOPY tree/part1 /opt\n")
            self.strata("many-store.half", "build", "-q", "--progress", "quiet", "-t", f"base{number}", context)

        def image(context, number):
            rng = random.Random(number)
            steps = [f"FROM base{number % BASES}", f"COPY app{rng.randrange(60)} /app"]
            if number % 3:
                steps.append(f"COPY <<END /app/config\nname = {number}\nEND")
            if number % 3 == 2:
                steps.append(f"COPY app{rng.randrange(60)}/part0 /usr/part0")
            steps.append(f"LABEL number={number}")
            file = context / f"Dockerfile.{number}"
            file.write_text("\n".join(steps) + "\n")
            self.strata("many-store.half", "build", "-q", "--progress", "quiet", "-t", f"app{number}", "-f", file, context)

        shutil.rmtree(self.work / "many-store.half", ignore_errors=True)
        print(f"making {self.options.images} images", file=sys.stderr)
        for number in range(BASES):
            with tempfile.TemporaryDirectory(dir=self.work) as folder:
                base(pathlib.Path(folder), number)
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            context = pathlib.Path(folder)
            for number in range(60):
                tree(context / f"app{number}", random.Random(f"app{number}"), 30, 2_000, folders=3)
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(lambda n: image(context, n), range(self.options.images)))
        (self.work / "many-store.half").rename(self.work / "many-store")

    def run(self):
        print("| | clock s | processor s | peak MiB | goal |\n|---|---|---|---|---|")
        for group in self.options.groups:
            getattr(self, f"run_{group}")()

    def run_big(self):
        self.big()
        on = [STRATA, "--root", self.work / "big-store"]
        goal = "< 1 s, < 100 MiB"
        for name, arguments in [
            ("layers", ["layers", "big"]),
            ("layers --files --format json", ["layers", "--files", "--format", "json", "big"]),
            ("files", ["files", "big"]),
            ("files --format json", ["files", "--format", "json", "big"]),
            ("diff", ["diff", "big", "big:2"]),
            ("why", ["why", "big", "/srv/app0/part1/folder1/file-1.dat"]),
            ("dedup IMAGE", ["dedup", "big"]),
        ]:
            self.measure(f"1 GB: {name}", goal, on + arguments)

    def run_store(self):
        self.many()
        on = [STRATA, "--root", self.work / "many-store"]
        for arguments in [["dedup"], ["dedup", "--format", "json"], ["images"], ["df"]]:
            self.measure(f"{self.options.images} images: {' '.join(arguments)}", "< 5 s, < 100 MiB", on + arguments)

    def run_away(self):
        self.big()
        def make(folder):
            for name in ["gzip", "zstd", "uncompressed"]:
                output = f"type=oci,compression={name},force-compression=true,dest={folder}/{name}.tar"
                self.strata("big-store", "build", "-q", "--progress", "quiet", "-o", output, self.work / "big")
            self.strata("big-store", "save", "-o", folder / "docker.tar", "big")

        away = self.made("away", make)
        nowhere = ["--root", self.work / "no-store"]
        for name in ["gzip", "zstd", "uncompressed"]:
            archive = f"oci-archive:{away}/{name}.tar"
            self.measure(f"archive, {name}: layers", "one inflate pass", [STRATA, *nowhere, "layers", archive])
        self.measure("docker-archive: layers", "one inflate pass", [STRATA, *nowhere, "layers", f"docker-archive:{away}/docker.tar"])
        blobs = self.work / "big-store/blobs/sha256"
        inflate = f"cd {blobs} && for blob in *; do gzip -dc $blob 2>/dev/null; done | cat >/dev/null"
        self.measure("floor: gzip -dc of the blobs", "", ["sh", "-c", inflate])
        self.measure("floor: SHA-256 of the tars", "", ["openssl", "sha256", away / "uncompressed.tar"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", default=["big", "store", "away"])
    parser.add_argument("--dir", type=pathlib.Path, help="where it is made and kept")
    parser.add_argument("--scale", type=float, default=1.0, help="the big image, GB")
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        work = options.dir
        if work is None:
            near = os.environ.get("STRATA_TEST_DIR")
            work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(dir=near)))
        work.mkdir(parents=True, exist_ok=True)
        Bench(options, work.resolve()).run()


if __name__ == "__main__":
    main()

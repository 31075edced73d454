#!/usr/bin/env python3
"""strata beside the builders that are installed here, on one machine in one run.

    benches/compare.py                               all workloads at a quarter of their size, three runs
    benches/compare.py --scale 0.02 --runs 1 W1 W3   a quick look
    benches/compare.py --builders strata,podman --scale 1 --runs 5 --dir /mnt/bench

Prints a table, and writes it as results.json and a plot, results.svg, into --dir. The builders take turns in every run (A B C,
A B C), and figures are medians. Each build is timed cold (the base image is there, nothing else), warm (nothing changed) and
changed (one line added to one file of the context).

What is measured: seconds on the clock; seconds of processor, user and system, of everything that worked on it: by a control
group of its own where one can be made (root), else by what the kernel says of the finished child; of docker also what its
daemon used. The most memory of one process (daemonless builders only). How much the builder's folder grew in the cold build.

strata, buildah and podman work in folders of their own below --dir, which are removed in the end; docker works in its daemon,
where only images named strata-bench/* are made and removed, and its cache is left alone: cold is --no-cache there.

--dir belongs on a file system that overlays can be mounted on, with a journal: an ext4 without one searches long for inodes
after many files were removed. Workloads that need a Debian system (W2, W11) need mmdebstrap and Debian's archive; pushing and
pulling (W9) need docker-registry. What is missing is said and left out.
"""
import argparse, hashlib, io, json, os, random, shlex, shutil, socket, statistics, subprocess, sys, tarfile, tempfile, threading, time

ABOUT = {
    "W1": "tiny: five steps on busybox",
    "W2": "Debian packages, unpacked and configured by dpkg",
    "W3": "30,000 small files, then a hundredth of them changed, then a twentieth removed",
    "W4": "1 GB in eight files, then 500 MB written",
    "W5": "a context of 100,000 files",
    "W6": "one file of 30,000 changed, copied late",
    "W7": "eight stages that depend on nothing, each of work for one processor",
    "W8": "120 layers",
    "W9": "1 GB in ten layers to and from a registry",
    "W10": "200 images that share a layer: list, inspect, remove, prune",
    "W11": "a C program compiled on Debian, copied into busybox",
}
BUSYBOX, DEBIAN = "localhost/strata-bench/busybox:1", "localhost/strata-bench/debian:1"


def run(argv, **options):
    """Runs a command that is not measured; its output, or the end of everything if it fails."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **options}
    done = subprocess.run(argv, **options)
    if done.returncode:
        sys.exit(f"{shlex.join(argv)}: exit code {done.returncode}\n{done.stdout}")
    return done.stdout


# ---- workloads

class Maker:
    """Makes contexts. The same seed and scale give the same bytes."""

    def __init__(self, folder, scale):
        self.folder, self.scale, self.words = folder, scale, None

    def count(self, full, least=1):
        return max(least, round(full * self.scale))

    def text(self):
        """8 MB that compress as source code does."""
        if self.words is None:
            dice = random.Random(0)
            letters = "etaoinshrdlucmfwygpbvk"
            names = ["".join(dice.choices(letters, k=dice.randint(2, 11))) for _ in range(4000)]
            marks = [" ", " ", " ", ".", "(", ")", " = ", ";\n", ", ", "\n    ", " {\n", "}\n"]
            weights = [1 / (rank + 3) for rank in range(len(names))]
            parts = [word + dice.choice(marks) for word in dice.choices(names, weights, k=1_100_000)]
            self.words = "".join(parts).encode()[: 8 << 20]
        return self.words

    def tree(self, top, files, typical, seed):
        """Packages of 24 files in three folders; every tenth file is the same licence."""
        dice, text = random.Random(seed), self.text()
        for at in range(files):
            package, place = divmod(at, 24)
            folder = os.path.join(top, f"scope{package % 17}", f"package{package:05}", ("", "src", "src/inner")[place // 8])
            os.makedirs(folder, exist_ok=True)
            size = min(int(dice.lognormvariate(0, 1.4) * typical) + 16, 300_000)
            start = dice.randrange(len(text) - size)
            content = text[:1100] if at % 10 == 3 else text[start:start + size]
            with open(os.path.join(folder, f"n{at:06}.txt"), "wb") as file:
                file.write(content)

    def large(self, path, size, seed):
        """A file of which a third does not compress."""
        dice, text = random.Random(seed), self.text()
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            while size > 0:
                start = dice.randrange(len(text) - (1 << 18))
                piece = (text[start:start + (1 << 18)] + dice.randbytes(1 << 17))[:size]
                file.write(piece)
                size -= len(piece)

    def make(self, name):
        """Makes a workload's context; gives the file of it that changes."""
        context = os.path.join(self.folder, name)
        os.makedirs(context)
        at = lambda path: os.path.join(context, path)
        put = lambda path, text: (os.makedirs(os.path.dirname(at(path)), exist_ok=True), open(at(path), "w").write(text))
        dockerfile, change = getattr(self, name.lower())(at, put)
        put("Dockerfile", dockerfile)
        return change

    def w1(self, at, put):
        put("hello.txt", "hello\n")
        return (f"FROM {BUSYBOX}\nWORKDIR /work\nRUN date >/made\nCOPY hello.txt .\nRUN cat hello.txt hello.txt >twice.txt\n"
                "RUN rm /made && ls / >/list\nENV READY=yes\n", "hello.txt")

    def w2(self, at, put):
        os.makedirs(at("debs"))
        packages = "curl git make patch less jq unzip xz-utils rsync sqlite3 wget tree procps file".split()
        shell = f"cd debs && apt-get download $(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances {' '.join(packages[:self.count(len(packages), 3)])} | grep '^[a-z]' | sort -u)"
        run(["sh", "-c", shell], cwd=at("."))
        put("note.txt", "1\n")
        return (f"FROM {DEBIAN}\nCOPY debs /debs\nRUN dpkg --force-depends -i /debs/*.deb >/log 2>&1 || true; rm -r /debs\nCOPY note.txt /\n"
                "RUN true\n", "note.txt")

    def w3(self, at, put):
        self.tree(at("modules"), self.count(30_000, 200), 2400, 3)
        put("modules/changes.txt", "")
        return (f"FROM {BUSYBOX}\nCOPY modules /app/modules\n"
                "RUN find /app -type f -name '*00.txt' | while read f; do echo more >>$f; done\n"
                "RUN find /app -type f -name '*[13579]7.txt' | xargs rm -f\n", "modules/changes.txt")

    def w4(self, at, put):
        for number in range(8):
            self.large(at(f"data/{number}"), self.count(128 << 20), number)
        return f"FROM {BUSYBOX}\nCOPY data /data\nRUN cat /data/1 /data/3 /data/5 /data/6 | head -c {self.count(500 << 20)} >/large\n", "data/7"

    def w5(self, at, put):
        self.tree(at("modules"), self.count(100_000, 500), 900, 5)
        put(".dockerignore", "**/.git\n**/*.log\n!kept.log\n**/tmp/*.swp\n")
        put("src/main.txt", "main\n")
        return f"FROM {BUSYBOX}\nCOPY . /app\nRUN ls /app >/list\n", "src/main.txt"

    def w6(self, at, put):
        self.tree(at("vendor"), self.count(30_000, 200), 2400, 6)
        put("src/main.txt", "main\n")
        put("package.txt", "1\n")
        return (f"FROM {BUSYBOX}\nWORKDIR /app\nCOPY package.txt .\nRUN for i in 1 2 3 4 5; do head -c 1000000 /dev/urandom >/dep$i; done\n"
                "COPY . .\nRUN wc -c src/main.txt >/size\n", "src/main.txt")

    def w7(self, at, put):
        put("a.txt", "a\n")
        work = lambda n: f"RUN awk 'BEGIN {{ for (i = 0; i < {self.count(400_000)}; i++) s += i % {n + 3}; print s }}' >/out{n}\n"
        stages = "".join(f"FROM {BUSYBOX} AS s{s}\nCOPY a.txt /\n" + "".join(work(s * 4 + n) for n in range(4)) + f"RUN cat /a.txt /out* >/all{s}\n" for s in range(8))
        return stages + f"FROM {BUSYBOX}\n" + "".join(f"COPY --from=s{s} /all{s} /\n" for s in range(8)) + "RUN cat /all* >/all\n", "a.txt"

    def w8(self, at, put):
        put("a.txt", "a\n")
        steps = lambda letter, full: "".join(f"RUN echo {n} >/{letter}{n}\n" for n in range(self.count(full, 5)))
        return f"FROM {BUSYBOX}\n{steps('f', 60)}COPY a.txt /\n{steps('g', 59)}", "a.txt"

    def w9(self, at, put):
        for layer in range(10):
            for number in range(4):
                self.large(at(f"layer{layer}/{number}"), self.count(25 << 20), layer * 4 + number)
        return f"FROM {BUSYBOX}\n" + "".join(f"COPY layer{n} /layer{n}\n" for n in range(10)), "layer9/3"

    def w11(self, at, put):
        for number in range(self.count(24, 4)):
            functions = "".join(f"unsigned f{number}_{k}(unsigned x) {{ unsigned s = x; for (unsigned i = 0; i < x % {k + 5}; i++) s = s * {2 * k + 3}u ^ (s >> {k % 13 + 1}); return s; }}\n" for k in range(120))
            put(f"src/part{number}.c", functions)
        put("src/main.c", "#include <stdio.h>\nunsigned f0_0(unsigned);\nint main(void) { printf(\"%u\\n\", f0_0(7)); return 0; }\n")
        return (f"FROM {DEBIAN} AS compiler\nWORKDIR /src\nCOPY src .\nRUN for f in *.c; do gcc -O2 -c $f & done; wait; gcc -static *.o -o /program\n"
                f"FROM {BUSYBOX}\nCOPY --from=compiler /program /bin/\nRUN program >/answer\n", "src/part1.c")


def plain(info):
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    return info


def make_busybox(path):
    """A root file system of Debian's static busybox."""
    busybox = shutil.which("busybox")
    if not busybox:
        sys.exit("busybox is missing: apt-get install busybox-static")
    with tarfile.open(path, "w") as tar:
        for folder, mode in ("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777):
            info = plain(tarfile.TarInfo(folder))
            info.type, info.mode = tarfile.DIRTYPE, mode
            tar.addfile(info)
        for name, text in ("etc/passwd", b"root:x:0:0::/root:/bin/sh\n"), ("etc/group", b"root:x:0:\n"):
            info = plain(tarfile.TarInfo(name))
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
        tar.add(busybox, "bin/busybox", filter=plain)
        for name in run([busybox, "--list"]).split():
            if name != "busybox":
                info = plain(tarfile.TarInfo(f"bin/{name}"))
                info.type, info.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(info)


def make_debian(path):
    # An archive's index that is a little old is as good as a new one here.
    run(["mmdebstrap", "--variant=minbase", "--include=gcc,libc6-dev", "--aptopt=Acquire::Check-Valid-Until false", "stable", path])


def make_many(path, base, count):
    """An archive of many small images on one layer, as `docker save` makes them."""
    digest = lambda data: hashlib.sha256(data).hexdigest()
    with open(base, "rb") as file:
        shared = file.read()
    with tarfile.open(path, "w") as tar:
        def add(name, data):
            info = plain(tarfile.TarInfo(name))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        add("shared.tar", shared)
        images = []
        for number in range(count):
            layer = io.BytesIO()
            with tarfile.open(fileobj=layer, mode="w") as inner:
                info = plain(tarfile.TarInfo("number"))
                text = str(number).encode()
                info.size = len(text)
                inner.addfile(info, io.BytesIO(text))
            layer = layer.getvalue()
            config = json.dumps({"architecture": machine(), "os": "linux", "config": {"Cmd": ["/bin/sh"]}, "created": "2020-01-01T00:00:00Z",
                                 "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(shared)}", f"sha256:{digest(layer)}"]},
                                 "history": [{"created_by": "base"}, {"created_by": str(number)}]}).encode()
            add(f"{number}.tar", layer)
            add(f"{digest(config)}.json", config)
            images.append({"Config": f"{digest(config)}.json", "RepoTags": [f"localhost/strata-bench/many:t{number}"], "Layers": ["shared.tar", f"{number}.tar"]})
        add("manifest.json", json.dumps(images).encode())


def machine():
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


# ---- builders

class Builder:
    """A builder by its command lines. `own` is the folder that is its alone."""
    daemon = None

    def __init__(self, name, own):
        self.name, self.own, self.env = name, own, {}
        os.makedirs(own, exist_ok=True)

    def clear(self):
        """Forgets all but the base images."""

    def refs(self, name):
        return f"localhost/strata-bench/{name}:made"


class Strata(Builder):
    def __init__(self, name, own, exe):
        super().__init__(name, own)
        self.base = [exe, "--root", own]

    def load(self, archive):
        return [*self.base, "load", "-i", archive]

    def build(self, context, name, cold):
        return [*self.base, "build", "-t", self.refs(name), context]

    def clear(self):
        run([*self.base, "prune", "-a", "--force"])

    push = lambda self, ref: [*self.base, "push", ref]
    pull = lambda self, ref: [*self.base, "pull", "--unpack", ref]   # as the others do
    tag = lambda self, a, b: [*self.base, "tag", a, b]
    list = lambda self: [*self.base, "images"]
    inspect = lambda self, ref: [*self.base, "inspect", ref]
    remove = lambda self, ref: [*self.base, "rmi", ref]
    prune = lambda self: [*self.base, "prune", "-a", "--force"]


class Containers(Builder):
    """buildah and podman."""

    def __init__(self, name, own, exe):
        super().__init__(name, own)
        self.base = [exe, "--root", f"{own}/root", "--runroot", f"{own}/run", "--storage-driver", "overlay"]
        if name == "podman":
            self.base += ["--cgroup-manager", "cgroupfs", "--events-backend", "none"]
            if shutil.which("runc"):
                self.base += ["--runtime", "runc"]
        self.options = ["--layers", "--network", "host"]
        if name == "buildah" and shutil.which("runc"):
            self.options += ["--runtime", "runc"]

    def load(self, archive):
        return [*self.base, "load", "-i", archive] if self.name == "podman" else [*self.base, "pull", f"docker-archive:{archive}"]

    def build(self, context, name, cold):
        return [*self.base, "build", *self.options, "-t", self.refs(name), context]

    def clear(self):
        subprocess.run([*self.base, "rmi", "-a", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    push = lambda self, ref: [*self.base, "push", "--tls-verify=false", ref]
    pull = lambda self, ref: [*self.base, "pull", "--tls-verify=false", ref]
    tag = lambda self, a, b: [*self.base, "tag", a, b]
    list = lambda self: [*self.base, "images"]
    inspect = lambda self, ref: [*self.base, "inspect", ref] if self.name == "podman" else [*self.base, "inspect", "--type", "image", ref]
    remove = lambda self, ref: [*self.base, "rmi", ref]
    prune = lambda self: [*self.base, "rmi", "-a", "-f"]


class Docker(Builder):
    def __init__(self, name, own, exe):
        super().__init__(name, own)
        self.base, self.own = [exe], None
        self.env = {"DOCKER_BUILDKIT": "1" if name == "docker-buildkit" else "0"}
        self.daemon = ("dockerd", "containerd")

    load = lambda self, archive: [*self.base, "load", "-i", archive]
    build = lambda self, context, name, cold: [*self.base, "build", *(["--no-cache"] if cold else []), "--network", "host", "--label", "strata-bench=made", "-t", self.refs(name), context]
    push = lambda self, ref: [*self.base, "push", ref]
    pull = lambda self, ref: [*self.base, "pull", ref]
    tag = lambda self, a, b: [*self.base, "tag", a, b]
    list = lambda self: [*self.base, "images"]
    inspect = lambda self, ref: [*self.base, "inspect", ref]
    remove = lambda self, ref: [*self.base, "rmi", ref]
    prune = lambda self: None          # would take what is not ours

    def clear(self):
        self.forget("localhost/strata-bench/*:made")

    def forget(self, pattern="*/strata-bench/*:*"):
        """Removes images of this script's making, with and without a name."""
        ours = run([*self.base, "images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", f"reference={pattern}"]).split()
        if ours:
            subprocess.run([*self.base, "rmi", "-f", *ours], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        subprocess.run([*self.base, "image", "prune", "-f", "--filter", "label=strata-bench=made"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def builders(wanted, folder, strata):
    """Those of `wanted` that are there and answer."""
    found = []
    for name in wanted:
        program = {"docker-buildkit": "docker", "docker-legacy": "docker"}.get(name, name)
        exe = strata if name == "strata" else shutil.which(program)
        if not exe:
            print(f"{name}: not installed, left out")
            continue
        if program == "docker" and subprocess.run([exe, "info"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
            print(f"{name}: no daemon answers, left out")
            continue
        kind = {"strata": Strata, "buildah": Containers, "podman": Containers, "docker": Docker}[program]
        found.append(kind(name, os.path.join(folder, name), exe))
    return found


# ---- measuring

class Meter:
    """Seconds of processor, by the best means there is."""

    def __init__(self):
        self.group = self.usage = None
        for folder, usage, scale in (("/sys/fs/cgroup/cpuacct", "cpuacct.usage", 1e9), ("/sys/fs/cgroup", "cpu.stat", 1e6)):
            group = f"{folder}/strata-bench-{os.getpid()}"
            if not os.path.exists(f"{folder}/{'tasks' if usage != 'cpu.stat' else 'cgroup.controllers'}"):
                continue
            try:
                os.mkdir(group)
                if os.path.exists(f"{group}/{usage}"):
                    self.group, self.usage, self.scale = group, f"{group}/{usage}", scale
                    return
                os.rmdir(group)
            except OSError:
                continue

    def read(self):
        text = open(self.usage).read().split()
        return int(text[1] if text[0] == "usage_usec" else text[0]) / self.scale

    def join(self):
        if self.group:
            open(f"{self.group}/cgroup.procs", "w").write(str(os.getpid()))

    def close(self):
        if self.group:
            try:
                os.rmdir(self.group)
            except OSError as error:
                print(f"{self.group} stays: {error}", file=sys.stderr)


def daemons(names):
    """What processes of these names have used, with children that have ended."""
    ticks = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            head, tail = open(f"/proc/{pid}/stat").read().rsplit(")", 1)
        except OSError:
            continue
        if head.split("(", 1)[1] in names:
            ticks += sum(map(int, tail.split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def disk(folder):
    return int(run(["du", "-sxB1", folder]).split()[0]) if folder else 0


def sample(pid, memory, ended):
    """Keeps the most memory that a process had. The kernel's own figure for a child would count this script from before exec."""
    while not ended.wait(0.01):
        try:
            for line in open(f"/proc/{pid}/status"):
                if line.startswith("VmHWM:"):
                    memory[0] = int(line.split()[1]) * 1024
        except OSError:
            return


def measure(meter, builder, argv, log):
    """Runs a command and gives a row, or None and the reason if it failed."""
    os.sync()
    usage = meter.read() if meter.group else 0
    daemon = daemons(builder.daemon) if builder.daemon else 0
    start = time.monotonic()
    with open(log, "wb") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **builder.env}, preexec_fn=meter.join)
        memory, ended = [None], threading.Event()
        sampler = threading.Thread(target=sample, args=(process.pid, memory, ended))
        sampler.start()
        _, status, rusage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        ended.set()
        sampler.join()
        process.returncode = os.waitstatus_to_exitcode(status)
    cpu = meter.read() - usage if meter.group else rusage.ru_utime + rusage.ru_stime
    if builder.daemon:
        cpu += daemons(builder.daemon) - daemon
    if process.returncode:
        lines = open(log, errors="replace").read().strip().splitlines()
        return None, f"exit code {process.returncode}: {' '.join(lines[-3:])[-300:]}"
    return {"wall_s": wall, "cpu_s": cpu, "memory_bytes": None if builder.daemon else memory[0]}, None


class Bench:
    def __init__(self, args, meter, found, folder):
        self.args, self.meter, self.builders, self.folder = args, meter, found, folder
        self.rows, self.log, self.many = [], os.path.join(folder, "log"), None
        self.archives = []

    def step(self, work, phase, builder, argv, grown=False):
        if argv is None:
            return False
        before = disk(builder.own) if grown else 0
        row, error = measure(self.meter, builder, argv, self.log)
        if error:
            print(f"  {work} {phase} {builder.name}: {error}", flush=True)
            return False
        row |= {"work": work, "phase": phase, "builder": builder.name, "grown_bytes": disk(builder.own) - before if grown and builder.own else None}
        self.rows.append(row)
        print(f"  {work:4} {phase:13} {builder.name:16} {row['wall_s']:9.3f} s  {row['cpu_s']:9.3f} s of processor", flush=True)
        return True

    def fresh(self, builder):
        builder.clear()
        for archive in self.archives:
            run(builder.load(archive), env={**os.environ, **builder.env})

    def change(self, context, path):
        with open(os.path.join(context, path), "a") as file:
            file.write(f"changed at {time.time_ns()}\n")

    def builds(self, work, context, path):
        for builder in self.builders:
            self.fresh(builder)
            for phase in ("cold", "warm", "changed"):
                if phase == "changed":
                    self.change(context, path)
                if not self.step(work, phase, builder, builder.build(context, work.lower(), phase == "cold"), grown=phase == "cold"):
                    break

    def transfers(self, work, context, path, address):
        for builder in self.builders:
            self.fresh(builder)
            names = [f"{address}/strata-bench/w9:{builder.name}{n}-{len(self.rows)}" for n in (1, 2)]
            made = builder.refs("w9")
            for name, phase in zip(names, ("cold", "changed")):
                if not self.step(work, f"build {phase}", builder, builder.build(context, "w9", phase == "cold")):
                    break
                run(builder.tag(made, name), env={**os.environ, **builder.env})
                self.step(work, f"push {phase}", builder, builder.push(name))
                self.change(context, path)
            else:
                if builder.own:
                    builder.clear()
                else:
                    run(builder.remove(names[0]) + [names[1], made], env={**os.environ, **builder.env})
                for name, phase in zip(names, ("cold", "changed")):
                    self.step(work, f"pull {phase}", builder, builder.pull(name))

    def images(self, work, count):
        for builder in self.builders:
            if builder.name == "buildah":
                continue               # reads one image of an archive only
            builder.clear()
            many = f"localhost/strata-bench/many:t{count // 2}"
            if self.step(work, f"load {count}", builder, builder.load(self.many)):
                for phase, argv in ("list", builder.list()), ("inspect", builder.inspect(many)), ("remove", builder.remove(many)), ("prune", builder.prune()):
                    self.step(work, phase, builder, argv)
            if not builder.own:
                run(builder.remove(many.replace(f"t{count // 2}", "t0")) + [f"localhost/strata-bench/many:t{n}" for n in range(1, count) if n != count // 2])


def registry(folder):
    """A registry on a free port of this machine: its process and address; None if there is none."""
    exe = shutil.which("docker-registry") or shutil.which("registry")
    if not exe:
        return None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = os.path.join(folder, "registry.yml")
    with open(config, "w") as file:
        json.dump({"version": 0.1, "storage": {"filesystem": {"rootdirectory": os.path.join(folder, "registry")}}, "http": {"addr": address}}, file)
    process = subprocess.Popen([exe, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    host, port = address.split(":")
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return process, address
        time.sleep(0.05)
    process.kill()
    sys.exit("the registry does not come up")


# ---- results

def cells(rows):
    """Medians: {(work, phase): {builder: {...}}}, in the order in which they were measured."""
    table = {}
    for row in rows:
        table.setdefault((row["work"], row["phase"]), {}).setdefault(row["builder"], []).append(row)
    order = list(ABOUT)
    out = {}
    for key in sorted(table, key=lambda k: order.index(k[0])):
        out[key] = {}
        for builder, runs in table[key].items():
            middle = lambda field: statistics.median(known) if (known := [r[field] for r in runs if r[field] is not None]) else None
            out[key][builder] = {"runs": len(runs), "wall_s": middle("wall_s"), "least_wall_s": min(r["wall_s"] for r in runs), "cpu_s": middle("cpu_s"),
                                 "memory_bytes": max((r["memory_bytes"] or 0) for r in runs), "grown_bytes": middle("grown_bytes")}
    return out


def show(table):
    megabytes = lambda value: f"{value / 1e6:9.1f}" if value else f"{'-':>9}"
    print(f"\n{'work':4} {'phase':13} {'builder':16} {'runs':>4} {'wall s':>9} {'least':>9} {'cpu s':>9} {'x best':>7} {'memory MB':>9} {'grown MB':>9}")
    for (work, phase), by_builder in table.items():
        best = min(cell["cpu_s"] for cell in by_builder.values()) or 1e-9
        for builder, cell in sorted(by_builder.items(), key=lambda item: item[1]["cpu_s"]):
            print(f"{work:4} {phase:13} {builder:16} {cell['runs']:4} {cell['wall_s']:9.3f} {cell['least_wall_s']:9.3f} {cell['cpu_s']:9.3f} "
                  f"{cell['cpu_s'] / best:7.1f} {megabytes(cell['memory_bytes'])} {megabytes(cell['grown_bytes'])}")


COLORS = {"strata": "#1a7f5a", "buildah": "#c7762b", "podman": "#8a4fa3", "docker-buildkit": "#2b6cc4", "docker-legacy": "#8fa9c9"}


def plot(table, path, title):
    """A group of bars a cell: seconds of processor, as long as they are of the slowest in the group, with the figure beside."""
    bar, gap, left, width, top = 14, 12, 230, 520, 64
    names = list(dict.fromkeys(builder for by_builder in table.values() for builder in by_builder))
    body, y = [], top
    clean = lambda text: text.replace("&", "&amp;").replace("<", "&lt;")
    for (work, phase), by_builder in table.items():
        most = max(cell["cpu_s"] for cell in by_builder.values()) or 1e-9
        body.append(f'<text x="{left - 10}" y="{y + 11}" text-anchor="end"><title>{clean(ABOUT[work])}</title>{work} {clean(phase)}</text>')
        for builder in names:
            cell = by_builder.get(builder)
            if not cell:
                continue
            length = max(1, width * cell["cpu_s"] / most)
            body.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{COLORS[builder]}"/>'
                        f'<text x="{left + length + 6:.1f}" y="{y + 11}">{cell["cpu_s"]:.3g} s <tspan fill="#777">({cell["wall_s"]:.3g} s on the clock)</tspan></text>')
            y += bar
        y += gap
    legend, x = [], left
    for builder in names:
        legend.append(f'<rect x="{x}" y="36" width="12" height="12" fill="{COLORS[builder]}"/><text x="{x + 17}" y="46">{builder}</text>')
        x += 30 + 8 * len(builder)
    with open(path, "w") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 230}" height="{y + 10}" font-family="sans-serif" font-size="12">\n'
                   f'<rect width="100%" height="100%" fill="white"/>\n<text x="{left}" y="22" font-size="15">{clean(title)}</text>\n' + "\n".join(legend + body) + "\n</svg>\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="W1...", help="workloads; all if none is given")
    parser.add_argument("--scale", type=float, default=0.25, help="size of the workloads, 1 is full [0.25]")
    parser.add_argument("--runs", type=int, default=3, help="runs of each [3]")
    parser.add_argument("--builders", default="strata,buildah,podman,docker-buildkit,docker-legacy", help="which, by commas; all that are installed if not given")
    parser.add_argument("--strata", help="the binary of strata [target/release/strata, else of $PATH]")
    parser.add_argument("--dir", default="strata-compare", help="folder to work in; results are left in it [strata-compare]")
    parser.add_argument("--keep", action="store_true", help="keep contexts and the builders' folders")
    args = parser.parse_intermixed_args()
    works = args.works or list(ABOUT)
    if unknown := [work for work in works if work not in ABOUT]:
        parser.error(f"unknown workload {unknown[0]}; there are {' '.join(ABOUT)}")
    known = ("strata", "buildah", "podman", "docker-buildkit", "docker-legacy")
    if unknown := [name for name in args.builders.split(",") if name not in known]:
        parser.error(f"unknown builder {unknown[0]}; there are {' '.join(known)}")
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(here, "target")), "release/strata")
    strata = args.strata or (own if os.path.exists(own) else shutil.which("strata"))
    if not strata:
        sys.exit("strata is missing: cargo build --release, or --strata FILE")
    os.makedirs(args.dir, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="run-", dir=os.path.abspath(args.dir))
    meter, process, found = Meter(), None, []
    print(f"processor time by {'a control group, ' + meter.group if meter.group else 'what the kernel says of finished children'}")
    try:
        found = builders(args.builders.split(","), folder, os.path.abspath(strata))
        bench = Bench(args, meter, found, folder)
        # Archives that every builder loads, made by strata from a plain tar.
        maker, scratch = Maker(folder, args.scale), Strata("making", os.path.join(folder, "making"), os.path.abspath(strata))

        def base(ref, make, name):
            tar, archive = os.path.join(folder, f"{name}.tar"), os.path.join(folder, f"{name}-image.tar")
            make(tar)
            run([*scratch.base, "import", tar, "-t", ref])
            run([*scratch.base, "save", "-o", archive, ref])
            return tar, archive
        busybox_tar, busybox = base(BUSYBOX, make_busybox, "busybox")
        bench.archives = [busybox]
        debian = None
        for work in works:
            print(f"{work}: {ABOUT[work]}", flush=True)
            if work in ("W2", "W11"):
                if not shutil.which("mmdebstrap"):
                    print("  mmdebstrap is not installed, left out")
                    continue
                debian = debian or base(DEBIAN, make_debian, "debian")[1]
                bench.archives = [busybox, debian]
            else:
                bench.archives = [busybox]
            if work == "W10":
                count = maker.count(200, 10)
                bench.many = os.path.join(folder, "many.tar")
                make_many(bench.many, busybox_tar, count)
                for _ in range(args.runs):
                    bench.images(work, count)
                continue
            if work == "W9" and not process:
                started = registry(folder)
                if not started:
                    print("  docker-registry is not installed, left out")
                    continue
                process, address = started
            path = maker.make(work)
            context = os.path.join(folder, work)
            for _ in range(args.runs):
                if work == "W9":
                    bench.transfers(work, context, path, address)
                else:
                    bench.builds(work, context, path)
            if not args.keep:
                shutil.rmtree(context)
        if not bench.rows:
            sys.exit("nothing was measured")
        table = cells(bench.rows)
        show(table)
        about = {"scale": args.scale, "runs": args.runs, "processors": os.cpu_count(), "kernel": os.uname().release}
        results = [{"work": work, "phase": phase, "builder": builder, **cell} for (work, phase), group in table.items() for builder, cell in group.items()]
        with open(os.path.join(args.dir, "results.json"), "w") as file:
            json.dump({"about": about, "results": results, "rows": bench.rows}, file, indent=1)
        title = f"Seconds of processor, scale {args.scale:g}, medians of {args.runs}, {os.cpu_count()} processors"
        plot(table, os.path.join(args.dir, "results.svg"), title)
        print(f"\n{args.dir}/results.json and {args.dir}/results.svg are written")
    finally:
        if process:
            process.terminate()
            process.wait()
        meter.close()
        for builder in found:
            if builder.daemon:
                builder.forget()
        if not args.keep:
            for mount in sorted((line.split()[4] for line in open("/proc/self/mountinfo") if line.split()[4].startswith(folder + "/")), reverse=True):
                subprocess.run(["umount", mount])
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

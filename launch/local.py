"""Starts several processes on this machine, as if each were a host of a cluster.

    python launch/local.py --processes 4 --devices 2 -- --config shapes --workdir W

What follows `--` goes to `coca train`, or to another command if it begins with one's name. Each
process has `--devices` CPU devices and its own log, `W/logs/process_0.log` and so on; for W at
`gs://bucket/run` logs are in `runs/bucket/run/logs`. The log of process 0 is also shown. Ctrl-C or
SIGTERM is passed on to all, which save and end; a second one kills them. When a process dies, the
others are ended and its last lines shown. A process that ends with 0 or 5 does not end the others.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

from coca_jax.errors import ExitCode
from coca_jax.io.parent import kill_with_parent
from coca_jax.io.paths import is_url, normalize

GRACE_SECONDS = 10  # for the others to end by themselves when one has died; then they are killed
ONE_SIGNAL_SECONDS = 1  # within which further ones are the same, sent to a whole group, say
LAST_LINES = 20
# Exit codes of a process that ended well.
WELL = (ExitCode.DONE, ExitCode.INCOMPLETE)
# Exit codes after which a restart would not help.
FINAL = (ExitCode.DONE, ExitCode.USER_ERROR, ExitCode.PREEMPTED, ExitCode.INCOMPLETE)


def main(arguments=None):
    """Runs all processes, again if asked, and returns their common exit code."""
    options, words = _options(arguments)
    if not words or words[0].startswith("-"):
        words = ["train", *words]
    for attempt in range(options.restarts + 1):
        group = Group(options, words)
        code = group.wait()
        if code in FINAL or group.signals or attempt == options.restarts:
            return code
        print(f"starting again ({attempt + 1} of {options.restarts})", file=sys.stderr, flush=True)
    return code


class Group:
    """Processes that start and end together."""

    def __init__(self, options, words):
        """Starts them."""
        self.signals, self._signalled = 0, 0.0
        self._logs = _log_folder(options, words)
        self._logs.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        common = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(options.devices),
            "JAX_COORDINATOR_BIND_ADDRESS": address,
            "COCA_COORDINATOR": address,
            "COCA_PROCESSES": str(options.processes),
            "PYTHONUNBUFFERED": "1",
        }
        self._starts = [self._size(i) for i in range(options.processes)]
        # Set first: a signal in the middle of starting must reach those that are started.
        self._children: list[subprocess.Popen] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)
        for index in range(options.processes):
            self._children.append(self._start(words, common | {"COCA_PROCESS": str(index)}, index))

    def wait(self) -> int:
        """Waits for all and returns the first failure's code (128 + n: a signal).

        Without a failure it is 5 if some process could not use all inputs, else 0.
        """
        shown = threading.Thread(target=self._show)
        shown.start()
        first = None
        while True:
            codes = {i: child.poll() for i, child in enumerate(self._children)}
            failed = [i for i, code in codes.items() if code not in (None, *WELL)]
            if failed and first is None:
                # The cause, rather than a process that ended because of it.
                first = min(failed, key=lambda i: codes[i] == ExitCode.PEER_LOST)
                self._end_the_others(first)
            if None not in codes.values():
                break
            time.sleep(0.1)
        shown.join()
        code = max(codes.values()) if first is None else codes[first]
        return 128 - code if code < 0 else code

    def log(self, index: int) -> pathlib.Path:
        """Where a process writes."""
        return self._logs / f"process_{index}.log"

    def _start(self, words, environment, index):
        with self.log(index).open("a") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "coca_jax", *words],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # so that a Ctrl-C at the terminal comes from here only, once
                preexec_fn=kill_with_parent,
            )

    def _size(self, index):
        return self.log(index).stat().st_size if self.log(index).exists() else 0

    def _pass_on(self, number, frame):
        del frame
        now = time.monotonic()
        if self.signals and now - self._signalled < ONE_SIGNAL_SECONDS:
            return
        self._signalled = now
        self.signals += 1
        for child in self._children:
            _send(child, number if self.signals == 1 else signal.SIGKILL)

    def _end_the_others(self, first):
        """After a failure; those that were asked to stop and saved (3) end by themselves."""
        code = self._children[first].returncode
        if code != ExitCode.PREEMPTED:
            lines = self.log(first).read_text(errors="replace").splitlines()[-LAST_LINES:]
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            print(
                f"process {first} ended with {how}; the last lines of {self.log(first)}:",
                *lines,
                sep="\n  ",
                file=sys.stderr,
                flush=True,
            )
        deadline = time.monotonic() + GRACE_SECONDS * (1 if code != ExitCode.PREEMPTED else 6)
        while time.monotonic() < deadline and any(c.poll() is None for c in self._children):
            time.sleep(0.1)
        for child in self._children:
            _send(child, signal.SIGKILL)

    def _show(self):
        """Copies the log of process 0 to the screen as it grows."""
        with self.log(0).open(errors="replace") as log:
            log.seek(self._starts[0])
            while True:
                ended = self._children[0].poll() is not None
                sys.stdout.write(log.read())
                sys.stdout.flush()
                if ended:
                    return
                time.sleep(0.2)


def _send(child, number):
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)


def _log_folder(options, words):
    if options.logs:
        return options.logs
    parser = argparse.ArgumentParser(prog="local.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--workdir", default="")
    workdir = parser.parse_known_args(words)[0].workdir
    if not workdir:
        raise SystemExit(
            "local.py: without a --workdir in the command, --logs DIR says where logs go"
        )
    workdir = normalize(workdir)
    if is_url(workdir):  # logs are written as they come, which stores cannot
        workdir = pathlib.Path("runs", *workdir.partition("://")[2].split("/"))
    return pathlib.Path(workdir) / "logs"


def _options(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        usage="%(prog)s "
        + ("[--processes N] [--devices M] [--restarts R] [--logs DIR] -- [COMMAND] WORDS..."),
    )
    parser.add_argument("--processes", type=int, default=2, help="how many")
    parser.add_argument("--devices", type=int, default=1, help="CPU devices of each")
    parser.add_argument("--restarts", type=int, default=0, help="starts again after a death")
    parser.add_argument("--logs", type=pathlib.Path, metavar="DIR")
    words = list(sys.argv[1:] if arguments is None else arguments)
    cut = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    if options.processes < 1 or options.devices < 1:
        parser.error("--processes and --devices should be positive")
    return options, words[cut + 1 :]


if __name__ == "__main__":
    sys.exit(main())

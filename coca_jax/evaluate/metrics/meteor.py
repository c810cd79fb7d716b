"""METEOR, which is a Java program: within a time limit, and left out where it does not work."""

import contextlib
import importlib.util
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import IO

from coca_jax.evaluate.metrics.undefined import Undefined

JAR = "meteor-1.5.jar"  # of pycocoevalcap
# Of the JVM: no display is asked for, and text is UTF-8 in the C locale, whose numbers have points.
OPTIONS = ("-Djava.awt.headless=true", "-Dfile.encoding=UTF-8", "-Xmx2G")
ARGUMENTS = ("-", "-", "-stdio", "-l", "en", "-norm")  # as the COCO server has them
STARTING = 10.0  # seconds for Java to say its version
ANSWERING = 60.0  # seconds for an answer: the first has to wait for large tables to be loaded
SECONDS_A_CAPTION = 1.0  # at most, on average
# A caption and its reference, and their METEOR: by which one sees that it is METEOR that answers.
KNOWN = ("a small dog sat on the mat", "the little dog sits on a mat", 0.4264496457167944)
MOST_OF_A_LINE = 1 << 16  # bytes
MOST_SHOWN = 200  # characters of what a program said


class _NotWorking(Exception):
    """The program ended, was silent for too long, or said something else than it should."""


def meteor(captions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Scores captions against the references of their images.

    Args:
      captions: words with spaces between, one caption an image.
      references: of each image, in the same form.

    Returns:
      METEOR of all; `Undefined`, with the reason, where Java or METEOR does not work.
    """
    try:
        java = shutil.which("java")
        if java is None:
            raise _NotWorking("there is no java on the PATH")
        with _started([java, "-version"]) as program:
            program.end(STARTING)
        with _started([java, *OPTIONS, "-jar", _jar(), *ARGUMENTS]) as program:
            *_, known = _scores(program, [KNOWN[0]], [[KNOWN[1]]])
            if not abs(known - KNOWN[2]) < 1e-6:  # it may be NaN
                raise _NotWorking(f"METEOR of a known caption is {known}, not {KNOWN[2]}")
            return _scores(program, captions, references)[-1]
    except (OSError, _NotWorking) as error:
        return Undefined(f"METEOR is left out: {error}")


def _jar() -> str:
    spec = importlib.util.find_spec("pycocoevalcap")
    (folder,) = spec.submodule_search_locations
    return os.path.join(folder, "meteor", JAR)


def _scores(
    program: "_Program", captions: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """METEOR of each caption, and of all."""
    rows = zip(captions, references, strict=True)
    asked = [" ||| ".join(["SCORE", *map(_plain, [*known, text])]) for text, known in rows]
    counts = program.ask(asked, len(asked))
    answers = program.ask([" ||| ".join(["EVAL", *counts])], len(asked) + 1)
    try:
        return [float(answer) for answer in answers]
    except ValueError as error:
        raise _NotWorking(f"METEOR answered no number: {_shown(str(error))}") from error


def _plain(text: str) -> str:
    """A text without what parts texts and questions from each other."""
    return " ".join(text.replace("|||", " ").replace("\0", " ").split())


class _Program:
    """A program that is asked lines, and answers lines."""

    def __init__(self, process: subprocess.Popen, errors: IO[bytes]):
        self._process, self._errors = process, errors

    def ask(self, lines: Sequence[str], count: int) -> list[str]:
        """Sends lines, and waits for this number of lines.

        Raises:
          _NotWorking: the program ended, is silent for too long, or answers no lines.
        """
        unsent = memoryview("".join(f"{line}\n" for line in lines).encode(errors="replace"))
        answers, rest = [], b""
        in_all = ANSWERING + SECONDS_A_CAPTION * count
        last = time.monotonic() + in_all
        deadline = time.monotonic() + ANSWERING
        into, out = self._process.stdin.fileno(), self._process.stdout.fileno()
        while len(answers) < count:
            ready = _ready(out, into if unsent else None, min(deadline, last))
            if not ready:
                if last < deadline:
                    raise _NotWorking(f"java gave {len(answers)} of {count} lines in {in_all:g} s")
                raise _NotWorking(f"java did not answer in {ANSWERING:g} s")
            if into in ready:
                unsent = unsent[self._write(unsent[: select.PIPE_BUF]) :]
            if out in ready:
                *whole, rest = (rest + self._read()).split(b"\n")
                answers += [line.decode(errors="replace").strip() for line in whole]
                deadline = time.monotonic() + ANSWERING if whole else deadline
                if len(rest) > MOST_OF_A_LINE:
                    raise _NotWorking("it answered no lines of numbers")
        return answers

    def end(self, patience: float) -> None:
        """Waits for the program's end.

        Raises:
          _NotWorking: it does not end, or not with 0.
        """
        try:
            if self._process.wait(patience):
                raise _NotWorking(self._ended())
        except subprocess.TimeoutExpired as error:
            raise _NotWorking(f"{self._name} -version did not end in {patience:g} s") from error

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self._process.stdin.fileno(), data)
        except BrokenPipeError as error:
            raise _NotWorking(self._ended()) from error

    def _read(self) -> bytes:
        data = os.read(self._process.stdout.fileno(), 1 << 16)
        if not data:
            raise _NotWorking(self._ended())
        return data

    @property
    def _name(self) -> str:
        return self._process.args[0]

    def _ended(self) -> str:
        """A sentence with the program's exit code and the first line of its error output."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._errors.seek(0)
        said = self._errors.read(1 << 16).decode(errors="replace").split("\n")
        said = next((_shown(line) for line in said if line.strip()), "nothing")
        code = self._process.returncode
        end = "closed its pipes" if code is None else f"ended with {code}"
        return f"{self._name} {end} and said: {said}"


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[_Program]:
    """Runs a program in the C locale; it is killed at the end, with the programs it started."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=0,
            env=os.environ | {"LC_ALL": "C"},
            start_new_session=True,
        )
        try:
            yield _Program(process, errors)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdin.close()
            process.stdout.close()


def _ready(out: int, into: int | None, deadline: float) -> set[int]:
    """Waits until one of a program's pipes can be read or written, and returns those that can.

    None of them can if the deadline comes first.
    """
    poll = select.poll()
    poll.register(out, select.POLLIN)
    if into is not None:
        poll.register(into, select.POLLOUT)
    events = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
    return {descriptor for descriptor, _ in events}


def _shown(text: str) -> str:
    """A line that may be of any content, as it can be printed."""
    text = text[:MOST_SHOWN].strip()
    return "".join(c if c.isprintable() else "\ufffd" for c in text)

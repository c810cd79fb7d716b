"""The training loop: from an experiment to a trained, evaluated model in its workdir."""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.checkpoints.best import Best
from coca_jax.checkpoints.processes import by_first, in_any, say
from coca_jax.distributed.sharding import bytes_per_device
from coca_jax.errors import Preempted
from coca_jax.io.locks import locked
from coca_jax.io.signals import StopRequest, stop_request
from coca_jax.observe.goodput import Goodput
from coca_jax.observe.profiler import Profiler
from coca_jax.observe.recorder import Recorder
from coca_jax.observe.watchdog import Watchdog
from coca_jax.planning import peak_flops
from coca_jax.train import resume, summary
from coca_jax.train.compile_cache import use_compile_cache
from coca_jax.train.evaluation import Evaluator
from coca_jax.train.experiment import Experiment, build
from coca_jax.train.gradient import Batch
from coca_jax.train.metric_accumulator import MetricAccumulator
from coca_jax.train.state import TrainState
from coca_jax.train.step import STOP, StepFunction
from coca_jax.train.teacher import Teacher
from coca_jax.train.workdir import init_or_check_workdir

LOCK_TIMEOUT_S = 120.0  # for an earlier attempt to save, or for the lock of its node to expire
MEMORY = "train/memory_gib"


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    start_time: float | None = None,
    *,
    fixed_length: bool = False,
) -> None:
    """Builds the experiment of a configuration and runs it; see `build` and `run`.

    Args:
      config: the whole configuration.
      workdir: the run's folder; a run in it is resumed.
      start_time: `time.time()` when the program started, for goodput; None: now.
      fixed_length: whether a run of another length is refused.
    """
    start_time = time.time() if start_time is None else start_time
    run(build(config, workdir), start_time, fixed_length=fixed_length)


def run(
    experiment: Experiment, start_time: float | None = None, *, fixed_length: bool = False
) -> None:
    """Trains to the last step, from the newest valid checkpoint or from the start.

    Args:
      experiment: the parts of the run.
      start_time: `time.time()` when the program started, for goodput; None: now.
      fixed_length: whether a run of another length in the workdir is refused.

    Raises:
      Preempted: a signal asked to stop, and the state was saved.
      NotFinite: a step was not finite.
      UserError: another run has the workdir, or a run with another configuration is in it; the data
        turned bad, or a save failed.
    """
    workdir, config = experiment.workdir, experiment.config
    use_compile_cache(config.compile_cache, workdir)
    with workdir_lock(workdir) as check_lock:
        checksums = init_or_check_workdir(
            workdir,
            config,
            experiment.tokenizer_file,
            experiment.saved,
            fixed_length=fixed_length,
        )
        goodput = Goodput(workdir, time.time() if start_time is None else start_time)
        best = Best.of(workdir, config)
        checkpoints = CheckpointStore(workdir / "checkpoints", config.checkpoint.keep, best)
        with stop_request() as stop, checkpoints as store:
            _Attempt(experiment, store, stop, goodput, check_lock, checksums).run()


@contextlib.contextmanager
def workdir_lock(workdir: os.PathLike) -> Iterator[Callable[[], None]]:
    """Keeps other runs from the workdir; all processes fail if one of them has it.

    Yields:
      A function that raises a UserError if the lock was lost.
    """
    with contextlib.ExitStack() as held:
        checks: list[Callable[[], None]] = []

        def lock() -> None:
            checks.append(held.enter_context(locked(workdir, "trained", LOCK_TIMEOUT_S)))

        by_first(lock)
        yield checks[0] if checks else lambda: None


@dataclasses.dataclass
class _Attempt:
    """One attempt at a run, with all that it holds open."""

    experiment: Experiment
    store: CheckpointStore
    stop: StopRequest
    goodput: Goodput
    check_lock: Callable[[], None]
    checksums: dict[str, str]  # of files in the workdir, which checkpoints keep

    def __post_init__(self):
        self.config, self.steps = self.experiment.config, self.experiment.steps
        self.evaluator = Evaluator(self.experiment)
        self.is_first, self.has_peers = jax.process_index() == 0, jax.process_count() > 1
        self.compiled: dict[tuple, StepFunction] = {}  # by the shapes of a batch
        self.memory: dict[str, float] = {}  # of the compiled step that takes most; empty: unknown

    def run(self) -> None:
        """Trains to the last step."""
        done = resume.find_step(self.experiment, self.store)
        self.changes = resume.history(self.experiment, self.store, done)
        state = resume.make_state(self.experiment, self.store, done)
        if self.config.eval and done and self._is_due(done, self.config.train.evaluate_every):
            self._run_missing_evals(done, state)
        if done >= self.steps:
            say(f"{self.experiment.workdir} is trained to its last step, {done}")
            self._say_best()
            return
        source, program = self.experiment.teacher, self.experiment.program
        pieces = self.config.train.grad_accum_steps
        self.teacher = Teacher(source, program.partitioner, pieces) if source else None
        with contextlib.closing(self._batches(done)) as batches:
            batch = next(batches)
            self.goodput.start(done)
            self._start(state, batch)
            self._loop(state, done, batch, batches)

    def _loop(
        self,
        state: TrainState,
        done: int,
        batch: Batch,
        batches: Iterator[Batch],
    ) -> None:
        """Step, measure, save, write, evaluate, next batch."""
        config, workdir, metrics = self.config, self.experiment.workdir, None
        profiler = Profiler(workdir, config.profile.start, config.profile.steps)
        with (
            contextlib.closing(profiler),
            Recorder(workdir, self.steps, done, not self.is_first, config.metrics) as recorder,
            Watchdog(**config.watchdog) as watchdog,
        ):
            self.meter.restart()
            for step in range(done + 1, self.steps + 1):
                due = functools.partial(self._is_due, step)
                profiler.step(step, metrics)
                train_step = self._step_for(state, batch, watchdog)
                state, metrics = train_step(state, self._taught(batch))
                self.meter.add(step, metrics)
                watchdog.beat()
                stopping = self.meter.stopping if self.has_peers else bool(self.stop)
                saving, values = stopping or due(config.checkpoint.every), None
                evaluating = config.eval and due(config.train.evaluate_every)
                # Before an evaluation, too: it may end with a save, of a state that is finite.
                if saving or evaluating or due(config.train.log_every):
                    values = self._measured(step)
                if saving:
                    with watchdog.paused():
                        self._save(step, state)
                recorder.log(step, values)
                if stopping:
                    self._stop(step)
                if evaluating:
                    with watchdog.paused(), self.goodput.spent("evaluation"):
                        stopping = self._evaluate(step, state, recorder)
                    self.meter.restart()
                    if stopping:
                        self._account(step)
                        if not saving:
                            with watchdog.paused():
                                self._save(step, state)
                        self._stop(step)
                if step < self.steps:
                    with self.meter.waiting(), self.goodput.spent("data"):
                        batch = next(batches)
            with self.goodput.spent("checkpoint"):
                self.store.wait()
            self._account(self.steps)
        self._say_best()

    def _say_best(self) -> None:
        """Names the best checkpoint, if the run keeps one."""
        best = Best.of(self.experiment.workdir, self.config)
        if best and (step := self.store.best_step(best)) is not None:
            say(f"best checkpoint: {best.described(step)}")

    def _is_due(self, step: int, every: int) -> bool:
        """Whether something is done after this step: after each `every` steps, and the last."""
        return step == self.steps or (every > 0 and step % every == 0)

    def _measured(self, step: int) -> dict[str, float]:
        """The metrics of the steps since the last log point."""
        seen = {
            "train/examples_seen": self.experiment.examples_seen(step),
            "train/flops_seen": self.experiment.flops_seen(step),
        }
        return self.meter.read() | self.memory | seen | self._account(step)

    def _account(self, step: int) -> dict[str, float]:
        """Writes the ledger of the wall time up to this step, and returns its totals."""
        if not self.is_first:
            return {}
        self.check_lock()  # before anything of this log point is written
        self.goodput.write(step)
        return self.goodput.read(step)

    def _save(self, step: int, state: TrainState) -> None:
        with self.goodput.spent("checkpoint"):
            metadata = resume.metadata(self.experiment, step, self.changes, self.checksums)
            self.store.save(step, resume.saved_items(state), metadata)

    def _stop(self, step: int) -> None:
        self.store.wait()
        cause = self.stop.signal or "a signal to another process"
        raise Preempted(f"stopped by {cause} after saving step {step}")

    def _batches(self, done: int) -> Iterator[Batch]:
        seen, partitioner = self.experiment.examples_seen(done), self.experiment.program.partitioner
        with contextlib.closing(self.experiment.stream.batches(seen)) as batches:
            for batch in batches:
                if self.has_peers:
                    batch[STOP] = np.full(len(batch["text"]), bool(self.stop), np.int32)
                yield partitioner.put_batch(batch)

    def _step_for(self, state: TrainState, batch: Batch, watchdog: Watchdog) -> StepFunction:
        """The step compiled for the shapes of a batch: one for each length of sequences."""
        if _shapes(batch) not in self.compiled:
            with self.meter.paused(), watchdog.paused():
                self.compiled[_shapes(batch)] = self._compile(state, batch)
        return self.compiled[_shapes(batch)]

    def _taught(self, batch: Batch) -> Batch:
        """The batch with the embeddings of the teacher, if there is one."""
        return self.teacher(batch) if self.teacher else batch

    def _compile(self, state: TrainState, batch: Batch) -> StepFunction:
        """Compiles the step for the shapes of a batch."""
        say("compiling the train step")  # minutes for unrolled layers of a large model
        with self.goodput.spent("compile"):
            batch, options = self._taught(batch), self.config.compiler_options
            compiled = self.experiment.program.compile(state, batch, options)
        if (temporary := summary.temporary_bytes(compiled)) is not None:
            gib = (bytes_per_device(state) + temporary) / summary.GIB
            self.memory = {MEMORY: max(gib, self.memory.get(MEMORY, 0.0))}
        return compiled

    def _work(self, step: int) -> tuple[int, int]:
        """Examples of a step by its number, and the FLOPs of training with them."""
        sizes = self.experiment.stream.batch_sizes
        size = sizes.size(step - 1)
        return size, size * self.experiment.flops[sizes.length(step - 1)]

    def _start(self, state: TrainState, batch: Batch) -> None:
        """Compiles the first step, and says what is computed on what."""
        program, begin = self.experiment.program, time.perf_counter()
        compiled = self.compiled[_shapes(batch)] = self._compile(state, batch)
        seconds = time.perf_counter() - begin
        peak, rule = peak_flops(program.partitioner.mesh.size)
        data_sets = self.experiment.stream.make_batch.data_sets
        self.meter = MetricAccumulator(
            self._work,
            self.config.data.max_bad_share,
            peak,
            self.experiment.stream.worst_shards,
            sum(note.count for d in data_sets for note in d.source.notes if note.lost),
        )
        words = f"{peak / 1e12:.3g} TFLOP/s ({rule})"
        say(summary.describe(self.experiment, state, compiled, seconds, words))

    def _evaluate(
        self,
        step: int,
        state: TrainState,
        recorder: Recorder,
        evaluations: ConfigDict | None = None,
    ) -> bool:
        """Runs evaluations; returns whether to stop, with some of them left to the next attempt."""
        asked = False

        def should_stop() -> bool:
            nonlocal asked
            asked = in_any(bool(self.stop))
            return asked

        self.evaluator.run(step, state, recorder, evaluations, should_stop)
        return asked

    def _run_missing_evals(self, step: int, state: TrainState) -> None:
        """Runs evaluations that the run was stopped before, or that its configuration gained."""
        if evaluations := self.evaluator.missing(step):
            workdir, silent = self.experiment.workdir, not self.is_first
            with Recorder(workdir, self.steps, step, silent, self.config.metrics) as recorder:
                if self._evaluate(step, state, recorder, evaluations):
                    self._stop(step)


def _shapes(batch: Batch) -> tuple[tuple[int, ...], ...]:
    """What a step is compiled for."""
    return tuple(array.shape for array in jax.tree.leaves(batch))

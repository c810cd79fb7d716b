"""The training loop: from a configuration and a folder to a trained, evaluated model."""

import contextlib
import functools
import math
import os
import sys
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from coca_jax.checkpoints import CheckpointStore
from coca_jax.checkpoints.metadata import newest
from coca_jax.checkpoints.processes import by_first
from coca_jax.config import model_config, to_json
from coca_jax.data.fingerprint import fingerprint
from coca_jax.data.from_config import make_tokenizer_from, make_train_stream, tokenizer_file
from coca_jax.data.tokenizers import Tokenizer
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import Preempted, UserError
from coca_jax.evaluate.from_config import evaluate, missing, possible
from coca_jax.evaluate.results import format_table, read_step, write_results
from coca_jax.evaluate.undefined import defined
from coca_jax.inference import LoadedModel
from coca_jax.io.locks import locked
from coca_jax.io.paths import as_path
from coca_jax.models import make_model
from coca_jax.observe.goodput import Goodput
from coca_jax.observe.profiler import Profiler
from coca_jax.observe.recorder import Recorder
from coca_jax.observe.watchdog import Watchdog
from coca_jax.planning import peak_flops, training_flops
from coca_jax.train import summary
from coca_jax.train.compile_cache import use_compile_cache
from coca_jax.train.data_changes import check_data, require_same_data, stored_steps
from coca_jax.train.gradient import Batch
from coca_jax.train.metric_accumulator import MetricAccumulator
from coca_jax.train.optimizer import make_optimizer
from coca_jax.train.signals import STOP, StopRequest, stop_request
from coca_jax.train.state import StateFactory, TrainState
from coca_jax.train.step import compile_train_step, make_train_step
from coca_jax.train.warm_start import find_source, plan
from coca_jax.train.workdir import init_or_check_workdir
from coca_jax.validation import validate

LOCK_TIMEOUT_S = 120.0  # seconds for the attempt before to save, or for its node's lock to run out


class Trainer:
    """Everything a run needs, made before anything is computed."""

    def __init__(
        self, config: ConfigDict, workdir: str | os.PathLike, start_time: float | None = None
    ):
        """Checks the configuration and claims the folder.

        Args:
          config: the whole configuration.
          workdir: the run's folder; an existing run goes on where it stopped.
          start_time: `time.time()` when the program did, for goodput; None: now.

        Raises:
          UserError: the configuration, the data or the folder cannot be used, or another run
            uses the folder.
        """
        self.workdir = as_path(workdir)
        self.goodput = Goodput(self.workdir, time.time() if start_time is None else start_time)
        validate(config, jax.devices(), reads=("train", "eval"))
        use_compile_cache(config.compile_cache, self.workdir)
        source = find_source(config.init.path, self.workdir)
        self.tokenizer = make_tokenizer_from(config.data)
        _check_tokenizer(config, self.tokenizer)
        self.model = make_model(model_config(config))
        possible(config, self.model.config)
        self.partitioner = Partitioner(make_mesh(config.mesh), config.sharding.rules)
        part, parts = self.partitioner.share()
        self.stream = make_train_stream(
            config.data,
            image_size=self.model.config.image.pixels,
            text_length=config.model.text.context_length,
            batch_size=config.train.batch_size,
            seed=config.seed,
            classes=config.head.classes if self.model.config.head else (),
            process_index=part,
            process_count=parts,
        )
        self.data = fingerprint(config.data, self.stream.make_batch.parts)
        require_same_data(self.data)
        saved = newest(self.workdir / "checkpoints")
        steps = stored_steps(saved, self.data)
        self.config = config = _resolve_epochs(config, self.stream.mixture.size, steps)
        self.factory = StateFactory(
            self.model,
            lambda params: make_optimizer(config.optimizer, config.train.steps, params),
            self.partitioner,
            ema=config.optimizer.ema_decay > 0,
            optimizer_rules=config.sharding.optimizer_rules,
        )
        file, params = tokenizer_file(config.data), self.factory.abstract.params
        self.transfer = source and plan(source, config, params, file)
        self._first, self._several = jax.process_index() == 0, jax.process_count() > 1
        with self._hold() as held:
            self._files = init_or_check_workdir(self.workdir, config, file, saved)
            self._held = held.pop_all()  # until `run` is over
        self._data_changes: list[dict] = []  # of the data since the run start_time
        self._handle: LoadedModel | None = None

    def _hold(self) -> contextlib.ExitStack:
        """Keeps other runs from the folder; all processes fail if one of them has it."""
        held = contextlib.ExitStack()
        self._check_lock = lambda: None

        def take() -> None:
            self._check_lock = held.enter_context(locked(self.workdir, "trained", LOCK_TIMEOUT_S))

        by_first(take)
        return held

    def run(self) -> None:
        """Trains to the last step.

        Raises:
          Preempted: a signal asked to stop, and the state was saved.
          UserError: a step was not finite, the data turned bad, or a save failed.
        """
        config, steps = self.config, self.config.train.steps
        checkpoints = CheckpointStore(self.workdir / "checkpoints", keep=config.checkpoint.keep)
        with self._held, stop_request() as stop, checkpoints as store:
            state, done = self._start(store)
            if config.eval and done and _due(done, steps, config.train.evaluate_every):
                self._run_missing_evals(done, state)
            if done >= steps:
                self._say(f"{self.workdir} is trained to its last step, {done}")
                return
            with contextlib.closing(self._batches(done, stop)) as batches:
                self._loop(state, done, batches, store, stop)

    def _loop(
        self,
        state: TrainState,
        done: int,
        batches: Iterator[Batch],
        store: CheckpointStore,
        stop: StopRequest,
    ) -> None:
        """Step, measure, save, write, evaluate, next batch."""
        config, steps = self.config, self.config.train.steps
        batch, metrics = next(batches), None
        self.goodput.start(done)
        train_step = self._compile(state, batch)
        profiler = Profiler(self.workdir, config.profile.start, config.profile.steps)
        with (
            contextlib.closing(profiler),
            Recorder(self.workdir, steps, done, silent=not self._first) as recorder,
            Watchdog(**config.watchdog) as watchdog,
        ):
            self.meter.restart()
            for step in range(done + 1, steps + 1):
                due = functools.partial(_due, step, steps)
                profiler.step(step, metrics)
                state, metrics = train_step(state, batch)
                self.meter.add(step, metrics)
                watchdog.beat()
                stopping = self.meter.stopping if self._several else bool(stop)
                saving, values = stopping or due(config.checkpoint.every), None
                if saving or due(config.train.log_every):
                    values = self._measured(step)
                if saving:
                    with watchdog.paused(), self.goodput.spent("checkpoint"):
                        self._save(store, step, state)
                if values:
                    recorder.write(step, values)
                recorder.update(step, values)
                if stopping:
                    store.wait()
                    cause = stop.signal or "a signal to another process"
                    raise Preempted(f"stopped by {cause} after saving step {step}")
                if config.eval and due(config.train.evaluate_every):
                    with watchdog.paused(), self.goodput.spent("evaluation"):
                        recorder.write(step, self._evaluate(step, state, recorder.print))
                    self.meter.restart()
                if step < steps:
                    with self.meter.waiting(), self.goodput.spent("data"):
                        batch = next(batches)
            with self.goodput.spent("checkpoint"):
                store.wait()
            self._account(steps)

    def _measured(self, step: int) -> dict[str, float]:
        """What a log point writes of the steps since the last one."""
        values = self.meter.read() | {"train/examples_seen": self._seen(step)}
        return values | self._account(step)

    def _account(self, step: int) -> dict[str, float]:
        """Writes the ledger of the wall time up to this step, and returns its totals."""
        if not self._first:
            return {}
        self._check_lock()  # before anything of this log point is written
        self.goodput.write(step)
        return self.goodput.read(step)

    def _start(self, store: CheckpointStore) -> tuple[TrainState, int]:
        """The state to go on from and its step: the newest sound checkpoint's, or a new one."""
        done = store.latest_sound(report=lambda line: print(line, file=sys.stderr))
        if done is None and store.has_steps():
            raise UserError(
                f"none of the checkpoints in {store.directory} is sound; to start anew, choose "
                "another --workdir or remove them"
            )
        if done is None:
            return self._new_state(), 0
        if done < self.config.train.steps:
            allow = self.config.data.allow_changes
            self._data_changes = check_data(store.metadata(done), done, self.data, allow, self._say)
        targets = {k: v for k, v in _items(self.factory.abstract).items() if v is not None}
        items = store.restore(done, targets)
        count = jax.make_array_from_callback(
            (), self.partitioner.replicated, lambda _: np.asarray(done, np.int32)
        )
        return TrainState(count, items["params"], items["optimizer"], items.get("ema")), done

    def _new_state(self) -> TrainState:
        state = self.factory.create(self.config.seed)
        if self.transfer is None:
            return state
        self._say(self.transfer.summary())
        return self.transfer.apply(state)

    def _save(self, store: CheckpointStore, step: int, state: TrainState) -> None:
        metadata = {
            "examples_seen": self._seen(step),
            "config": to_json(self.config),
            "data": self.data,
            "data_changes": self._data_changes,
            "files": self._files,
        }
        store.save(step, _items(state), metadata)

    def _batches(self, done: int, stop: StopRequest) -> Iterator[Batch]:
        with contextlib.closing(self.stream.batches(self._seen(done))) as batches:
            for batch in batches:
                if self._several:
                    batch[STOP] = np.full(len(batch["text"]), bool(stop), np.int32)
                yield self.partitioner.put_batch(batch)

    def _compile(self, state: TrainState, batch: Batch):
        """Compiles the step, then says what will be run on what."""
        begin = time.perf_counter()
        step = make_train_step(
            self.model, self.factory.optimizer, self.factory.schedule, self.config
        )
        with self.goodput.spent("compile"):
            compiled = compile_train_step(
                step, state, batch, self.partitioner, self.config.compiler_options
            )
        seconds = time.perf_counter() - begin
        peak, rule = peak_flops(self.partitioner.mesh.size)
        flops = training_flops(self.model.config)
        self.meter = MetricAccumulator(
            self.config.train.batch_size,
            self.config.data.max_bad_share,
            flops,
            peak,
            self.stream.worst_shards,
            sum(n.count for p in self.stream.make_batch.parts for n in p.source.notes if n.lost),
        )
        self._say(
            summary.describe(self, state, compiled, seconds, f"{peak / 1e12:.3g} TFLOP/s ({rule})")
        )
        return compiled

    def _run_missing_evals(self, step: int, state: TrainState) -> None:
        """Evaluates what the run was stopped before, or what has come to its configuration."""
        done = read_step(self.workdir, step)
        if evaluations := missing(self.config, self.model.config, done):
            steps, silent = self.config.train.steps, not self._first
            with Recorder(self.workdir, steps, step, silent) as recorder:
                recorder.write(step, self._evaluate(step, state, recorder.print, evaluations))

    def _evaluate(
        self,
        step: int,
        state: TrainState,
        report: Callable[[str], None],
        evaluations: ConfigDict | None = None,
    ) -> dict[str, float]:
        """Runs the evaluations, or some, writes their files; returns their metrics by full name."""
        params = state.params if state.ema is None else state.ema
        if self._handle is None:
            self._handle = LoadedModel(self.model, params, self.tokenizer, self.partitioner)
        handle = self._handle.with_params(params)
        metrics, artefacts = evaluate(handle, self.config, evaluations)
        if self._first:
            write_results(self.workdir, step, metrics, artefacts)
            report(format_table(metrics))
        return {
            f"eval/{name}/{k}": v
            for name, values in metrics.items()
            for k, v in defined(values).items()
        }

    def _say(self, text: str) -> None:
        """Prints, once for all processes."""
        if self._first:
            print(text)

    def _seen(self, step: int) -> int:
        """Examples seen after so many steps."""
        return step * self.config.train.batch_size


def train(config: ConfigDict, workdir: str | os.PathLike, start_time: float | None = None) -> None:
    """Trains, or goes on training, as `Trainer` says."""
    Trainer(config, workdir, start_time).run()


def _due(step: int, steps: int, every: int) -> bool:
    """Whether something is to be done after this step: each so many steps, and after the last."""
    return step == steps or (every > 0 and step % every == 0)


def _items(state: TrainState) -> dict:
    """What of a state is saved, by name; the step is the checkpoint's own."""
    return {"params": state.params, "optimizer": state.optimizer, "ema": state.ema}


def _resolve_epochs(config: ConfigDict, size: int, steps: int | None) -> ConfigDict:
    """The configuration with the steps of `train.epochs`; with `steps`, if they are given."""
    if not config.train.epochs:
        return config
    resolved = ConfigDict(config.to_dict())
    resolved.train.steps = steps or math.ceil(config.train.epochs * size / config.train.batch_size)
    resolved.train.epochs = 0.0
    validate(resolved)
    return resolved


def _check_tokenizer(config: ConfigDict, tokenizer: Tokenizer) -> None:
    text = config.model.text
    if tokenizer.vocab_size > text.vocab_size or tokenizer.pad_id != text.pad_id:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} ids and pads with {tokenizer.pad_id}, but "
            f"config.model.text.vocab_size={text.vocab_size} and pad_id={text.pad_id}: the "
            "vocabulary must be at least as large, and the padding the same"
        )

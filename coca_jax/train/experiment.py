"""All the parts of a run, built from its configuration before anything is computed or written."""

import dataclasses
import functools
import math
import os
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from coca_jax.checkpoints.metadata import Saved, newest
from coca_jax.checkpoints.processes import say
from coca_jax.config import model_config
from coca_jax.data.fingerprint import Fingerprint, fingerprint
from coca_jax.data.from_config import make_tokenizer_from, make_train_stream, tokenizer_file
from coca_jax.data.pipeline import TrainStream
from coca_jax.data.tokenizers import Tokenizer
from coca_jax.data.transforms.images import Resizing
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.evaluate.runner import runnable_evals
from coca_jax.inference import adapted
from coca_jax.inference.sources import Source
from coca_jax.io.paths import as_path
from coca_jax.models import CoCaConfig, lora
from coca_jax.planning import training_flops
from coca_jax.train.best import require_evaluation
from coca_jax.train.data_changes import require_same_data, stored_steps
from coca_jax.train.frozen import find_frozen, require_frozen
from coca_jax.train.program import TrainProgram, make_program
from coca_jax.train.teacher import TEACHER, find_teacher
from coca_jax.train.warm_start import TowerFile, WarmStart, find_source, plan
from coca_jax.validation import validate


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run; see `build`."""

    config: ConfigDict  # with `train.steps` of the epochs, if these were given
    workdir: epath.Path
    program: TrainProgram  # model, mesh, state and step
    tokenizer: Tokenizer
    tokenizer_file: str  # empty if the tokenizer has none
    stream: TrainStream
    data: Fingerprint  # of what the stream reads
    saved: Saved | None  # the newest checkpoint's description of itself; None: a new run
    warm_start: WarmStart | None  # None: random parameters, or all are the workdir's own
    teacher: Source | None = None  # of `loss.distillation`
    # Other models that a resumed run needs, by key of the metadata; see `adapted.model_record`.
    records: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def steps(self) -> int:
        """The number of the run's last step."""
        return self.config.train.steps

    def examples_seen(self, step: int) -> int:
        """The number of examples that the first `step` steps train with."""
        return self.stream.batch_sizes.examples_seen(step)

    def flops_seen(self, step: int) -> int:
        """FLOPs of the first `step` steps."""
        examples = self.stream.batch_sizes.examples_seen_by_length(step)
        return sum(count * self.flops[length] for length, count in examples.items())

    @functools.cached_property
    def flops(self) -> dict[int | None, int]:
        """FLOPs of training with one pair, its teacher's included, by the most patches of an image.

        The key is None where all images have one size.
        """
        model, packing = self.program.model.config, self.config.data.packing
        teacher = model_config(self.teacher.config) if self.teacher else None
        return {
            n: training_flops(
                model.with_sequence_length(n), packing, teacher and teacher.with_sequence_length(n)
            )
            for n in self.stream.batch_sizes.lengths or (None,)
        }


def build(config: ConfigDict, workdir: str | os.PathLike) -> Experiment:
    """Validates a configuration and builds the parts of its run; nothing is locked or written.

    Args:
      config: the whole configuration.
      workdir: the run's folder; a run in it is resumed.

    Raises:
      UserError: the configuration or the data cannot be used.
    """
    validate(config, jax.devices(), reads=("train", "eval"))
    workdir = as_path(workdir)
    saved = newest(workdir / "checkpoints")
    if config.lora.rank and saved and adapted.KEY in saved.metadata:
        source = find_frozen(config, workdir, saved)
    else:
        source = find_source(config.init.path, workdir)
    tokenizer, model = make_tokenizer_from(config.data), model_config(config)
    _check_tokenizer(config, tokenizer)
    require_evaluation(config, runnable_evals(config, model))
    partitioner = Partitioner(make_mesh(config.mesh), config.sharding.rules)
    stream = _make_stream(config, model, partitioner)
    data = fingerprint(config.data, stream.make_batch.data_sets)
    require_same_data(data)
    config = _resolve_epochs(config, stream, stored_steps(saved, data))
    program, file = make_program(config, partitioner), tokenizer_file(config.data)
    warm_start = source and _warm_start(source, config, program, file)
    teacher = find_teacher(config, file, saved)
    return Experiment(
        config,
        workdir,
        program,
        tokenizer,
        file,
        stream,
        data,
        saved,
        warm_start,
        teacher,
        # Now, since a run that goes on may remove the step.
        _records(warm_start if config.lora.rank else None, teacher),
    )


def _records(base: WarmStart | None, teacher: Source | None) -> dict[str, dict[str, Any]]:
    """Other models that a resumed run needs, by the keys of checkpoints' metadata."""
    records = {}
    if base:
        records[adapted.KEY] = adapted.model_record(base.source, base.item)
    if teacher:
        records[TEACHER] = adapted.model_record(teacher, teacher.item(use_ema=True))
    return records


def _warm_start(
    source: Source | TowerFile, config: ConfigDict, program: TrainProgram, tokenizer_file: str
) -> WarmStart:
    state = program.factory.abstract
    params = lora.model_params(state.frozen, state.params)
    warm_start = plan(source, config, params, tokenizer_file)
    if state.frozen is not None:
        require_frozen(warm_start, state.frozen)
    return warm_start


def _make_stream(config: ConfigDict, model: CoCaConfig, partitioner: Partitioner) -> TrainStream:
    shard, shards = partitioner.share()
    return make_train_stream(
        config.data,
        image_size=model.image.target,
        sequence_lengths=model.image.sequence_lengths,
        resizing=Resizing.of(model.image),
        text_length=config.model.text.context_length,
        batch_size=config.train.batch_size,
        seed=config.seed,
        classes=config.head.classes if model.head else (),
        process_index=shard,
        process_count=shards,
    )


def _resolve_epochs(config: ConfigDict, stream: TrainStream, steps: int | None) -> ConfigDict:
    """The configuration with the steps of `train.epochs`, or with `steps` if they are given."""
    if not config.train.epochs:
        return config
    resolved, epochs = ConfigDict(config.to_dict()), config.train.epochs
    examples = math.ceil(epochs * stream.mixture.size)
    resolved.train.steps = steps or stream.batch_sizes.steps(examples)
    if steps:
        say(
            f"config.train.epochs={epochs}: the data changed since the run began, so that its "
            f"length stays {steps:,} steps; config.train.steps (with epochs=0) sets another"
        )
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

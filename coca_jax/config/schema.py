"""The configuration's schema: every section a frozen dataclass, every key one of its fields.

A field has a default, a meaning, the values that it allows, and says whether it may change when a
run is resumed. `coca_jax.config.tree` makes of them the `ConfigDict` that `get_config()` edits,
`coca_jax.config.checks` the checks of keys and values, and `coca_jax.config.document` the page
`docs/configuration.md`. The sections of `model` are in `coca_jax.models.config`,
those of `data` in `coca_jax.data.options`.
"""

import dataclasses

from coca_jax.config.kinds import (
    FACTORS,
    MESH_SIZE,
    PATH,
    ROWS,
    SEED,
    SHARDING,
    SHARE,
    TEXTS,
)
from coca_jax.data.options import DataConfig
from coca_jax.distributed.sharding import RULES, Rules
from coca_jax.fields import (
    Sections,
    choice,
    field,
    flag,
    integer,
    number,
    pattern,
    plain,
    registered,
    row,
    several,
    text,
)
from coca_jax.losses.registry import losses
from coca_jax.models.config import CoCaConfig
from coca_jax.models.presets import PRESETS
from coca_jax.observe.writers.options import MetricsConfig, metrics_section
from coca_jax.train.optimizers import optimizers, schedules

Factors = tuple[tuple[str, float], ...]
"""Rows (pattern of parameter names, factor)."""


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """A classifier on top of the model, for a task that comes after pretraining.

    The model has it if a loss of its outputs, such as `loss.classification`, has a weight above 0.
    """

    input: str = field(
        "image",
        "What it reads. image: the encoder's tokens of all images; text: the decoder's outputs "
        "about each image, such as for a question.",
        choice("image", "text"),
    )
    classes: tuple[str, ...] = field((), "Names of the classes, in the order of labels.", TEXTS)
    class_file: str = field(
        "", "File with the names, one a line, in place of `classes`.", PATH, resumable=True
    )


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """A warm start: where a new run's first parameters come from."""

    path: str = field(
        "",
        "A workdir, one of its checkpoints, a converted model, or OpenCLIP's weights of a CoCa; or "
        "weights of a CLIP, a SigLIP or a ViT, of which the towers are taken that fit. Weights may "
        "be at hf-hub:ORG/NAME. Empty: random parameters.",
        PATH,
        resumable=True,
    )
    use_ema: bool = field(
        True,
        "Take the moving average of the parameters, where there is one.",
        flag(),
        resumable=True,
    )
    only: str = field(
        ".*", "Take the parameters of which this matches the whole name.", pattern(), resumable=True
    )


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """LoRA (arXiv 2106.09685): the model in `init.path` stays as it is; small factors are trained.

    Checkpoints hold only what is trained; loading merges it into that model, which must stay there.
    A table of `optimizer` takes a factor by the name of its kernel.
    """

    rank: int = field(0, "Rank of the factors; 0: no LoRA.", integer(0, 2**16))
    alpha: float = field(
        16.0,
        "A kernel changes by the product of its factors times alpha / rank.",
        number(above=True),
    )
    layers: tuple[str, ...] = field(
        (r".*/(query|key|value|out|up|down)/kernel",),
        "Patterns of the names of kernels that get factors.",
        several(pattern(empty=False), least=1),
    )
    full: tuple[str, ...] = field(
        (),
        "Patterns of the names of parameters that are trained and saved in full; a head always is.",
        several(pattern(empty=False)),
    )

    @property
    def scale(self) -> float:
        """The number that the product of two factors is multiplied by."""
        return self.alpha / self.rank if self.rank else 0.0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer; by default the paper's, with a learning rate for small batches."""

    name: str = field("adafactor", "The optimizer.", registered(optimizers))
    learning_rate: float = field(1e-3, "The highest learning rate.", number(above=True))
    warmup_steps: int = field(100, "Steps in which it rises from 0.", integer())
    schedule: str = field(
        "linear",
        "How it falls after the warm-up: linear and cosine reach 0 after the last step, rsqrt "
        "falls as 1 / sqrt(step), constant stays.",
        registered(schedules),
    )
    b1: float = field(0.9, "Decay of the first moment.", SHARE)
    b2: float = field(0.999, "Decay of the second moment.", SHARE)
    epsilon: float = field(1e-8, "Added to the denominator of adamw.", number(1e-30, 1))
    clip_norm: float = field(
        1.0,
        "The gradient of all trained parameters is scaled to at most this norm; 0: never.",
        number(),
    )
    weight_decay: float = field(0.01, "Decoupled weight decay.", number())
    weight_decays: Factors = field(
        ((r".*(kernel|embedding|lm_head|projection)", 1.0), (r".*", 0.0)),
        "Factors of the weight decay, rows (pattern of parameter names, factor); the first row "
        "that matches decides.",
        FACTORS,
    )
    learning_rates: Factors = field(
        ((r".*", 1.0),),
        "Factors of the learning rate, in the same way; 0 freezes: no update, no optimizer state.",
        FACTORS,
    )
    layer_decay: float = field(
        1.0,
        "Each layer of the image encoder has the learning rate of the one above times this.",
        number(0, 1, above=True),
    )
    ema_decay: float = field(
        0.0,
        "Decay of a moving average of the parameters, which evaluations use; 0: none.",
        SHARE,
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The length of the run, its batches, and what is done every few steps."""

    steps: int = field(
        1000,
        "Steps of the run. A resumed run may have more than before, or fewer, but not fewer than "
        "are done: schedules that end at the last step (linear, cosine) are then those of the new "
        "length, and the learning rate jumps; rsqrt and constant go on.",
        integer(1),
        resumable=True,
    )
    epochs: float = field(
        0.0,
        "Length of the run in passes over the data; 0: `steps` counts. It may change as `steps` "
        "may, unless the data changed.",
        number(0, 1e6),
        resumable=True,
    )
    batch_size: int = field(128, "Image-text pairs a step, over all devices.", integer(1, 2**24))
    grad_accum_steps: int = field(
        1,
        "Micro-batches a step; the gradient is the whole batch's, but for dropout.",
        integer(1, 2**24),
        resumable=True,
    )
    quantization: str = field(
        "",
        "Type of the layers' matmuls in training, forward and backward, by Qwix; parameters and "
        "evaluations stay as they are. Empty: none.",
        choice("", "int8", "fp8"),
    )
    log_every: int = field(
        10,
        "Steps between two log points; saves and evaluations are some, too.",
        integer(1),
        resumable=True,
    )
    evaluate_every: int = field(
        0,
        "Steps between two evaluations; 0: only after the last step.",
        integer(),
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints; the last step is always saved."""

    every: int = field(500, "Steps between two checkpoints.", integer(1), resumable=True)
    keep: int = field(3, "Newest checkpoints that are kept.", integer(1), resumable=True)
    keep_best: str = field(
        "",
        "Metric by which the best checkpoint is kept next to the newest, as EVALUATION/METRIC: "
        "`held_out/loss`. `W/checkpoints/best` is where commands find it. Empty: none.",
        text(),
        resumable=True,
    )
    best_mode: str = field(
        "",
        "Whether the smallest (min) or the largest (max) value of `keep_best` is the best.",
        choice("", "min", "max"),
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; -1: those that are left."""

    data: int = field(-1, "Data parallelism: copies of the model.", MESH_SIZE, resumable=True)
    fsdp: int = field(
        1, "Devices that a copy's parameters are split over.", MESH_SIZE, resumable=True
    )
    tensor: int = field(1, "Devices that each layer is split over.", MESH_SIZE, resumable=True)


@dataclasses.dataclass(frozen=True)
class ShardingConfig:
    """Tables from logical axes to mesh axes, read in order."""

    rules: Rules = field(
        RULES,
        "Of parameters and activations, rows (logical axis, mesh axes).",
        SHARDING,
        resumable=True,
    )
    optimizer_rules: Rules = field(
        (),
        "Read before `rules` for the optimizer's state and the moving average; "
        '(("embed", ("data", "fsdp")),) splits them over all devices (ZeRO-1).',
        SHARDING,
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """Runs of several processes."""

    start_seconds: int = field(
        300, "Seconds to wait for all processes at the start.", integer(1, 10**6), resumable=True
    )
    heartbeat_seconds: int = field(
        100,
        "A process that is silent for this long is dead, and the run ends.",
        integer(1, 10**6),
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
    """Prints all threads' stacks when a step hangs."""

    factor: float = field(
        20.0,
        "A step hangs if it takes this many times the median step; 0: no watchdog.",
        number(0, 1e9),
        resumable=True,
    )
    seconds: float = field(120.0, "No step that takes less hangs.", number(0, 1e9), resumable=True)
    end: bool = field(False, "End the process then, too.", flag(), resumable=True)


@dataclasses.dataclass(frozen=True)
class ProfileConfig:
    """A trace of a few steps, written to `profile` in the workdir."""

    start: int = field(0, "First step to trace.", integer(), resumable=True)
    steps: int = field(0, "Steps to trace; 0: none.", integer(), resumable=True)


def _loss_sections() -> Sections:
    """The options of each registered loss."""
    return Sections({name: losses[name]() for name in losses})


@dataclasses.dataclass(frozen=True)
class Config:
    """An experiment."""

    seed: int = field(0, "Seed of parameters, data order, augmentation and dropout.", SEED)
    model: CoCaConfig = dataclasses.replace(PRESETS["mini"], dtype="auto", attention="auto")
    loss: Sections = dataclasses.field(default_factory=_loss_sections)
    head: ClassifierConfig = ClassifierConfig()
    init: InitConfig = InitConfig()
    lora: LoraConfig = LoraConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    data: DataConfig = DataConfig()
    eval: Sections = Sections()
    metrics: MetricsConfig = dataclasses.field(default_factory=metrics_section)
    mesh: MeshConfig = MeshConfig()
    sharding: ShardingConfig = ShardingConfig()
    distributed: DistributedConfig = DistributedConfig()
    compile_cache: str = field(
        "auto",
        "Folder of compiled programs; auto: `.compile_cache` next to the workdir, but not for "
        "several CPU devices; empty: none.",
        PATH,
        resumable=True,
    )
    compiler_options: tuple[tuple, ...] = field(
        (),
        "Rows (name, value) for the compiler of the train step, such as "
        '(("xla_gpu_enable_pipelined_all_gather", True),).',
        several(row(text(empty=False), plain()), wanted="rows (name, value)"),
        resumable=True,
    )
    watchdog: WatchdogConfig = WatchdogConfig()
    profile: ProfileConfig = ProfileConfig()


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """A sweep (`coca compare`), but for its `stages`, which are experiments by name."""

    seeds: tuple[int, ...] = field(
        (0,),
        "Seeds that each row is trained with.",
        several(SEED, least=1, distinct=True, wanted=f"different seeds, each {SEED.wanted}"),
    )
    tables: tuple[tuple, ...] = field((), "Rows (title, rows of (name, changes)).", ROWS)
    metrics: tuple[tuple[str, str, str], ...] = field(
        (),
        "Rows (title, stage, evaluation/metric).",
        several(
            row(*[text(empty=False)] * 3), wanted="rows (title, stage, evaluation/metric)", least=1
        ),
    )

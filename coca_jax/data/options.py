"""The section `data` of the configuration, and its sections: keys, defaults, allowed values."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coca_jax import fields
from coca_jax.data.captions import CHOICES, OPERATORS
from coca_jax.data.packing import PackingConfig
from coca_jax.data.sources import SourceConfig, missing_option
from coca_jax.data.tokenizers import tokenizers
from coca_jax.fields import Sections, field

_OPERANDS = {
    name: fields.several(fields.plain()) if name in ("in", "not in") else fields.plain()
    for name in OPERATORS
}
FILTERS = fields.several(
    fields.either(
        *(
            fields.row(fields.text(empty=False), fields.choice(name), kind)
            for name, kind in _OPERANDS.items()
        )
    ),
    wanted=f"rows (field, one of {', '.join(OPERATORS)}, value); a list for in and not in",
)
FIELD_PAIR = fields.row(
    fields.text(empty=False), fields.text(empty=False), wanted="the names of two fields"
)
JITTER = fields.row(
    *(
        fields.number(0, 1000),
        fields.number(0, 1000),
        fields.number(0, 1000),
        fields.number(0, 0.5),
    ),
    wanted="four numbers: brightness, contrast and saturation from 0 to 1000, hue from 0 to 0.5",
)
RANDAUGMENT = fields.row(
    fields.integer(0, 1000),
    fields.integer(0, 30),
    wanted="two whole numbers: operations, magnitude to 30",
)
SHARE = fields.number(0, 1, below=True)


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """Options of the tokenizer."""

    kind: str = field(
        "sentencepiece",
        "`sentencepiece`, `byte` or `clip` (which need no file), `json` (any Hugging Face "
        "`tokenizer.json`), or one that the configuration file registers.",
        fields.registered(tokenizers),
    )
    path: str = field(
        "",
        "The tokenizer's file. Empty: the `tokenizer.model` prepared next to `data.train`.",
        fields.path(),
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class TrainDataConfig(SourceConfig):
    """A data set that is trained on: which one it is, and what becomes of its records."""

    name: str = field("shapes", "Name of a TFDS data set.", fields.text())
    split: str = field(
        "train", "Split of a TFDS data set, or of a folder that holds several.", fields.text()
    )
    captions: str = field(
        "sampled",
        "Which of an image's captions is trained on. `sampled`: a random one; `first`: the first; "
        "`all`: each in turn; `none`: no text, for a head that reads images only; `questions`: a "
        "random question, followed by its answer.",
        fields.choice(*CHOICES),
    )
    questions: Sequence[str] = field(
        ("questions", "answers"),
        "The fields that hold questions and their answers, such as the hypotheses and judgements "
        "of visual entailment.",
        FIELD_PAIR,
    )
    use_labels: bool = field(
        True, "Whether a head learns from its answers or labels.", fields.flag()
    )
    group: str = field(
        "",
        "What the pairs of a group have in common, `caption`, `label` or the name of a field: in "
        "the contrastive loss every image of a group matches every text of it. Empty: an image "
        "matches its own text only.",
        fields.text(),
    )
    negatives: str = field(
        "",
        "The field that holds a wrong caption for each caption, in the same order: in the "
        "contrastive loss every image is compared with the wrong captions of all, too. Empty: "
        "there are none.",
        fields.text(),
    )
    template: str = field(
        "",
        "What the caption becomes, such as `{title}. {caption}`, of any fields of the record. "
        "Empty: it stays as it is.",
        fields.template(),
    )
    prompts: Sequence[str] = field(
        (),
        'What the labels of an image without captions become, such as `("a photo of {}.",)`; '
        "one of them is drawn. Empty: labels are not text.",
        fields.several(fields.text(having="{}"), wanted="texts with {} for the labels"),
    )
    min_characters: int = field(1, "Captions with fewer characters are left out.", fields.integer())
    max_characters: int = field(
        2000, "Captions with more characters are left out.", fields.integer()
    )
    filters: Sequence[Sequence[Any]] = field(
        (),
        "Rows `(field, operator, value)`. Records for which one of them does not hold are left "
        f"out. Operators: {', '.join(f'`{name}`' for name in OPERATORS)}.",
        FILTERS,
    )
    captions_from: str = field(
        "",
        "A folder of results that `coca caption --data` wrote of this data set: its captions "
        "replace those of the records that have one there.",
        fields.path(),
        resumable=True,
    )
    keep_captions: bool = field(
        False,
        "Whether the records' own captions stay next to those of `captions_from`.",
        fields.flag(),
    )
    fields_from: Sequence[str] = field(
        (),
        "Folders of results of this data set, such as `coca score-pairs` writes: their columns "
        "become fields of the records, for `filters` and `template`.",
        fields.several(fields.text(empty=False), wanted="folders"),
        resumable=True,
    )
    exclude_list: str = field(
        "",
        "A list of records to leave out, which `coca data deduplicate` wrote.",
        fields.path(),
        resumable=True,
    )
    neighborhoods: str = field(
        "",
        "An order of the records that `coca data neighborhoods` wrote: records whose images look "
        "alike are drawn together, as hard negatives of each other. Empty: at random.",
        fields.path(),
        resumable=True,
    )
    neighborhood_size: int = field(
        8, "Records of a neighborhood, which are drawn together.", fields.integer(2, 2**20)
    )
    min_crop_area: float = field(
        1.0,
        "The smallest share of an image that a random crop keeps. 1: images are resized and "
        "cropped at the center, as in evaluation.",
        fields.number(0, 1, above=True),
    )
    flip: bool = field(
        False,
        "Whether half of the images are mirrored; never those whose caption says left or right.",
        fields.flag(),
    )
    color_jitter: Sequence[float] = field(
        (0.0, 0.0, 0.0, 0.0),
        "Strength of random changes of brightness, contrast, saturation and hue.",
        JITTER,
    )
    randaugment: Sequence[int] = field(
        (0, 0), "RandAugment: the number of operations, and their magnitude up to 30.", RANDAUGMENT
    )


@dataclasses.dataclass(frozen=True)
class MixtureConfig(TrainDataConfig):
    """A data set of `data.sources`; what it does not say is as in `data.train`."""

    weight: float = field(
        0.0,
        "Its weight in the mixture, exact in every 1,000 examples. 0 for all of them: data sets "
        "are mixed by their sizes.",
        fields.number(),
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Options of the data sets, and of how their records become examples."""

    dir: str = field(
        "", "Folder of TFDS data sets. Empty: TFDS's own default.", fields.path(), resumable=True
    )
    cache_dir: str = field(
        "",
        "Folder for indices of tars in read-only folders, and for features that probes are "
        "trained on. Empty: the user's cache folder.",
        fields.path(),
        resumable=True,
    )
    tokenizer: TokenizerConfig = TokenizerConfig()
    train: TrainDataConfig = TrainDataConfig()
    packing: PackingConfig = PackingConfig()
    num_images: int = field(
        1,
        "Images of an example: frames of a clip, evenly spaced, or a pair.",
        fields.integer(1, 4096),
    )
    blank_images: bool = field(
        False,
        "Whether all images are gray, in evaluations too: shows what can be learned from the "
        "texts alone.",
        fields.flag(),
    )
    # By name, complete: what the configuration changes of `train`, put into it; empty: `train`.
    sources: Sections = Sections()
    threads: int = field(
        4,
        "Threads that make batches, each one at a time; in each worker, if there are any.",
        fields.integer(1, 4096),
        resumable=True,
    )
    workers: int = field(
        0,
        "Processes that make batches. 0: threads of the training process do.",
        fields.integer(0, 4096),
        resumable=True,
    )
    max_bad_share: float = field(
        0.2,
        "The share of examples that may be unusable before training stops.",
        SHARE,
        resumable=True,
    )
    allow_changes: bool = field(
        False,
        "Whether a run may be resumed with data, or a teacher, that changed since it stopped.",
        fields.flag(),
        resumable=True,
    )

    def data_sets(self) -> Mapping[str, TrainDataConfig]:
        """The data sets of the mixture by name; `data.train` alone has the empty name."""
        return self.sources or {"": self.train}

    @property
    def has_negatives(self) -> bool:
        """Whether any data set gives wrong captions."""
        return any(data_set.negatives for data_set in self.data_sets().values())


def data_config(section: Any) -> DataConfig:
    """The section `data` of a configuration, whose values are allowed, as typed options."""
    if isinstance(section, DataConfig):
        return section
    values = section.to_dict()
    tokenizer, train = TokenizerConfig(**values.pop("tokenizer")), values.pop("train")
    packing = PackingConfig(**values.pop("packing"))
    mixture = {
        name: MixtureConfig(**train | dict(changes))
        for name, changes in values.pop("sources").items()
    }
    return DataConfig(
        **values,
        tokenizer=tokenizer,
        train=TrainDataConfig(**train),
        packing=packing,
        sources=Sections(mixture),
    )


def data_errors(data: Any) -> list[str]:
    """Messages on values of `config.data` that do not go together, each with its key.

    Args:
      data: the section, as options or as it stands; each value is allowed by itself.
    """
    return [
        f"config.{section_key(name)}.{message}"
        for name, options in data_config(data).data_sets().items()
        for message in _option_errors(options)
    ]


def missing_options(data: Any) -> list[str]:
    """A message for each data set of `config.data` that lacks its path, name or split.

    Args:
      data: the section, as options or as it stands; each value is allowed by itself.
    """
    return [
        f"config.{section_key(name)}.{message}"
        for name, options in data_config(data).data_sets().items()
        if (message := missing_option(options))
    ]


def section_key(name: str) -> str:
    """The key of the section that describes a data set of the mixture."""
    return f"data.sources.{name}" if name else "data.train"


def _option_errors(options: TrainDataConfig) -> Iterator[str]:
    if options.min_characters > options.max_characters:
        least, most = options.min_characters, options.max_characters
        yield f"min_characters={least} should be at most max_characters={most}"
    if options.template and options.captions in ("none", "questions"):
        yield f"template={options.template!r} is for captions, and captions={options.captions}"
    if options.negatives and options.captions in ("none", "questions"):
        yield f"negatives={options.negatives!r} is for captions, and captions={options.captions}"

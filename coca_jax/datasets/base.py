"""What the builders of this project's data sets share."""

import abc
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set with random access, in the order in which it is generated."""

    size_mib: ClassVar[int]  # of all its files, about
    tokenizer_vocab_size = 0  # of the tokenizer that is made of its texts; 0: none is
    url_infos = None  # TFDS downloads nothing; looking it up needs a package it doesn't require

    def __init__(self, **kwargs: Any):
        super().__init__(file_format="array_record", **kwargs)

    @abc.abstractmethod
    def features(self) -> dict[str, Any]:
        """Names and TFDS features of a record."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__ or self.name,  # `python -OO` has no docstrings
            features=tfds.features.FeaturesDict(self.features()),
            disable_shuffling=True,
        )


class Drawn(Builder, skip_registration=True):
    """One that is made of nothing: each record is a function of its split and number."""

    counts: ClassVar[dict[str, int]]  # records of each split

    @abc.abstractmethod
    def record(self, split: str, *seed: int) -> dict[str, Any]:
        """A record; `seed` tells it from the others of all splits."""

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self.counts}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        number = list(self.counts).index(split)
        for index in range(self.counts[split]):
            yield index, self.record(split, number, index)

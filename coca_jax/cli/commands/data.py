"""The subcommands of `coca data`."""

import argparse

from coca_jax.cli.commands.configs import checked_config
from coca_jax.errors import Incomplete, UserError
from coca_jax.io.messages import counted


def data_prepare(options: argparse.Namespace) -> None:
    """Builds a data set and its tokenizer."""
    from coca_jax.data_tools.prepare import prepare

    prepare(options.name, options.data_dir, options.files)


def data_inspect(options: argparse.Namespace) -> None:
    """Prints counts, caption lengths, bad examples and speed; draws a sheet of examples."""
    from coca_jax.config import build, model_config
    from coca_jax.data.transforms.images import Resizing
    from coca_jax.data_tools.inspection import format_inspection, inspect

    config = build(checked_config(options))
    model = model_config(config)
    result = inspect(
        config.data,
        image_size=model.image.target,
        resizing=Resizing.of(model.image),
        text_length=model.text.context_length,
        seed=config.seed,
        examples=options.examples,
        classes=config.head.classes,
        sheet=options.sheet,
    )
    if options.json:
        from coca_jax.evaluate.results import write_json

        write_json(result, options.json)
    print(f"{format_inspection(result, model.text.context_length)}\n{options.sheet}")
    if options.strict and result["lost"]:
        raise Incomplete(
            "some of the data cannot be used in training; the lines above say which, and why"
        )


def data_train_tokenizer(options: argparse.Namespace) -> None:
    """Trains a SentencePiece model on the captions of a configuration's data."""
    from coca_jax.config import build
    from coca_jax.data.from_config import caption_texts
    from coca_jax.data_tools.train_tokenizer import train_tokenizer

    texts, total = caption_texts(build(checked_config(options)).data, options.examples)
    pieces = train_tokenizer(texts, options.output, options.vocab_size, options.type, total)
    print(f"{options.output}: {pieces:,} pieces")


def data_convert(options: argparse.Namespace) -> None:
    """Converts Parquet files to a TFDS data set, which allows random access."""
    from coca_jax.data_tools.convert import convert

    convert(
        options.inputs,
        str(options.output),
        image=options.image,
        captions=tuple(options.captions),
        split=options.split,
        workers=options.workers,
    )


def data_convert_annotations(options: argparse.Namespace) -> None:
    """Converts published annotation files to a table to train and evaluate on."""
    from coca_jax.data_tools.annotations import write_table

    table = write_table(options.inputs, options.images, options.output, options.split)
    left_out = f" ({table.left_out} left out)" if table.left_out else ""
    print(f"{options.output}: {counted(table.rows, table.unit)}{left_out}")


def data_answer_vocab(options: argparse.Namespace) -> None:
    """Writes the common answers in tables of questions, as classes for a head."""
    from coca_jax.data_tools.answer_vocab import write_answers

    vocabulary = write_answers(options.tables, options.output, options.min_count)
    print(
        f"{options.output}: {counted(len(vocabulary.answers), 'answers')}, "
        f"to {vocabulary.answered:,} of {counted(vocabulary.questions, 'questions')}"
    )


def data_neighborhoods(options: argparse.Namespace) -> None:
    """Writes an order of the training records in which similar images are next to each other."""
    from coca_jax.config import build
    from coca_jax.data_tools.neighborhoods import write_neighborhoods

    config = build(checked_config(options))
    of_data_set = config.data, options.source, options.embeddings
    print(write_neighborhoods(*of_data_set, options.output, config.seed))


def data_deduplicate(options: argparse.Namespace) -> None:
    """Writes a list of the training images that look like an image of an evaluation."""
    from coca_jax.config import build
    from coca_jax.data_tools.deduplicate import deduplicate

    if bool(options.embeddings) != bool(options.references):
        raise UserError("--embeddings and --references go together: folders that coca embed wrote")
    config = build(checked_config(options))
    if options.embeddings:
        from coca_jax.data_tools.embedding_duplicates import deduplicate_by_embeddings

        by_embeddings = (options.embeddings, options.references, options.similarity)
        print(
            deduplicate_by_embeddings(config.data, options.source, *by_embeddings, options.output)
        )
        return
    print(deduplicate(config.data, config.eval, options.source, options.distance, options.output))

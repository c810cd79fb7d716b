"""The subcommands, one short function each."""

import argparse
import functools
import os
import sys
import time

from coca_jax.cli.options import (
    BEAM_OPTIONS,
    CAPTION_OPTIONS,
    SAMPLING_OPTIONS,
    require_compiler,
)
from coca_jax.cli.streams import is_read, print_json
from coca_jax.errors import Incomplete, UserError
from coca_jax.io.messages import counted
from coca_jax.io.paths import join
from coca_jax.io.visible import visible

START_TIME = time.time()  # this process, but for its interpreter
BATCH = 64  # images read at a time


def train(options: argparse.Namespace) -> None:
    """Trains a model, or resumes the run in the workdir."""
    config = _config(options)
    _join(config)
    from coca_jax.train.loop import train

    train(config, options.workdir, START_TIME)


def compare(options: argparse.Namespace) -> None:
    """Trains the rows of a sweep's tables with each seed, prints and draws the tables."""
    config = _config(options)
    if "stages" not in config:
        raise UserError(
            f"{options.config} is not a sweep: it has no stages (see configs/compare.py)"
        )
    from coca_jax.sweep.compare import compare
    from coca_jax.sweep.validation import structure_errors

    if errors := structure_errors(config):
        raise UserError("\n".join(errors))
    _join(next(iter(config.stages.values())), config)
    import jax

    from coca_jax.distributed import processes
    from coca_jax.observe.report import write_report
    from coca_jax.observe.report.sweep import format_sweep

    processes.assert_same_on_all("options", {"shard": list(options.shard)})
    tables = compare(config, options.workdir, START_TIME, options.shard)
    if jax.process_index() == 0:
        page = write_report(options.workdir)
        print(f"{format_sweep(tables)}\n{page}")


def evaluate(options: argparse.Namespace) -> None:
    """Restores a checkpoint, runs the configuration's evaluations and prints a table."""
    config = _config(options)
    _join(config)
    import jax

    from coca_jax.evaluate.results import format_table, write_results
    from coca_jax.evaluate.runner import evaluate, require_runnable
    from coca_jax.inference import load
    from coca_jax.train.compile_cache import use_compile_cache
    from coca_jax.validation import validate

    validate(config)
    if not config.eval:
        raise UserError(f"config.eval of {options.config} names no evaluation")
    use_compile_cache(config.compile_cache, options.workdir)
    model = load(options.workdir, options.step, devices=jax.devices())
    require_runnable(config, model.config)
    validate(config, reads=("eval",))
    results = evaluate(model, config)
    if results.metrics and jax.process_index() == 0:
        path = write_results(options.workdir, model.step, results.metrics, results.artifacts)
        print(f"{format_table(results.metrics)}\n{path}")
    results.raise_failures()


def caption(options: argparse.Namespace) -> None:
    """Captions images; prints one JSON line per image."""
    from coca_jax.inference import load

    settings = {key: getattr(options, key) for key in CAPTION_OPTIONS}
    settings = {key: value for key, value in settings.items() if value is not None}
    model, unreadable = load(options.model), 0
    for start in range(0, len(options.images), BATCH):
        if not is_read():
            return
        pixels, errors = model.read_images(options.images[start : start + BATCH])
        for error in filter(None, errors):
            print(visible(str(error)), file=sys.stderr)
        unreadable += len(errors) - len(pixels)
        captions = model.caption(pixels, _method(settings), **settings) if len(pixels) else []
        paths = options.images[start : start + BATCH]
        readable = [path for path, error in zip(paths, errors, strict=True) if not error]
        for path, best in zip(readable, captions, strict=True):
            line = {"path": path} | _as_json(best)
            if best.others:
                line["others"] = [_as_json(other) for other in best.others]
            print_json(line)
    _require_all(unreadable, len(options.images))


def search(options: argparse.Namespace) -> None:
    """Finds the images of a folder that match a text best; prints a JSON line for each."""
    import tqdm

    from coca_jax.image_search import ImageIndex
    from coca_jax.image_search.image_index import default_place, local_folder
    from coca_jax.image_search.nearest import import_faiss
    from coca_jax.inference import find_checkpoint, load

    if options.backend == "faiss":
        import_faiss()  # fails now rather than after embedding
    for folder in filter(None, (options.images, options.index)):
        local_folder(folder)  # fails now rather than after loading a model
    model = load(options.model)
    checkpoint = find_checkpoint(options.model, model.step)
    text = model.encode_text(model.tokenize([options.text]))[0]
    place = options.index or default_place(checkpoint, options.images)
    index = ImageIndex(place, options.images, checkpoint.identity)
    counts = index.update(
        functools.partial(_embed, model),
        functools.partial(tqdm.tqdm, desc="indexing", unit="image", disable=None, leave=False),
    )
    summary = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    print(f"{place}: {counted(len(index), 'images')} ({summary})", file=sys.stderr)
    if index.hidden:
        print(counted(index.hidden, "hidden items are left out"), file=sys.stderr)
    for name in index.unreadable:
        path = visible(join(options.images, name))
        print(f"{path} cannot be read as an image", file=sys.stderr)
    for score, path in index.search(text, options.top, options.backend):
        print_json({"path": str(path), "similarity": score})
    _require_all(len(index.unreadable), len(index) + len(index.unreadable))


def params(options: argparse.Namespace) -> None:
    """Prints the parameters and FLOPs of each part of the model."""
    from coca_jax.config import model_config
    from coca_jax.planning import forward_flops, parameter_counts, training_flops
    from coca_jax.planning.flops import RULE

    config = _checked_config(options, reads_data=False)
    model = model_config(config)
    counts, flops = parameter_counts(model), forward_flops(model)
    if options.json:
        from coca_jax.evaluate.results import write_json

        result = counts | {
            "total": sum(counts.values()),
            "flops_per_example": training_flops(model),
            "forward_flops": flops,
            "rule": RULE,
        }
        write_json(result, options.json)
    print(f"{'part':<20}{'parameters':>16}{'forward GFLOP a pair':>24}")
    for part, count in counts.items():
        print(f"{part:<20}{count:>16,}{flops.get(part, 0) / 1e9:>24,.3f}")
    print(f"{'total':<20}{sum(counts.values()):>16,}{sum(flops.values()) / 1e9:>24,.3f}")
    print(f"\ntraining: {training_flops(model) / 1e9:,.3f} GFLOP a pair ({RULE})")


def plan(options: argparse.Namespace) -> None:
    """Compiles the train step for devices that need not be here; prints memory and time."""
    from coca_jax.planning.topologies import find_topology, prepare_environment

    prepare_environment()
    from coca_jax.planning.plan import format_kernels, format_plan, format_search
    from coca_jax.planning.plot import draw_memory
    from coca_jax.planning.search import plan_or_advise, search

    config = _checked_config(options, reads_data=False)
    topology = find_topology(options.topology, options.slices)
    require_compiler(options, topology)
    report = functools.partial(print, file=sys.stderr, flush=True)
    doing = "compiling" if topology.compiles else "estimating"
    report(f"{doing} for {len(topology.devices):,} devices")
    if topology.missing:
        report(topology.missing)
    if options.search:
        plans = search(config, topology, report)
        best, shown = next(iter(plans)), f"{format_search(plans)}\n"
        written = plans[best] | {"choice": best, "search": plans}
    else:
        written = plan_or_advise(config, topology, options.hlo)
        plans, shown = {options.topology: written}, ""
    if options.json:
        from coca_jax.evaluate.results import write_json

        write_json(written, options.json)
    if options.plot:
        draw_memory(plans, options.plot)
    print(f"{shown}{format_plan(written)}")
    if options.kernels:
        print(f"\n{format_kernels(written, options.kernels)}")


def data_prepare(options: argparse.Namespace) -> None:
    """Builds a data set and its tokenizer."""
    from coca_jax.data_tools.prepare import prepare

    prepare(options.name, options.data_dir, options.files)


def data_inspect(options: argparse.Namespace) -> None:
    """Prints counts, caption lengths, bad examples and speed; draws a sheet of examples."""
    from coca_jax.config import build, model_config
    from coca_jax.data_tools.inspection import format_inspection, inspect

    config = build(_checked_config(options))
    model = model_config(config)
    result = inspect(
        config.data,
        image_size=model.image.pixels,
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

    texts, total = caption_texts(build(_checked_config(options)).data, options.examples)
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
    print(f"{options.output}: {table.rows:,} {table.unit}{left_out}")


def data_answer_vocab(options: argparse.Namespace) -> None:
    """Writes the common answers in tables of questions, as classes for a head."""
    from coca_jax.data_tools.answer_vocab import write_answers

    vocabulary = write_answers(options.tables, options.output, options.min_count)
    print(
        f"{options.output}: {len(vocabulary.answers):,} answers, "
        f"to {vocabulary.answered:,} of {vocabulary.questions:,} questions"
    )


def data_deduplicate(options: argparse.Namespace) -> None:
    """Writes a list of the training images that look like an image of an evaluation."""
    from coca_jax.config import build
    from coca_jax.data_tools.deduplicate import deduplicate

    config = build(_checked_config(options))
    print(deduplicate(config.data, config.eval, options.source, options.distance, options.output))


def convert(options: argparse.Namespace) -> None:
    """Converts weights from or to another project."""
    from coca_jax.interop.convert import export_open_clip, import_open_clip

    if options.to:
        if options.variant:
            raise UserError("--variant is for --from; an exported model has its own")
        for note in export_open_clip(options.input, options.output):
            print(f"in OpenCLIP: {note}")
        print(options.output)
        return
    shifted = options.cls_mask == "released"
    report = functools.partial(print, file=sys.stderr)
    count = import_open_clip(options.input, options.variant, options.output, shifted, report)
    print(f"{options.output}: {count:,} parameters")


def score(options: argparse.Namespace) -> None:
    """Scores a file of captions or answers as the COCO and VQA servers do."""
    from coca_jax.evaluate.challenges import score_results
    from coca_jax.evaluate.results import format_table, write_json

    metrics = score_results(options.annotations, options.results, options.split)
    if options.json:
        write_json(metrics, options.json)
    print(format_table({os.path.basename(options.results): metrics}))


def report(options: argparse.Namespace) -> None:
    """Writes `report.html` of a run or a sweep."""
    from coca_jax.checkpoints.metadata import newest, require_files
    from coca_jax.config.record import stored_config
    from coca_jax.io.paths import as_path
    from coca_jax.observe.report import write_report

    workdir = as_path(options.workdir)
    saved = newest(workdir / "checkpoints")
    if saved:
        require_files(workdir, saved)
        stored_config(workdir, *saved)  # restores a config.json that is damaged
    print(write_report(workdir, saved and saved.metadata.get("config")))


def _method(settings: dict) -> str:
    """The decoding method that these settings belong to; greedy if they belong to none."""
    if any(key in settings for key in BEAM_OPTIONS):
        return "beam"
    return "sample" if any(key in settings for key in SAMPLING_OPTIONS) else "greedy"


def _embed(model, paths: list) -> tuple:
    """Embeddings of the readable images, and for each path an error or None."""
    pixels, errors = model.read_images(paths)
    return model.encode_image(pixels) if len(pixels) else None, errors


def _require_all(unreadable: int, total: int) -> None:
    """Raises `Incomplete` if some images could not be read."""
    if unreadable:
        raise Incomplete(f"{unreadable:,} of {total:,} images could not be read")


def _as_json(caption) -> dict:
    return {"caption": caption.text, "log_probability": caption.log_probability}


def _config(options: argparse.Namespace):
    from coca_jax.config import load_config

    return load_config(options.config, options.overrides)


def _join(config, whole=None) -> None:
    """Joins the other processes of this run, if there are any, which must have the same config.

    Args:
      config: an experiment; its `distributed` section says how long to wait.
      whole: the configuration that must be the same, if it is another one.
    """
    from coca_jax.accelerators import prepare_environment
    from coca_jax.config import to_json
    from coca_jax.config.checks import key_errors
    from coca_jax.distributed import processes
    from coca_jax.validation import validate

    prepare_environment()
    if key_errors(config):
        validate(config)  # raises an error with these and all others
    processes.start(config.distributed.start_seconds, config.distributed.heartbeat_seconds)
    processes.assert_same_on_all("config", to_json(config if whole is None else whole))


def _checked_config(options: argparse.Namespace, reads_data: bool = True):
    """The configuration after all checks.

    Args:
      options: of the command.
      reads_data: whether the training data must be named.
    """
    from coca_jax.validation import validate

    config = _config(options)
    validate(config, reads=("train",) if reads_data else ())
    return config

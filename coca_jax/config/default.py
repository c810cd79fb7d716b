"""Every key there is, with its default and its meaning. An experiment's file changes a few."""

from ml_collections import ConfigDict

from coca_jax.distributed.sharding import RULES
from coca_jax.errors import UserError
from coca_jax.models.presets import preset


def default_config() -> ConfigDict:
    """The whole tree. `configs/*.py` start from it; keys it lacks are errors."""
    return ConfigDict(
        {
            "seed": 0,  # of parameters, data order, augmentation and dropout
            "model": preset("mini"),  # keys: coca_jax/models/config.py
            "loss": {
                "contrastive": {
                    "weight": 1.0,  # 0: neither computed nor given parameters
                    "kind": "softmax",  # or sigmoid
                    "reduction": "sum",  # of both directions (the paper), or mean (CLIP)
                    "initial_temperature": 0.07,  # trainable; SigLIP starts at 0.1
                    "temperature_floor": 0.01,  # the temperature is never trained below
                    "chunk_size": 1024,  # rows of the similarity matrix on a device at a time
                },
                "captioning": {
                    "weight": 2.0,
                    "chunk_size": 2048,  # tokens of which a device holds the logits at a time
                },
                "classification": {  # of the head
                    "weight": 0.0,
                    "label_smoothing": 0.0,  # this share of a label is spread over all classes
                },
            },
            # A classifier beside the model, for a task that comes after pretraining; it exists if
            # loss.classification.weight is not 0.
            "head": {
                # image: the encoder's tokens of all pictures; text: the decoder's outputs, such as
                # for a question, about each picture (coca_jax/models/heads.py).
                "input": "image",
                "classes": (),  # names, in the order of their numbers
                "class_file": "",  # a file of them, one a line, instead
            },
            "init": {
                # A workdir, one of its checkpoints, or a converted model, whose parameters a new
                # run starts from (coca_jax/train/warm_start.py); empty: random ones.
                "path": "",
                "use_ema": True,  # prefer the moving average of its parameters, if it has one
                "only": ".*",  # names of those that are taken, a regular expression
            },
            "optimizer": optimizer_defaults(),
            "train": {
                "steps": 1000,
                "epochs": 0.0,  # over all the data there is, instead of steps; 0: steps count
                "batch_size": 128,  # image-text pairs a step, over all devices
                "grad_accum_steps": 1,  # micro-batches a step; the same gradient, but for dropout
                # int8 or fp8: the layers' matrix products in it, forward and backward, by Qwix;
                # empty: none. Parameters and evaluations stay as they are.
                "quantization": "",
                "log_every": 10,  # steps
                "evaluate_every": 0,  # steps; 0: after the last step only
            },
            "checkpoint": {
                "every": 500,  # steps; the last step is saved in any case
                "keep": 3,  # newest ones kept
            },
            "data": data_defaults(),
            "eval": {},  # name -> evaluation; see coca_jax/evaluate/runner.py
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},  # devices an axis; -1: what is left
            "sharding": {
                "rules": RULES,  # logical axis -> mesh axes, read in order
                # Read before them for the optimizer's state and the moving average, such as
                # (("embed", ("data", "fsdp")),), which splits these over all devices.
                "optimizer_rules": (),
            },
            "distributed": {
                "start_seconds": 300,  # to wait for all processes when a run starts
                "heartbeat_seconds": 100,  # a process silent for so long is dead, and the run ends
            },
            # A folder of compiled programs; auto: .compile_cache beside the workdir, but not for
            # several CPU devices.
            "compile_cache": "auto",
            # Rows (name, value) for the compiler of the train step, such as
            # (("xla_gpu_enable_pipelined_all_gather", True),); coca_jax/accelerators.py has others.
            "compiler_options": (),
            "watchdog": {
                "factor": 20.0,  # a step this many times longer than the median is stuck; 0: off
                "seconds": 120.0,  # and no step that is shorter than this
                "end": False,  # end the process then; else its threads' stacks are only printed
            },
            "profile": {"start": 0, "steps": 0},  # steps to trace into W/profile; 0 steps: none
        }
    )


def optimizer_defaults() -> dict:
    """The paper's optimizer with a learning rate for small batches."""
    return {
        "name": "adafactor",  # or adamw, lion
        "learning_rate": 1e-3,  # the peak
        "warmup_steps": 100,
        "schedule": "linear",  # after the warm-up: linear, cosine, rsqrt or constant
        "b1": 0.9,
        "b2": 0.999,
        "epsilon": 1e-8,  # of adamw
        "clip_norm": 1.0,  # of the gradient over all trained parameters; 0: no clipping
        "weight_decay": 0.01,  # decoupled
        # Tables of (pattern of parameter names, factor); the first row that matches decides.
        "weight_decays": ((r".*(kernel|embedding|lm_head|projection)", 1.0), (r".*", 0.0)),
        "learning_rates": ((r".*", 1.0),),  # 0 freezes: no update, no optimizer state
        # Each layer of the image encoder learns by this factor slower than the one above it.
        "layer_decay": 1.0,
        "ema_decay": 0.0,  # of an average of the parameters, used by evaluation; 0: none
    }


def data_defaults() -> dict:
    """Where examples come from and what is done to them."""
    return {
        "dir": "",  # of TFDS data sets; empty: TFDS's own default
        # Of indices of tars in read-only folders, and of features that probes are trained on;
        # empty: the user's own cache.
        "cache_dir": "",
        "tokenizer": {
            "kind": "sentencepiece",  # or byte, clip (need no file), json (any tokenizer.json)
            "path": "",  # of its file; empty: the .model prepared beside data.train
        },
        "train": {
            "format": "tfds",  # or webdataset, array_record, folder
            "name": "shapes",  # of a TFDS data set
            "split": "train",  # of a TFDS data set
            # Files or URLs, with {0000..0099} and *; of a TFDS data set its folder, not its name.
            "path": "",
            # Of WebDataset tars, extensions of the members of a sample that are its image and its
            # text, such as ("input.jpg",), the first that it has; empty: those that are known.
            "image_keys": (),
            "text_keys": (),
            "class_names": "",  # a file of them, one a line, for labels that are numbers
            # sampled: one of an image's captions; first; all in turn; none, for a head that reads
            # the image only; or questions: one of those about it, with its answer behind it.
            "captions": "sampled",
            # Which fields they are in, such as the hypotheses and judgements of an entailment.
            "questions": ("questions", "answers"),
            "use_labels": True,  # a head learns from its answers or labels
            "template": "",  # what becomes of it, such as "{title}. {caption}", of any fields
            # What becomes of the labels of an image without captions, such as ("a photo of {}.",).
            "prompts": (),
            "min_characters": 1,  # of a caption; shorter and longer ones are left out
            "max_characters": 2000,
            "filters": (),  # rows (field, operator, value): what must hold, or it is left out
            "exclude_list": "",  # a list that `coca data deduplicate` wrote
            "min_crop_area": 1.0,  # smallest share of an image that a random crop keeps
            "flip": False,  # at random, and never where the caption says left or right
            "color_jitter": (0.0, 0.0, 0.0, 0.0),  # of brightness, contrast, saturation, hue
            "randaugment": (0, 0),  # operations, and their magnitude of at most 30
        },
        # Pictures of an example: frames of a clip, evenly spaced, or both of a pair.
        "num_images": 1,
        # Gray images, in evaluations, too: shows what can be learned from the texts alone.
        "blank_images": False,
        # A mixture: name -> {"weight": 2.0, and what differs from data.train}; empty: data.train
        # alone. Weights hold in every 1,000 examples; without them, data sets mix by size.
        "sources": {},
        "threads": 4,  # that make batches, each one at a time (in each worker)
        "workers": 0,  # processes that make batches; 0: threads of this one
        "max_bad_share": 0.2,  # of examples that may be unusable before training stops
        "allow_changes": False,  # whether a run may go on with data that changed since it stopped
    }


def finish(config: ConfigDict, argument: str | None, smoke: dict) -> ConfigDict:
    """Applies a configuration file's argument: none, or `smoke` for a run of seconds.

    Args:
      config: the experiment.
      argument: what stood behind the file's name and a colon.
      smoke: dotted keys and their values at that size.

    Raises:
      UserError: another argument.
    """
    if argument not in (None, "", "smoke"):
        raise UserError(f"configuration argument {argument!r} is not known; there is 'smoke'")
    if argument == "smoke":
        config.update_from_flattened_dict(smoke)
    return config

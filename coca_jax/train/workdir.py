"""The run's folder: whose it is, and what was resolved to make it."""

import jax
from etils import epath
from ml_collections import ConfigDict

from coca_jax.checkpoints.metadata import Saved, sha256
from coca_jax.checkpoints.processes import say
from coca_jax.config import differences, model_config, to_json, write_config
from coca_jax.config.record import NAME, parse_record, resumable, stored_config
from coca_jax.data.fingerprint import parse
from coca_jax.data.tokenizers import tokenizers
from coca_jax.errors import UserError
from coca_jax.evaluate.results import measured
from coca_jax.evaluate.runner import missing_evals
from coca_jax.io import files, folders
from coca_jax.io.stored import Damaged, read_json
from coca_jax.observe.goodput import FILE as GOODPUT  # written at each log point
from coca_jax.train.length import require_length

LENGTH = "train.steps"


def init_or_check_workdir(
    workdir: epath.Path,
    config: ConfigDict,
    tokenizer_file: str,
    saved: Saved | None = None,
    *,
    fixed_length: bool = False,
) -> dict[str, str]:
    """Makes the folder this run's, or makes sure that it is already.

    Writes `config.json` (and the tokenizer's file next to it, so that the model can be loaded from
    this folder alone). Those of a run that logged and saved nothing are replaced.

    Args:
      workdir: the folder.
      config: of the run.
      tokenizer_file: the tokenizer's, if it has one.
      saved: what the newest checkpoint there says of itself; None: there is none.
      fixed_length: whether a run of another length is refused.

    Returns:
      Checksums of the files that checkpoints rely on, by name; they are kept with them.

    Raises:
      UserError: the folder belongs to a run with another configuration or tokenizer, or one that
        has done more steps, or what it holds of one is damaged; or it holds a model and no run.
    """
    if saved and saved.step == 0:  # a run saves no step 0
        raise UserError(
            f"{workdir} holds a converted or averaged model, which has no optimizer: choose "
            f"another --workdir, and start from the model by --config.init.path={workdir}"
        )
    begun = True
    if saved or (workdir / NAME).exists():
        step, metadata = saved or (None, {})
        stored = stored_config(workdir, step, metadata, restore=False)
        free = resumable(data_known=saved is None or bool(parse(metadata.get("data"))))
        free = [key for key in free if not (fixed_length and key == LENGTH)]
        changed = differences(to_json(stored), to_json(config), free)
        begun = saved or folders.children(workdir / "checkpoints") or (workdir / GOODPUT).exists()
        if changed and not begun:
            say(
                f"{workdir} holds a run that logged and saved nothing; its configuration is "
                "replaced:\n  " + "\n  ".join(changed)
            )
        elif changed:
            raise UserError(
                f"{workdir} holds a run with another configuration; set these back, or choose "
                "another --workdir:\n  " + "\n  ".join(changed)
            )
    require_length(saved, config.train.steps)
    kind = config.data.tokenizer.kind
    checksums = _claim_tokenizer(workdir, kind, tokenizer_file, saved, replace=not begun)
    if jax.process_index() == 0:
        write_config(workdir, config)
        for folder in (workdir, workdir / "eval"):
            files.remove_temporaries(folder)
    return checksums


def _claim_tokenizer(
    workdir: epath.Path, kind: str, file: str, saved: Saved | None, replace: bool
) -> dict[str, str]:
    """Puts the tokenizer's file into the folder, or makes sure that it is the one there.

    Args:
      workdir: the folder.
      kind: of the tokenizer.
      file: the tokenizer's.
      saved: what the newest checkpoint there says of itself; None: there is none.
      replace: whether another one there is replaced.
    """
    tokenizer = tokenizers[kind]
    if not tokenizer.file_name:
        return {}
    name, content = tokenizer.file_name, tokenizer.standalone_file(file)
    checksum, there = sha256(content), workdir / name
    files_of = saved.metadata.get("files") if saved else None
    expected = files_of.get(name, checksum) if isinstance(files_of, dict) else checksum
    if not replace and there.exists() and content != there.read_bytes():
        if saved and checksum == expected:
            raise UserError(
                f"{there} is not the file that step {saved.step} was trained with; {file} is: "
                "copy it there"
            )
        raise UserError(f"{workdir} holds a run with another tokenizer than {file}")
    if saved and checksum != expected:
        raise UserError(
            f"{file} is not the tokenizer that step {saved.step} of {workdir} was trained with: "
            "its checksum differs. Set config.data.tokenizer.path to that file"
        )
    if jax.process_index() == 0:
        files.write_whole(there, content)
    return {name: checksum}


def is_finished(workdir: epath.Path, config: ConfigDict) -> bool:
    """Whether the folder's run is this configuration's, at its last step, and evaluated there.

    One whose length is in epochs never is: only its data say how many steps they are.
    """
    try:
        stored = to_json(parse_record(read_json(workdir / NAME)))
    except (FileNotFoundError, Damaged):
        return False
    steps = config.train.steps
    if config.train.epochs or stored["train"]["steps"] != steps:
        return False
    if differences(stored, to_json(config), resumable(data_known=False)):
        return False
    done = measured(workdir, steps, to_json(config.eval))
    left = missing_evals(config, model_config(config), done)
    return not left and (workdir / f"checkpoints/{steps}/manifest.json").exists()

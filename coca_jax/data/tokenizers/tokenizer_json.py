"""Hugging Face's `tokenizer.json`: the tokenizer, and which tokens begin, end and pad a text.

The file does not name these three roles. They are looked for, in this order, in
tokenizer_config.json and special_tokens_map.json next to it; in what its post-processor puts around
a text, and in its padding; among its special tokens, by the usual names. Each role has a token of
its own, and eos comes first: the loss skips padding and captions never hold bos, so that a text
padded or begun with eos would not teach where to end.
"""

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from coca_jax.data.tokenizers.base import Tokenizer
from coca_jax.errors import UserError
from coca_jax.io import files
from coca_jax.io.paths import join

SIBLINGS = ("tokenizer_config.json", "special_tokens_map.json")
KEYS = {
    "eos": ("eos_token", "sep_token"),
    "bos": ("bos_token", "cls_token"),
    "pad": ("pad_token",),
}
NAMES = {
    "eos": ("</s>", "[SEP]", "<eos>", "[EOS]", "<|endoftext|>", "<|end_of_text|>", "<end_of_text>"),
    "bos": (
        "<s>",
        "[CLS]",
        "<bos>",
        "[BOS]",
        "<|startoftext|>",
        "<|begin_of_text|>",
        "<start_of_text>",
    ),
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<pad_token>"),
}


RARE = "zqxj \U00013080"  # a word and a character that a tokenizer may not know


class JsonTokenizer(Tokenizer):
    """A Hugging Face `tokenizer.json`, with special tokens as the module's docstring says.

    A text that spells out bos, eos or padding gets no such id.
    """

    file_name = "tokenizer.json"

    def __init__(self, path: str | os.PathLike):
        # The caller has threads of its own; the library's would compete, and not survive a fork.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        import tokenizers

        contents = read(path)
        self._model = tokenizers.Tokenizer.from_str(contents.text)
        self._model.no_padding()
        self.eos_id, self.bos_id, self.pad_id = contents.eos_id, contents.bos_id, contents.pad_id
        self._special = {self.eos_id, self.bos_id, self.pad_id}
        self.vocab_size = 1 + max(self._model.get_vocab(with_added_tokens=True).values())
        self.unk_id = None if contents.unk_id in self._special else contents.unk_id
        unknown = contents.byte_ids if self.unk_id is None else {self.unk_id} | contents.byte_ids
        self.unknown_ids = frozenset(unknown)

    @classmethod
    def standalone_file(cls, path: str | os.PathLike) -> bytes:
        """See `Tokenizer.standalone_file`; the roles, which files next to it may name, are in it.

        Raises:
          UserError: the file is missing, broken or lacks a special token.
        """
        return read(path).text.encode()

    def to_ids(self, texts: Sequence[str], limit: int) -> list[list[int]]:
        """See `Tokenizer.to_ids`."""
        del limit
        # Unlike `encode`, it does not hold Python's lock.
        encodings = self._model.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[i for i in one.ids if i not in self._special] for one in encodings]

    def to_texts(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """See `Tokenizer.to_texts`; without other special tokens and ids beyond the vocabulary."""
        rows = [[i for i in row if 0 <= i < self.vocab_size] for row in rows]
        return self._model.decode_batch(rows, skip_special_tokens=True)


class Contents(NamedTuple):
    """A `tokenizer.json` and its roles."""

    text: str  # of the file, changed so that its template and padding name the roles
    eos_id: int
    bos_id: int
    pad_id: int
    unk_id: int | None
    byte_ids: frozenset[int]  # stand for the bytes of unknown characters


def read(path: str | os.PathLike) -> Contents:
    """Reads a `tokenizer.json` of any library version, and finds its roles.

    The returned text names the roles, so that a file of it alone is read as the same roles and the
    same text. It has no truncation and no dropout.

    Raises:
      UserError: there is no such file, it is not a tokenizer, no token is found for a role, or it
        fails at a word that it does not know.
    """
    import tokenizers

    try:
        text = files.read_bytes(path).decode("utf-8-sig")
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError(f"there is no tokenizer.json at {path}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a tokenizer.json: {error}") from error
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library's are plain Exceptions
        raise UserError(f"{path} is not a tokenizer.json: {error}") from error
    _require_unknown(path, tokenizer)
    content = json.loads(text)
    roles = _roles(path, tokenizer, content.get("padding") or {})
    eos, bos, pad = roles.items()
    content["post_processor"], content["padding"] = _template(bos, eos), _padding(*pad)
    content["truncation"] = None
    model = content["model"]
    if "dropout" in model:
        model["dropout"] = None
    unk_id = model.get("unk_id")  # of Unigram; the other models name the token
    if isinstance(model.get("unk_token"), str):
        unk_id = tokenizer.token_to_id(model["unk_token"])
    pieces = [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    fallback = [i for i in pieces if i is not None] if model.get("byte_fallback") else []
    text = json.dumps(content, ensure_ascii=False)
    return Contents(text, *roles.values(), unk_id, frozenset(fallback))


def _require_unknown(path: str | os.PathLike, tokenizer: Any) -> None:
    try:
        tokenizer.encode(RARE, add_special_tokens=False)
    except Exception as error:  # the library's are plain Exceptions
        raise UserError(
            f"{path} fails at words that it does not know ({error}): add an unknown token to the "
            'vocabulary of its "model", and name it there as "unk_token" (of a Unigram model, its '
            'number as "unk_id")'
        ) from error


def _roles(path: str | os.PathLike, tokenizer: Any, padding: dict[str, Any]) -> dict[str, int]:
    """The tokens of eos, bos and pad, in this order, and their ids."""
    folder = os.path.dirname(path)
    siblings = [_sibling(join(folder, name)) for name in SIBLINGS]
    around = dict(zip(("bos", "eos"), _around(tokenizer), strict=True))
    around["pad"] = [padding["pad_token"]] if padding else []
    special = [t.content for t in tokenizer.get_added_tokens_decoder().values() if t.special]
    roles: dict[str, int] = {}
    missing = []
    for role, keys in KEYS.items():
        named = _named(siblings, keys)
        candidates = [*named, *around[role], *(name for name in NAMES[role] if name in special)]
        ids = {token: tokenizer.token_to_id(token) for token in candidates}
        free = (t for t, i in ids.items() if i is not None and i not in roles.values())
        token = next(free, None)
        if token is None:
            missing.append(role)
        else:
            roles[token] = ids[token]
    if missing:
        raise UserError(
            f"{path} has no token of its own for {' and '.join(missing)}: name it "
            f"({', '.join(KEYS[role][0] for role in missing)}) in a tokenizer_config.json next to "
            "the file, or add it to the file, as with the package `tokenizers`: "
            f"t.add_special_tokens({[NAMES[role][0] for role in missing]}); t.save(path)"
        )
    return roles


def _sibling(path: str) -> dict[str, Any]:
    try:
        content = json.loads(files.read_bytes(path).decode("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} should be a JSON object, not {type(content).__name__}")
    return content


def _named(siblings: list[dict[str, Any]], keys: tuple[str, ...]) -> Iterator[str]:
    """The tokens that the keys have in the files, as a string or as {"content": string}."""
    for key in keys:
        for file in siblings:
            token = file.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                yield token


def _around(tokenizer: Any) -> tuple[list[str], list[str]]:
    """The tokens that the post-processor puts before and after a text."""
    import tokenizers

    if tokenizer.post_processor is None:
        return [], []
    one_word = tokenizers.models.WordLevel({"a": 0}, unk_token="a")
    probe = tokenizers.Tokenizer(one_word)
    probe.post_processor = tokenizer.post_processor
    encoded = probe.encode("a")
    word = encoded.sequence_ids.index(0)
    return encoded.tokens[:word], encoded.tokens[word + 1 :]


def _template(bos: tuple[str, int], eos: tuple[str, int]) -> dict[str, Any]:
    first, text, last = (
        {"SpecialToken": {"id": bos[0], "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": eos[0], "type_id": 0}},
    )
    return {
        "type": "TemplateProcessing",
        "single": [first, text, last],
        "pair": [first, text, last, {"Sequence": {"id": "B", "type_id": 0}}, last],
        "special_tokens": {
            token: {"id": token, "ids": [i], "tokens": [token]} for token, i in (bos, eos)
        },
    }


def _padding(token: str, token_id: int) -> dict[str, Any]:
    return {
        "strategy": "BatchLongest",
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": token_id,
        "pad_type_id": 0,
        "pad_token": token,
    }

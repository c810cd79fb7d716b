"""The tokenizer of a model as hubs keep it: what `transformers` and `tokenizers` read."""

import json
from typing import Any

from coca_jax.data.tokenizers import Tokenizer, clip_bpe
from coca_jax.errors import UserError

BOS, EOS, PAD = "<|startoftext|>", "<|endoftext|>", "!"  # CLIP's, as `transformers` spells them
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def tokenizer_files(kind: str, tokenizer: Tokenizer, content: bytes) -> dict[str, bytes]:
    """The files of a tokenizer by name.

    Args:
      kind: of the tokenizer, in `data.tokenizers`.
      tokenizer: of that kind.
      content: of its file, as it stands in a run's folder; empty if it needs none.

    Returns:
      For CLIP's and for a `tokenizer.json`, what `AutoTokenizer` reads; a SentencePiece model as
      it is; nothing for bytes.

    Raises:
      UserError: the kind is a user's own.
    """
    if kind == "clip":
        return _json_files(clip_json(), BOS, EOS, PAD, "CLIPTokenizer")
    if kind == "json":
        tree = json.loads(content)
        names = {entry["id"]: entry["content"] for entry in tree["added_tokens"]}
        names |= {i: token for token, i in _vocabulary(tree["model"])}
        roles = (names[i] for i in (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id))
        return _json_files(tree, *roles, "PreTrainedTokenizerFast")
    if kind not in ("sentencepiece", "byte"):
        raise UserError(
            f"the tokenizer {kind!r} is a user's own, which no reader of a folder knows; write a "
            ".safetensors file instead"
        )
    return {tokenizer.file_name: content} if content else {}


def clip_json() -> dict[str, Any]:
    """CLIP's tokenizer as a `tokenizer.json`.

    Unlike ours it does not fix mojibake or HTML entities.
    """
    table = clip_bpe.table()
    shown = {byte: chr(byte) for byte in clip_bpe.BYTES[:188]}
    shown |= {byte: chr(256 + i) for i, byte in enumerate(clip_bpe.BYTES[188:])}

    def spelled(spelling: bytes) -> str:
        ends = len(spelling) > 1 and spelling.endswith(b" ")
        letters = spelling[:-1] if ends else spelling
        return "".join(shown[byte] for byte in letters) + "</w>" * ends

    names = [spelled(spelling) for spelling in table.spelling]
    vocabulary = {name: i for i, name in enumerate(names)}
    vocabulary |= {BOS: clip_bpe.ClipTokenizer.bos_id, EOS: clip_bpe.ClipTokenizer.eos_id}
    special = [
        {"id": vocabulary[token], "content": token, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": True, "special": True}
        for token in (BOS, EOS)
    ]
    split = {"type": "Split", "pattern": {"Regex": WORD}, "behavior": "Removed", "invert": True}
    whole_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    blanks = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "NFC"}, blanks, {"type": "Lowercase"}],
        },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, whole_bytes]},
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [EOS, vocabulary[EOS]],
            "cls": [BOS, vocabulary[BOS]],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": EOS,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "vocab": vocabulary,
            "merges": [f"{names[first]} {names[second]}" for first, second in table.merges],
        },
    }


def _json_files(
    tree: dict[str, Any], bos: str, eos: str, pad: str, tokenizer_class: str
) -> dict[str, bytes]:
    roles = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    config = {"tokenizer_class": tokenizer_class, **roles, "unk_token": eos}
    return {
        "tokenizer.json": json.dumps(tree, ensure_ascii=False).encode(),
        "tokenizer_config.json": json.dumps(config, indent=1).encode(),
    }


def _vocabulary(model: dict[str, Any]) -> list[tuple[str, int]]:
    """The tokens of a `tokenizer.json`'s model, and their ids."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return list(vocabulary.items())
    return [(token, i) for i, (token, _) in enumerate(vocabulary)]  # Unigram

"""Captions images with a model that `coca export --format onnx` wrote, without JAX.

pip install numpy onnxruntime pillow tokenizers    (sentencepiece for a tokenizer.model)
python caption_onnx.py EXPORTED a.jpg b.jpg
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image

folder, *paths = map(pathlib.Path, sys.argv[1:])
about = json.loads((folder / "export.json").read_text())
files = {name: folder / function["file"] for name, function in about["functions"].items()}
encoder, decoder = (onnxruntime.InferenceSession(files[n]) for n in ("image_encoder", "decoder"))


def read(path):
    """The pixels of a square image as by resize_mode "shortest": scaled, and its center cut out."""
    image, size = Image.open(path).convert("RGB"), about["preprocessing"]["height"]
    width, height = (int(size * side / min(image.size)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    scaled = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


def to_text(ids):
    """The text of ids without the end."""
    kind, file = about["tokenizer"]["kind"], str(folder / about["tokenizer"]["files"][0])
    if kind == "sentencepiece":
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_file=file).decode(ids)
    from tokenizers import Tokenizer

    return Tokenizer.from_file(file).decode(ids).replace("</w>", " ").strip()


pixels = np.stack([read(path) for path in paths])
keys, values = encoder.run(["image_keys", "image_values"], {"pixels": pixels})
cache = {  # of the text: one row for each position
    port.name: np.zeros([len(pixels), *port.shape[1:]], np.float32)
    for port in decoder.get_inputs()
    if port.name.startswith("text_")
}
rows = np.full((len(pixels), 1), about["tokenizer"]["bos_id"], np.int32)
for position in range(about["captions"]["length"] - 1):
    step = {"ids": rows[:, -1], "position": np.array(position, np.int32)}
    image = {"image_keys": keys, "image_values": values}
    logits, *new = decoder.run(None, step | cache | image)
    cache = dict(zip(cache, new, strict=True))
    logits[:, about["captions"]["suppress"]] = -np.inf
    rows = np.concatenate([rows, logits.argmax(-1, keepdims=True).astype(np.int32)], axis=1)
    if (rows == about["tokenizer"]["eos_id"]).any(axis=1).all():
        break
for path, row in zip(paths, rows[:, 1:].tolist(), strict=True):
    end = about["tokenizer"]["eos_id"]
    print(f"{path}: {to_text(row[: row.index(end)] if end in row else row)}")

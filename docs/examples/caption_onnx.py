"""Captions images with a model that `coca export --format onnx` wrote, without JAX.

pip install numpy onnxruntime pillow tokenizers    (sentencepiece for a tokenizer.model)
python caption_onnx.py EXPORTED a.jpg b.jpg
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

folder, *paths = map(pathlib.Path, sys.argv[1:])
about = json.loads((folder / "export.json").read_text())
special, size = about["tokenizer"], about["preprocessing"]["height"]
names = ("image_encoder", "decoder")
encoder, decoder = (onnxruntime.InferenceSession(folder / f"{name}.onnx") for name in names)
if special["kind"] == "sentencepiece":
    from sentencepiece import SentencePieceProcessor

    decode = SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).decode
elif special["kind"] == "byte":

    def decode(ids):
        """The text of bytes."""
        return bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors="replace")
else:
    from tokenizers import Tokenizer

    decode = Tokenizer.from_file(str(folder / "tokenizer.json")).decode

pixels = []
for path in paths:  # the short side is scaled to a square's, and the center cut out
    layers = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
    image = Image.new("RGB", layers.size, "white")
    image.paste(layers, mask=layers.getchannel("A"))
    width, height = (int(size * side / min(image.size)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels.append(np.asarray(image.crop((left, top, left + size, top + size))))
outputs = ["image_keys", "image_values"]
image = dict(zip(outputs, encoder.run(outputs, {"pixels": np.stack(pixels)}), strict=True))
inputs = [port for port in decoder.get_inputs() if port.name.startswith("text_")]
text = {port.name: np.zeros([len(paths), *port.shape[1:]], np.float32) for port in inputs}
ids = np.full((len(paths), 1), special["bos_id"], np.int32)
for position in range(about["captions"]["length"] - 1):
    step = {"ids": ids[:, -1], "position": np.array(position, np.int32)}
    logits, *new = decoder.run(None, step | text | image)
    text = dict(zip(text, new, strict=True))
    logits[:, about["captions"]["suppress"]] = -np.inf
    ids = np.concatenate([ids, logits.argmax(-1)[:, None].astype(np.int32)], axis=1)
    if (ids == special["eos_id"]).any(axis=1).all():
        break
for path, row in zip(paths, ids[:, 1:].tolist(), strict=True):
    row = row[: row.index(special["eos_id"])] if special["eos_id"] in row else row
    print(f"{path}: {decode(row).replace('</w>', ' ').strip()}")

import dataclasses
import functools
import inspect
import json
import os
import pathlib
import re
import shutil

import cv2
import jax
import numpy as np
import pytest
import sentencepiece
from models.random_params import random_params

import coca_jax
from coca_jax import cli, models
from coca_jax.checkpoints import CheckpointStore
from coca_jax.config import load_config, model_config, to_json, write_config
from coca_jax.data.tokenizers import make_tokenizer
from coca_jax.data.tokenizers.sentence_piece import train_sentencepiece
from coca_jax.distributed import Partitioner, make_mesh
from coca_jax.errors import UserError
from coca_jax.evaluate.base import Model
from coca_jax.inference import LoadedModel, find_checkpoint
from coca_jax.models import CoCa

ONE_DEVICE = jax.devices()[:1]
TEXTS = ["a red circle", "a blue star at the top left", "two green rings on a black square"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run with random parameters and a moving average with other values."""
    config = load_config("configs/shapes.py:smoke", ["--config.optimizer.ema_decay=0.5"])
    model = models.make_model(model_config(config))
    folder = tmp_path_factory.mktemp("run")
    items = {"params": random_params(model, 0), "ema": random_params(model, 1)}
    with CheckpointStore(folder / "checkpoints") as store:
        store.save(2, items, {"examples_seen": 32, "config": to_json(config)})
    write_config(folder, config)
    (folder / "tokenizer.model").write_bytes(train_sentencepiece(TEXTS * 20, 400))
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return coca_jax.load(workdir, devices=ONE_DEVICE)


@pytest.fixture(scope="module")
def pieces(workdir):
    """The ids of a text's pieces, by SentencePiece itself."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(workdir / "tokenizer.model"))
    return processor.encode


@pytest.fixture
def one_device(monkeypatch):
    """Commands run on one device, as `model` does, so that they share what it has compiled."""
    monkeypatch.setattr(jax, "local_devices", lambda: ONE_DEVICE)


@pytest.fixture
def image_paths(tmp_path):
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, (height, width) in zip(paths, [(32, 32), (50, 40), (64, 200)], strict=True):
        cv2.imwrite(path, rng.integers(0, 256, (height, width, 3), np.uint8))
    return paths


def test_shapes_and_lengths_are_the_contracts(model, image_paths):
    pixels = model.preprocess(image_paths)
    assert pixels.shape == (3, 32, 32, 3) and pixels.dtype == np.float32
    assert -1 <= pixels.min() < pixels.max() <= 1
    ids = model.tokenize(TEXTS)
    assert ids.dtype == np.int32 and ids.shape == (3, model.config.text.context_length)
    for embeddings in (model.encode_image(pixels), model.encode_text(ids[:1])):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    logits = model.caption_logits(pixels, ids)
    assert logits.shape == (3, ids.shape[1], model.config.text.vocab_size)
    captions = model.caption(pixels, method="greedy")
    assert len(captions) == 3 and all(c.log_probability < 0 for c in captions)
    assert isinstance(model, Model)


def test_a_batch_on_many_devices_is_its_rows_on_one(model, workdir):
    images = np.random.default_rng(1).integers(0, 256, (11, 32, 32, 3), np.uint8)
    whole = coca_jax.load(workdir).encode_image(images)
    rows = np.concatenate([model.encode_image(images[i : i + 4]) for i in range(0, 11, 4)])
    np.testing.assert_allclose(whole, rows, atol=1e-5)


def test_attention_maps_are_those_of_the_positions_that_predict_a_word(model, image_paths, pieces):
    pixels, texts = model.preprocess(image_paths), ["a red circle", "", "stars"]
    by_word = model.attention_maps(pixels, texts)
    assert [[word for word, _ in words] for words in by_word] == [text.split() for text in texts]
    module = models.make_model(model.config)
    attention_maps = jax.jit(lambda *batch: models.attention_maps(module, model.params, *batch))
    (maps,) = attention_maps(pixels[2:], model.tokenize(texts[2:]))
    assert maps.shape == (28, *model.config.image.grid)
    count = len(pieces("stars"))
    assert count > 1
    np.testing.assert_allclose(by_word[2][0][1], np.mean(maps[:count], axis=0), atol=1e-6)
    assert all(m.sum() == pytest.approx(1, abs=1e-5) for words in by_word for _, m in words)
    with pytest.raises(UserError, match="as many"):
        model.attention_maps(pixels, texts[:2])


def nats_of(model, pixels, pairs):
    """log p(text | image, prefix) from the logits of whole texts, all at once.

    Of each image a pair (prefix, text) of lists of ids. Positions see no later ones, so what the
    padding is does not matter.
    """
    ids = np.zeros((len(pairs), model.config.text.context_length), np.int32)
    for row, (prefix, text) in zip(ids, pairs, strict=True):
        row[: len(prefix) + len(text)] = prefix + text
    logits = np.asarray(model.caption_logits(pixels, ids), np.float64)
    nats = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return [
        sum(row[len(prefix) + t - 1, token] for t, token in enumerate(text))
        for row, (prefix, text) in zip(nats, pairs, strict=True)
    ]


def ids_of(pieces, text):
    """Begin, text and end."""
    return [2, *pieces(text), 3]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "beam", "beams": 3, "n_best": 2, "prompt": ["a", "a blue", "the"]},
        {"method": "sample", "samples": 2, "top_k": 20, "seed": 3, "length": 9, "prompt": "a red"},
    ],
)
def test_captions_have_the_log_probability_of_their_logits(
    model, image_paths, pieces, options, monkeypatch
):
    pixels, rows, decode = model.preprocess(image_paths), [], model.tokenizer.decode
    monkeypatch.setattr(model.tokenizer, "decode", lambda ids: rows.append(ids) or decode(ids))
    captions = model.caption(pixels, **options)
    prompts = options.get("prompt", "")
    prompts = [prompts] * 3 if isinstance(prompts, str) else prompts
    prefixes = [ids_of(pieces, prompt)[:-1] for prompt in prompts]
    count = options.get("n_best", options.get("samples", 1))
    for k in range(count):
        pairs = []
        for prefix, ids in zip(prefixes, rows, strict=True):
            assert len(ids) == count and ids[k, : len(prefix)].tolist() == prefix
            text = ids[k, len(prefix) :].tolist()
            end = text.index(3) + 1 if 3 in text else len(text)  # 3 ends a text, 0 is padding
            assert not any(text[end:]) and len(ids[k]) == options.get("length", 28)
            pairs.append((prefix, text[:end]))
        kth = [[first, *first.others][k] for first in captions]
        assert [caption.text for caption in kth] == [decode(ids)[k] for ids in rows]
        expected = nats_of(model, pixels, pairs)
        np.testing.assert_allclose([c.log_probability for c in kth], expected, rtol=1e-4)
    assert model.caption(pixels, **options) == captions


def test_batches_that_do_not_agree(model):
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    for texts in ([], [["a"], ["a", "b"]], [["a", "b"]]):
        with pytest.raises(UserError, match="as many"):
            model.log_probabilities(pixels, texts)
    with pytest.raises(UserError, match=r"'a a .{,200}' leaves no room .* it has 28 tokens"):
        model.log_probabilities(pixels, ["b"], "a " * 1000)
    for call in (model.caption, model.encode_image):
        with pytest.raises(UserError):
            call(pixels[:0])


def test_log_probabilities_of_texts(model, image_paths, pieces):
    pixels = model.preprocess(image_paths)
    rows = [ids_of(pieces, text) for text in TEXTS]
    of_all = model.log_probabilities(pixels, TEXTS)
    for k, ids in enumerate(rows):
        expected = nats_of(model, pixels, [(ids[:1], ids[1:])] * 3)
        np.testing.assert_allclose(of_all[:, k], expected, rtol=1e-4)
    prompts = ["a", "a red", "the image shows"]
    own = model.log_probabilities(pixels, [TEXTS, TEXTS[::-1], TEXTS], prompts)
    prefixes = [ids_of(pieces, prompt)[:-1] for prompt in prompts]
    for k in range(3):
        texts = [rows[k][1:], rows[2 - k][1:], rows[k][1:]]
        expected = nats_of(model, pixels, list(zip(prefixes, texts, strict=True)))
        np.testing.assert_allclose(own[:, k], expected, rtol=1e-4)


def test_a_str_is_one_text(model, image_paths):
    np.testing.assert_array_equal(model.tokenize(TEXTS[0]), model.tokenize(TEXTS[:1]))
    pixels = model.preprocess(image_paths)
    expected = model.log_probabilities(pixels, TEXTS[:1])
    np.testing.assert_array_equal(model.log_probabilities(pixels, TEXTS[0]), expected)


def test_a_step_is_not_asked_of_a_checkpoint(workdir):
    own = workdir / "checkpoints/2"
    assert find_checkpoint(own, 2).step == find_checkpoint(own).step == 2
    for step in (1, 0, "best"):
        with pytest.raises(UserError, match=f"2 is itself a checkpoint; .* choose step {step}"):
            find_checkpoint(own, step)


def test_a_checkpoint_can_be_named_and_the_average_is_what_is_loaded(model, workdir):
    again = coca_jax.load(workdir / "checkpoints" / "2", devices=ONE_DEVICE)
    raw = coca_jax.load(workdir, use_ema=False, devices=ONE_DEVICE)
    images = np.random.default_rng(1).integers(0, 256, (4, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(model.encode_image(images), again.encode_image(images))
    assert np.abs(model.encode_image(images) - raw.encode_image(images)).max() > 1e-6


def test_caption_command_prints_a_json_line_for_each_image(
    workdir, image_paths, one_device, capsys
):
    assert cli.main(["caption", "--model", str(workdir), *image_paths]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == image_paths
    assert all(line.keys() == {"path", "caption", "log_probability"} for line in lines)
    command = ["caption", "--model", str(workdir), "--beams", "3", "--n-best", "2", *image_paths]
    assert cli.main([*command, "--prompt", "a blue"]) == 0
    line = json.loads(capsys.readouterr().out.splitlines()[0])
    assert line.keys() == {"path", "caption", "log_probability", "others"}
    assert line["caption"].startswith("a blue") and len(line["others"]) == 1
    assert line["others"][0]["caption"] != line["caption"]
    assert cli.main([*command, "--temperature", "2"]) == 2
    assert "beam has no option temperature" in capsys.readouterr().err


def test_caption_command_says_that_a_folder_is_one_video(
    workdir, image_paths, one_device, tmp_path, capsys
):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in (1, 2):
        shutil.copy(image_paths[0], folder / f"{number}.png")
    command = ["caption", "--model", str(workdir), "--length", "4"]
    assert cli.main([*command, str(folder)]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    assert f"{folder} is a folder: one of its images is captioned" in said.err
    assert cli.main([*command, image_paths[0]]) == 0
    assert "is a folder" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--shard 2/3 --split test", "--split, --shard"),
        ("--batch-size 8 --threads 2 --records-per-file 9", "--records-per-file, --batch-size"),
        ("--image-keys a --text-keys b", "--image-keys, --text-keys"),
        ("--data-format tfds --format jsonl --output x --keep", "--output, --format, --keep"),
    ],
)
def test_options_for_data_are_refused_for_image_files(words, names, capsys):
    assert cli.main(["caption", "--model", "none", "a.png", *words.split()]) == 2
    error = capsys.readouterr().err
    assert f"coca caption: {names}" in error and "only for --data" in error


def test_search_command_ranks_by_similarity(
    model, workdir, image_paths, one_device, tmp_path, capsys
):
    command = ["search", "--model", str(workdir), "--images", str(tmp_path), "--top", "2"]
    assert cli.main([*command, "a red circle"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    text = model.encode_text(model.tokenize(["a red circle"]))[0]
    scores = dict(
        zip(image_paths, model.encode_image(model.preprocess(image_paths)) @ text, strict=True)
    )
    best = sorted(image_paths, key=scores.get, reverse=True)[:2]
    assert [line["path"] for line in lines] == best
    similarities = [line["similarity"] for line in lines]
    np.testing.assert_allclose(similarities, [scores[p] for p in best], rtol=1e-5)
    assert cli.main([*command[:4], str(workdir / "eval"), "a"]) == 2


def test_search_command_wants_a_number_of_images(workdir, tmp_path, capsys):
    command = ["search", "--model", str(workdir), "--images", str(tmp_path), "--top", "-1", "a"]
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "'-1' should be a whole number, 1 or more" in capsys.readouterr().err


def test_images_that_cannot_be_read_are_named_and_the_others_captioned(
    model, workdir, image_paths, one_device, tmp_path, capsys
):
    jpeg = cv2.imencode(".jpg", cv2.imread(image_paths[0]))[1].tobytes()
    names = {b"cut.JPG": jpeg[: len(jpeg) // 2], b"empty.png": b"", b"text.jpg": b"hello"}
    names |= {b"\xff.jpg": jpeg, "é\n\u2028".encode(): jpeg}
    for name, content in names.items():
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(content)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder").mkdir()
    unreadable = ["cut.JPG", "empty.png", "text.jpg", "pipe.png", "folder", "absent.png"]
    unreadable = [str(tmp_path / name) for name in unreadable]
    odd = [str(tmp_path / os.fsdecode(name)) for name in list(names)[3:]]
    paths = [unreadable[0], image_paths[0], *unreadable[1:4], *odd, *unreadable[4:], image_paths[1]]
    command = ["caption", "--model", str(workdir), "--length", "4"]
    assert cli.main([*command, *paths]) == 5
    out, error = capsys.readouterr()
    lines = [json.loads(line) for line in out.encode().splitlines()]
    assert [line["path"] for line in lines] == [image_paths[0], *odd, image_paths[1]]
    assert all(os.path.exists(os.fsencode(line["path"])) for line in lines)
    expected = model.caption(model.preprocess(image_paths), length=4)[1]
    assert lines[-1]["caption"] == expected.text
    messages = [line.partition(" cannot be read as an image: ") for line in error.splitlines()]
    assert [path for path, reason, _ in messages if reason] == unreadable
    assert [reason for *_, reason in messages if reason] == [
        "a JPEG without end",
        "the file is empty",
        "no image of a known format",
        "it is neither a file nor a folder",
        "no image",
        "No such file or directory",
    ]
    assert error.splitlines()[-1] == "coca caption: 6 of 10 images could not be read"
    assert cli.main([*command, *unreadable[:2]]) == 5 and not capsys.readouterr().out
    with pytest.raises(
        UserError, match=r"empty\.png cannot be read as an image: the file is empty"
    ):
        model.preprocess(paths[1:])


def test_search_command_leaves_out_and_names_what_it_cannot_read(
    workdir, image_paths, one_device, tmp_path, capsys
):
    (tmp_path / "bad.png").write_bytes(b"<html>")
    (tmp_path / "._0.png").write_bytes(b"of a Mac")
    os.rename(image_paths[2], os.fsencode(tmp_path) + b"/\xff.png")
    command = ["search", "--model", str(workdir), "--images", str(tmp_path), "a red circle"]
    for _ in range(2):
        assert cli.main(command) == 5
        out, error = capsys.readouterr()
        paths = [json.loads(line)["path"] for line in out.splitlines()]
        assert sorted(paths) == [*image_paths[:2], f"{tmp_path}/\udcff.png"]
        assert f"{tmp_path}/bad.png cannot be read as an image" in error
        assert "1 hidden item is left out" in error


def test_folders_that_hold_no_model(tmp_path):
    with pytest.raises(UserError, match=r"holds no config\.json"):
        coca_jax.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "best"}, "'best' does not exist; there are greedy, sample, beam"),
        ({"beams": 3}, "greedy has no option beams; it has none"),
        ({"seed": 0}, "greedy has no option seed; it has none"),
        ({"method": "beam", "seed": 5}, "beam has no option seed; it has beams, n_best"),
        ({"method": "sample", "beams": 2}, "sample has no option beams; .* top_p, seed"),
        ({"method": "beam", "top_k": 3}, "beam has no option top_k; it has beams, n_best"),
        ({"method": "beam", "beams": 2, "n_best": 3}, "n_best is 3; it must be from 1"),
        ({"method": "sample", "seed": 2**32}, "seed is 4294967296; it must be .* to 4294967295"),
        ({"seed": -1}, "seed is -1"),
        ({"length": 100}, "length is 100; it must be at most the model's, 28"),
        ({"prompt": ["a", "b"]}, "there are 2 prompts for 1 images"),
        ({"prompt": "a red circle " * 20}, "the model's texts have at most 28"),
    ],
)
def test_captioning_options_that_cannot_be(model, options, message):
    with pytest.raises(UserError, match=message):
        model.caption(np.zeros((1, 32, 32, 3), np.uint8), **options)


def test_a_part_that_was_not_trained_is_named(model):
    image = np.zeros((1, 32, 32, 3), np.uint8)
    config = dataclasses.replace(model.config, captioning=False, contrastive="none")
    partitioner = Partitioner(make_mesh({"data": 1, "fsdp": 1, "tensor": 1}))
    bare = LoadedModel(CoCa(config), {}, model.tokenizer, partitioner)
    for loss, call in [
        ("contrastive", lambda: bare.encode_image(image)),
        ("contrastive", lambda: bare.encode_text(model.tokenize(["a"]))),
        ("captioning", lambda: bare.caption(image)),
        ("captioning", lambda: bare.caption_logits(image, model.tokenize(["a"]))),
    ]:
        with pytest.raises(UserError, match=f"trained without the {loss} loss"):
            call()


def test_texts_are_no_ids(model):
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    for method, arguments in (("encode_text", (["a star"],)), ("caption_logits", (pixels, "a"))):
        unchecked = inspect.unwrap(getattr(LoadedModel, method))  # as users have it
        with pytest.raises(UserError, match=r"rows \[b, l\] of token ids: `tokenize` makes them"):
            unchecked(model, *arguments)


def test_a_single_path_is_one_image(model, image_paths):
    expected = model.preprocess(image_paths[:1])
    for path in (image_paths[0], pathlib.Path(image_paths[0])):
        np.testing.assert_array_equal(model.preprocess(path), expected)
        assert model.read_images(path)[1] == [None]
    with pytest.raises(UserError, match=r"^absent\.png cannot be read as an image"):
        model.preprocess("absent.png")


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 64, 64, 3), (1, 3, 32, 32), (2, 1, 32, 32, 3)])
def test_pixels_of_other_shapes_are_refused(model, shape):
    pixels, ids = np.zeros(shape, np.uint8), np.zeros((shape[0], 28), np.int32)
    wanted = re.escape(f"shape {[*shape]}, and should be [b, 32, 32, 3]: `preprocess` makes them")
    calls = [
        ("caption", ()),
        ("caption_logits", (ids,)),
        ("image_tokens", ()),
        ("log_probabilities", (["a"],)),
        ("attention_maps", (["a"] * shape[0],)),
        *([("encode_image", ())] if len(shape) < 5 else []),  # a clip of frames
    ]
    for method, arguments in calls:
        unchecked = inspect.unwrap(getattr(LoadedModel, method))  # as users have it
        with pytest.raises(UserError, match=wanted):
            unchecked(model, pixels, *arguments)


def test_a_clip_is_embedded_as_the_mean_of_its_frames(model, image_paths, tmp_path):
    frames = model.preprocess(image_paths)
    clip = model.preprocess([tmp_path], num_frames=3)  # the folder that the images are in
    np.testing.assert_array_equal(clip, frames[None])
    first, second, third = model.encode_image(frames)
    means = np.stack([first + second, second + third]) / 2
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    embeddings = model.encode_image(np.stack([frames[:2], frames[1:]]))
    np.testing.assert_allclose(embeddings, means, atol=1e-6)
    assert model.preprocess(image_paths[:1], num_frames=2).shape == (1, 2, 32, 32, 3)


def with_head(model, **head):
    """The same model with a new head."""
    config = dataclasses.replace(model.config, head=models.HeadConfig(3, **head))
    new = random_params(models.make_model(config))
    params = {**model.params, **{n: new[n] for n in new if n.startswith("head")}}
    partitioner = Partitioner(make_mesh({"data": 1, "fsdp": 1, "tensor": 1}))
    params = jax.device_put(params, partitioner.replicated)
    return LoadedModel(models.make_model(config), params, model.tokenizer, partitioner)


def test_a_head_classifies_images_and_texts(model, image_paths):
    pixels, texts = model.preprocess(image_paths), ["a red circle", "a star", "a blue ring"]
    alone = with_head(model)
    scores = alone.classify(pixels)
    assert scores.shape == (3, 3) and np.ptp(scores, axis=0).min() > 0
    np.testing.assert_allclose(alone.classify(pixels, texts), scores, atol=1e-6)
    reading = with_head(model, input="text")
    scores = reading.classify(pixels, texts)
    ids = model.tokenize(texts)
    read = (ids != 0).sum(axis=1) - 1  # all but the end
    module = models.make_model(reading.config)
    apply = jax.jit(functools.partial(module.apply, method="classify"))
    expected = apply({"params": reading.params}, pixels, ids, read)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    with pytest.raises(UserError, match="trained without the classification loss"):
        model.classify(pixels)
    with pytest.raises(UserError, match="reads 1 images of an example, and these have 2"):
        alone.classify(np.stack([pixels, pixels], axis=1))
    with pytest.raises(UserError, match="the model's head reads texts"):
        reading.classify(pixels)


def test_what_the_tokenizer_has_no_word_for_is_never_written(model, image_paths, monkeypatch):
    partitioner = Partitioner(make_mesh({"data": 1, "fsdp": 1, "tensor": 1}))
    bytes_only, seen = make_tokenizer("byte", ""), []  # 259 ids, of the model's 400
    monkeypatch.setattr(bytes_only, "decode", lambda ids: seen.append(ids) or [""] * len(ids))
    other = LoadedModel(models.make_model(model.config), model.params, bytes_only, partitioner)
    other.caption(model.preprocess(image_paths), method="sample", samples=4, temperature=5.0)
    ids = np.concatenate(seen)
    assert ids.max() < bytes_only.vocab_size and len(np.unique(ids)) > 30

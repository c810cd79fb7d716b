import copy
import json

import pytest
from fuzz.drawing import CHANGE, TEXT, edited, edits, encoded, put
from fuzz.running import fuzz
from hypothesis import strategies as st

from coca_jax.data.sources import SourceConfig, open_source
from coca_jax.data_tools.annotations import write_table
from coca_jax.data_tools.answer_vocab import write_answers
from coca_jax.errors import UserError
from coca_jax.evaluate.challenges import score_results

pytestmark = pytest.mark.slow

# The published formats; each file a JSON value, or several lines of one.
COCO = {
    "images": [{"id": i, "file_name": f"{i}.jpg"} for i in (1, 2)],
    "annotations": [{"id": i, "image_id": 1 + i % 2, "caption": f"a cat {i}"} for i in range(4)],
}
KARPATHY = {
    "images": [
        {"cocoid": i, "split": split, "filepath": "", "filename": f"{i}.jpg"}
        | {"sentences": [{"raw": "a cat"}, {"raw": "one cat"}]}
        for i, split in ((1, "test"), (2, "train"))
    ]
}
QUESTIONS = {
    "data_subtype": "val2014",
    "questions": [{"image_id": i, "question": "Is it?", "question_id": 10 + i} for i in (1, 2)],
}
ANSWERS = {
    "annotations": [
        {"question_id": 10 + i, "image_id": i, "answer_type": "yes/no"}
        | {"answers": [{"answer": "yes", "answer_id": n} for n in range(10)]}
        for i in (1, 2)
    ]
}
VIDEOS = {
    "videos": [{"video_id": f"video{i}", "id": i, "split": "train"} for i in (1, 2)],
    "sentences": [{"caption": "a car", "video_id": f"video{i}", "sen_id": i} for i in (1, 2)],
}
PAIRS = [
    {"identifier": f"dev-1-0-{i}", "sentence": "Two.", "label": "True", "synset": "dog"}
    for i in range(2)
]
ENTAILMENT = [
    {"Flickr30K_ID": str(i), "sentence2": "They sit.", "gold_label": "neutral", "pairID": f"{i}#0"}
    for i in (1, 2)
]
FORMATS = [[COCO], [KARPATHY], [QUESTIONS, ANSWERS], [QUESTIONS], [VIDEOS], PAIRS, ENTAILMENT]
IMAGES = ["1.jpg", "2.jpg", "video1.mp4", "video2.mp4", "dev-1-0-img0.png", "dev-1-0-img1.png"]
IMAGES += [f"COCO_val2014_{i:012}.jpg" for i in (1, 2)]


def written(folder, content, changes, damage):
    """The content's files, after changes to the values and then to the bytes."""
    is_lines, content = content in (PAIRS, ENTAILMENT), copy.deepcopy(content)
    for place, value in changes:
        put(content, place, value)
    texts = ["".join(json.dumps(row) + "\n" for row in content)] if is_lines else content
    paths = []
    for number, text in enumerate(texts):
        text = text if is_lines else json.dumps(text)
        paths.append(folder / f"{number}.json")
        paths[-1].write_bytes(edited(text.encode(), damage))
    return paths


CHANGES = st.lists(CHANGE, max_size=2)


@fuzz(
    70,
    content=st.sampled_from(FORMATS),
    changes=CHANGES,
    damage=edits(most=1),
    split=st.sampled_from(["", "", "test", "train"]),
)
def test_annotations_become_a_table_or_are_refused(folder, content, changes, damage, split):
    for name in IMAGES:
        (folder / name).write_bytes(encoded())
    output = folder / "table.jsonl"
    paths = written(folder, content, changes, damage)
    try:
        table = write_table(paths, folder, output, split)
    except UserError as error:
        assert changes or damage or split, error
        return
    source = open_source(SourceConfig(format="folder", path=str(output)))
    assert len(output.read_bytes().splitlines()) == table.rows == len(source)
    assert all(record["image"] for record in map(source.__getitem__, range(len(source))))
    try:
        write_answers([output], folder / "answers.txt", 1)
    except UserError:
        return


RESULTS = [{"image_id": i, "caption": "a cat"} for i in (1, 2)]
GIVEN = [{"question_id": 10 + i, "answer": "yes"} for i in (1, 2)]


@fuzz(
    30,
    content=st.sampled_from([(COCO, RESULTS), (KARPATHY, RESULTS), (ANSWERS, GIVEN)]),
    changes=CHANGES,
    result_changes=CHANGES,
    damage=edits(most=1),
    split=TEXT | st.just(""),
)
def test_results_are_scored_or_refused(folder, content, changes, result_changes, damage, split):
    content, results = copy.deepcopy(content)
    for place, value in changes:
        put(content, place, value)
    for place, value in result_changes:
        put(results, place, value)
    (folder / "a.json").write_text(json.dumps(content))
    (folder / "r.json").write_bytes(edited(json.dumps(results).encode(), damage))
    try:
        scores = score_results(folder / "a.json", folder / "r.json", split)
    except UserError as error:
        assert changes or result_changes or damage or split, error
        return
    assert scores

"""A sweep's page."""

import copy
import json
import re

from coca_jax.observe.report import write_report


def costs(step_seconds, memory_gib, flops):
    return {"step_seconds": step_seconds, "memory_gib": memory_gib, "flops": flops}


RESULTS = {
    "metrics": ["zero-shot", "CIDEr"],
    "steps": {"pretraining": 500, "questions": 250},
    "tables": {"objectives": ["one", "a_<b>"]},
    "rows": {
        "one": {
            "changes": [["loss.captioning.weight", 0.0]],
            "seeds": {
                "0": {"zero-shot": 0.5, "CIDEr": None, **costs(0.1, 2.0, 10)},
                "1": {"zero-shot": 0.7, "CIDEr": None, **costs(0.2, 2.0, 10)},
            },
        },
        "a_<b>": {
            "changes": [],
            "seeds": {"0": {"zero-shot": 0.9, "CIDEr": 1.5, **costs(0.12, 3.0, 13)}},
        },
    },
}


def test_the_page_has_every_number(tmp_path):
    (tmp_path / "compare.json").write_text(json.dumps(RESULTS))
    text = write_report(tmp_path).read_text()
    assert re.findall("<td>(.*?)</td>", text) == [
        *("0.600 ±0.141", "—", "1.000 ±0.000", "1.000 ±0.000", "1.000 ±0.000", "—"),
        *("0.900", "1.500", "1.200", "1.500", "1.300", "—"),  # of before total FLOPs were written
    ]
    assert re.findall('<th title="(.*?)">(.*?)</th>', text) == [
        ("loss.captioning.weight=0.0", "one"),
        ("no change", "a &lt;b&gt;"),
    ]
    assert "1 to 2 seeds: mean" in text and "relative to those of one." in text
    assert "500 steps of pretraining, then 250 steps of questions" in text
    assert "<title>one: 0.5000, 0.7000</title>" in text
    assert text.count('class="dots"') == 5 and text.count("<circle") == 13
    assert "<b>" not in text and "http" not in text


def test_titles_are_what_a_person_wrote(tmp_path):
    text = json.dumps(RESULTS).replace("objectives", "LoRA of ViT-B/16").replace("CIDEr", "a/B_c")
    (tmp_path / "compare.json").write_text(text)
    text = write_report(tmp_path).read_text()
    assert "<h2>LoRA of ViT-B/16</h2>" in text
    assert "<th>a/B c</th>" in text and "<h3>a/B c</h3>" in text


def test_rows_may_differ_in_steps_and_in_what_their_training_costs(tmp_path):
    results = copy.deepcopy(RESULTS)
    for name, steps in (("one", 500), ("a_<b>", 400)):
        for run in results["rows"][name]["seeds"].values():
            run |= {"training_flops": run["flops"] * steps * 8, "steps": {"pretraining": steps}}
    (tmp_path / "compare.json").write_text(json.dumps(results))
    text = write_report(tmp_path).read_text()
    assert "400 to 500 steps of pretraining, then 250 steps of questions" in text
    assert re.findall("<td>(.*?)</td>", text)[10:] == ["1.300", "1.040"]

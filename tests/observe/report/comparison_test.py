"""A comparison's page."""

import json
import xml.etree.ElementTree as ElementTree

from coca_jax.observe.report import write_report
from coca_jax.observe.report.charts import dot_chart

FOUND = {
    "metrics": ["zero-shot", "CIDEr"],
    "steps": {"pretraining": 500, "questions": 250},
    "tables": {"objectives": ["one", "a_<b>"]},
    "rows": {
        "one": {
            "changes": [["loss.captioning.weight", 0.0]],
            "seeds": {
                "0": {"zero-shot": 0.5, "CIDEr": None, "step_seconds": 0.1, "flops": 10},
                "1": {"zero-shot": 0.7, "CIDEr": None, "step_seconds": 0.2, "flops": 10},
            },
        },
        "a_<b>": {
            "changes": [],
            "seeds": {"0": {"zero-shot": 0.9, "CIDEr": 1.5, "step_seconds": 0.12, "flops": 13}},
        },
    },
}


def test_the_page_has_every_number(tmp_path):
    (tmp_path / "compare.json").write_text(json.dumps(FOUND))
    text = write_report(tmp_path).read_text()
    assert "<td>0.600 ±0.141</td><td>—</td><td>1.000 ±0.000</td>" in text
    assert "<td>0.900</td><td>1.500</td><td>1.200</td><td>1.300</td>" in text
    assert "1 to 2 seeds: mean" in text
    assert "loss.captioning.weight=0.0" in text and "no change" in text
    assert "a &lt;b&gt;" in text and "a_<b>" not in text
    assert "500 steps of pretraining, then 250 steps of questions" in text
    assert text.count('class="dots"') == 4
    assert "http" not in text.replace("http://www.w3.org", "")


def test_dots_lie_where_their_values_are():
    svg = ElementTree.fromstring(dot_chart({"a": [1.0, 3.0], "b": [2.0]}))
    low, high, middle = (float(circle.get("cx")) for circle in svg.iter("circle"))
    assert low < high and abs(middle - (low + high) / 2) < 0.11
    means = [float(line.get("x1")) for line in svg.iter("line") if line.get("class") == "mean"]
    assert means == [middle, middle]


def test_dots_of_one_value_everywhere():
    svg = ElementTree.fromstring(dot_chart({"a": [0.0], "b": [0.0]}))
    assert len({circle.get("cx") for circle in svg.iter("circle")}) == 1

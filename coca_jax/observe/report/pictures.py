"""The report's pictures: captions, attention, answers, what searches found, confused classes."""

from typing import Any

from etils import epath

from coca_jax.observe.report.captions import attention, captions, through_training
from coca_jax.observe.report.charts import confusion_chart
from coca_jax.observe.report.run import Run
from coca_jax.observe.report.text import esc, image, section, table


def pictures(run: Run) -> str:
    """Draws whatever artefacts the newest evaluation has left, and captions of earlier ones."""
    sections = []
    for name, found in run.artefacts.items():
        if samples := found.get("samples"):
            sections.append(captions(name, samples, run.artefacts_folder))
            sections.append(attention(name, samples, run.artefacts_folder))
            sections.append(through_training(name, run))
        if questions := found.get("questions"):
            sections.append(_questions(name, questions, run.artefacts_folder))
        if "text_to_image" in found:
            sections.append(_searches(name, found, run.artefacts_folder))
        if "confusion" in found:
            sections.append(_confusion(name, found))
        if pairs := found.get("confused"):
            sections.append(_most_confused(name, pairs))
    return "".join(sections)


def _questions(name: str, samples: list[dict[str, Any]], folder: epath.Path) -> str:
    right = sum(sample["accuracy"] >= 0.5 for sample in samples)
    lead = (
        f"{len(samples)} questions of {name}, evenly spaced, with the model's answers; {right} of "
        f"{len(samples)} are right."
    )
    cards = "".join(_answer(sample, folder) for sample in samples)
    return section("Questions", lead, f'<div class="grid samples">{cards}</div>')


def _answer(sample: dict[str, Any], folder: epath.Path) -> str:
    right = sample["accuracy"] >= 0.5
    badge = '<span class="badge">✓ right</span>' if right else ""
    expected = (
        "" if right else f'<span class="muted">people say: {esc(sample.get("given", "?"))}</span>'
    )
    return (
        f'<div class="card sample">{image(folder, sample["image"], sample["question"])}<div>'
        f"<p>{esc(sample['question'])}</p>"
        f'<p class="caption">{esc(sample["answer"]) or "(nothing)"}</p>'
        f'<div class="row">{badge}{expected}</div></div></div>'
    )


def _searches(name: str, found: dict[str, Any], folder: epath.Path) -> str:
    by_text = "".join(
        f'<div class="query"><div class="text">{esc(query["text"])}</div>'
        f'<div class="found">{_found_images(query["items"], folder)}</div></div>'
        for query in found["text_to_image"]
    )
    by_image = "".join(
        f'<div class="query">{image(folder, query["image"], "query")}'
        f'<ol class="texts">{_found_texts(query["items"])}</ol></div>'
        for query in found["image_to_text"]
    )
    lead = f"Some queries of {name} and the best of everything it holds; right ones are green."
    text_title, image_title = "<h3>Text to images</h3>", "<h3>Image to texts</h3>"
    body = f"{text_title}{by_text}<br>{image_title}{by_image}"
    return section("Retrieval", lead, body)


def _found_images(items: list[dict[str, Any]], folder: epath.Path) -> str:
    return "".join(
        f"<figure{_right(item)}>{image(folder, item['image'], 'found')}"
        f"{'✓ ' if item['right'] else ''}{item['score']:.3f}</figure>"
        for item in items
    )


def _found_texts(items: list[dict[str, Any]]) -> str:
    return "".join(
        f'<li{_right(item)}><span class="mark">{"✓" if item["right"] else ""}</span>'
        f'{esc(item["text"])}<span class="score">{item["score"]:.3f}</span></li>'
        for item in items
    )


def _right(item: dict[str, Any]) -> str:
    return ' class="right"' if item["right"] else ""


def _confusion(name: str, found: dict[str, Any]) -> str:
    lead = (
        f"Rows of {name} are the labels, columns the predictions, colours the share of the "
        "row; point at a square for its count."
    )
    chart = confusion_chart(found["confusion"], found["class_names"])
    return section("Confusion", lead, f'<div class="scroll">{chart}</div>')


def _most_confused(name: str, pairs: list[dict[str, Any]]) -> str:
    lead = f"What {name} has taken for another class most often: the label, and for what."
    rows = {
        esc(f"{pair['label']} → {pair['prediction']}"): f"{pair['count']:,} of {pair['of']:,}"
        for pair in pairs
    }
    return section("Confusion", lead, table(rows))

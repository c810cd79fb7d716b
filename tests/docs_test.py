"""README and docs name files, headings, commands and configuration keys that exist."""

import pathlib
import re
import shlex

import pytest

from coca_jax.cli.parser import make_parser
from coca_jax.config import packaged
from coca_jax.config.tree import default_config, field_of

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SITE = [*(ROOT / "docs/api").glob("*.md"), *(ROOT / "docs/notebooks").glob("*.md")]
FENCED = re.compile(r"^```([\w{}-]*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(
    r"\b(?:coca_jax|tests|configs|benchmarks|launch)/[\w/]+\.(?:py|sh|yaml|json|npz)\b"
)
KEY = re.compile(
    r"`((?:model|loss|head|init|optimizer|train|checkpoint|data|mesh|sharding|distributed|watchdog"
    r"|profile)\.[a-z_.]+[a-z_])(?==|`)"
)
FILES = (".png", ".jsonl", ".model", ".json", ".py")  # names in backticks that are not keys
OWN = ("configs/mine.py",)  # a file for the reader to write
METHODS = (ROOT / "coca_jax/inference/model.py").read_text()
OPTIONS = (ROOT / "docs/configuration.md").read_text()  # of evaluations, by kind


def prose(page):
    return FENCED.sub("", page.read_text())


def anchors(page):
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def commands(page):
    """Calls of `coca` with all of their arguments, in blocks and in sentences."""
    blocks = [body for language, body in FENCED.findall(page.read_text()) if language == "bash"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    inline = re.findall(r"`(coca [^`]*--config [^`]+)`", prose(page))
    for line in [*lines, *inline]:
        if re.match(r"coca (?!--)", line) and "..." not in line:
            yield line.replace("K/", "1/")


@pytest.mark.parametrize("page", [*PAGES, *SITE], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    for name in FILE.findall(page.read_text()):
        assert name in OWN or (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_accepted(page):
    for line in commands(page):
        options, rest = make_parser().parse_known_args(shlex.split(line, comments=True)[1:])
        assert all(word.startswith("--config.") for word in rest), line
        if "config" in options:
            name = options.config.partition(":")[0]
            known = name in ("C", "FILE", *OWN, *packaged.names())
            assert known or "{" in name or (ROOT / name).exists(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_keys_exist(page):
    text = page.read_text()
    keys = set(re.findall(r"--config\.([a-z_0-9.]+)=", text))
    keys |= {key for key in KEY.findall(text) if not key.endswith(FILES)}
    for key in keys:
        method = f"    def {key.removeprefix('model.')}("
        option = key.startswith("eval.") and f"| `{key.split('.')[-1]}` |" in OPTIONS
        assert option or method in METHODS or field_of(key) or is_section(key), key


def is_section(key):
    section = default_config()
    for name in key.split("."):
        if name not in section:
            return False
        section = section[name]
    return True

import pytest

from coca_jax.config import build, default_config, differences, load_config, to_json
from coca_jax.errors import UserError
from coca_jax.evaluate.registry import evaluations
from coca_jax.losses.registry import losses
from coca_jax.train.optimizers import optimizers
from coca_jax.validation import validate

SHAPES = "configs/shapes.py"


def test_file_argument_and_overrides():
    config = load_config(
        f"{SHAPES}:smoke",
        [
            "--config.optimizer.learning_rate=3e-4",
            "--config.mesh.fsdp=2",
            "--config.data.train.flip=true",
            "--config.model.pooler.kind=parallel",
            "--config.optimizer.learning_rates=[('image_encoder.*', 0.0), ('.*', 1.0)]",
        ],
    )
    assert config.train.steps == 8
    assert config.optimizer.learning_rate == 3e-4
    assert config.mesh.fsdp == 2
    assert config.data.train.flip is True
    assert config.model.pooler.kind == "parallel"
    assert config.optimizer.learning_rates == (("image_encoder.*", 0.0), (".*", 1.0))


def test_a_data_set_of_a_mixture_can_be_given_any_of_its_keys(tmp_path):
    file = tmp_path / "mixed.py"
    file.write_text(
        "from coca_jax.config import default_config\n"
        "def get_config(argument):\n"
        "    config = default_config()\n"
        "    config.data.sources = {'a': {'split': 'test'}}\n"
        "    return config\n"
    )
    set_here = ["--config.data.sources.a.weight=2", "--config.data.sources.a.exclude_list=x.tsv"]
    config = load_config(str(file), set_here)
    assert config.data.sources.a.to_dict() == {
        "split": "test",
        "weight": 2.0,
        "exclude_list": "x.tsv",
    }
    with pytest.raises(UserError, match=r"config\.data\.sources\.a\.wieght does not exist"):
        load_config(str(file), ["--config.data.sources.a.wieght=2"])


def test_every_error_is_in_one_message():
    with pytest.raises(UserError) as caught:
        load_config(
            SHAPES,
            [
                "--config.optimizer.learnin_rate=1",
                "--config.train.steps=many",
                "--config.train=3",
                "--config.nothing.at.all=1",
                "--config.data.train.flip=perhaps",
                "--config.model.image.sequence_lengths=64",
                "--config.model.image.sequence_lengths=(0,)",
            ],
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 7
    assert "did you mean config.optimizer.learning_rate?" in lines[0]
    assert lines[1] == "config.train.steps='many' should be a whole number from 1 to 2,147,483,647"
    assert lines[2].startswith("config.train is a section; set one of its keys: batch_size, epochs")
    assert lines[3].startswith("config.nothing does not exist")
    assert lines[4].startswith("config.data.train.flip='perhaps' should be True or False")
    one = "a list of any number of: a whole number from 1 to 65,536"
    assert lines[5].endswith(f"='64' should be {one}; a list is written as (1, 2) or ('a',)")
    assert lines[6].endswith(f"=(0,) should be {one}")


def test_unknown_argument():
    with pytest.raises(UserError, match="'tiny' is not known; there is 'smoke'"):
        load_config(f"{SHAPES}:tiny")


def test_differences_names_keys_and_values_but_for_the_free_ones():
    stored, config = to_json(default_config()), default_config()
    config.seed, config.mesh.fsdp = 3, 4
    config.optimizer.weight_decays = ((".*", 1.0),)
    found = differences(stored, to_json(config), free=("mesh",))
    assert found[1] == "config.seed: 0 there, 3 now"
    assert found[0].startswith("config.optimizer.weight_decays: [[")
    assert len(found) == 2


def test_names_of_classes_are_read_from_their_file(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("cat\n dog \n\n")
    config = load_config("configs/shapes.py", [f"--config.head.class_file={file}"])
    assert config.head.classes == ("cat", "dog")
    with pytest.raises(UserError, match="both name the classes"):
        load_config("configs/shapes_vqa.py", [f"--config.head.class_file={file}"])
    with pytest.raises(UserError, match=r"class_file='nowhere\.txt': .* cannot be read"):
        load_config("configs/shapes.py", ["--config.head.class_file=nowhere.txt"])
    with pytest.raises(UserError, match="cannot be read: File name too long") as caught:
        load_config("configs/shapes.py", [f"--config.head.class_file={'x' * 900}"])
    assert len(str(caught.value)) < 600
    file.write_text("cat\n\ndog\n")
    with pytest.raises(UserError, match=r"classes\.txt:2 is blank"):
        load_config("configs/shapes.py", [f"--config.head.class_file={file}"])


def test_an_evaluation_can_be_given_the_options_of_its_kind():
    config = load_config(
        f"{SHAPES}:smoke",
        [
            "--config.eval.retrieval.format=folder",
            "--config.eval.retrieval.path=[D]/images",
            "--config.eval.captioning.method=beam",
            "--config.eval.captioning.beams=3",
            "--config.eval.captioning.length_penalty=1",
            "--config.eval.captioning.limit=None",
            "--config.eval.zero_shot.templates=['a {}', 'the {}']",
            "--config.eval.zero_shot_novel.templates=imagenet",
            "--config.eval.zero_shot_novel.limit=1",
            "--config.eval.zero_shot_novel.limit=2",  # the last value of a key counts
        ],
    )
    validate(config)
    assert config.eval.captioning.beams == 3
    assert isinstance(config.eval.captioning.length_penalty, float)
    assert config.eval.captioning.limit is None
    assert config.eval.zero_shot.templates == ("a {}", "the {}")
    assert config.eval.zero_shot_novel.limit == 2
    comparison = load_config("configs/compare.py", ["--config.stages.questions.eval.vqa.beams=2"])
    assert comparison.stages.questions.eval.vqa.beams == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "eval.zero_shot.limti=1",
            "limti does not exist; did you mean config.eval.zero_shot.limit?",
        ),
        ("eval.zero_shot.limit=1.5", r"limit='1.5' should be None, or a whole number from 1"),
        ("eval.zero_shot.limit=0", r"limit=0 should be None, or a whole number from 1"),
        ("eval.new.limit=1", r"config.eval.new does not exist"),
        ("eval.zero_shot.beams=3", r"config.eval.zero_shot.beams does not exist"),
        ("eval.captioning.limt.x=3", r"config.eval.captioning.limt does not exist; did you mean"),
        ("eval=5", "config.eval is a section; set one of its keys: captioning, "),
        ("data.sources=5", "config.data.sources is a section$"),
        ("data.sources.a.weight=1", "config.data.sources.a does not exist"),
        ("=5", "config. does not exist"),
        (
            "train.steps.x=5",
            "config.train.steps.x does not exist; did you mean config.train.steps?",
        ),
    ],
)
def test_options_that_an_evaluation_cannot_be_given(override, message):
    with pytest.raises(UserError, match=message):
        validate(load_config(SHAPES, [f"--config.{override}"]))


REGISTERS = """
import dataclasses
from coca_jax.config import default_config
from coca_jax.evaluate.base import Evaluation
from coca_jax.evaluate.registry import evaluations
from coca_jax.fields import field, integer
from coca_jax.losses.base import Loss
from coca_jax.losses.registry import losses
from coca_jax.train.optimizers import optimizers

@losses.register("mine")
@dataclasses.dataclass(frozen=True)
class Mine(Loss):
    size: int = field(3, "Pixels.", integer(1, 8))
    reads = ("image_embeddings",)

    def __call__(self, output, batch):
        return output.image_embeddings.mean(), {}

@evaluations.register("count")
@dataclasses.dataclass(frozen=True)
class Count(Evaluation):
    depth: int = field(1, "Levels.", integer(1, 4))

    def run(self, model, data):
        return {}, {}

optimizers.register("mine")(lambda options: None)

def get_config(argument=None):
    config = default_config()
    config.optimizer.name = "mine"
    config.eval = {"a": {"kind": "count", "name": "shapes", "split": "test"}}
    return config
"""


def test_a_file_may_register_what_its_configuration_names(tmp_path, monkeypatch):
    for registry in (losses, evaluations, optimizers):
        monkeypatch.setattr(registry, "_added", {})
    (tmp_path / "c.py").write_text(REGISTERS)
    options = ["--config.loss.mine.size=5", "--config.eval.a.depth=2"]
    config = load_config(str(tmp_path / "c.py"), options)
    validate(config, 8)
    typed = build(config)
    assert typed.loss.mine == losses["mine"](size=5) and typed.eval.a.depth == 2
    config.loss.mine.size, config.eval.a.depth = 9, 5
    with pytest.raises(UserError) as caught:
        validate(config, 8)
    assert str(caught.value).splitlines() == [
        "config.loss.mine.size=9 should be a whole number from 1 to 8",
        "config.eval.a.depth=5 should be a whole number from 1 to 4",
    ]

import pytest

from coca_jax.config import default_config, differences, load_config, to_json
from coca_jax.errors import UserError

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
    set_here = ["--config.data.sources.a.weight=2", "--config.data.sources.a.leave_out=x.tsv"]
    config = load_config(str(file), set_here)
    assert config.data.sources.a.to_dict() == {"split": "test", "weight": 2.0, "leave_out": "x.tsv"}
    with pytest.raises(UserError, match=r"config\.data\.sources\.a\.wieght does not exist"):
        load_config(str(file), ["--config.data.sources.a.wieght=2"])


def test_every_mistake_is_in_one_message():
    with pytest.raises(UserError) as caught:
        load_config(
            SHAPES,
            [
                "--config.optimizer.learnin_rate=1",
                "--config.train.steps=many",
                "--config.train=3",
                "--config.nothing.at.all=1",
                "--config.data.train.flip=perhaps",
            ],
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 5
    assert "did you mean config.optimizer.learning_rate?" in lines[0]
    assert lines[1] == "config.train.steps='many' should be of type int, like 1000"
    assert lines[2].startswith(
        "config.train is a section; set one of its keys: accumulate, batch_size"
    )
    assert lines[3].startswith("config.nothing does not exist")
    assert lines[4].startswith("config.data.train.flip='perhaps' should be of type bool")


def test_unknown_argument():
    with pytest.raises(UserError, match="'tiny' is not known; there is 'smoke'"):
        load_config(f"{SHAPES}:tiny")


def test_differences_names_keys_and_values_but_for_the_free_ones():
    stored, config = to_json(default_config()), default_config()
    config.seed, config.mesh.fsdp = 3, 4
    config.optimizer.weight_decays = ((".*", 1.0),)
    found = differences(stored, to_json(config), free=("mesh.",))
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
    file.write_text("cat\n\ndog\n")
    with pytest.raises(UserError, match=r"classes\.txt:2 is blank"):
        load_config("configs/shapes.py", [f"--config.head.class_file={file}"])

"""The writer for Weights & Biases with a service that is a dictionary."""

import collections
import sys
import types

import pytest

from coca_jax.observe.writers.wandb import WandbOptions, WandbWriter


class Service:
    """Rows by their step, of which it takes none below the last; and a summary."""

    def __init__(self):
        self.rows, self.summary = collections.defaultdict(dict), {}

    def init(self, **arguments):
        return Attempt(self)


class Attempt:
    url, settings = "https://example.com/run", types.SimpleNamespace(sync_dir="")

    def __init__(self, service):
        self._service, self.summary = service, service.summary
        self.step = self.starting_step = max(service.rows, default=-1) + 1

    def define_metric(self, name, step_metric):
        pass

    def log(self, values, step):
        assert step >= self.step, "the service drops it"
        row = self._service.rows[step]
        assert not row.keys() & values.keys(), "the service overwrites it"
        row.update(values)
        self.summary.update(values)
        self.step = step

    def finish(self):
        pass


@pytest.fixture
def service(monkeypatch):
    service = Service()
    module = types.ModuleType("wandb")
    module.init, module.login = service.init, lambda prompt: True
    module.Settings = lambda **settings: settings
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return service


def points(service, name):
    return [row[name] for _, row in sorted(service.rows.items()) if name in row]


@pytest.mark.parametrize("every", [1, 2])
def test_a_late_evaluation_costs_no_training_point(tmp_path, service, every):
    steps, half = range(every, 5 * every, every), 2 * every

    def attempt(done, train, evaluated):
        writer = WandbWriter(tmp_path, done, WandbOptions())
        for step in train:
            writer.write(step, {"train/loss": float(step), "goodput/share": 1.0})
        for step in evaluated:
            writer.write(step, {"eval/a/top1": step / 10})
        writer.close()

    attempt(0, [s for s in steps if s <= half], [])
    attempt(half, [], [half])  # of the step at which the run was stopped
    attempt(half, steps, [half, steps[-1]])  # it knows which it has
    attempt(steps[-1], steps, [half, steps[-1]])
    assert points(service, "train/loss") == list(steps)
    assert points(service, "eval/a/top1") == [half / 10, steps[-1] / 10]
    assert points(service, "eval/a/step") == [half, steps[-1]]


def test_the_command_that_uploads_can_be_pasted(tmp_path, service, monkeypatch, capsys):
    monkeypatch.setattr(Attempt.settings, "sync_dir", "my runs/lr[1]/wandb")
    WandbWriter(tmp_path, None, WandbOptions(mode="offline"))
    assert "`wandb sync 'my runs/lr[1]/wandb'` uploads it" in capsys.readouterr().err

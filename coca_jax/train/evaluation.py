"""The evaluations of a run, on the parameters of its state."""

from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from coca_jax.config import to_json
from coca_jax.evaluate.metrics.undefined import defined
from coca_jax.evaluate.results import format_table, measured, write_results
from coca_jax.evaluate.runner import evaluate, missing_evals
from coca_jax.inference import LoadedModel
from coca_jax.observe.recorder import Recorder
from coca_jax.train.best import require_metric
from coca_jax.train.experiment import Experiment
from coca_jax.train.state import TrainState


class Evaluator:
    """Runs the configured evaluations; what it compiles serves all steps."""

    def __init__(self, experiment: Experiment):
        """Takes the run; nothing is computed."""
        self._experiment, program = experiment, experiment.program
        # Without parameters, which would stay in memory between evaluations.
        self._model = LoadedModel(program.model, None, experiment.tokenizer, program.partitioner)

    def missing(self, step: int) -> ConfigDict:
        """The evaluations that the model can do and that this step has no results of."""
        config, model = self._experiment.config, self._experiment.program.model.config
        done = measured(self._experiment.workdir, step, to_json(config.eval))
        return missing_evals(config, model, done)

    def run(
        self,
        step: int,
        state: TrainState,
        recorder: Recorder,
        evaluations: ConfigDict | None = None,
        should_stop: Callable[[], bool] = bool,
    ) -> dict[str, Any]:
        """Runs evaluations, writes their files and records their metrics.

        Args:
          step: the state's.
          state: its average of the parameters is evaluated, if it has one.
          recorder: gets the metrics, shows a table of them, and what the evaluations drew.
          evaluations: those to run; None: all that are configured.
          should_stop: whether to leave out what has no results yet (see `evaluate`).

        Returns:
          The metrics, by names such as `eval/zero_shot/top1`.

        Raises:
          UserError: evaluations failed on their data, or none has the metric of
            `checkpoint.keep_best`; the results that there are have been written and recorded.
        """
        config = self._experiment.config
        results = evaluate(self._with(state), config, evaluations, should_stop)
        metrics = results.metrics
        if metrics and jax.process_index() == 0:
            options = to_json(config.eval)
            write_results(self._experiment.workdir, step, metrics, results.artifacts, options)
            recorder.print(format_table(metrics))
            recorder.write_samples(step, results.artifacts)
        scalars = {
            f"eval/{name}/{metric}": value
            for name, values in metrics.items()
            for metric, value in defined(values).items()
        }
        # Before any error: results in eval/<step>.json are not computed again.
        recorder.write(step, scalars)
        results.raise_failures()
        require_metric(config, metrics)
        return scalars

    def _with(self, state: TrainState) -> LoadedModel:
        params = state.params if state.ema is None else state.ema
        return self._model.with_params(self._experiment.program.merged(state.frozen, params))

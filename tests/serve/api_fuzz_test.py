"""Requests that Schemathesis generates of the OpenAPI document, valid and malformed."""

import pytest
from hypothesis import HealthCheck, given, settings
from serve.conftest import encoded, png

from coca_jax.evaluate.generation import LIMITS as LIMITS_OF_TEXTS
from coca_jax.generate import Decoding, make_method
from coca_jax.inference import Caption
from coca_jax.serve.app import make_app
from coca_jax.serve.bodies import FORM, JSON
from coca_jax.serve.limits import Limits
from coca_jax.serve.service import Served, Service

pytestmark = pytest.mark.slow
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from schemathesis.specs.openapi.checks import (  # noqa: E402
    negative_data_rejection,
    positive_data_acceptance,
)

CHECKED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def app(model):
    """The application, without the time that captions would take to compile for any options."""
    service = Service(Served(model, "tiny"), Limits(max_batch=4, max_pixels=10_000))

    def caption(rows, method="greedy", seed=None, **options):
        limits = {name: options.pop(name) for name in LIMITS_OF_TEXTS if name in options}
        Decoding(0, 1, 2, **({"length": 28} | limits))
        make_method(method, options)
        return [Caption("a ring", -1.0, (Caption("a star", -2.0),))] * len(rows)

    service.operations.caption = caption
    yield make_app(service)
    service.close()


MODES = (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def operations(app):
    document = schemathesis.openapi.from_asgi("/openapi.json", app)
    return [result.ok() for result in document.get_all_operations()]


def check(operation, mode, prepare=lambda case: None):
    """Sends generated requests; their answers must be as the document says, and no failures."""

    @CHECKED
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        prepare(case)
        excluded = [positive_data_acceptance]  # a valid text need not be an image in base64
        if case.media_type == FORM:
            excluded.append(negative_data_rejection)  # in a form, everything is text
        case.call_and_validate(excluded_checks=excluded)

    send()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_every_answer_is_one_that_the_document_describes(operations, mode):
    assert len(operations) == 8
    for operation in operations:
        if mode == MODES[0] or operation.method == "post":
            check(operation, mode)


def test_options_are_taken_or_refused_but_never_fail(operations):
    """Valid requests whose images can be read."""
    image = encoded(png(0))

    def read(case):
        if isinstance(case.body, dict) and case.body.get("images"):
            case.media_type = JSON
            case.body["images"] = [image] * min(4, len(case.body["images"]))

    for operation in operations:
        if operation.method == "post":
            check(operation, MODES[0], read)

"""The service keeps to its own OpenAPI document, whatever is sent: generated requests over every route."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig
from schemathesis.specs.openapi.checks import positive_data_acceptance

from budget import examples
from checkpoints import INTENTS, SLOTTED, bert
from zhaiju.api import Model
from zhaiju.config import TrainSettings
from zhaiju.data.formats import ReadLog
from zhaiju.service.app import make_app
from zhaiju.service.documents import Documents
from zhaiju.service.limits import Settings
from zhaiju.service.work import Models, load_models
from zhaiju.training.run import TrainData, train

# Declared whatever is loaded, so nothing need be loaded to list them.
PATHS = make_app(Settings(), Models(Model({}))).openapi()["paths"]
ROUTES = [f"{method.upper()} {path}" for path, methods in PATHS.items() for method in methods]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """All tasks, an index, and uploads: every route does its work."""
    folder = tmp_path_factory.mktemp("service")
    bert(folder / "bert")
    trained = TrainSettings(encoder=str(folder / "bert"), window=32, lr=1e-2, max_steps=2, threads=1)
    for task, rows in (("intent", INTENTS), ("slots", SLOTTED)):
        train(task, trained, TrainData(rows, rows, [], ReadLog()), folder / task)
    models = load_models(intent=str(folder / "intent"), slots=str(folder / "slots"))
    app = make_app(Settings(uploads=True, deadline=120.0), models, Documents(str(folder / "notes.index"), create=True))
    yield app
    app.state.worker.close(drain=False)


@pytest.fixture(scope="module")
def api(app):
    generation = GenerationConfig(deterministic=True, database="none")
    config = schemathesis.Config(seed=0, projects=ProjectsConfig(default=ProjectConfig(generation=generation)))
    return schemathesis.openapi.from_asgi("/openapi.json", app, config=config)


def check(case):
    # A file that is well described may still be no PDF, or hold no text: only the service can say so.
    uploading = case.operation.label == "POST /v1/documents"
    case.call_and_validate(excluded_checks=[positive_data_acceptance] if uploading else None)


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_keeps_to_its_description(api, route):
    """No 500; the status, content type and body that are declared; bad requests refused and good ones taken."""
    operation = api.find_operation_by_label(route)

    @settings(max_examples=examples(10), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.one_of(*(operation.as_strategy(mode) for mode in GenerationMode)))
    def send(case):
        check(case)

    send()


@pytest.mark.parametrize("route", ROUTES)
def test_edges_and_other_methods(api, route):
    """Every boundary that the description draws, crossed once, and every method that it does not name: 405."""
    operation = api.find_operation_by_label(route)
    cases = list(
        api.iter_coverage_cases(
            operation, generation_modes=list(GenerationMode), generation_config=api.config.generation
        )
    )
    assert cases
    for case in cases:
        check(case)

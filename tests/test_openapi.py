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
from zhaiju.corpus.documents import Paragraph
from zhaiju.corpus.index import Entry, Index
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
def models(tmp_path_factory):
    """All tasks."""
    folder = tmp_path_factory.mktemp("dialogue")
    bert(folder / "bert")
    trained = TrainSettings(encoder=str(folder / "bert"), window=32, lr=1e-2, max_steps=2, threads=1)
    for task, rows in (("intent", INTENTS), ("slots", SLOTTED)):
        train(task, trained, TrainData(rows, rows, [], ReadLog()), folder / task)
    return load_models(others=[str(folder / "intent"), str(folder / "slots")])


@pytest.fixture
def api(models, tmp_path):
    """The description of a service whose routes all do their work; it lives as long as the test."""
    notes = str(tmp_path / "notes.index")
    Index.open(notes, create=True).commit(
        [Entry("notes.md", "1", [Paragraph("林師傅在河邊修船。", "notes.md", line=1)])]
    )
    app = make_app(Settings(uploads=True, deadline=120.0), models, Documents(notes))
    generation = GenerationConfig(deterministic=True, database="none")
    config = schemathesis.Config(seed=0, projects=ProjectsConfig(default=ProjectConfig(generation=generation)))
    yield schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    app.state.worker.close(drain=False)


def check(case):
    response = case.call()
    unforeseen = response.status_code == 422 and is_beyond_description(case, response.json()["error"])
    case.validate_response(response, excluded_checks=[positive_data_acceptance] if unforeseen else None)


def is_beyond_description(case, error):
    """Whether only the service can know what is at fault: a limit, a reader's window, what a document is."""
    uploading = case.operation.label == "POST /v1/documents"
    return uploading or error["code"] == "too_long" or "does not fit the window" in error["message"]


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

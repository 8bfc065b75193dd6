"""Views of the microscope as a page: one file without scripts, light and dark, that fetches nothing.

Texts in it are other people's: Jinja escapes them, and the page's policy forbids scripts. Equal views give equal bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from minimind.data.pages import template
from minimind.tokens.microscope import Slide, View, view_step
from minimind.tokens.trainings import Training

FIRST_STEPS = 3
MAX_TOKENS = 16_000
"""On a page of first steps: about 1.5 MB."""
TEMPLATES = Path(__file__).parent / "templates"


def page_of(views: Sequence[View], *, title: str, facts: Mapping[str, str]) -> str:
    """The page as HTML."""
    return template(TEMPLATES / "microscope.html.j2").render(title=title, facts=facts, views=views)


def first_steps_page(training: Training) -> str:
    """What a training gets in its first steps, as many rows of each as the page has room for."""
    slides = [Slide.of(artifact, "train") for artifact in training.token_sets]
    batches = training.open()
    max_rows = max(2, MAX_TOKENS // FIRST_STEPS // training.length)
    views = [
        view_step(slides, batches, step, max_rows=max_rows) for step in range(1, min(FIRST_STEPS, training.steps) + 1)
    ]
    facts = {training.label: training.fingerprint, **training.facts()}
    return page_of(views, title=f"{training.label}: first steps", facts=facts)

"""A run of the head alone on a backbone that an earlier run left a template of: no Keras, no backend.

The frozen part is stored, its graph is there for images that are new, the head is solved in NumPy, and its
weights are put into the template. What comes out is what the run through Keras makes; see `deploy.template`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from regraft.clock import Clock
from regraft.console import TERMINAL, say
from regraft.data.catalog import Catalog
from regraft.data.decode import DECODER
from regraft.data.workers import DecodeAhead
from regraft.deploy.template import Filled, Template, keep_template, template_there
from regraft.features.store import Store
from regraft.findings import warned
from regraft.outcome import UNTOUCHED, Decision, Outcome
from regraft.prepare import extracted, is_name, open_backbone, parted, say_backbone
from regraft.recipe import TAPPED, Recipe
from regraft.tasks import TASKS
from regraft.training.progress import Progress
from regraft.units import units_of
from regraft.versions import keras_home, versions

if TYPE_CHECKING:
    import keras

    from regraft.backbone.cut import Cut
    from regraft.backbone.load import Backbone
    from regraft.features.extract import Features
    from regraft.training.heads import FoundHead
    from regraft.training.material import Material
    from regraft.training.solving import Weights

__all__ = ["expected", "find_template", "keeper", "learn_head"]


def expected(recipe: Recipe, store: Store) -> bool:
    """Whether there is probably a template for a recipe, so that Keras need not be imported meanwhile."""
    return _is_plain(recipe) and template_there(store, _place(recipe))


def find_template(catalog: Catalog, recipe: Recipe, store: Store) -> Template | None:
    """The template of an `expected` recipe for a catalog; None where this run has to go through Keras."""
    if any(sample.more for sample in catalog.samples):
        return None
    return Template.find(store, _place(recipe), _question(catalog, recipe, _weights(recipe)))


def keeper(
    listed: Catalog, whole: Cut, found: FoundHead, material: Material, features: Features
) -> Callable[[keras.Model, Path], None] | None:
    """What keeps a run's model file as a template once it is written; None where it cannot be one.

    Args:
        listed: the catalog that the model was made for, before anything was refused.
        whole, found, material, features: of the run.
    """
    recipe, store, head = material.recipe, material.store, found.linear(material)
    if not _is_plain(recipe) or any(sample.more for sample in listed.samples) or head is None:
        return None
    place, question = _place(recipe), _question(listed, recipe, material.backbone.weights)

    def keep(model: keras.Model, file: Path) -> None:
        if Template.find(store, place, question) is None:
            keep_template(
                store,
                place,
                question,
                model=model,
                file=file,
                prefix=whole.prefix,
                names=material.names,
                facts=material.backbone,
                fingerprint=features.fingerprint,
                head=head,
            )

    return keep


def learn_head(
    template: Template,
    catalog: Catalog,
    recipe: Recipe,
    *,
    store: Store,
    ahead: DecodeAhead | None,
    clock: Clock,
    progress: Progress,
) -> Outcome:
    """What `run.learn` does once the images are listed, for a recipe that `find_template` answered."""
    from regraft.features.network import RememberedNetwork
    from regraft.training.linear import LinearHead
    from regraft.training.material import Material
    from regraft.training.solving import solve_head, solver_for

    facts = template.facts
    with clock("load"):
        progress.expect(recipe=asdict(replace(recipe, data="")), handed=(), version=versions())
        say_backbone(facts)
        network = RememberedNetwork(template.fingerprint, facts.image_size, lambda: _prefix(recipe, catalog))
    with clock("features"):
        features = extracted(network, catalog, recipe, store, ahead)
        recipe = replace(recipe, precision=features.precision)
        units = units_of(catalog)
        catalog, leaks, cautions = parted(catalog, features, recipe)
    with clock("head"):
        nothing_built = cast("Backbone", facts)  # nor trained: a head that is solved asks for facts only
        material = Material(recipe, catalog, nothing_built, store, (features,), template.names)
        solution = solve_head(material, solver_for(recipe.head.solver, catalog.task), reporter=TERMINAL)
        head = LinearHead.solved(*cast("Weights", solution.linear), TASKS[catalog.task].activation, units)
    with clock("fine-tune"):
        say(UNTOUCHED)
    with clock("evaluate"):
        scored = [part for part in ("test", "validation") if catalog.part(part)]
        answers = {part: head.answers(material.inputs(catalog.part(part))) for part in scored}
    outcome = Outcome(
        recipe,
        catalog,
        facts,
        Filled(template, head),
        features,
        solution.words,
        Decision(UNTOUCHED),
        {part: (found, found) for part, found in answers.items()},
        clock.seconds,
        leaks=leaks,
    )
    return warned(outcome, cautions)


def _is_plain(recipe: Recipe) -> bool:
    """Whether the head alone is solved, as one Dense layer on what a backbone of the table ends with."""
    head = recipe.head
    solved = head.linear and head.taps == "last" and head.solver in TAPPED and head.solver != "gradient"
    seen_once = recipe.view_count == 1 and not recipe.feature_noise
    return solved and seen_once and not recipe.phases and not recipe.pixels and is_name(recipe.backbone)


def _place(recipe: Recipe) -> str:
    """Names the backbone and the form of the head."""
    head = replace(recipe.head, solver="auto")
    return f"{recipe.backbone} {recipe.weights} {recipe.image_size} {recipe.seed} {head}"


def _question(catalog: Catalog, recipe: Recipe, weights: str) -> str:
    """Everything that the model file and its features depend on, but the head's arrays."""
    settings = keras_home() / "keras.json"
    facts = {
        "place": _place(recipe),
        "weights": weights,
        "task": catalog.task,
        "outputs": len(catalog.outputs),
        "units": units_of(catalog),
        "decoder": DECODER,
        "versions": versions(),
        "settings": settings.read_text("utf-8", "replace") if settings.is_file() else "",
        "environment": sorted(f"{name}={value}" for name, value in os.environ.items() if "KERAS" in name),
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def _weights(recipe: Recipe) -> str:
    """Where the backbone's weights come from, as `load_backbone` says it."""
    from regraft.backbone.weights import find_weights
    from regraft.backbone.zoo import find

    entry = find(recipe.backbone)
    size = entry.size_at(recipe.image_size)
    return find_weights(entry, recipe.weights, size=size, seed=recipe.seed).provenance


def _prefix(recipe: Recipe, catalog: Catalog) -> keras.Model:
    """The network itself, where OpenVINO can no longer run what is kept of it."""
    from regraft.grafting import grafted

    return grafted(open_backbone(recipe), catalog, recipe, None, ())[1].prefix

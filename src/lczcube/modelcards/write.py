"""Writing item and card into a model folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lczcube.catalog.documents import as_text
from lczcube.errors import ModelError
from lczcube.modelcards.card import model_card
from lczcube.modelcards.facts import ModelFacts, facts_of_run
from lczcube.modelcards.item import CARD_NAME, ITEM_NAME, model_item
from lczcube.models.meta import META_NAME, read_meta


def write_model_documents(folder: str | Path, facts: ModelFacts) -> tuple[Path, Path]:
    """Write ``item.json`` and ``card.md`` into a model folder, each whole or not at all.

    Parameters
    ----------
    folder : str or pathlib.Path
        A saved model, ``RUN/models/NAME``: links to labels lead to ``RUN/catalog``.
    facts : ModelFacts
        Of the same model.

    Returns
    -------
    tuple of pathlib.Path
        Item and card. The same model and facts give the same bytes.

    Raises
    ------
    MissingInputError
        If there is no model in ``folder``.
    ModelError
        If the facts are of another model.
    """
    path = Path(folder)
    if read_meta(path) != facts.meta:
        raise ModelError(f"{path} holds another model than the facts tell of; read them again.")
    texts = {ITEM_NAME: as_text(model_item(facts, path)), CARD_NAME: model_card(facts)}
    for name, text in texts.items():
        partial = path / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(path / name)
    return path / ITEM_NAME, path / CARD_NAME


def write_run_models(
    folder: str | Path,
    *,
    manifest: Mapping[str, Any] | None = None,
    kinds: Sequence[str] | None = None,
    scores: bool = True,
) -> list[Path]:
    """Item and card of the models of a run folder; with scores once it is evaluated.

    Parameters
    ----------
    folder : str or pathlib.Path
        The run folder.
    manifest : mapping, optional
        What its maps are made of. Default: what the store of one of them says.
    kinds : sequence of str, optional
        Folders in ``models/``; those that are not there are passed over. Default: all, also those
        that another city file left.
    scores : bool
        False leaves out the scores that the folder holds, as they are of older models.

    Returns
    -------
    list of pathlib.Path
        The items.

    Raises
    ------
    MissingInputError
        As :func:`facts_of_run`.
    """
    found = sorted(path.parent for path in Path(folder).glob(f"models/*/{META_NAME}"))
    return [
        write_model_documents(
            model, facts_of_run(folder, model.name, manifest=manifest, scores=scores)
        )[0]
        for model in found
        if kinds is None or model.name in kinds
    ]

"""What a model folder says of its model: a STAC item with the MLM extension, and a card."""

from lczcube.modelcards.facts import ModelFacts, facts_of_run
from lczcube.modelcards.write import write_model_documents, write_run_models

__all__ = ["ModelFacts", "facts_of_run", "write_model_documents", "write_run_models"]

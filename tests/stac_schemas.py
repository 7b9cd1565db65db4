"""Validation by the schemas of extensions, with what they refer to at hand and no network."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from pyproj.datadir import get_data_dir
from pystac.validation.local_validator import get_local_schema_cache
from referencing import Registry
from referencing.jsonschema import DRAFT7

from lczcube.sources.items import LCZCUBE_URI
from tests.test_catalog import CORE, SCHEMAS, our_schema

EXTENSIONS = "https://stac-extensions.github.io"
STAND_INS = {
    # The newest that is at hand; of classes both say the same but for what v2 no longer wants.
    f"{EXTENSIONS}/classification/v2.0.0/schema.json": "classification-v1.1.0",
    # What mlm refers to: the definition of an expression, the same in both.
    f"{EXTENSIONS}/processing/v1.1.0/schema.json": "processing-v1.2.0",
}

_RASTER = {
    # The one definition of it that mlm refers to.
    "definitions": {
        "bands": {
            "items": {
                "properties": {"data_type": {"enum": ["uint8", "int8", "float16", "float32"]}}
            }
        }
    }
}


def require_valid(values: dict[str, Any]) -> int:
    """Validate by STAC 1.1 and by every extension that is declared; the number of these."""
    kind = {"Feature": "item"}.get(values["type"], values["type"].lower())
    registry = _registry()
    uris = values.get("stac_extensions", [])
    for uri in (f"{CORE}/{kind}-spec/json-schema/{kind}.json", *uris):
        jsonschema.Draft7Validator({"$ref": uri}, registry=registry).validate(values)
    return len(uris)


def _registry() -> "Registry[Any]":
    known = {**get_local_schema_cache(), LCZCUBE_URI: our_schema()}
    known |= {schema["$id"].rstrip("#"): schema for schema in map(_read, SCHEMAS.glob("*.json"))}
    for uri, name in STAND_INS.items():
        text = (SCHEMAS / f"{name}.json").read_text()
        version = uri.split("/")[-2]
        known[uri] = json.loads(text.replace(name.split("-")[1], version))
    known[f"{EXTENSIONS}/raster/v1.1.0/schema.json"] = _RASTER
    projjson = _read(Path(get_data_dir()) / "projjson.schema.json")
    known["https://proj.org/schemas/v0.7/projjson.schema.json"] = projjson
    return Registry().with_resources(
        [(uri, DRAFT7.create_resource(schema)) for uri, schema in known.items()]
    )


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values

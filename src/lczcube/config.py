"""City and catalog files: TOML in, checked and frozen values out.

A ``CATALOG.toml`` is a city file with only an ``id`` and ``[[input]]`` tables. Reading one opens
no other file; what a file can be wrong about is said here, in one line.
"""

import difflib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from lczcube.errors import ConfigError, MissingInputError
from lczcube.sources import SOURCES, AnyInput, Input
from lczcube.sources.files import redact
from lczcube.sources.inputs import Names, SafeName, Table, Year, as_texts
from lczcube.sources.osm_scheme import FEATURES

BBox = tuple[float, float, float, float]

RUN_FOLDERS = ("catalog", "models")
"""Folders of a run that are not a city's."""

Share = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
ClassCode = Annotated[str, Field(pattern=r"^([1-9]|1[0-7]|other)$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Statistic = Annotated[str, Field(pattern=r"^(mean|std|max|min|q[0-9]{2}|f-?[0-9]+)$")]


class City(Table):
    """A ``[city.NAME]`` table.

    Attributes
    ----------
    bbox : tuple of float
        ``(minx, miny, maxx, maxy)``, EPSG:4326, degrees.
    crs : str, optional
        CRS of the city's grid. Default: that of the anchor, else the UTM zone of the centre.
    donors, evaluate_on : tuple of str
        With ``split = "given"``: the publisher's splits that are trained on, and those that are
        scored. All of Nairobi's So2Sat patches lie in validation and testing, so there:
        ``donors = ["validation"]``, ``evaluate_on = ["testing"]``.
    """

    bbox: Annotated[BBox, Field(strict=False)]
    crs: str | None = None
    donors: Names = ("training",)
    evaluate_on: Annotated[Names, Field(min_length=1)] = ("validation", "testing")


class GridTable(Table):
    """The ``[grid]`` table: the lattice of every city, see :class:`lczcube.grid.Grid`.

    Attributes
    ----------
    pixel_m, cell_m : float
        Sides of a pixel and of a cell, m.
    stride_m : float, optional
        Side of an output pixel, m. Default: ``cell_m``.
    chunk_cells : int
        Side of a Dask chunk, in cells.
    anchor : str, optional
        Name of a raster input whose lattice and CRS the grid takes.
    """

    pixel_m: Positive = 10.0
    cell_m: Positive = 320.0
    stride_m: Positive | None = None
    chunk_cells: Count = 20
    anchor: str | None = None


class PropagateTable(Table):
    """The ``[propagate]`` table: pseudo-labels from nearest neighbours.

    Attributes
    ----------
    donors : str or tuple of str
        ``all`` cities pool their labels, each city uses its ``own``, or the named cities give.
    k : int
        Groups (polygons, patches that overlap) that vote, each by its nearest donor.
    power : float
        A vote weighs one over the distance to this power.
    balance : float
        0 leaves classes as frequent as they are among the donors' groups, 1 takes that out.
    merge : str
        ``pooled``: the k nearest groups of all donor cities vote; ``by_city``: those of each.
    standardise : str
        ``donors``: features become z-scores by the donors' mean and deviation. ``city``: each city
        by its own cells first, which takes out what shifts a whole city, and with it a little of
        what is truly different.
    weights : dict of str to float
        By feature input, how much its squared differences count; 1 where not named.
    pca : float, optional
        Share of the variance that principal components keep, in (0, 1). Default: the features.
    calibrate : str
        ``auto`` holds out what the cells of a city are to its donors: cities, blocks or polygons;
        or one of these; ``none`` takes the share of the vote for the confidence.
    cut : str
        ``confidence``: cells from ``min_confidence`` on are kept. ``precision``: from the
        confidence on at which ``target_precision`` of held-out votes were right. ``quantile``: of
        each class and city the surest ``keep_share``.
    min_confidence : float or dict of str to float
        The cut, 0-1; or by code, with ``other`` for all others (0.8 where not given).
    target_precision, keep_share : float
        For ``precision`` and ``quantile``, in (0, 1].
    novelty : float
        A cell farther from all donors than this share of held-out donors abstains; 1: none does.
    search : str
        ``exact``, ``pynndescent``, or ``auto``, which takes what is faster.
    exclude_eval_m : float
        No pseudo-label within this distance of an evaluation label, m.
    """

    donors: Literal["all", "own"] | Names = "all"
    k: Count = 10
    power: Annotated[float, Field(ge=0)] = 2.0
    balance: Annotated[float, Field(ge=0, le=1)] = 0.0
    merge: Literal["pooled", "by_city"] = "pooled"
    standardise: Literal["donors", "city"] = "donors"
    weights: dict[SafeName, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    pca: Annotated[float, Field(gt=0, lt=1)] | None = None
    calibrate: Literal["auto", "polygon", "block", "city", "none"] = "auto"
    cut: Literal["confidence", "precision", "quantile"] = "confidence"
    min_confidence: Probability | dict[ClassCode, Probability] = 0.8
    target_precision: Share = 0.8
    keep_share: Share = 0.3
    novelty: Share = 0.99
    search: Literal["auto", "exact", "pynndescent"] = "auto"
    exclude_eval_m: Annotated[float, Field(ge=0)] = 320.0


class OwnRule(Table):
    """A ``[rules.own.NAME]`` table: a rule of one's own.

    Attributes
    ----------
    lcz : int
        Its class, 11-17.
    features : tuple of str
        Features of OpenStreetMap that are the class.
    under : tuple of str
        Features that may lie under those without speaking against the class.
    """

    lcz: Annotated[int, Field(ge=11, le=17)]
    features: Annotated[Names, Field(min_length=1)]
    under: Names = ()

    @model_validator(mode="after")
    def _check_features(self) -> "OwnRule":
        named = (*self.features, *self.under)
        unknown = [name for name in named if name not in FEATURES]
        if unknown or len(set(named)) < len(named):
            raise ValueError(
                f"names {', '.join(unknown or named)}; name each once, of {', '.join(FEATURES)}"
            )
        return self


class RulesTable(Table):
    """The ``[rules]`` table: cells labelled by what OpenStreetMap has there.

    Attributes
    ----------
    osm : str or tuple of str
        Names of ``osm`` inputs. What any of them has, at any of its dates, counts.
    classes : tuple of str
        Natural classes that are labelled, of :data:`lczcube.labels.RULES`. Default: water alone.
    own : dict of str to OwnRule
        The ``[rules.own.NAME]`` tables; a class has one rule.
    min_cover, max_other : float
        Least share of a cell under features of its class, over 0.5 to 1, and most under others, 0
        to under 0.5.
    year : int, optional
        Year of the image: what began later is left out. Default: that of the features.
    weight : float
        Weight of such a label beside a drawn one in training.
    exclude_eval_m : float
        Cells that touch each other are one group; a group that comes within this distance of an
        evaluation label does not train what is scored on it, m.
    drop_far : bool
        Drop cells that look unlike the others of their class.
    deviations : float
        How far that is, in scaled median absolute deviations of the class.
    """

    osm: Annotated[tuple[str, ...], BeforeValidator(as_texts), Field(min_length=1)]
    classes: Annotated[
        tuple[Literal["water", "dense_trees", "scrub", "low_plants", "bare_rock"], ...],
        Field(strict=False),
    ] = ("water",)
    own: dict[SafeName, OwnRule] = Field(default_factory=dict)
    min_cover: Annotated[float, Field(gt=0.5, le=1)] = 0.95
    max_other: Annotated[float, Field(ge=0, lt=0.5)] = 0.05
    year: Year | None = None
    weight: Positive = 1.0
    exclude_eval_m: Annotated[float, Field(ge=0)] = 320.0
    drop_far: bool = True
    deviations: Positive = 3.0

    @field_validator("osm", "classes")
    @classmethod
    def _check_repeats(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise ValueError(f"names {', '.join(names)}; name each once")
        return names

    @model_validator(mode="after")
    def _check_rules(self) -> "RulesTable":
        both = sorted(set(self.classes) & set(self.own))
        if both:
            raise ValueError(
                f"has {both[0]!r} in classes and in own; give one of them another name"
            )
        if not (self.classes or self.own):
            raise ValueError(
                'has no rule; name classes, such as ["water"], or add [rules.own.NAME]'
            )
        return self


ModelKind = Literal["xgb", "xgb_pixels", "unet", "patch", "linear", "forest", "knn"]
"""Kinds of models that a run can train and keep."""


class RunTable(Table):
    """The ``[run]`` table: what is trained on what, and how it is scored.

    Attributes
    ----------
    features, labels : tuple of str
        Names of raster inputs and of label inputs.
    year : int, optional
        Year of the layers. Default: the only one they have.
    map_years : tuple of int
        Years that are mapped, by models of ``year``, into one store. Default: ``year`` alone.
    nearest_year : bool
        Take the nearest year of a layer that has none in ``year``.
    missing : str
        For a layer that a city lacks: ``refuse``, ``drop_layer`` (from all cities) or
        ``indicator`` (its features are NaN there, and a feature says if a city has it).
    engine : str
        What reads the files: ``native``, ``odc`` or ``stackstac``.
    split : str
        How folds are made: ``given``, ``block``, ``polygon``, ``city``, ``holdout`` or ``random``.
    folds, repeats : int
        Number of folds, and of seeds (``seed`` … ``seed + repeats - 1``).
    seed : int
        Seed of everything random.
    models : tuple of str
        Kinds of models that are trained and kept: ``xgb``, ``linear``, ``forest``, ``knn`` on
        features of cells, ``patch`` on their pixels, ``unet`` and ``xgb_pixels`` on pixels. The
        first of a zone a cell makes the map ``cells``, the first of a zone a pixel ``pixels``.
    baselines : tuple of str
        Kinds that are only scored; also ``forest_pixels``, a forest on the bare centre pixel.
    stats : tuple of str
        Statistics of a window: ``mean``, ``std``, ``max``, ``min``, quantiles (``q95``), shares of
        a class (``f11``).
    differences : tuple of (str, str)
        Pairs of bands whose normalised difference ``(a - b) / (a + b)``, of window means, is a
        feature too; ``B5`` is also every ``<date>_B5``.
    pseudo_weight : float
        Weight of a pseudo-label of confidence 1 beside a label in training; 0, the default, trains
        on labels alone: pseudo-labels did not help (docs/guide/propagate.md has the figures).
    pseudo_per_class : int
        Most pseudo-labels of a class and city that train a model on features.
    """

    features: Annotated[Names, Field(min_length=1)]
    labels: Annotated[Names, Field(min_length=1)]
    year: Year | None = None
    map_years: Annotated[tuple[Year, ...], Field(strict=False)] = ()
    nearest_year: bool = False
    missing: Literal["refuse", "drop_layer", "indicator"] = "refuse"
    engine: Literal["native", "odc", "stackstac"] = "native"
    split: Literal["given", "block", "polygon", "city", "holdout", "random"] = "polygon"
    folds: Annotated[int, Field(ge=2)] = 5
    repeats: Count = 1
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    models: Annotated[tuple[ModelKind, ...], Field(min_length=1, strict=False)] = ("xgb",)
    baselines: Annotated[tuple[ModelKind | Literal["forest_pixels"], ...], Field(strict=False)] = (
        "forest",
        "forest_pixels",
    )
    stats: Annotated[tuple[Statistic, ...], Field(min_length=1, strict=False)] = (
        "mean",
        "std",
        "max",
    )
    differences: Annotated[
        tuple[Annotated[tuple[str, str], Field(strict=False)], ...], Field(strict=False)
    ] = ()
    pseudo_weight: Annotated[float, Field(ge=0)] = 0.0
    pseudo_per_class: Count = 500

    @property
    def features_of_windows(self) -> dict[str, Any]:
        """What :func:`lczcube.aggregate` makes of a window, as its keyword arguments."""
        return {"stats": self.stats, "differences": self.differences}


class XgbTable(Table):
    """The ``[xgb]`` table: boosted trees; the names of :class:`lczcube.models.xgb.XgbParameters`.

    Attributes
    ----------
    rounds, max_depth : int
        Boosting rounds, and depth of a tree.
    learning_rate, subsample, colsample : float
        Shares in (0, 1]: of each tree, of the samples, of the features.
    min_child_weight : float
        Least sum of Hessians in a leaf.
    balance : float
        Class weights, 0 (none) to 1 (every class the same total weight).
    early_stopping : int
        Rounds without gain on held-out samples after which a fit ends; 0 is off.
    device : str
        ``cpu`` or ``cuda``.
    """

    rounds: Count = 100
    max_depth: Count = 6
    learning_rate: Share = 0.1
    subsample: Share = 0.7
    colsample: Share = 0.2
    min_child_weight: Annotated[float, Field(ge=0)] = 1.0
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5
    early_stopping: Annotated[int, Field(ge=0)] = 0
    device: Literal["cpu", "cuda"] = "cpu"


class NetworkTable(Table):
    """Settings of both networks; the names of :class:`lczcube.models.UnetParameters`.

    Attributes
    ----------
    epochs, batch : int
        Most passes over the training windows, and windows in a step.
    width, depth : int
        Channels of the first level, and number of levels.
    learning_rate : float
        Step of the optimiser, (0, 1].
    balance : float
        Class weights, 0 (none) to 1 (every class the same total weight).
    dice, noise : float
        Weight of the Dice loss, and noise on the normalised bands.
    band_dropout, layer_dropout, dropout : float
        Shares of channels, of layers but the first, and of last features hidden in training.
    early_stopping : bool
        Hold out one in five blocks, cities or polygons, and stop by them.
    patience : int
        Epochs without a lower loss on what is held out after which the fit stops.
    device : str
        ``cpu`` or ``cuda``.
    precision : str
        ``auto``, ``float32`` or ``mixed``.
    """

    epochs: Count = 20
    width: Count = 16
    depth: Annotated[int, Field(ge=1, le=6)] = 2
    learning_rate: Share = 3e-3
    batch: Count = 8
    balance: Annotated[float, Field(ge=0, le=1)] = 0.5
    dice: Annotated[float, Field(ge=0)] = 0.5
    noise: Annotated[float, Field(ge=0)] = 0.5
    band_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    layer_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    early_stopping: bool = False
    patience: Count = 5
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["auto", "float32", "mixed"] = "auto"


class UnetTable(NetworkTable):
    """The ``[unet]`` table: a small U-Net on pixels.

    Attributes
    ----------
    window_px : int
        Side of a training window, pixels: a multiple of ``2**depth``, at least ``2 * 2**depth``.
    """

    width: Count = 64
    window_px: Count = 16

    @model_validator(mode="after")
    def _check_window(self) -> "UnetTable":
        side, step = self.window_px, 2**self.depth
        if side % step or side < 2 * step:
            raise ValueError(
                f"has [unet] window_px = {side}; with depth = {self.depth} it is a multiple of "
                f"{step} and at least {2 * step}: use {max(-(-side // step), 2) * step}"
            )
        return self


class PatchTable(NetworkTable):
    """The ``[patch]`` table: a small network on windows of a cell."""


class ConfidenceTable(Table):
    """The ``[confidence]`` table: what the probabilities of maps are worth.

    Attributes
    ----------
    calibration : str
        ``temperature``, ``isotonic`` or ``none``, learnt on labels that were held out.
    promise : float
        Share of the label sets that hold the true class, in (0, 1).
    score : str
        Of the label sets: ``aps``, ``raps`` or ``lac``.
    classwise : bool
        Keep the promise for each class that has enough groups.
    applicability : bool
        Say of each cell whether its features are like those of training.
    max_samples : int
        Training samples that cells are compared with.
    """

    calibration: Literal["temperature", "isotonic", "none"] = "temperature"
    promise: Annotated[float, Field(gt=0, lt=1)] = 0.9
    score: Literal["aps", "raps", "lac"] = "aps"
    classwise: bool = False
    applicability: bool = True
    max_samples: Count = 5000


class CityFile(Table):
    """A city file or a catalog file.

    Attributes
    ----------
    id : str
        Id of the catalog.
    title : str, optional
        For people.
    cities : dict of str to City
        The ``[city.NAME]`` tables; empty in a catalog file.
    inputs : tuple of Input
        The ``[[input]]`` tables.
    confidence, grid, propagate, xgb, unet, patch
        The tables of that name, filled with defaults.
    rules : RulesTable or None
        The ``[rules]`` table; without it no cell is labelled by rule.
    run : RunTable or None
        The ``[run]`` table; None in a catalog file.
    """

    id: SafeName
    title: str | None = None
    cities: Annotated[dict[SafeName, City], Field(alias="city")] = Field(default_factory=dict)
    confidence: ConfidenceTable = ConfidenceTable()
    grid: GridTable = GridTable()
    inputs: Annotated[tuple[AnyInput, ...], Field(alias="input", min_length=1, strict=False)]
    propagate: PropagateTable = PropagateTable()
    rules: RulesTable | None = None
    run: RunTable | None = None
    unet: UnetTable = UnetTable()
    patch: PatchTable = PatchTable()
    xgb: XgbTable = XgbTable()

    _source_path: Path = PrivateAttr(default=Path())

    @property
    def source_path(self) -> Path:
        """Absolute path of the TOML file; relative hrefs start from its folder."""
        return self._source_path

    def input(self, name: str) -> Input:
        """The input of a name.

        Raises
        ------
        ConfigError
            If there is none; the message lists those there are.
        """
        for entry in self.inputs:
            if entry.name == name:
                return entry
        raise ConfigError(
            f"no input is named {name!r}; inputs: {_listed(i.name for i in self.inputs)}."
        )


def read_config(path: str | Path) -> CityFile:
    """A city or catalog file, checked.

    Parameters
    ----------
    path : str or pathlib.Path
        A TOML file.

    Raises
    ------
    MissingInputError
        If there is no such file.
    ConfigError
        If it is no TOML, has an unknown key or a value of the wrong type, or contradicts itself:
        ``[run]`` or ``anchor`` names an input that is not there or of another kind, donors name
        an unknown city. One line: what, where, and what is right.
    GridError
        If pixel, cell, stride and chunk do not fit each other.
    """
    source = Path(path).absolute()
    if not source.is_file():
        raise MissingInputError(f"city file {path} is not there; name a TOML file (see catalogs/).")
    values = _read_toml(source)
    try:
        config = CityFile.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source.name}: {_first_problem(error, values)}") from None
    config._source_path = source
    _require_consistent(config)
    return config


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not TOML: {error}.") from error


def _first_problem(error: ValidationError, values: dict[str, Any]) -> str:
    problems = error.errors(include_url=False)
    # An unknown key explains a missing one, so it is named first.
    first = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    more = f" ({len(problems) - 1} more)" if len(problems) > 1 else ""
    return _problem(first, values) + more


def _problem(problem: ErrorDetails, values: dict[str, Any]) -> str:
    where, model, keys = _table_of(problem["loc"], values)
    key = ".".join(str(k) for k in keys)
    match problem["type"]:
        case "extra_forbidden":
            return _unknown_key(key, where, model)
        case "missing":
            return f"key {key!r} is missing in {where}."
        case "union_tag_invalid":
            tag = problem["ctx"]["tag"]
            return f"source = {tag!r} in {where} is unknown; known: {_listed(SOURCES)}."
        case "union_tag_not_found":
            return f"key 'source' is missing in {where}; known: {_listed(SOURCES)}."
        case "value_error":
            return f"{where} {problem['msg'].removeprefix('Value error, ')}."
    given = redact(repr(problem["input"]))[:80]
    return f"{key} = {given} in {where}: {_lower_first(problem['msg'])}."


def _table_of(
    loc: Sequence[int | str], values: dict[str, Any]
) -> tuple[str, type[Table], Sequence[int | str]]:
    """Name of the table a problem lies in, its model, and the keys below it."""
    head = loc[0] if loc else ""
    if head == "input" and len(loc) > 1:
        return _input_of(loc, values)
    if head == "city" and len(loc) > 1:
        return f"[city.{loc[1]}]", City, loc[2:] or loc[1:]
    if head == "rules" and loc[1:2] == ("own",) and len(loc) > 2:
        return f"[rules.own.{loc[2]}]", OwnRule, loc[3:] or loc[2:]
    tables: dict[str, type[Table]] = {
        "grid": GridTable,
        "propagate": PropagateTable,
        "rules": RulesTable,
        "run": RunTable,
        "unet": UnetTable,
        "patch": PatchTable,
        "xgb": XgbTable,
        "confidence": ConfidenceTable,
    }
    if head in tables and len(loc) > 1:
        return f"[{head}]", tables[str(head)], loc[1:]
    return "the top level", CityFile, loc


def _input_of(
    loc: Sequence[int | str], values: dict[str, Any]
) -> tuple[str, type[Table], Sequence[int | str]]:
    number = int(loc[1])
    table = values["input"][number]
    name = table.get("name") if isinstance(table, dict) else None
    where = f"[[input]] {name!r}" if isinstance(name, str) else f"[[input]] number {number + 1}"
    return where, SOURCES.get(str(loc[2]) if len(loc) > 2 else "", Input), loc[3:] or loc[:1]


def _unknown_key(key: str, where: str, model: type[Table]) -> str:
    known = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown key {key!r} in {where}{hint}; known keys: {_listed(known)}."


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _require_consistent(config: CityFile) -> None:
    from lczcube.grid import require_legal

    grid = config.grid
    require_legal(grid.pixel_m, grid.cell_m, grid.stride_m or grid.cell_m, grid.chunk_cells)
    _require_unique_names(config)
    for name, city in config.cities.items():
        if name in RUN_FOLDERS:
            raise ConfigError(
                f"[city.{name}]: a run keeps its own files in {name}/; give the city another name."
            )
        _require_bbox(name, city)
        _require_roles(name, city)
    for entry in config.inputs:
        _require_city(entry, config)
    if grid.anchor is not None:
        _require_kind(config, grid.anchor, "raster", "[grid] anchor")
    _require_donors(config)
    if config.run is not None:
        _require_run(config, config.run)
    if config.rules is not None:
        _require_rules(config, config.rules)


def _require_unique_names(config: CityFile) -> None:
    names = [entry.name for entry in config.inputs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(
            f"{len(repeated)} names occur in several [[input]] tables: {_listed(repeated)}; "
            "an input has a name of its own."
        )


def _require_bbox(name: str, city: City) -> None:
    minx, miny, maxx, maxy = city.bbox
    if not (-180 <= minx < maxx <= 180 and -90 <= miny < maxy <= 90):
        raise ConfigError(
            f"bbox = {list(city.bbox)} in [city.{name}] is no box in EPSG:4326; it is "
            "[west, south, east, north] in degrees, west below east and south below north."
        )


def _require_roles(name: str, city: City) -> None:
    both = sorted({*city.donors} & {*city.evaluate_on})
    if both:
        raise ConfigError(
            f"[city.{name}] has split {both[0]!r} in donors and in evaluate_on; what is trained on "
            "is not scored. Name it once."
        )


def _require_city(entry: Input, config: CityFile) -> None:
    if entry.city is not None and config.cities and entry.city not in config.cities:
        raise ConfigError(
            f"city = {entry.city!r} in [[input]] {entry.name!r} is unknown; "
            f"cities: {_listed(config.cities)}."
        )
    if entry.city is None and not config.cities and any("{city}" in href for href in entry.href):
        raise ConfigError(
            f"[[input]] {entry.name!r} has {{city}} in href but the file names no city; "
            "add a [city.NAME] table, or city = to the input."
        )


def _require_donors(config: CityFile) -> None:
    donors = config.propagate.donors
    if isinstance(donors, str):
        return
    unknown = [name for name in donors if name not in config.cities]
    if unknown or not donors:
        raise ConfigError(
            f"donors = {list(donors)} in [propagate] names {_listed(unknown) or 'no city'}; "
            f'name cities ({_listed(config.cities) or "none here"}), "all" or "own".'
        )


def _require_weights(config: CityFile, run: RunTable) -> None:
    unknown = [name for name in config.propagate.weights if name not in run.features]
    if unknown:
        raise ConfigError(
            f"weights in [propagate] names {_listed(unknown)}, which is no feature of [run]; "
            f"features: {_listed(run.features)}."
        )


def _require_run(config: CityFile, run: RunTable) -> None:
    if not config.cities:
        raise ConfigError("[run] wants a city; add a [city.NAME] table with its bbox.")
    for name in run.features:
        entry = _require_kind(config, name, "raster", "[run] features")
        _require_year(entry, run)
    for name in run.labels:
        _require_kind(config, name, "labels", "[run] labels")
    _require_weights(config, run)
    _require_stopping(config, run)
    if run.split == "city" and len(config.cities) < 2:
        raise ConfigError(
            'split = "city" in [run] leaves one city out and wants two or more; '
            'this file has one. Use "polygon" or "block".'
        )


def _require_stopping(config: CityFile, run: RunTable) -> None:
    stops = {"xgb": config.xgb.early_stopping > 0, "unet": config.unet.early_stopping}
    stops["patch"] = config.patch.early_stopping
    if run.pseudo_weight > 0 and any(stops.values()):
        name = next(name for name, does in stops.items() if does)
        raise ConfigError(
            f"pseudo_weight = {run.pseudo_weight:g} in [run] and early_stopping in [{name}]: "
            "pseudo-labels are votes of the labels that are held out to stop by. Use one of them."
        )


def _require_rules(config: CityFile, rules: RulesTable) -> None:
    if config.run is None:
        raise ConfigError(
            "[rules] labels cells of a run, and this file has no [run]; add one, or drop [rules]."
        )
    osm = [entry.name for entry in config.inputs if entry.source == "osm"]
    unknown = [name for name in rules.osm if name not in osm]
    if unknown:
        raise ConfigError(
            f"[rules] osm names {unknown[0]!r}, which is no input of OpenStreetMap features; "
            f'inputs with source = "osm": {_listed(osm) or "none"}.'
        )
    if rules.drop_far and set(config.run.features) <= set(osm):
        raise ConfigError(
            "drop_far in [rules] compares cells by features that know no rule, and [run] features "
            f"has {_listed(config.run.features)} alone. Add another, or set drop_far = false."
        )


def _require_kind(config: CityFile, name: str, kind: str, where: str) -> Input:
    names = [entry.name for entry in config.inputs if entry.kind == kind]
    if name not in names:
        there = any(entry.name == name for entry in config.inputs)
        fault = f"is not an input of {_KIND_WORDS[kind]}" if there else "is not an input"
        raise ConfigError(
            f"{where} names {name!r}, which {fault}; "
            f"inputs of {_KIND_WORDS[kind]}: {_listed(names) or 'none'}."
        )
    return config.input(name)


_KIND_WORDS = {"raster": "rasters", "labels": "labels"}


def _require_year(entry: Input, run: RunTable) -> None:
    if len(set(run.map_years)) < len(run.map_years):
        raise ConfigError(
            f"map_years = {list(run.map_years)} in [run] names a year twice; a map has one of each."
        )
    if run.nearest_year or run.missing != "refuse" or getattr(entry, "static", False):
        return
    wanted = {"year": (run.year,) if run.year is not None else (), "map_years": run.map_years}
    for key, year in ((key, year) for key, years in wanted.items() for year in years):
        if entry.all_years and year not in entry.all_years:
            years = _listed(map(str, entry.all_years))
            raise ConfigError(
                f"{key} = {year} in [run] but input {entry.name!r} is of {years}; layers meet on "
                "exact years. Set nearest_year = true to take the nearest."
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)

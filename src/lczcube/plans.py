"""Plans of commands outside a run: what they would read and write; no file is opened or written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lczcube.config import read_config
from lczcube.sources import find_files
from lczcube.sources.files import is_remote, redact
from lczcube.synth.files import HALO_PX
from lczcube.synth.layers import DEFAULT_LAYERS, LAYERS
from lczcube.synth.world import require_layers, require_parameters
from lczcube.synth.zones import PIXEL_M

MOST_FILES_LISTED = 10
"""Of an input; files that are not there are all listed."""


@dataclass(frozen=True)
class CatalogPlan:
    """What ``build-catalog`` would read.

    Attributes
    ----------
    text : str
        Inputs, files and sizes, for a person.
    n_missing : int
        Local files that are named and not there.
    """

    text: str
    n_missing: int


def plan_catalog(config: str | Path, out: str | Path) -> CatalogPlan:
    """Inputs, files and sizes that a catalog would be built from.

    Parameters
    ----------
    config : str or pathlib.Path
        City or catalog file.
    out : str or pathlib.Path
        Folder of the catalog.

    Returns
    -------
    CatalogPlan
        Files that are not there are listed as missing; sizes of URLs are not asked for.

    Raises
    ------
    ConfigError, MissingInputError
        If the TOML file cannot be used or is not there.
    """
    settings = read_config(config)
    folder = settings.source_path.parent
    cities = {name: settings.cities[name].bbox for name in sorted(settings.cities)}
    lines: list[str] = []
    n_missing = 0
    for entry in settings.inputs:
        hrefs = [file.href for file in find_files(entry, folder=folder, cities=cities)]
        missing = [href for href in hrefs if not is_remote(href) and not Path(href).exists()]
        n_missing += len(missing)
        lines += [f"{entry.name} ({entry.source}): {_total(hrefs)}", *_file_lines(hrefs, missing)]
    fate = "bring up to date" if Path(out).exists() else "write"
    n = len(settings.inputs)
    lines.append(f"would {fate} {out}: catalog.json and {n} collection{'s' if n != 1 else ''}")
    return CatalogPlan("\n".join(lines), n_missing)


def plan_world(
    out: str | Path, *, cities: int, km: float, seed: int, layers: Sequence[str] = DEFAULT_LAYERS
) -> str:
    """Layers and sizes that a synthetic world would have.

    Raises
    ------
    ConfigError
        If a parameter is out of its range.
    """
    require_parameters(cities=cities, km=km, seed=seed)
    require_layers(layers)
    area_km2 = (km + 2 * HALO_PX * PIXEL_M / 1000) ** 2
    sizes = {layer: round(cities * area_km2 * LAYERS[layer].bytes_per_km2) for layer in layers}
    return "\n".join(
        [
            f"synthetic world of {cities} cities, {km:g} km a side, seed {seed}; before "
            "compression about",
            *(f"  {layer}: {_size(size)}" for layer, size in sizes.items()),
            "  of each city a true map at 10 m and a table of labelled patches",
            f"{out} is there: it is left as it is, or refused when it holds anything else"
            if Path(out).exists()
            else f"would write {out}: world.toml, world.json, truth/, labels/, {', '.join(layers)}",
        ]
    )


def _total(hrefs: Sequence[str]) -> str:
    sizes = [Path(href).stat().st_size for href in hrefs if Path(href).is_file()]
    n_remote = sum(map(is_remote, hrefs))
    remote = [f"{n_remote} remote of unknown size"] if n_remote else []
    found = [f"{len(sizes)} of {len(hrefs) - n_remote} files found, {_size(sum(sizes))}"]
    return ", ".join([*(found if n_remote < len(hrefs) else []), *remote])


def _file_lines(hrefs: Sequence[str], missing: Sequence[str]) -> Iterator[str]:
    there = [href for href in hrefs if href not in set(missing)]
    for href in there[:MOST_FILES_LISTED]:
        yield f"  {_size_of(href):>12}  {redact(href)}"
    if len(there) > MOST_FILES_LISTED:
        yield f"  … and {len(there) - MOST_FILES_LISTED} more"
    yield from (f"       missing  {href}" for href in missing)


def _size_of(href: str) -> str:
    if is_remote(href):
        return "?"
    path = Path(href)
    return "folder" if path.is_dir() else _size(path.stat().st_size)


def _size(n_bytes: int) -> str:
    from dask.utils import format_bytes

    return str(format_bytes(n_bytes))

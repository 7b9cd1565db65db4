"""The same items from JSON, from geoparquet and from an API, by Python and by the command."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import geopandas as gpd
import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from shapely import box
from shapely.geometry import mapping

from lczcube.catalog import build_catalog, open_catalog
from lczcube.catalog.geoparquet import ROWS_PER_GROUP, write_geoparquet
from lczcube.errors import CatalogError

TOWN = """
id = "town"

[[input]]
name = "west"
source = "raster"
href = "west_{year}.tif"
years = [2019, 2021]

[[input]]
name = "edge"
source = "raster"
href = "edge.tif"
year = 2020

[[input]]
name = "corners"
source = "polygons"
href = "corners.gpkg"
class_column = "lcz"
"""


def write_raster(path: Path, crs: str, west: float) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", width=100, height=100, count=1, dtype="uint8", crs=crs,
        transform=Affine(1000, 0, west, 0, -1000, 5_000_000),
    ) as raster:  # fmt: skip
        raster.write(np.zeros((1, 100, 100), "uint8"))


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog: two years of one raster, one over the antimeridian, labels at two corners."""
    folder = tmp_path_factory.mktemp("town")
    for year in (2019, 2021):
        write_raster(folder / f"west_{year}.tif", "EPSG:32632", 500_000)
    write_raster(folder / "edge.tif", "EPSG:32660", 700_000)  # from 179.5 E to 179.2 W
    squares = [box(10, 0, 11, 1), box(19, 9, 20, 10)]  # their hull leaves two corners of its bbox
    areas = gpd.GeoDataFrame({"lcz": [2, 3]}, geometry=squares, crs="EPSG:4326")
    areas.to_file(folder / "corners.gpkg")
    (folder / "town.toml").write_text(TOWN)
    return build_catalog(folder / "town.toml", folder / "catalog").path


@dataclass(frozen=True)
class Server:
    """A small API in a process of its own; see tests/stac_api.py."""

    url: str

    @property
    def asked(self) -> list[dict[str, Any]]:
        with urlopen(f"{self.url}/asked") as answer:
            asked: list[dict[str, Any]] = json.load(answer)
            return asked

    def control(self, **values: Any) -> None:
        """Forget what was asked, and do this from now on."""
        body = json.dumps(values).encode()
        with urlopen(Request(f"{self.url}/control", data=body)):
            pass


@pytest.fixture(scope="module", params=["POST", "GET"])
def started(town: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    script = Path(__file__).with_name("stac_api.py")
    command = [sys.executable, str(script), str(town), request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Server(process.stdout.readline().strip())
        process.terminate()


@pytest.fixture
def api(started: Server) -> Server:
    started.control()
    return started


EDGE, WEST_2019, WEST_2021 = "edge_2020_edge", "west_2019_west_2019", "west_2021_west_2021"

QUERIES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["corners_corners", EDGE, WEST_2019, WEST_2021]),
    ({"collections": ["west", "edge"], "datetime": "2020/.."}, [EDGE, WEST_2021]),
    ({"collections": ["west"], "datetime": "2018/2019-01"}, [WEST_2019]),
    ({"bbox": (9.5, 44.5, 9.6, 44.6), "datetime": "2021"}, [WEST_2021]),
    ({"bbox": (-179.5, 44, -179, 45)}, [EDGE]),
    ({"bbox": (179.9, 44, -179.9, 45)}, [EDGE]),
    ({"bbox": (100, 44, 120, 45)}, []),  # within the full-width bbox of "edge", not in its parts
    ({"bbox": (170, -1, 10.5, 0.5)}, ["corners_corners"]),
    ({"bbox": (10, 9, 11, 10)}, []),  # a corner of the bbox of "corners" that its hull leaves out
    ({"ids": [WEST_2019, EDGE, "none"]}, [EDGE, WEST_2019]),
    ({"ids": []}, []),
    ({"limit": 9, "collections": ["edge"]}, [EDGE]),
    ({"datetime": "1965"}, []),
]  # fmt: skip


@pytest.mark.parametrize(("query", "expected"), QUERIES, ids=str)
def test_files_find_the_same_items(town: Path, query: dict[str, Any], expected: list[str]) -> None:
    tables, static = open_catalog(town), open_catalog(town / "catalog.json")
    one, other = tables.search(**query), static.search(**query)
    assert [item.id for item in one] == expected
    assert [item.to_dict() for item in one] == [item.to_dict() for item in other]


@pytest.mark.parametrize(("query", "expected"), QUERIES, ids=str)
def test_an_api_finds_the_same_items(
    town: Path, api: Server, query: dict[str, Any], expected: list[str]
) -> None:
    remote, local = open_catalog(api.url).search(**query), open_catalog(town).search(**query)
    assert [item.id for item in remote] == expected
    assert [item.to_dict() for item in remote] == [item.to_dict() for item in local]


def test_a_limit_takes_the_first(town: Path) -> None:
    for href in (town, town / "catalog.json"):
        found = open_catalog(href).search(limit=2)
        assert [item.id for item in found] == ["corners_corners", "edge_2020_edge"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"bbox": (0, 2, 1, 1)}, "south below north"),
        ({"bbox": (0, 0, 200, 1)}, "is no box in EPSG:4326"),
        ({"bbox": (0, 0, float("nan"), 1)}, "is no box in EPSG:4326"),
        ({"bbox": (0, 0, 1)}, "is no box in EPSG:4326"),
        ({"datetime": "summer"}, "datetime = 'summer' cannot be read"),
        ({"collections": ["east"]}, "no collection 'east'; it has corners, edge, west"),
        ({"limit": 0}, "limit = 0"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    town: Path, query: dict[str, Any], said: str
) -> None:
    with pytest.raises(CatalogError, match=said):
        open_catalog(town).search(**query)


# The API


def test_an_api_says_of_its_layers_what_the_files_say(town: Path, api: Server) -> None:
    remote, local = open_catalog(api.url), open_catalog(town)
    assert remote.collection_ids == local.collection_ids
    assert all(remote.layer(name) == local.layer(name) for name in local.collection_ids)


def test_an_api_is_asked_page_after_page_its_own_way(
    api: Server, request: pytest.FixtureRequest
) -> None:
    open_catalog(api.url).search(collections=["west"], bbox=(9, 44, 10, 46), datetime="2019/2021")
    assert len(api.asked) == 2  # a page an item
    method = request.node.callspec.params["started"]
    assert {asked["method"] for asked in api.asked} == {method}
    first = api.asked[0]
    assert first["bbox"] == ([9, 44, 10, 46] if method == "POST" else "9.0,44.0,10.0,46.0")
    assert first["datetime"] == "2019-01-01T00:00:00Z/2021-12-31T23:59:59Z"


def test_an_api_with_a_limit_is_asked_for_no_further_page(api: Server) -> None:
    assert len(open_catalog(api.url).search(limit=1)) == 1
    assert len(api.asked) == 1


def test_an_api_is_asked_for_both_sides_of_the_antimeridian(api: Server) -> None:
    open_catalog(api.url).search(bbox=(179, 44, -179, 45))
    boxes = [asked["bbox"] for asked in api.asked]
    assert boxes in (
        [[179, 44, 180, 45], [-180, 44, -179, 45]],
        ["179.0,44.0,180.0,45.0", "-180.0,44.0,-179.0,45.0"],
    )


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_busy_api_is_asked_again_when_it_says(api: Server, status: int) -> None:
    catalog = open_catalog(api.url)
    api.control(answers=[status], retry_after=1)
    started = time.monotonic()
    assert len(catalog.search(collections=["edge"])) == 1
    assert time.monotonic() - started >= 1
    assert len(api.asked) == 2


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without the waits between them."""
    monkeypatch.setattr("lczcube.catalog.api.BACKOFF_S", 0.0)


def test_an_api_that_stays_busy_is_given_up(api: Server, quickly: None) -> None:
    catalog = open_catalog(api.url)
    api.control(answers=[503] * 100)
    with pytest.raises(CatalogError, match=r"the STAC API failed .*too many 503"):
        catalog.search(collections=["edge"])
    assert len(api.asked) == 6


def test_an_api_that_refuses_is_not_asked_again(api: Server) -> None:
    catalog = open_catalog(api.url)
    api.control(answers=[403] * 100)
    with pytest.raises(CatalogError, match=r"the STAC API failed .*busy"):
        catalog.search(collections=["edge"])
    assert len(api.asked) == 1


@pytest.mark.parametrize("statuses", [[403], [503] * 9, [200, 403], [200] + [503] * 9])
def test_no_error_of_an_api_tells_a_credential(
    api: Server, quickly: None, statuses: list[int]
) -> None:
    catalog = open_catalog(api.url.replace("://", "://me:hush@"))
    assert "hush" not in repr(catalog)
    api.control(answers=statuses, secret="hush")  # in the link to the second page
    with pytest.raises(CatalogError, match="the STAC API failed") as caught:
        catalog.search(collections=["west"])
    assert "hush" not in str(caught.value)


def test_an_api_that_does_not_answer_is_refused_without_its_password(quickly: None) -> None:
    with pytest.raises(CatalogError, match="answers as no STAC API") as caught:
        open_catalog("http://me:hush@127.0.0.1:9/?token=hush")
    assert "hush" not in str(caught.value)


# Geoparquet of many rows, and of others


def write_many(path: Path, n: int) -> None:
    """Items a degree apart along the equator, each 0.5 degrees wide."""
    items = []
    for number in range(n):
        west = number % 360 - 180.0
        item = pystac.Item(
            id=f"i{number:05d}",
            geometry=mapping(box(west, 0, west + 0.5, 0.5)),
            bbox=[west, 0, west + 0.5, 0.5],
            datetime=None,
            properties={
                "start_datetime": f"{2000 + number // 360}-01-01T00:00:00Z",
                "end_datetime": f"{2000 + number // 360}-12-31T23:59:59Z",
            },
            collection="many",
        )
        items.append(item.to_dict() | {"links": []})
    extent = pystac.Extent(
        pystac.SpatialExtent([-180, -90, 180, 90]), pystac.TemporalExtent([None, None])
    )
    described = pystac.Collection("many", "Many items.", extent, license="other").to_dict()
    write_geoparquet(described | {"links": []}, items, path)


def test_a_search_of_a_large_table_finds_rows_in_every_row_group(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    n = 3 * ROWS_PER_GROUP
    write_many(tmp_path / "many.parquet", n)
    assert pq.ParquetFile(tmp_path / "many.parquet").num_row_groups == 3
    catalog = open_catalog(tmp_path)
    # Every 360th item lies at 10 degrees east.
    assert [item.id for item in catalog.search(bbox=(10, 0, 10.2, 0.1))] == [
        f"i{number:05d}" for number in range(190, n, 360)
    ]
    assert [item.id for item in catalog.search(bbox=(10, 0, 10.2, 0.1), datetime="2002")] == [
        "i00910"
    ]
    assert [item.id for item in catalog.search(ids=["i01535", "i00000"])] == ["i00000", "i01535"]
    assert len(catalog.search(bbox=(179.2, -1, -179.8, 1))) == 4 + 5  # at 179 and at -180
    assert [item.id for item in catalog.search(limit=3)] == ["i00000", "i00001", "i00002"]


def test_only_rows_that_may_match_become_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_many(tmp_path / "many.parquet", 2 * ROWS_PER_GROUP)
    catalog = open_catalog(tmp_path)
    made: list[str] = []
    from_dict = pystac.Item.from_dict

    def counted(values: dict[str, Any], **options: Any) -> pystac.Item:
        made.append(values["id"])
        return from_dict(values, **options)

    monkeypatch.setattr(pystac.Item, "from_dict", counted)
    assert len(catalog.search(bbox=(10, 0, 10.2, 0.1))) == 3
    assert len(made) == 3
    catalog.search(bbox=(10, 0, 10.2, 0.1), datetime="2001")
    assert len(made) == 4


def test_rows_whose_bbox_crosses_the_antimeridian_are_found(tmp_path: Path) -> None:
    from shapely import MultiPolygon
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    halves = MultiPolygon([box(179, 0, 180, 1), box(-180, 0, -179, 1)])
    item = pystac.Item(
        id="across",
        geometry=mapping(halves),
        bbox=[179, 0, -179, 1],
        datetime=pystac.utils.str_to_datetime("2020-05-01T10:00:00Z"),
        properties={},
        collection="theirs",
    )
    to_parquet(
        parse_stac_items_to_arrow([item.to_dict() | {"links": []}]), tmp_path / "theirs.parquet"
    )
    catalog = open_catalog(tmp_path)
    for west, east, n_found in ((179.5, 180, 1), (-180, -179.5, 1), (179.5, -179.5, 1), (0, 1, 0)):
        assert len(catalog.search(bbox=(west, 0.2, east, 0.3))) == n_found
    assert len(catalog.search(datetime="2020-05-01")) == 1
    assert catalog.search(datetime="2020-05-02") == []


def test_a_table_whose_rows_are_broken_is_named(tmp_path: Path) -> None:
    write_many(tmp_path / "many.parquet", 10)
    content = bytearray((tmp_path / "many.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    (tmp_path / "many.parquet").write_bytes(content)
    with pytest.raises(CatalogError, match=r"many\.parquet cannot be read"):
        open_catalog(tmp_path).search()


def test_an_item_file_that_is_gone_is_named(town: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(town, tmp_path / "copy")
    (tmp_path / "copy" / "edge" / "items" / "edge_2020_edge.json").unlink()
    with pytest.raises(CatalogError, match=r"edge_2020_edge\.json is no STAC item"):
        open_catalog(tmp_path / "copy" / "catalog.json").search()


# The command


def run_search(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lczcube.cli", "search", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_lists_a_line_an_item(town: Path) -> None:
    done = run_search(town, "--collections", "west", "edge", "--datetime", "2020/..")
    assert (done.returncode, done.stderr) == (0, "")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["id", "collection", "datetime", "west", "south", "east", "north"]
    assert [line.split()[:3] for line in lines] == [
        ["edge_2020_edge", "edge", "2020-01-01/2020-12-31"],
        ["west_2021_west_2021", "west", "2021-01-01/2021-12-31"],
    ]
    assert lines[1].split()[3:5] == ["9.00000", "44.24637"]


def test_the_command_gives_an_item_collection(town: Path) -> None:
    done = run_search(town / "catalog.json", "--bbox", "-179.5", "44", "-179", "45", "--json")
    found = pystac.ItemCollection.from_dict(json.loads(done.stdout))
    assert [item.id for item in found] == ["edge_2020_edge"]
    assert Path(found[0].assets["data"].href).is_file()


def test_the_command_finds_nothing_without_an_error(town: Path) -> None:
    done = run_search(town, "--datetime", "1965", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"type": "FeatureCollection", "features": []}
    done = run_search(town, "--datetime", "1965")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 1)


def test_a_reader_that_had_enough_is_no_fault(town: Path) -> None:
    command = [sys.executable, "-m", "lczcube.cli", "search", str(town)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as search:
        assert search.stdout is not None
        assert search.stderr is not None
        search.stdout.close()
        said = search.stderr.read()
        assert (search.wait(timeout=60), said) == (0, b"")


def test_the_command_refuses_in_one_line(town: Path) -> None:
    done = run_search(town, "--collections", "east")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("lczcube: catalog ")
    assert len(done.stderr.splitlines()) == 1
    assert run_search(town, "--bbox", "1", "2", "3").returncode == 2


def test_the_command_asks_an_api(api: Server) -> None:
    done = run_search(api.url, "--ids", "edge_2020_edge", "--limit", "1")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["id", "edge_2020_edge"]

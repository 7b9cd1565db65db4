"""Stores on an S3 server: written, gone on with, checked, and read; a lease keeps others out."""

import json
import logging
import time
import traceback
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import obstore
import pytest
import xarray as xr
from moto.server import ThreadedMotoServer
from obstore.exceptions import GenericError

from lczcube import places
from lczcube.errors import StoreError
from lczcube.places import Bucket, place_of
from lczcube.products import open_product, write_product
from lczcube.regions import verify_store
from tests.test_products import GRID, all_bytes, maps_on, raising

SECRET = "wJalrXUtnFEMI-not-a-key"


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, Any]]:
    """What reaches the server and its one bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/maps", method="PUT")).close()
    yield {
        "endpoint": endpoint,
        "region": "us-east-1",
        "access_key_id": "AKIDEXAMPLE",
        "secret_access_key": SECRET,
        "client_options": {"allow_http": True},
        "retry_config": {"max_retries": 0},
    }
    server.stop()


def groups() -> dict[str, xr.Dataset]:
    return {"pixels": maps_on(GRID, chunk=32), "cells": maps_on(GRID, on_cells=True)}


def objects(url: str, options: dict[str, Any]) -> dict[str, bytes]:
    place = Bucket(url, options)
    return {key: place.read(key) or b"" for key in place.all_keys()}


def test_a_store_has_the_bytes_that_it_has_in_a_folder(
    options: dict[str, Any], tmp_path: Path
) -> None:
    url = "s3://maps/one/lcz.zarr"
    assert write_product(groups(), url, storage_options=options) == url
    assert objects(url, options) == all_bytes(write_product(groups(), tmp_path / "lcz.zarr"))
    assert verify_store(url, storage_options=options).is_sound
    assert not objects(f"{url}.lock", options)


def test_it_opens_as_from_a_folder(options: dict[str, Any]) -> None:
    url = "s3://maps/two/lcz.zarr"
    write_product(groups(), url, storage_options=options)
    opened = open_product(url, "pixels", storage_options=options)
    np.testing.assert_array_equal(opened["lcz"], maps_on(GRID)["lcz"])
    assert opened["lcz"].chunks is not None
    with pytest.raises(StoreError, match="no group 'features'"):
        open_product(url, "features", storage_options=options)
    with pytest.raises(StoreError, match="no such store"):
        open_product("s3://maps/absent.zarr", "pixels", storage_options=options)


def test_an_interrupted_call_is_gone_on_with(options: dict[str, Any], tmp_path: Path) -> None:
    url, given = "s3://maps/three/lcz.zarr", {"identity": "one", "storage_options": options}
    with pytest.raises(OSError, match="disk on fire"):
        write_product({"pixels": raising(GRID)}, url, **given)
    held = objects(url, options)
    assert "zarr.json" not in held
    with pytest.raises(StoreError, match=r"is not whole: .* same command again"):
        open_product(url, "pixels", storage_options=options)
    write_product({"pixels": maps_on(GRID)}, url, **given)
    whole = write_product({"pixels": maps_on(GRID)}, tmp_path / "lcz.zarr")
    assert objects(url, options) == all_bytes(whole)


def test_another_store_is_replaced_only_when_asked(options: dict[str, Any], tmp_path: Path) -> None:
    url = "s3://maps/four/lcz.zarr"
    write_product(groups(), url, storage_options=options)
    other = {"pixels": maps_on(GRID)}
    with pytest.raises(StoreError, match="pass overwrite=True"):
        write_product(other, url, storage_options=options)
    write_product(other, url, storage_options=options, overwrite=True)
    assert objects(url, options) == all_bytes(write_product(other, tmp_path / "lcz.zarr"))


def test_damage_is_found(options: dict[str, Any]) -> None:
    url = "s3://maps/five/lcz.zarr"
    write_product(groups(), url, storage_options=options)
    place = Bucket(url, options)
    shard = bytearray(place.read("pixels/lcz/c/1/1") or b"")
    shard[7] ^= 1
    place.write("pixels/lcz/c/1/1", bytes(shard))
    place.delete("cells/y/c/0")
    found = verify_store(url, storage_options=options)
    assert (found.damaged, found.missing) == (("pixels/lcz/c/1/1",), ("cells/y/c/0",))


def test_a_second_writer_is_refused_until_the_lease_of_a_dead_one_ends(
    options: dict[str, Any],
) -> None:
    url = "s3://maps/six/lcz.zarr"
    lock = Bucket(f"{url}.lock", options)
    lock.write("lease.json", json.dumps({"owner": "other", "ends_s": 4e9}).encode())
    with pytest.raises(StoreError, match=r"lcz\.zarr is being written by another process; wait"):
        write_product(groups(), url, storage_options=options)
    assert objects(url, options) == {}
    lock.write("lease.json", json.dumps({"owner": "other", "ends_s": 1}).encode())
    write_product(groups(), url, storage_options=options)
    assert verify_store(url, storage_options=options).is_sound


def test_a_lease_is_renewed_and_a_lost_one_stops_the_writer(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "LEASE_S", 1.5)
    place = place_of("s3://maps/seven/lcz.zarr", options)
    lock = Bucket("s3://maps/seven/lcz.zarr.lock", options)
    with place.locked() as require_held:
        first = lock.read("lease.json")
        wait_until(lambda: lock.read("lease.json") != first)
        require_held()
        lock.write("lease.json", json.dumps({"owner": "other", "ends_s": 4e9}).encode())
        wait_until(lambda: is_lost(require_held))
    assert b"other" in (lock.read("lease.json") or b"")


def test_a_writer_whose_lease_is_taken_while_it_writes_writes_no_more(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "LEASE_S", 1.5)
    url = "s3://maps/taken/lcz.zarr"
    place, lock = Bucket(url, options), Bucket(f"{url}.lock", options)
    taken: list[list[str]] = []

    def lose_at_the_second(block: Any, block_info: Any = None) -> Any:
        if block_info and block_info[0]["chunk-location"] == (1, 1):
            lock.write("lease.json", json.dumps({"owner": "other", "ends_s": 4e9}).encode())
            taken.append(place.all_keys())
            time.sleep(0.7)
        return block

    maps = maps_on(GRID, chunk=32)[["lcz"]]
    maps["lcz"] = maps["lcz"].copy(data=maps["lcz"].data.map_blocks(lose_at_the_second, dtype="u1"))
    with dask.config.set(num_workers=1), pytest.raises(StoreError, match="was not renewed"):
        write_product({"pixels": maps}, url, storage_options=options)
    assert place.all_keys() == taken[0]
    assert b"other" in (lock.read("lease.json") or b"")


def test_a_renewal_that_fails_or_whose_answer_is_lost_is_tried_again(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "LEASE_S", 1.5)
    put, faults = obstore.put, ["before", "after"]

    def unsteady(store: Any, key: str, *args: Any, mode: Any = "overwrite") -> Any:
        fault = faults.pop(0) if mode != "create" and faults else ""
        if fault == "before":
            raise GenericError("connection reset")
        done = put(store, key, *args, mode=mode)
        if fault == "after":
            raise GenericError("connection reset")
        return done

    place = place_of("s3://maps/unsteady/lcz.zarr", options)
    lock = Bucket("s3://maps/unsteady/lcz.zarr.lock", options)
    with place.locked() as require_held:
        monkeypatch.setattr(obstore, "put", unsteady)
        time.sleep(2.5)
        require_held()
        assert faults == []
    assert lock.all_keys() == []


def test_a_lease_that_cannot_be_renewed_is_lost_when_it_ends(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise GenericError("connection reset")

    monkeypatch.setattr(places, "LEASE_S", 1.0)
    with place_of("s3://maps/cut_off/lcz.zarr", options).locked() as require_held:
        monkeypatch.setattr(obstore, "get", broken)
        require_held()
        time.sleep(1.1)
        assert is_lost(require_held)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@host/k.zarr",
        f"https://host/k.zarr?sig={SECRET}",
        "s3://maps/k.zarr?",
        f"s3://maps/k.zarr#{SECRET}",
    ],
)
def test_a_url_of_more_than_a_prefix_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match=r"/k\.zarr was given with .* storage_options") as refused:
        place_of(url)
    assert SECRET not in str(refused.value)


def wait_until(happens: Any) -> None:
    for _ in range(500):
        if happens():
            return
        time.sleep(0.01)
    raise TimeoutError


def is_lost(require_held: Any) -> bool:
    try:
        require_held()
    except StoreError as error:
        return "was not renewed" in str(error)
    return False


def test_no_secret_is_in_a_store_a_name_or_an_error(options: dict[str, Any]) -> None:
    url = "s3://maps/eight/lcz.zarr"
    write_product(groups(), url, storage_options=options)
    for suffix in ("", ".regions"):
        for content in objects(url + suffix, options).values():
            assert SECRET.encode() not in content
            assert b"AKIDEXAMPLE" not in content
    assert SECRET not in repr(place_of(url, options))
    absent = options | {"endpoint": "http://127.0.0.1:9"}
    with pytest.raises(StoreError, match="cannot be reached or written") as refused:
        write_product(groups(), url, storage_options=absent)
    told = "".join(traceback.format_exception(refused.value))
    assert SECRET not in told
    assert "AKIDEXAMPLE" not in told


def test_a_bucket_that_is_not_there_is_a_store_error(options: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="check the bucket"):
        write_product(groups(), "s3://nowhere/lcz.zarr", storage_options=options)

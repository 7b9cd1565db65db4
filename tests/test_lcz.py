from pathlib import Path

import numpy as np
import pytest
import rasterio

from lczcube import lcz
from lczcube.errors import LabelError


def test_codes_are_1_to_17_in_order() -> None:
    assert [z.code for z in lcz.ZONES] == list(range(1, 18))
    assert [z.letter for z in lcz.ZONES] == [*map(str, range(1, 11)), *"ABCDEFG"]


def test_the_first_ten_zones_are_built() -> None:
    assert [z.is_built for z in lcz.ZONES] == [True] * 10 + [False] * 7


def test_a_zone_is_found_by_its_code() -> None:
    assert lcz.zone(17).name == "Water"
    assert lcz.zone(11).slug == "lcz_a"


@pytest.mark.parametrize("code", [0, 18, -1])
def test_a_code_without_zone_is_refused(code: int) -> None:
    with pytest.raises(LabelError, match=f"LCZ code {code}: codes are 1-17"):
        lcz.zone(code)


@pytest.mark.parametrize(
    ("text", "code"),
    [("6", 6), ("A", 11), ("LCZ 6", 6), ("lcz_a", 11), ("104", 14), ("LCZ-G", 17), ("17", 17)],
)
def test_a_written_label_gives_its_code(text: str, code: int) -> None:
    assert lcz.code_of(text) == code


@pytest.mark.parametrize("text", ["H", "0", "18", "108", "", "LCZ"])
def test_a_written_label_of_no_zone_is_refused(text: str) -> None:
    with pytest.raises(LabelError, match="names no LCZ"):
        lcz.code_of(text)


def test_every_slug_letter_and_legacy_code_leads_back_to_its_zone() -> None:
    for z in lcz.ZONES:
        assert {lcz.code_of(t) for t in (z.slug, z.letter, str(z.legacy_code))} == {z.code}


def test_legacy_codes_are_translated_and_others_stay() -> None:
    codes = np.array([[0, 1, 10], [17, 101, 107]], dtype=np.int16)
    translated = lcz.from_legacy(codes)
    assert translated.dtype == np.uint8
    assert translated.tolist() == [[0, 1, 10], [17, 11, 17]]


@pytest.mark.parametrize(("code", "expected"), [(np.uint8(3), 3), (104, 14)])
def test_a_single_legacy_code_is_translated(code: int, expected: int) -> None:
    assert int(lcz.from_legacy(code)) == expected


def test_unknown_codes_are_named_with_their_counts() -> None:
    with pytest.raises(LabelError, match=r"hold LCZ code 18 \(2 times\), 108 \(1 times\)"):
        lcz.from_legacy([18, 18, 108, 101, 3])


def test_the_holder_of_unknown_codes_is_named() -> None:
    with pytest.raises(LabelError, match=r"map\.tif hold LCZ code 200"):
        lcz.require_codes(np.array([200], np.uint8), where="map.tif")


def test_no_data_is_a_legal_code() -> None:
    lcz.require_codes(np.arange(18))


def test_a_class_index_is_one_less_than_the_code() -> None:
    indices = lcz.class_index(np.array([0, 1, 17], np.uint8))
    assert indices.dtype == np.int64
    assert indices.tolist() == [-1, 0, 16]


def test_colours_stand_at_their_code() -> None:
    colors = lcz.colors()
    assert colors.shape == (18, 3)
    assert colors.dtype == np.uint8
    assert colors[0].tolist() == [255, 255, 255]
    assert colors[17].tolist() == [0x6A, 0x6A, 0xFF]
    assert lcz.colors("readme")[17].tolist() == [0x65, 0x6B, 0xFA]


PALETTES = {
    # The colour table of lcz_filter_v3.tif, and that of its readme.txt, codes 1 to 17.
    "wudapt": (
        "8C0000 D10000 FF0000 BF4D00 FF6600 FF9955 FAEE05 BCBCBC FFCCAA 555555 "
        "006A00 00AA00 648525 B9DB79 000000 FBF7AE 6A6AFF"
    ),
    "readme": (
        "910613 D9081C FF0A22 C54F1E FF6628 FF985E FDED3F BBBBBB FFCBAB 565656 "
        "006A18 00A926 628432 B5DA7F 000000 FCF7B1 656BFA"
    ),
}


@pytest.mark.parametrize("palette", PALETTES)
def test_both_palettes_are_the_published_ones(palette: lcz.Palette) -> None:
    expected = PALETTES[palette].split()
    assert [zone.color(palette) for zone in lcz.ZONES] == expected
    assert [bytes(rgb.tolist()).hex().upper() for rgb in lcz.colors(palette)[1:]] == expected
    assert [c["color_hint"] for c in lcz.stac_classes(palette)[1:]] == expected


def test_the_colour_table_of_the_global_map_is_the_default_palette(realdata: Path) -> None:
    with rasterio.open(realdata / "hongkong/lcz_global_v3.tif") as file:
        table = file.colormap(1)
    assert [table[code][:3] for code in range(18)] == [tuple(rgb) for rgb in lcz.colors().tolist()]


LEGACY = lcz.CodeTable.of({-1: 0, 0: 0, 1: 1, 101: 11, 107: 17}, nodata=-3.4e38)


@pytest.mark.parametrize("dtype", ["int16", "int64", "float32", "float64"])
def test_a_code_table_gives_the_zone_of_each_code(dtype: str) -> None:
    codes = np.array([[107, 1, 0], [-1, 101, 1]]).astype(dtype)
    zones = LEGACY.translate(codes, where="map.tif")
    assert zones.dtype == np.uint8
    assert zones.tolist() == [[17, 1, 0], [0, 11, 1]]


def test_nan_and_a_nodata_that_is_not_whole_are_no_data() -> None:
    codes = np.array([np.nan, -3.4e38, 101])
    for dtype in ("float32", "float64"):
        table = lcz.CodeTable.of({101: 11}, nodata=float(codes.astype(dtype)[1]))
        assert table.translate(codes.astype(dtype), where="map.tif").tolist() == [0, 0, 11]


@pytest.mark.parametrize("codes", [[2, 108, 108], [2.0, 108.0, 108.0]])
def test_codes_past_the_table_are_named_with_their_counts(codes: list[float]) -> None:
    message = r"map\.tif holds code 2 \(1 times\), 108 \(2 times\), which its item does not name"
    with pytest.raises(LabelError, match=message):
        LEGACY.translate(np.array([1, *codes]), where="map.tif")


def test_a_code_between_two_codes_is_not_one_of_them() -> None:
    with pytest.raises(LabelError, match=r"100\.5 \(1 times\)"):
        LEGACY.translate(np.array([100.5]), where="map.tif")


def test_a_code_table_survives_as_classes() -> None:
    table = lcz.CodeTable.of({-999: 0, 0: 0, 5: 5, 101: 11, 205: 5})
    assert lcz.CodeTable.of_classes(table.classes()) == table
    counts = {c["value"]: c["count"] for c in table.classes({5: 7, 101: 2})}
    assert counts == {-999: 0, 0: 0, 5: 7, 101: 2, 205: 0}


def test_of_many_codes_a_message_names_eight() -> None:
    listed = lcz.listed_codes(np.arange(20, 30), np.ones(10, int))
    assert listed.startswith("20 (1 times), 21 (1 times)")
    assert listed.endswith("27 (1 times) and 2 other codes")


def test_similarity_is_symmetric_and_one_on_the_diagonal_only() -> None:
    similarity = lcz.similarity()
    assert similarity.shape == (17, 17)
    np.testing.assert_array_equal(similarity, similarity.T)
    np.testing.assert_array_equal(similarity == 1, np.eye(17, dtype=bool))
    assert similarity.min() == 0


def test_stac_classes_list_no_data_first_and_every_zone_once() -> None:
    classes = lcz.stac_classes()
    assert [c["value"] for c in classes] == list(range(18))
    assert [c.get("nodata", False) for c in classes] == [True] + [False] * 17
    assert classes[11]["name"] == "lcz_a"
    assert classes[11]["color_hint"] == "006A00"
    assert len({c["name"] for c in classes}) == 18


def test_cf_flags_have_one_meaning_and_colour_per_value() -> None:
    attrs = lcz.cf_attrs()
    assert attrs["flag_values"] == list(range(1, 18))
    meanings = attrs["flag_meanings"].split(" ")
    assert meanings[12] == "lcz_c_bush_scrub"
    assert len(set(meanings)) == 17
    assert len(attrs["flag_colors"].split(" ")) == 17

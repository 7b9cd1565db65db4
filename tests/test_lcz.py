import numpy as np
import pytest

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

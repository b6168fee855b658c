import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.app.identity import InvalidName, metric, optional_id, subject_id, verbatim


def test_composed_and_decomposed_letters_are_one_id() -> None:
    assert subject_id("Ska\u030ane") == subject_id("Sk\u00e5ne") == "Sk\u00e5ne"


def test_length_counts_after_composing() -> None:
    assert len(subject_id("a\u030a" * 255)) == 255

    with pytest.raises(InvalidName, match="at most 255"):
        subject_id("a\u030a" * 256)


@pytest.mark.parametrize("given_id", [5, -5, 0, 2**63 - 1])
def test_whole_numbers_become_their_digits(given_id: int) -> None:
    assert subject_id(given_id) == str(given_id)


@pytest.mark.parametrize("blank", ["", " ", "   ", "\u3000", "\u00a0 "])
def test_blank_is_no_id(blank: str) -> None:
    assert optional_id(blank) is None

    with pytest.raises(InvalidName):
        subject_id(blank)


@pytest.mark.parametrize(
    "bad",
    ["a\x00", "\x07", "a\nb", "\t", "\x7f", "\x85", "\ud800", "å\udfff", "a" * 256, "å" * 5000],
)
def test_controls_surrogates_and_long_ids_are_refused(bad: str) -> None:
    with pytest.raises(InvalidName):
        subject_id(bad)
    with pytest.raises(InvalidName):
        optional_id(bad)
    with pytest.raises(InvalidName):
        verbatim(bad)


@pytest.mark.parametrize("bad", ["", "a\x00", "a" * 257, "a\u2028", "\ud800"])
def test_metrics_are_printable(bad: str) -> None:
    with pytest.raises(InvalidName):
        metric(bad)


def test_other_text_stays_verbatim() -> None:
    decomposed = "a\u030a"

    assert verbatim(decomposed) == decomposed
    assert metric(decomposed) == decomposed


@given(st.text(max_size=300))
def test_what_is_kept_is_normal_bounded_and_kept_again(raw: str) -> None:
    try:
        kept = subject_id(raw)
    except InvalidName:
        return

    assert unicodedata.is_normalized("NFC", kept)
    assert 0 < len(kept) <= 255
    assert not {unicodedata.category(letter) for letter in kept} & {"Cc", "Cs"}
    assert subject_id(kept) == kept

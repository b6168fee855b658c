import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entitlements.contracts.names import (
    InvalidName,
    metric,
    optional_id,
    optional_name,
    optional_text,
    stored_id,
    subject_id,
    text,
    verbatim,
)


def test_composed_and_decomposed_letters_are_one_id() -> None:
    assert subject_id("Ska\u030ane") == subject_id("Sk\u00e5ne") == "Sk\u00e5ne"


def test_length_is_counted_after_normalisation() -> None:
    assert len(subject_id("a\u030a" * 255)) == 255

    with pytest.raises(InvalidName, match="at most 255"):
        subject_id("a\u030a" * 256)


@pytest.mark.parametrize("given_id", [5, -5, 0, 2**63 - 1])
def test_whole_numbers_become_their_digits(given_id: int) -> None:
    assert subject_id(given_id) == str(given_id)


@pytest.mark.parametrize("blank", ["", " ", "   ", "\u3000", "\u00a0 ", "\u200b", "\ufeff\u2060"])
def test_a_blank_id_is_none_or_invalid(blank: str) -> None:
    assert optional_id(blank) is None

    with pytest.raises(InvalidName):
        subject_id(blank)
    with pytest.raises(InvalidName):
        text(blank)
    assert optional_text(blank) is optional_name(blank) is None


@pytest.mark.parametrize("padded", [" a", "a ", "\u3000a", "a\u00a0", "\u200ba", "a\ufeff"])
def test_new_ids_have_no_white_space_at_an_end(padded: str) -> None:
    for rule in (subject_id, optional_id, metric, optional_name):
        with pytest.raises(InvalidName, match=r"white space|printable"):
            rule(padded)
    assert stored_id(padded) == text(padded) == optional_text(padded) == padded


def test_zero_width_joiners_are_allowed_inside_words() -> None:
    for word in ("\u0d28\u0d4d\u200d", "\u0646\u0645\u06cc\u200c"):
        assert subject_id(word) == optional_name(word) == word


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
def test_an_accepted_id_is_normalised_bounded_and_stable(raw: str) -> None:
    try:
        kept = subject_id(raw)
    except InvalidName:
        return

    assert unicodedata.is_normalized("NFC", kept)
    assert 0 < len(kept) <= 255
    assert not {unicodedata.category(letter) for letter in kept} & {"Cc", "Cs"}
    assert subject_id(kept) == kept

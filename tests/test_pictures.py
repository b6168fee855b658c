"""The pictures of the docs show what the engine does."""

import pytest

from tests.pictures import FOLDER, PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_that_of_the_engine(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == PICTURES[name]()

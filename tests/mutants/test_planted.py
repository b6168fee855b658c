"""A planted bug must fit the current code, because otherwise it proves nothing."""

import ast
from pathlib import Path

import pytest

from tests.core.ledger.test_examples import cases
from tests.mutants.planted import EXAMPLES, MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_fits_the_code_and_its_test_exists(mutant: Mutant) -> None:
    code = (ROOT / "src" / "entitlements" / mutant.file).read_text("utf-8")
    file, _, node = mutant.killer.partition("::")

    for old, new in mutant.texts:
        assert old in code
        code = code.replace(old, new, 1)
    tests = ast.walk(ast.parse((ROOT / file).read_text("utf-8")))
    names = {
        one.name
        for one in tests
        if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assert not node or node.partition("[")[0].rpartition("::")[2] in names
    if mutant.killer.startswith(EXAMPLES):
        assert node.partition("[")[2].removesuffix("]") in {case.id for case in cases()}

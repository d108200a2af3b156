"""What holds for every test: scores that are kept for later runs go to a folder of this session only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OCNNA_ONNX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield

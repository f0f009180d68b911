"""cityhash.py: the hashes that CatBoost 1.2.10 gave texts of every length that is hashed in a way of its own."""

from __future__ import annotations

import pytest

from onward.package.importers.cityhash import cityhash64

LETTERS = "abcdefghijklmnopqrstuvwxyz"
HASHES = {
    "": 797982799,
    "a": 3489901818,
    "é": 468052468,
    "abc": 978243121,
    "abcd": 345588365,
    "abcdefgh": 4270775063,
    "abcdefghi": 3019552977,
    LETTERS[:16]: 2150978241,
    LETTERS[:17]: 322581478,
    LETTERS: 3301686331,
    LETTERS * 1 + LETTERS[:6]: 3415322058,
    LETTERS * 1 + LETTERS[:7]: 2090669265,
    LETTERS * 2: 1203185036,
    LETTERS * 2 + LETTERS[:12]: 2864932259,
    LETTERS * 2 + LETTERS[:13]: 960544654,
    LETTERS * 5: 576193724,
    "漢字" * 40: 407939440,
}


@pytest.mark.parametrize(("text", "expected"), HASHES.items(), ids=lambda value: str(len(str(value))))
def test_a_text_has_the_hash_by_which_catboost_knows_it(text: str, expected: int) -> None:
    assert cityhash64(text.encode()) & 0xFFFFFFFF == expected

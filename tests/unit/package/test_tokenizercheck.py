from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from onward.errors import PackageError
from onward.package.tokenizercheck import MAX_GROWTH, check_tokenizer


def written(folder: Path, tokenizer: Tokenizer | dict[str, Any]) -> Path:
    file = folder / "tokenizer.json"
    text = json.dumps(tokenizer) if isinstance(tokenizer, dict) else tokenizer.to_str()
    file.write_text(text, encoding="utf-8")
    return file


def made(*rules: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(list(rules))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def spelling(wrong: str, right: str) -> Any:
    return normalizers.Replace(Regex(rf"\b(?:{wrong})\b"), right)


def test_rules_as_published_tokenizers_have_them_pass(tmp_path: Path) -> None:
    sentencepiece = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    check_tokenizer(written(tmp_path, made(*sentencepiece)))
    check_tokenizer(written(tmp_path, made(normalizers.BertNormalizer(), normalizers.Replace(Regex(" {2,}"), " "))))
    charsmap = struct.pack("<I", 8) + bytes(8) + b"\0".join([b"ffi", "صلى الله".encode()])
    rule = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    check_tokenizer(written(tmp_path, json.loads(made().to_str()) | {"normalizer": rule}))


def test_two_hundred_spellings_are_no_bomb(tmp_path: Path) -> None:
    words = [spelling(f"wrod{number}|wrd{number}", f"a rather long word {number}") for number in range(200)]
    check_tokenizer(written(tmp_path, made(*words)))


def test_spellings_that_feed_each_other_are_one(tmp_path: Path) -> None:
    words = [spelling(f"w{number}", f"w{number + 1} w{number + 1}") for number in range(20)]
    with pytest.raises(PackageError, match="blow"):
        check_tokenizer(written(tmp_path, made(*words)))
    check_tokenizer(written(tmp_path, made(*reversed(words))))  # in this order, nothing is replaced twice


def test_a_rule_may_make_as_many_bytes_as_the_bound_and_no_more(tmp_path: Path) -> None:
    check_tokenizer(written(tmp_path, made(normalizers.Replace("a", "b" * MAX_GROWTH))))
    with pytest.raises(PackageError, match="blow"):
        check_tokenizer(written(tmp_path, made(normalizers.Replace("a", "b" * (MAX_GROWTH + 1)))))


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"model": 1}', '{"model": {"max_input_chars_per_word": "x"}}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(PackageError, match=r"tokenizer\.json"):
            check_tokenizer(tmp_path / "tokenizer.json")

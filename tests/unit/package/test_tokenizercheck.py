from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from onward.errors import PackageError
from onward.package.tokenizercheck import MAX_AROUND, MAX_GROWTH, check_tokenizer


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


TEXT: dict[str, Any] = {"Sequence": {"id": "A", "type_id": 0}}
START: dict[str, Any] = {"SpecialToken": {"id": "X", "type_id": 0}}


def template(*single: Any, ids: int = 1) -> dict[str, Any]:
    tokens = {"X": {"id": "X", "ids": [0] * ids, "tokens": ["x"] * ids}}
    return {"type": "TemplateProcessing", "single": list(single), "pair": [TEXT], "special_tokens": tokens}


def check_part(folder: Path, part: str, rule: Any) -> None:
    check_tokenizer(written(folder, json.loads(made().to_str()) | {part: rule}))


def test_a_template_takes_the_text_once(tmp_path: Path) -> None:
    check_part(tmp_path, "post_processor", template(START, TEXT, START))
    for single in ([TEXT] * 2, [TEXT] * 8, [{"Sequence": ["A", 0]}, TEXT], ["A", "A"]):
        with pytest.raises(PackageError, match="repeats"):
            check_part(tmp_path, "post_processor", template(*single))


def test_templates_put_a_bounded_number_of_tokens_around_a_text(tmp_path: Path) -> None:
    half = template(START, TEXT, ids=MAX_AROUND // 2)
    check_part(tmp_path, "post_processor", {"type": "Sequence", "processors": [half, half]})
    one = template(START, TEXT)
    for rule in (
        template(*[START] * 255, TEXT, ids=256),
        {"type": "Sequence", "processors": [half, half, one]},
        half | {"single": [START, TEXT, START, START]},
        template(*[START] * (MAX_AROUND + 2), ids=0),
    ):
        with pytest.raises(PackageError, match="too long"):
            check_part(tmp_path, "post_processor", rule)


def test_templates_are_read_in_one_form_only(tmp_path: Path) -> None:
    good = template(START, TEXT)
    for rule in (
        good | {"special_tokens": {"X": ["X", [0] * 300, ["x"] * 300]}},
        good | {"single": [{"SpecialToken": ["X", 0]}, TEXT]},
        good | {"special_tokens": {}},
        good | {"special_tokens": []},
    ):
        with pytest.raises(PackageError, match="not a template"):
            check_part(tmp_path, "post_processor", rule)


def test_rules_for_letters_count_as_often_as_they_are_there(tmp_path: Path) -> None:
    """The bounds are those of the library, for every character there is."""
    albert = [{"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]
    albert += [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
    check_part(tmp_path, "normalizer", {"type": "Sequence", "normalizers": albert})
    for kind, most, least in (("ByteLevel", 10, 2), ("NFD", 6, 3), ("NFKC", 2, 11), ("Lowercase", 17, 1.5)):
        rule = Tokenizer.from_str(json.dumps(json.loads(made().to_str()) | {"normalizer": {"type": kind}})).normalizer
        letters = (letter for code in range(0x20, 0x20000) if (letter := chr(code)).isprintable())
        assert max(len(rule.normalize_str(one).encode()) / len(one.encode()) for one in letters) == least
        check_part(tmp_path, "normalizer", {"type": "Sequence", "normalizers": [{"type": kind}] * most})
        with pytest.raises(PackageError, match="blow"):
            check_part(tmp_path, "normalizer", {"type": "Sequence", "normalizers": [{"type": kind}] * (most + 1)})


@pytest.mark.parametrize("regex", [" {0,}", "(?=a)", "a*", " ?", "|a", "a{0}"])
def test_what_may_be_found_anywhere_grows_a_text_by_itself(tmp_path: Path, regex: str) -> None:
    rule = {"type": "Replace", "pattern": {"Regex": regex}, "content": "b"}
    check_part(tmp_path, "normalizer", {"type": "Sequence", "normalizers": [rule] * 10})
    with pytest.raises(PackageError, match="blow"):
        check_part(tmp_path, "normalizer", {"type": "Sequence", "normalizers": [rule] * 11})


BOMB = {"pattern": {"String": "a"}, "content": "b" * (MAX_GROWTH + 1)}


@pytest.mark.parametrize("kind", ["Foo", "Metaspace", "Replace"])
def test_a_rule_is_what_it_has_whatever_its_type_says(tmp_path: Path, kind: str) -> None:
    for rule in (BOMB | {"type": kind}, {"type": "Foo", "prepend": "b" * 2000}):
        with pytest.raises(PackageError, match="blow"):
            check_part(tmp_path, "normalizer", rule)
        with pytest.raises(PackageError, match="blow"):
            check_part(tmp_path, "normalizer", {"type": kind, "normalizers": [rule]})


def test_a_rule_without_a_type_is_refused_as_the_library_would_read_it(tmp_path: Path) -> None:
    Tokenizer.from_str(json.dumps(json.loads(made().to_str()) | {"normalizer": BOMB}))
    for rule in (BOMB, [BOMB["pattern"], BOMB["content"]], {"normalizers": [BOMB]}, BOMB | {"type": 3}):
        for whole in (rule, {"type": "Sequence", "normalizers": [rule]}):
            with pytest.raises(PackageError, match="no type"):
                check_part(tmp_path, "normalizer", whole)


def test_what_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", '{"model": 1}', '{"model": {"max_input_chars_per_word": "x"}}'):
        (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(PackageError, match=r"tokenizer\.json"):
            check_tokenizer(tmp_path / "tokenizer.json")

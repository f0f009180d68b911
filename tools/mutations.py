"""The protections that `make mutate` switches off in turn, and the tests that must notice.

A mutation is a small edit of one file: `before` stands there exactly once. Where a protection is rewritten, its entry
here is, too: an edit that fits nowhere fails like one that nobody noticed.
"""

from __future__ import annotations

from dataclasses import dataclass

P, S = "package/", "runners/serve/"
UNIT = "tests/unit/"


@dataclass(frozen=True, slots=True)
class Mutation:
    """A protection switched off: `before` becomes `after` in `file` below src/onward; `tests` are for pytest."""

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]


def off(name: str, file: str, before: str, after: str, *tests: str) -> Mutation:
    """A mutation."""
    return Mutation(name, file, before, after, tests)


def never(name: str, file: str, condition: str, *tests: str) -> Mutation:
    """One that makes a condition never hold: `if CONDITION:`."""
    return Mutation(name, file, f"if {condition}:", "if False:", tests)


HOSTILE = "tests/hostile/test_hostile.py"


def native(word: str) -> tuple[str, ...]:
    """Packages with this word in their names are refused before native code reads them."""
    return HOSTILE, "-k", f"native and {word}"


def opened(word: str) -> tuple[str, ...]:
    """Such packages are refused in a process with limits, and a harmless one is not."""
    return HOSTILE, "-k", f"({word} or harmless) and not native"


TRUST = (UNIT + "package/test_trust.py", "-k", "not model_signing")
ARCHIVE = UNIT + "package/test_archive.py"
GRAPH = UNIT + "package/test_graphcheck.py"

PACKAGES = (
    never("a changed file", P + "digest.py", "wrong", UNIT + "package/test_digest.py"),
    off("a file's digest", P + "digest.py", "if file_digest(file) != lock.files[path]", "if False",
        UNIT + "package/test_digest.py"),
    never("a forged package digest", P + "digest.py", "digest != package_digest(files, stages)",
          UNIT + "package/test_digest.py"),
    never("links and devices", P + "digest.py",
          "entry.is_symlink() or not (is_folder or entry.is_file(follow_symlinks=False))",
          UNIT + "package/test_digest.py"),
    never("names that leave a package's folder", P + "digest.py", "not is_inner_path(path)",
          UNIT + "package/test_digest.py"),
    never("too many files", P + "digest.py", "seen > MAX_FILES + MAX_FOLDERS", HOSTILE, "-k", "too_many_folders"),
    never("paths of an archive", P + "archive.py",
          "not is_inner_path(entry.orig_filename) or entry.filename != entry.orig_filename", ARCHIVE),
    never("links in an archive", P + "archive.py",
          "entry.is_dir() or kind not in (0, stat.S_IFREG) or entry.flag_bits & 0x1", ARCHIVE),
    never("an archive's bomb", P + "archive.py", "size > min(MAX_UNPACKED_BYTES, MAX_RATIO * archive.stat().st_size)",
          ARCHIVE),
    never("a file given twice", P + "archive.py", "entry.filename in entries", ARCHIVE),
    never("overlapping files", P + "archive.py", "end > after.header_offset", *opened("overlap")),
    never("a long list of entries", P + "archive.py", "length > MAX_DIRECTORY_BYTES", ARCHIVE),
    never("an unpacked file's digest", P + "archive.py",
          "_extract(opened, entries[path], target / path, entries[path].file_size) != digest", ARCHIVE),
    never("a file that the lock does not list", P + "archive.py", "differing", ARCHIVE),
    never("pipes in place of files", P + "reading.py", "not stat.S_ISREG(os.fstat(descriptor).st_mode)", *TRUST),
    never("links in place of files", P + "reading.py", "not links and file.is_symlink()", *TRUST),
    never("files without an end", P + "reading.py", "len(data) > limit_bytes", UNIT + "package/test_reading.py"),
    never("keys of many parts", P + "toml_text.py", "_DEEP.search(bare)", UNIT + "package/test_toml_text.py"),
    never("numbers of many digits", P + "toml_text.py", "_LONG.search(bare)", UNIT + "package/test_toml_text.py"),
    off("sizes in a manifest", P + "sections.py", "(size == -1 or 1 <= size < 1 << 31)", "True",
        UNIT + "package/test_manifest.py"),
    off("elements in a manifest", P + "sections.py",
        "elif (elements := math.prod(size for size in value if size > 0)) > MOST_ELEMENTS:",
        "elif (elements := 0):", *opened("manifest_sizes")),
    off("paths in a manifest", P + "sections.py",
        "if self.has(name) and isinstance(self.values[name], str) and not is_inner_path(value):", "if False:",
        UNIT + "package/test_manifest.py"),
    off("what examples may take", P + "examples.py", "if self.bytes_left < 0 or self.values_left < 0:", "if False:",
        UNIT + "package/test_examples.py"),
    off("files that examples name", P + "examples.py",
        'if not is_inner_path(value["file"]) or file.is_symlink() or not file.is_file():', "if not file.is_file():",
        UNIT + "package/test_examples.py"),
)  # fmt: skip

GRAPHS = (
    never("operators that train", P + "graphcheck.py",
          'domain in TRAINING_DOMAINS or operator in TRAINING_OPERATORS or operator.endswith("Grad")', GRAPH),
    never("foreign operators", P + "graphcheck.py", "domain not in ALLOWED_DOMAINS or operator in FOREIGN_OPERATORS",
          GRAPH),
    off("operators of the runtime's that run others", P + "graphcheck.py", " or operator in FOREIGN_OPERATORS", "",
        *native("PythonOp")),
    never("data outside the package", P + "graphcheck.py",
          "not inside or file.is_symlink() or not file.is_file()", GRAPH),
    never("data beyond a file's end", P + "graphcheck.py", "offset + length > size or needed_bytes > length",
          *native("graph_data")),
    off("tensors that are not there", P + "graphcheck.py",
        "elif not fits(elements, datatype, raw_bytes=raw_bytes, listed_bytes=listed_bytes, texts=texts):",
        "elif False:", *native("graph_tensor")),
    never("sparse tensors", P + "graphcheck.py", "elements is None or elements > MAX_SPARSE_ELEMENTS",
          *native("sparse")),
    never("functions that unfold", P + "graphsizes.py", "unfolded[function] > MAX_UNFOLDED_NODES",
          UNIT + "package/test_graphsizes.py"),
    never("the runtime's own format", P + "graphcheck.py", 'file.suffix.lower() == ".ort"', *native("another_format")),
    never("graphs without end", P + "graphcheck.py", "depth > MAX_DEPTH", GRAPH),
    off("a stranger's graph in a process of its own", P + "importers/onnx.py",
        "    try_graphs([file], file.parent)\n", "", UNIT + "package/test_graphtrial.py"),
    off("and in a folder", P + "pack.py", "            try_folder(folder)\n", "", UNIT + "package/test_graphtrial.py"),
    off("its memory", P + "graphtrial_child.py", "    limit(int(arguments[0]), int(arguments[1]))\n", "",
        UNIT + "package/test_graphtrial.py", "-k", "terabytes or gigabytes"),
    off("rules that blow texts up", P + "tokenizercheck.py", "if len(rules) > MAX_RULES or growth > MAX_GROWTH:",
        "if len(rules) > MAX_RULES:", *native("tokenizer")),
    off("rules for words", P + "tokenizercheck.py", "growth = _growth_of_words(words)", "growth = 1",
        *native("tokenizer")),
    never("long words", P + "tokenizercheck.py", "tokenizer.model.max_input_chars_per_word > MAX_WORD",
          *native("tokenizer")),
    never("tensors of a language model", P + "gguf.py", "start + end > len(self._data)", *native("gguf")),
    off("a look at tokenizers", P + "package.py", "            check_tokenizer(folder / file)\n", "            pass\n",
        *native("tokenizer")),
    off("a look at language models", P + "package.py", "        check_gguf(folder / manifest.execute.file)\n",
        "        pass\n", *native("gguf")),
)  # fmt: skip

SIGNATURES = (
    never("the signature itself", P + "trust.py", "path is None or key is None or not _fits(attestation, key)", *TRUST),
    off("what the signature is of", P + "trust.py",
        "key.verify(attestation.signature, signed_bytes(attestation.payload), _algorithm(key))", "pass", *TRUST),
    never("the lock that was signed", P + "trust.py", 'signed.pop(LOCK_FILE, "") != hashlib.sha256(data).hexdigest()',
          *TRUST),
    off("the policy of opening", P + "package.py", "lock = read_trusted_lock(folder) if verify else read_lock(folder)",
        "lock = read_lock(folder)", *TRUST),
    off("the policy of looking", P + "package.py", "    lock = read_trusted_lock(folder)\n    file",
        "    lock = read_lock(folder)\n    file", *TRUST),
    off("the policy of a repository", P + "repository.py", "verify_folder(self.root, read_trusted_lock(self.root))",
        "verify_folder(self.root, read_lock(self.root))", *TRUST),
    off("the policy of installing", P + "repository.py", "        lock = read_trusted_lock(source)\n",
        "        lock = read_lock(source)\n", *TRUST),
    off("the policy of an archive", P + "archive.py",
        "lock = read_trusted_lock(temporary) if signed else read_lock(temporary)", "lock = read_lock(temporary)",
        *TRUST),
    never("a policy that names no key", P + "trust.py", "not named", *TRUST),
    never("paths that read as two", P + "trust.py", "os.pathsep in str(file)", *TRUST),
    off("a key of another curve", P + "trust.py",
        "if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in _CURVES:", "if False:", *TRUST),
    off("a manifest's own digest", P + "package.py",
        "if hashlib.sha256(data).hexdigest() != lock.files.get(MANIFEST_FILE):", "if False:", *TRUST),
    never("places that may be fetched from", P + "sources.py",
          "not any(source.is_within(prefix) for prefix in prefixes)", UNIT + "package/test_sources.py"),
    off("the digest of what the cache has", P + "sources.py", " and file_digest(file) == digest", "",
        UNIT + "package/test_sources.py"),
    never("the digest of what was fetched", P + "sources.py", "found != source.sha256",
          UNIT + "package/test_sources.py"),
)  # fmt: skip

PROCESSES = (
    never("unpickling", "unpickling.py", "event == _EVENT and _refusing", UNIT + "test_unpickling.py"),
    off("unpickling in a package's code", "execute/worker.py", "    refuse_unpickling()", "    pass",
        "tests/faults/test_unpickling.py", "-k", "package"),
    off("unpickling in the server", "cli/serving.py",
        "        with unpickling_refused():\n            serve_repository(settings)",
        "        serve_repository(settings)", "tests/faults/test_unpickling.py", "-k", "itself and serve"),
    off("unpickling in a worker", S + "workers/worker.py", "    refuse_unpickling()\n", "    pass\n",
        "tests/faults/test_unpickling.py", "-k", "supervisor"),
    off("unpickling in a job", "cli/batch.py", 'nullcontext() if engine == "ray" else unpickling_refused()',
        "nullcontext()", "tests/faults/test_unpickling.py", "-k", "itself and batch"),
    off("unpickling in a run", "cli/packages.py",
        "    with unpickling_refused():\n        local.run(", "    if True:\n        local.run(",
        "tests/faults/test_unpickling.py", "-k", "itself and run"),
    never("a network without keys", S + "server.py", 'not (here or options.insecure or host.startswith("/"))',
          UNIT + "runners/serve/test_activation.py"),
)  # fmt: skip

REQUESTS = (
    off("the length of a body", S + "http.py", "if length is not None and int(length) > route.max_body_bytes:",
        "if False:", UNIT + "runners/serve/test_http.py", "-k", "body"),
    never("a body in chunks", S + "exchange.py", "len(self.body) > self.route.max_body_bytes",
          UNIT + "runners/serve/test_http.py", "-k", "body"),
    never("a body on the long way", S + "body.py", "len(body) > limit", UNIT + "runners/serve/test_app.py",
          "tests/acceptance/test_bad_input.py"),
    off("rows of a request", S + "oip.py", "if shape[0] > max_rows:", "if False:", UNIT + "runners/serve/test_oip.py"),
    off("binary data of another size", S + "oip.py", "    if size != expected:\n", "    if False:\n",
        UNIT + "runners/serve/test_oip.py"),
    never("lengths of texts", S + "oip.py", "count * 4 > len(blob)", UNIT + "runners/serve/test_oip.py"),
    off("panics of the tokenizer", "prepare/text.py", ' or type(error).__name__ == "PanicException"', "",
        "tests/fuzz/test_fuzz.py", "-k", "kept and tokenizer"),
    never("pixels", "prepare/image.py", "width * height > max_pixels or max(width, height) > MAX_SIDE",
          UNIT + "prepare/test_image.py"),
    off("the bound of the queue", "execute/scheduler.py", "            self._check_room(work, now_s)\n",
        "            pass\n",
          UNIT + "execute/test_scheduler.py"),
    never("deadlines", "execute/scheduler.py", "work.deadline_s <= now_s", UNIT + "execute/test_scheduler.py"),
    never("work that nobody waits for", "execute/scheduler.py", "work.state is State.CANCELLED",
          UNIT + "execute/test_scheduler.py"),
)  # fmt: skip

ACTIONS = (
    never("another tenant's approval", "store/transitions.py", "approval is None or approval.tenant != tenant",
          UNIT + "store/test_contract_outbox.py", UNIT + "act/test_approvals.py"),
    off("the payload that was approved", "store/transitions.py", "if approval.payload_digest != payload_digest:",
        "if False:", UNIT + "act/test_approvals.py"),
    never("an approval in time", "store/transitions.py",
          "approval.state is not ApprovalState.OPEN or approval.expires_s <= now_s", UNIT + "act/test_approvals.py"),
    never("an approval without a name", "act/approvals.py", "not by.strip()", UNIT + "act/test_approvals.py"),
    off("the kill switch", "act/kill.py",
        "return self.everything or tenant in self.tenants or action in self.actions", "return False",
        UNIT + "act/test_kill.py"),
    never("metadata of clouds", "act/network.py",
          "address.is_link_local or any(address in network for network in _NEVER)", UNIT + "act/test_network.py"),
    off("private addresses", "act/network.py", 'return "" if allow_private else "private"', 'return ""',
        UNIT + "act/test_network.py"),
    never("the audit chain", "store/chain.py", "entry != link(entry.draft, last)", UNIT + "store/test_chain.py"),
)  # fmt: skip

MUTATIONS = (*PACKAGES, *GRAPHS, *SIGNATURES, *PROCESSES, *REQUESTS, *ACTIONS)

"""A package as a static folder, opened in a real Chromium: from any host, then with none, with the server's answers."""

from __future__ import annotations

import csv
import http.server
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from onward.package.examples import read_examples
from onward.package.package import open_package
from onward.pipeline import Pipeline
from onward.runners.agreement.comparison import compare
from onward.runners.agreement.inputs import inputs_of
from onward.runners.edge.certificate import own_answers
from onward.runners.edge.web.browser import answers_in_browser, browser
from tests.acceptance.conftest import png, write_loan, write_shade

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package (dependency group dev)")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(browser() is None, reason="no Chromium here: `apt-get install chromium`"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm here: `apt-get install npm`"),
]

GALLERY = Path("var/repository")
ARGUMENTS = [
    "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
]  # fmt: skip
SOFTWARE_GPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"]
SCREENSHOTS = Path(__file__).parents[2] / "var" / "screenshots"


class Host:
    """A static host as plain as they come: no header of its own, the folder under a path."""

    def __init__(self, folder: Path, *, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.asked: list[str] = []
        handler = partial(_Handler, directory=str(folder), asked=self.asked, headers_too=headers)
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = http.server.SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}

    def __init__(self, *arguments: Any, asked: list[str], headers_too: Mapping[str, str], **options: Any) -> None:
        self.asked = asked
        self.headers_too = headers_too
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()

    def end_headers(self) -> None:
        for name, value in self.headers_too.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *values: Any) -> None:
        pass


def export(package: Path, out: Path, *options: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "onward", "edge", str(package), str(out), "--target", "web", "--json", *options]
    made = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr
    report: dict[str, Any] = json.loads(made.stdout)
    return report


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host's root with the packages loan and shade below it."""
    root = tmp_path_factory.mktemp("site")
    for name, write in (("loan", write_loan), ("shade", write_shade)):
        write(root.parent / "packages" / name)
        report = export(root.parent / "packages" / name, root / name, "--inputs", "20")
        assert report["certificate"]["agreeing"] == report["certificate"]["inputs"] == 20
    return root


@pytest.fixture
def host(sites: Path) -> Iterator[Host]:
    hosting = Host(sites)
    yield hosting
    hosting.stop()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def chromium(driver: Any) -> Iterator[Any]:
    running = driver.chromium.launch(executable_path=browser(), args=ARGUMENTS)
    yield running
    running.close()


@pytest.fixture
def page(chromium: Any, host: Host) -> Iterator[Any]:
    """A fresh page that asks nobody but its host, and has nothing to complain of."""
    context = chromium.new_context(viewport={"width": 1360, "height": 860})
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    complaints: list[str] = []
    strangers: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda one: one.url.startswith((host.url, "blob:")) or strangers.append(one.url))
    opened.add_init_script(
        "addEventListener('securitypolicyviolation', (event) => console.error('CSP: ' + event.violatedDirective))"
    )
    yield opened
    context.close()
    assert [text for text in complaints if "Failed to load resource" not in text] == []
    assert strangers == []


def until(holds: Callable[[], bool], timeout_s: float = 30) -> None:
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def visit(page: Any, host: Host, name: str) -> None:
    page.goto(f"{host.url}/{name}/")
    page.get_by_role("heading", level=1, name=name).wait_for()


def run_example(page: Any) -> str:
    page.get_by_role("button", name="Example", exact=True).click()
    page.locator("#example:not([title=''])[title]").wait_for()
    page.get_by_role("button", name="Run").click()
    page.locator("#label").wait_for()
    return str(page.inner_text("#label"))


def test_a_form_is_answered_and_then_again_with_no_host_and_no_network(page: Any, host: Host) -> None:
    visit(page, host, "loan")
    assert run_example(page) == "approve"
    assert "190 points" in page.inner_text("#answer")
    page.get_by_text("works offline").wait_for()
    asked = len(host.asked)
    host.stop()
    page.context.set_offline(True)
    page.reload()
    page.get_by_role("heading", level=1, name="loan").wait_for()
    assert run_example(page) == "approve"
    assert page.evaluate("crossOriginIsolated")
    assert len(host.asked) == asked
    save_screenshot(page, "edge-web-table")


def test_nothing_is_fetched_twice_on_a_first_visit(page: Any, host: Host) -> None:
    visit(page, host, "loan")
    page.get_by_text("works offline").wait_for()
    large = [path for path in host.asked if path.partition("?")[0].endswith((".onnx", ".wasm"))]
    assert len(large) == len(set(large)) == 2


def test_a_picture_is_answered_from_a_file_and_from_the_camera(page: Any, host: Host, tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(png((210, 40, 30), (320, 200)))
    visit(page, host, "shade")
    page.get_by_label("image").set_input_files(tmp_path / "red.png")
    page.get_by_role("button", name="Run").click()
    page.locator("#label").wait_for()
    assert page.inner_text("#label") == "red"
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="What is it?").click()
    page.get_by_text("camera.png").wait_for()
    page.locator("#label", has_text="green").wait_for()  # Chromium's test picture is


def test_a_file_of_rows_is_scored_and_each_bad_row_says_why(page: Any, host: Host, tmp_path: Path) -> None:
    rows = ["amount,income,years_employed,purpose,customer,note"]
    rows += ['9000,3200,6,car,true,"a, b"'] * 1500
    rows += ["99,3200,6,car,true,", "9000,,6,car,true,", "9000,3200,6,boat,false,"]
    (tmp_path / "rows.csv").write_text("\r\n".join(rows), "utf-8")
    visit(page, host, "loan")
    page.locator("#csv").set_input_files(tmp_path / "rows.csv")
    page.get_by_text("1503 rows in").wait_for()
    assert "3 of them refused" in page.inner_text("#scored")
    with page.expect_download() as download:
        page.locator("#save").click()
    lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text("utf-8"))))
    assert [line["error"] for line in lines[-3:]] == ["OUT_OF_RANGE", "MISSING_INPUT", "WRONG_DATATYPE"]
    assert {(line["label"], line["error"]) for line in lines[:-3]} == {("approve", "")}
    assert [int(line["row"]) for line in lines] == list(range(1503))


def test_a_changed_file_is_refused_by_its_digest(chromium: Any, sites: Path, tmp_path: Path) -> None:
    shutil.copytree(sites / "loan", tmp_path / "loan")
    model = tmp_path / "loan" / "package" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    changed = Host(tmp_path)
    page = chromium.new_context().new_page()
    page.goto(f"{changed.url}/loan/")
    page.get_by_text("is not what bundle.json says").wait_for()
    assert page.locator("button.main").count() == 0
    page.context.close()
    changed.stop()


def test_another_version_takes_the_place_of_the_one_that_is_kept(chromium: Any, sites: Path, tmp_path: Path) -> None:
    shutil.copytree(sites / "loan", tmp_path / "site" / "model")
    hosting = Host(tmp_path / "site")
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{hosting.url}/model/")
    page.get_by_text("works offline").wait_for()
    shutil.rmtree(tmp_path / "site" / "model")
    shutil.copytree(sites / "shade", tmp_path / "site" / "model")
    for file in (tmp_path / "site" / "model").iterdir():  # both were made in the same second
        os.utime(file, (time.time() + 10, time.time() + 10))
    waiting = "navigator.serviceWorker.getRegistration().then(({ waiting }) => waiting?.state)"
    page.reload()  # the old one still answers, with all of its own files, and the new one is fetched beside it
    until(lambda: page.evaluate(waiting) == "installed")
    page.reload()
    page.get_by_role("heading", level=1, name="loan").wait_for()
    assert page.evaluate("caches.keys().then((names) => names.length)") == 2

    def takes_over() -> bool:
        again = context.new_page()
        again.goto(f"{hosting.url}/model/")
        again.get_by_text("Runs on this device").wait_for()
        name = again.inner_text("h1")
        left = again.evaluate("caches.keys().then((names) => names.length)")
        again.close()
        return bool(name.startswith("shade") and left == 1)

    page.close()
    until(takes_over)
    context.close()
    hosting.stop()


def test_a_page_works_although_nothing_can_be_kept(page: Any, host: Host) -> None:
    """The service worker's own first installation fails: its script's file of the page is not there."""
    page.context.route(
        "**/offline.js", lambda route: route.fulfill(body="throw new Error('no')", content_type="text/javascript")
    )
    visit(page, host, "loan")
    assert run_example(page) == "approve"
    page.get_by_text("needs its host").wait_for()


def test_a_host_that_lets_files_be_kept_for_an_hour_may_be_given_another_export(
    chromium: Any, sites: Path, tmp_path: Path
) -> None:
    """What the browser's own cache still holds of the old export is not taken for the new one's."""
    shutil.copytree(sites / "loan", tmp_path / "model")
    hosting = Host(tmp_path, headers={"Cache-Control": "max-age=3600"})
    context = chromium.new_context()
    page = context.new_page()
    page.goto(f"{hosting.url}/model/LICENCES.txt")
    opened = """async () => {
        const { open } = await import("./onward.js");
        const model = await open();
        return [model.package.name, (await model.check()).examples];
    }"""
    assert page.evaluate(opened) == ["loan", 1]
    write_loan(tmp_path / "packages" / "loan", labels="yes\nmaybe\nno\n")
    shutil.rmtree(tmp_path / "model")
    export(tmp_path / "packages" / "loan", tmp_path / "model", "--inputs", "0")
    page.goto(f"{hosting.url}/model/bundle.json")
    assert page.evaluate(opened) == ["loan", 1]
    item = {"amount": 9000, "income": 3200, "years_employed": 6, "purpose": "car", "customer": True}
    asked = "async (item) => (await (await import('./onward.js')).open().then((model) => model.answer(item))).label"
    assert page.evaluate(asked, item) == "yes"
    context.close()
    hosting.stop()


def test_a_quote_that_never_ends_is_told(page: Any, host: Host, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        'amount,income,years_employed,purpose,customer\n9000,3200,6,"car,true\n', "utf-8"
    )
    visit(page, host, "loan")
    page.locator("#csv").set_input_files(tmp_path / "rows.csv")
    page.get_by_text("quote").first.wait_for()


def test_it_is_a_module_for_other_pages_too(page: Any, host: Host) -> None:
    page.goto(f"{host.url}/loan/LICENCES.txt")
    item = {"amount": 9000, "income": 3200, "years_employed": 6, "purpose": "car", "customer": True}
    told = page.evaluate(
        """async (item) => {
            const { open, OnwardError } = await import("./onward.js");
            const read = [];
            const model = await open({ progress: ({ read_bytes }) => read.push(read_bytes) });
            const answers = await model.answers([item, { ...item, amount: 40000 }], { outputs: ["contributions"] });
            const refused = await model.answers([item, { ...item, amount: 1 }]).catch((error) => error);
            const checked = await model.check();
            await model.close();
            const error = [refused instanceof OnwardError, refused.code, refused.field];
            return { answers, error, checked, read: read.length, where: model.runtime.device };
        }""",
        item,
    )
    assert [one["label"] for one in told["answers"]] == ["approve", "review"]
    assert told["answers"][0]["contributions"]["income"] == pytest.approx(-192.0)
    assert told["error"] == [True, "OUT_OF_RANGE", "[1] amount"]
    assert told["checked"]["examples"] == 1
    assert told["read"] > 0
    assert told["where"] == "wasm"


BAD_LOANS: list[dict[str, Any]] = [
    {}, {"amount": "much"}, {"amount": 1.0}, {"amount": 1e39}, {"amount": None}, {"amount": True}, {"income": -1},
    {"income": [1.0]}, {"years_employed": 6.5}, {"years_employed": 61}, {"years_employed": 2**40}, {"purpose": "boat"},
    {"purpose": 1}, {"customer": 1}, {"customer": "true"}, {"colour": "red"}, {"years_employed": None},
    {"amount": 100}, {"amount": 50000.0}, {"amount": 50000.001}, {"amount": 50000.002}, {"toString": 1},
]  # fmt: skip
BAD_PICTURES: list[dict[str, Any]] = [
    {"image": b""}, {"image": b"no picture"}, {"image": png((1, 2, 3), (8, 8))[:40]}, {"image": 7}, {"image": None}, {},
    {"picture": b"x"},
]  # fmt: skip


@pytest.mark.parametrize("name", ["loan", "shade"])
def test_bad_input_has_the_codes_that_it_has_behind_the_server(name: str, sites: Path) -> None:
    package = open_package(sites.parent / "packages" / name)
    good = read_examples(package.folder)[0].input
    items = [{**good, **bad} for bad in BAD_LOANS] if name == "loan" else BAD_PICTURES
    items = [*items, good]
    expected = own_answers(package, items)
    found = answers_in_browser(sites / name, items, timeout_s=60).answers
    assert [one.get("error") for one in found] == [one.get("error") for one in expected]
    assert "error" not in found[-1]


def test_pictures_of_every_kind_are_decoded_as_behind_the_server(sites: Path) -> None:
    """Turned by EXIF, transparent, grey, of a palette, tiny, 16 bits deep, another format."""
    from PIL import Image

    package = open_package(sites.parent / "packages" / "shade")
    base = Image.effect_noise((61, 47), 90).convert("L")
    colours = Image.merge("RGB", [base, base.rotate(90, expand=False), base.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
    turned = Image.Exif()
    turned[0x0112] = 6
    made: list[dict[str, Any]] = []
    for image, kind, options in [
        (colours, "JPEG", {"quality": 80}), (colours, "JPEG", {"quality": 60, "exif": turned}), (base, "JPEG", {}),
        (colours, "JPEG", {"progressive": True, "subsampling": 0}), (colours, "PNG", {}), (base, "PNG", {}),
        (colours.convert("P"), "PNG", {}), (colours, "WEBP", {"lossless": True}), (colours, "GIF", {}),
        (colours, "BMP", {}), (Image.new("RGB", (1, 1), (9, 99, 199)), "PNG", {}),
        (Image.new("RGBA", (9, 9), (200, 10, 10, 0)), "PNG", {}), (Image.new("LA", (5, 5), (90, 255)), "PNG", {}),
    ]:  # fmt: skip
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        made.append({"image": stream.getvalue()})
    found = answers_in_browser(sites / "shade", made, timeout_s=60).answers
    agreement = compare("web", own_answers(package, made), found)
    assert agreement.agreeing == len(made), agreement.first


def test_a_package_that_no_browser_can_run_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "onward", "edge", "support", str(tmp_path / "out"), "--target", "web"]
    if not (GALLERY / "support").is_dir():
        pytest.skip("support is not built: make gallery")
    made = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert made.returncode == 65
    assert "NOT_FOR_EDGE" in made.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.weights
@pytest.mark.parametrize("name", ["fraud", "vision", "intent", "embed"])
def test_packages_of_the_gallery_answer_in_a_browser_as_behind_the_server(
    name: str, chromium: Any, tmp_path: Path
) -> None:
    if not (GALLERY / name).is_dir():
        pytest.skip(f"{name} is not built: make gallery")
    report = export(GALLERY / name / "1.0.0", tmp_path / name, "--inputs", "20" if name == "vision" else "80")
    certificate = report["certificate"]
    assert certificate["agreeing"] == certificate["inputs"] >= 20
    assert certificate["difference"] < 1e-5
    assert json.loads((tmp_path / name / "bundle.json").read_text("utf-8"))["certificate"] == certificate
    hosting = Host(tmp_path)
    page = chromium.new_context(viewport={"width": 1360, "height": 860}).new_page()
    page.set_default_timeout(20_000)
    visit(page, hosting, name)
    page.get_by_text("works offline").wait_for()
    hosting.stop()
    page.context.set_offline(True)
    page.reload()
    page.get_by_role("heading", level=1, name=name).wait_for()
    page.get_by_role("button", name="Check the examples here").click()
    page.get_by_text("golden examples answered as promised").wait_for()
    page.get_by_role("button", name="Example", exact=True).click()
    page.locator("#example:not([title=''])[title]").wait_for()
    page.get_by_role("button", name="Run").click()
    page.locator("#latency").wait_for()
    save_screenshot(page, f"edge-web-{name}")
    page.context.close()


@pytest.mark.weights
def test_the_microphone_is_heard_window_by_window(driver: Any, tmp_path: Path) -> None:
    spoken = GALLERY / "transcriber" / "1.0.0" / "examples" / "fox.wav"
    if not (GALLERY / "vad").is_dir() or not spoken.is_file():
        pytest.skip("vad and transcriber are not built: make gallery")
    export(GALLERY / "vad" / "1.0.0", tmp_path / "vad", "--inputs", "40")
    hosting = Host(tmp_path)
    microphone = f"--use-file-for-fake-audio-capture={spoken.absolute()}"  # again and again
    running = driver.chromium.launch(executable_path=browser(), args=[*ARGUMENTS, microphone])
    page = running.new_page()
    visit(page, hosting, "vad")
    page.get_by_role("button", name="Listen").click()
    page.get_by_text("Somebody is speaking.").wait_for()
    page.get_by_text("Nobody is speaking.").wait_for()
    save_screenshot(page, "edge-web-vad")
    page.get_by_role("button", name="Stop listening").click()
    page.get_by_text("The microphone is off.").wait_for()
    running.close()
    hosting.stop()


@pytest.mark.weights
@pytest.mark.long
def test_a_graphics_processor_gives_the_same_answers(driver: Any, tmp_path: Path) -> None:
    """By the processor's emulation of one: hundreds of times slower, and just as exact."""
    if not (GALLERY / "embed").is_dir():
        pytest.skip("embed is not built: make gallery")
    export(GALLERY / "embed" / "1.0.0", tmp_path / "embed", "--inputs", "0")
    package = open_package(GALLERY / "embed" / "1.0.0")
    texts = [str(item["text"]) for item in inputs_of(package, 30)[:4]]
    hosting = Host(tmp_path)
    running = driver.chromium.launch(executable_path=browser(), args=[*ARGUMENTS, *SOFTWARE_GPU])
    page = running.new_page()
    page.goto(f"{hosting.url}/embed/LICENCES.txt")
    told = page.evaluate(
        """async (texts) => {
            const { open } = await import("./onward.js");
            const model = await open({ device: "webgpu" });
            const answers = [];
            for (const text of texts) answers.push(await model.answer(text));
            return { answers, device: model.runtime.device };
        }""",
        texts,
    )
    running.close()
    hosting.stop()
    assert told["device"] == "webgpu"
    with Pipeline(package) as pipeline:
        expected = [{"embedding": pipeline(text).answer["embedding"]} for text in texts]
    assert compare("webgpu", expected, told["answers"]).agreeing == len(texts)


def save_screenshot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

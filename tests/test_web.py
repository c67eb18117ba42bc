"""`hsd web`: the page as it is served on loopback, asked through its API."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, window
from PIL import Image
from tiny import write_weights

from hsd_jax import HeadSwapper, cli, weights
from hsd_jax.imaging.demo import find_photos

if find_spec("gradio") is None:
    pytest.skip("the extra web is not installed", allow_module_level=True)

import httpx  # noqa: E402
from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from hsd_jax.web.desk import BODY, DRAWN, Desk, Wish, nearest  # noqa: E402

# Both sides of a comparison are compiled alike, and quickly.
pytestmark = pytest.mark.usefixtures("quick_compiles")
ROOT = Path(__file__).parents[1]
ACCOUNT = ("anna", "secret")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that find people and paint noise."""
    folder = write_weights(tmp_path_factory.mktemp("weights"), 128)
    for path in [*weights.find().glob("parser.*"), *weights.find().glob("landmarks.*")]:
        shutil.copyfile(path, folder / path.name)
    return folder


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


@pytest.fixture(scope="module")
def url(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The command itself, for one account; at its end nothing is left of what it kept."""
    port, temporary = free_port(), tmp_path_factory.mktemp("temporary")
    command = [sys.executable, "-m", "hsd_jax.cli", "web", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--weights", str(folder), "--auth", ":".join(ACCOUNT)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary),
             "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
             "JAX_COMPILATION_CACHE_DIR": os.environ["HSD_JAX_TEST_CACHE"]},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert f"http://127.0.0.1:{port}/" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}/"
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
        # Gradio's own are for paths that nobody uploaded.
        assert said.count("Traceback") == said.count("InvalidPathError: "), said
        assert process.returncode == 0
        assert not list(temporary.glob("hsd-web-*"))
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    downloads = str(tmp_path_factory.mktemp("downloads"))
    return Client(url, auth=ACCOUNT, download_files=downloads, verbose=False)


@pytest.fixture(scope="module")
def visitor(url: str) -> Iterator[httpx.Client]:
    """Somebody who is logged in, with requests of any kind."""
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as visitor:
        account = dict(zip(("username", "password"), ACCOUNT, strict=True))
        assert visitor.post("login", data=account).status_code == 200
        yield visitor


def asked(client: Client, head: object, body: object, **options: object):
    """What the API answers for two files."""
    given = [x if isinstance(x, dict) else handle_file(str(x)) for x in (head, body)]
    return client.predict(*given, **options, api_name="/swap")


def refused(client: Client, *photos: object, **options: object) -> str:
    with pytest.raises(AppError) as error:
        asked(client, *photos, **options)
    return str(error.value)


# The API


def test_a_swap_is_the_file_that_hsd_swap_writes(client, folder, tmp_path):
    head, body = find_photos()
    (file,), report = asked(client, head, body, seed=3, light="keep")
    out = tmp_path / "out.png"
    told = ["swap", head, body, "-o", out, "--seed", 3, "--weights", folder, "--light", "keep"]
    assert cli.main([str(word) for word in told]) == 0
    assert Path(file).read_bytes() == out.read_bytes()
    assert report["seed"] == 3 and report["faces"] == {"head": 1, "body": 1}
    with Image.open(file) as image:
        assert "Synthetic image" in image.info["Description"]


@pytest.mark.slow  # four samples are programs of their own
def test_samples_are_files_of_their_own(client):
    head, body = find_photos()
    files, _ = asked(client, head, body, samples=2, steps=3)
    assert [Path(file).name for file in files] == ["swap-0.png", "swap-0-2.png"]
    assert Path(files[0]).read_bytes() != Path(files[1]).read_bytes()


def test_what_cannot_be_swapped_is_told_in_words(client, tmp_path):
    head, body = find_photos()
    text, blank = tmp_path / "text.jpg", tmp_path / "blank.png"
    text.write_text("no image")
    Image.new("RGB", (200, 200)).save(blank)
    (tmp_path / "small.png").write_bytes(b"")
    message = refused(client, text, body)
    assert message.startswith("the head photo is no") and "/" not in message
    assert "the body photo: no face found" in refused(client, head, blank)
    assert "the body photo" in refused(client, head, tmp_path / "small.png")
    assert "there is no person 5" in refused(client, head, body, person=5)


def test_options_have_limits(client):
    head, body = find_photos()
    assert "whole number from 1 to 4" in refused(client, head, body, samples=99)
    assert "from 0 to 4294967295" in refused(client, head, body, seed=-1)
    assert "from 2 to 50" in refused(client, head, body, steps=1000)
    assert "'green': use one of auto" in refused(client, head, body, skin_tone="green")
    assert "'foot': use one of head" in refused(client, head, body, region="foot")
    assert "'up': use one of shift" in refused(client, head, body, align="up")
    assert "'dim': use one of match" in refused(client, head, body, light="dim")


# Under attack


def sent(visitor: httpx.Client, content: bytes, name: str = "photo.jpg") -> httpx.Response:
    return visitor.post("gradio_api/upload", files={"files": (name, content)})


def test_a_password_is_asked_for(url):
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as stranger:
        wrong = {"username": ACCOUNT[0], "password": "x"}
        assert stranger.post("login", data=wrong).status_code == 400
        assert stranger.get("config").status_code == 401
        assert sent(stranger, b"text").status_code == 401
        assert stranger.post("gradio_api/queue/join", json={"data": []}).status_code == 401


def test_uploads_have_a_limit_and_stay_in_their_folder(visitor):
    assert sent(visitor, bytes(50 * 2**20 + 1)).status_code == 413
    (path,) = sent(visitor, b"text", "../../../../tmp/evil.jpg").json()
    assert ".." not in path and Path(path).name == "evil.jpg" and "hsd-web-" in path
    assert Path(path).read_bytes() == b"text"


def test_an_upload_that_is_broken_off_leaves_nothing(visitor, url):
    """Its connection is closed in the middle; the end of `url` looks for a traceback."""
    uploads = Path(sent(visitor, b"text").json()[0]).parents[1]
    before, address = sorted(uploads.iterdir()), ("127.0.0.1", int(url.split(":")[2].strip("/")))
    cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    with socket.create_connection(address) as connection:
        connection.sendall((
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: {address[0]}\r\nCookie: {cookies}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 9000\r\n\r\n"
            '--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\nabc'
        ).encode())  # fmt: skip
        seen = waited_for(lambda: sorted(uploads.iterdir()) != before)
    assert seen and waited_for(lambda: sorted(uploads.iterdir()) == before)


def waited_for(condition: Callable[[], bool]) -> bool:
    """Whether it comes true within ten seconds."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def test_nothing_goes_past_the_queue_nor_to_what_no_page_needs(visitor):
    for path in ("run/swap", "api/swap", "process_recording", "vibe-code"):
        assert visitor.post(f"gradio_api/{path}", json={"data": []}).status_code == 404


def answered(visitor: httpx.Client, head: str, body: str) -> str:
    """What a request with these paths in it comes to; a client's library would upload them."""
    files = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in (head, body)]
    data = [*files, 0, 2, 1, "auto", 1, 1, "head", "shift", "match"]
    call = visitor.post("gradio_api/call/swap", json={"data": data})
    return visitor.get(f"gradio_api/call/swap/{call.json()['event_id']}").text


def test_only_uploads_are_opened(visitor, tmp_path):
    head, body = find_photos()
    secret = tmp_path / "secret.jpg"
    shutil.copyfile(head, secret)
    uploaded = [sent(visitor, path.read_bytes(), path.name).json()[0] for path in (head, body)]
    for path in (str(secret), "/etc/passwd", "http://127.0.0.1:9/x.jpg", "file:///etc/passwd"):
        for pair in ((path, uploaded[1]), (uploaded[0], path)):
            answer = answered(visitor, *pair)
            assert "event: error" in answer and "swap-0" not in answer, answer
    for path in (secret, "/etc/passwd", weights.find() / "unet.json"):
        assert visitor.get(f"gradio_api/file={path}").status_code == 403
    assert "swap-0.png" in answered(visitor, *uploaded)


def test_pages_of_others_may_not_ask(visitor):
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        visitor.options("gradio_api/queue/join", headers=asked),
        visitor.get("config", headers=asked),
    ):
        assert "access-control-allow-origin" not in answer.headers


def test_the_page_needs_nothing_from_elsewhere(visitor):
    page, style = visitor.get("").text, visitor.get("theme.css").text
    assert "people who agreed to it" in page  # the words on responsible use are part of it
    assert '"analytics_enabled":false' in page.replace(" ", "")
    for text in (page, style):
        assert not any(host in text for host in ("googleapis", "gstatic", "cdnjs", "jsdelivr"))


# Behind the page


def test_faces_are_numbered_as_a_swap_counts_them(folder, tmp_path, pair):
    wide = Image.new("RGB", (1024, 512), "white")
    wide.paste(Image.fromarray(pair[1]), (0, 0))
    wide.paste(Image.fromarray(pair[1]).resize((410, 410)), (600, 102))
    wide.save(tmp_path / "two.png")
    desk = Desk(HeadSwapper.from_pretrained(folder), tmp_path)
    seen = desk.look(tmp_path / "two.png", BODY)
    assert seen.picture.shape == (400, 800, 3) and len(seen.faces) == 2
    (x, _, large), (x2, y2, small) = seen.faces
    assert x < 400 < x2 and large > small
    assert nearest(seen.faces, x2 + 5, y2) == 2 and nearest(seen.faces, 0, 0) == 1
    with pytest.raises(ValueError, match="the body photo is no"):
        (tmp_path / "text.jpg").write_text("no image")
        desk.look(tmp_path / "text.jpg", BODY)


def test_what_is_drawn_on_the_layout_is_painted_there(folder, tmp_path):
    head, body = find_photos()
    desk, wish, steps = Desk(HeadSwapper.from_pretrained(folder), tmp_path), Wish(steps=2), []
    shown = desk.layout(head, body, wish)
    assert shown.shape == (DRAWN, DRAWN, 3)
    drawing = np.zeros((DRAWN, DRAWN, 4), np.uint8)
    Image.fromarray(drawing).save(tmp_path / "none.png")
    drawing[400:450, 50:150] = (*np.add(desk.labels.palette[8], (0, 3, -2)) % 256, 255)
    drawing[450:500, 50:150, 3] = 100  # a soft edge
    Image.fromarray(drawing).save(tmp_path / "drawing.png")
    plain = desk.swap(head, body, wish, preview=steps.append)
    same = desk.swap(head, body, wish, tmp_path / "none.png")
    drawn = desk.swap(head, body, wish, tmp_path / "drawing.png")
    first, second, third = (
        np.asarray(Image.open(x.images[0]).convert("RGB"), int) for x in (plain, same, drawn)
    )
    assert np.abs(first - second).max() <= 1  # of the steps that were watched
    assert len(steps) == 2 and steps[0].shape == (128, 128, 3)
    names = [caption for _, caption in plain.stages]
    assert names == ["head", "body", "mixed", "inpainted", "step 1/2", "step 2/2", "result"]
    assert (second != third).any()
    layouts = [np.asarray(Image.open(x.stages[3][0]), int) for x in (plain, drawn)]
    apart = np.abs(np.subtract(*layouts)).sum(-1) > 100
    rows, columns = np.nonzero(apart)  # at 128, so a quarter of the drawing's places
    assert apart[102:111, 15:36].all() and 12 * 25 <= len(rows) < 15 * 28
    assert (rows.min(), columns.min()) == pytest.approx((100, 12), abs=2)
    Image.new("RGBA", (5000, 10)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="the drawing is 5000 x 10"):
        desk.swap(head, body, wish, tmp_path / "wide.png")


# The command


def test_without_the_extra_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "hsd_jax.web.server", raising=False)
    monkeypatch.delitem(sys.modules, "hsd_jax.web.page", raising=False)
    assert cli.main(["web"]) == 2
    assert capsys.readouterr().err == (
        "hsd web: the page needs an extra: pip install 'hsd-jax[web]'\n"
    )


@pytest.mark.filterwarnings("default")  # what Gradio's dependencies warn of is theirs
def test_other_machines_are_warned_of(capsys):
    for host, warned in (("0.0.0.0", True), ("127.0.0.1", False), ("localhost", False)):
        assert cli.main(["web", "--host", host, "--weights", "nowhere"]) == 2
        err = capsys.readouterr().err
        assert ("without a password" in err) == warned and "no weights 'nowhere'" in err
    assert cli.main(["web", "--host", "::", "--auth", "a:b", "--weights", "nowhere"]) == 2
    assert "has the password" in capsys.readouterr().err


def test_ports_and_accounts_that_are_none(url, folder, capsys):
    assert cli.main(["web", "--port", "0"]) == 2 and cli.main(["web", "--auth", "anna"]) == 2
    assert "give USER:PASSWORD" in capsys.readouterr().err


# The load and the browser: slow


@pytest.mark.slow
def test_who_asks_once_is_not_behind_who_asks_often(client, url):
    head, body = (handle_file(str(photo)) for photo in find_photos())
    other, ends = Client(url, auth=ACCOUNT, verbose=False), []

    def ask(who: Client, name: str) -> Any:
        job = who.submit(head, body, api_name="/swap")
        job.add_done_callback(lambda _: ends.append(name))
        return job

    jobs = [ask(client, "often") for _ in range(5)]
    jobs[0].result(timeout=300)
    jobs.append(ask(other, "once"))
    for job in jobs:
        job.result(timeout=300)
    assert "once" in ends[:-1]  # the last, were they served as they came


@pytest.mark.slow
def test_ten_at_once_a_huge_photo_and_a_text(url, folder, tmp_path):
    head, body = find_photos()
    text, huge = tmp_path / "text.jpg", tmp_path / "huge.bmp"
    text.write_text("no image")
    Image.open(body).convert("RGB").resize((3240, 3240)).save(huge)
    assert huge.stat().st_size > 30 * 10**6
    patient = {"timeout": 600}  # a machine at its limit answers late
    clients = [
        Client(url, auth=ACCOUNT, verbose=False, httpx_kwargs=patient) for _ in range(10)
    ]
    files = handle_file(str(head)), handle_file(str(body))
    start = time.monotonic()
    jobs = [x.submit(*files, seed=n, api_name="/swap") for n, x in enumerate(clients)]
    bad = [clients[0].submit(handle_file(str(x)), files[1], api_name="/swap") for x in (text, huge)]
    results = [Path(job.result(timeout=600)[0][0]) for job in jobs]
    print(f"ten swaps in {time.monotonic() - start:.0f} s")
    error = bad[0].exception(timeout=600)
    assert isinstance(error, AppError) and "the head photo is no" in str(error)
    assert len(bad[1].result(timeout=600)[0]) == 1
    swapper = HeadSwapper.from_pretrained(folder)
    for seed, result in enumerate(results):
        with Image.open(result) as image:  # of another process: up to rounding
            apart = np.abs(np.asarray(image, int) - swapper(head, body, seed=seed).image)
        assert apart.max() <= 1 and apart.mean() < 1e-3
    assert len({result.read_bytes() for result in results}) == 10
    cancelled = clients[0].submit(*files, api_name="/swap")
    cancelled.cancel()
    assert asked(clients[1], head, body)


def draw(page: Any, phone: bool) -> None:
    """A stroke on the layout, by finger or by mouse."""
    canvas = page.locator("#layout canvas").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    row = box["y"] + box["height"] * 0.6
    places = [(box["x"] + box["width"] * x / 20, row) for x in range(8, 13)]
    if not phone:
        page.mouse.move(*places[0])
        page.mouse.down()
        for place in places:
            page.mouse.move(*place, steps=5)
        page.mouse.up()
        return
    session = page.context.new_cdp_session(page)
    for kind, points in (("Start", places[:1]), *[("Move", [p]) for p in places], ("End", [])):
        touches = [{"x": x, "y": y} for x, y in points]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": touches})


def started(page: Any, url: str) -> Any:
    """The page with both photos."""
    page.set_default_timeout(300_000)
    page.goto(url)
    page.locator("input").nth(0).fill(ACCOUNT[0])
    page.locator("input[type=password]").fill(ACCOUNT[1])
    page.get_by_role("button", name="Login").click()
    for name, photo in zip(("head", "body"), find_photos(), strict=True):
        page.locator(f"#{name} input[type=file]").set_input_files(str(photo))
        page.locator(f"#seen-{name} img").wait_for()
    return page


# A small network's steps are gone before a waiting test looks again.
WATCH = """() => {
  window.painting = false;
  new MutationObserver(() => { window.painting ||= !!document.querySelector("#live img"); })
    .observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def downloaded(page: Any, path: Path) -> np.ndarray:
    """Swaps, sees it being painted, and downloads the result."""
    page.evaluate(WATCH)
    page.get_by_role("button", name="Swap", exact=True).click()
    page.wait_for_function("window.painting && !document.querySelector('#live img')")
    page.wait_for_timeout(2000)  # until the button has the new file
    with page.expect_download() as download:
        page.get_by_text("Download at full size").click()
    download.value.save_as(path)
    with Image.open(path) as image:
        assert "Synthetic image" in image.info["Description"]
        return np.asarray(image.convert("RGB"))


@pytest.mark.slow
@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844)])
def test_a_swap_through_the_page(url, tmp_path, width, height):
    with chromium() as browser:
        page = started(window(browser, width, height), url)
        elsewhere: list[str] = []
        page.on("request", lambda request: elsewhere.append(request.url))
        plain = downloaded(page, tmp_path / "plain.png")
        for name in ("Options", "What is swapped", "Draw on the layout", "How it was made"):
            page.get_by_role("button", name=name).click()
        page.get_by_role("button", name="Show the layout").click()
        page.locator("#layout canvas").first.wait_for()
        page.wait_for_timeout(2000)  # until the page says that it waits
        page.locator("#layout").get_by_text("processing").wait_for(state="hidden")
        page.wait_for_timeout(5000)  # until the picture is in it
        draw(page, phone=width < 500)
        page.wait_for_timeout(1000)
        drawn = downloaded(page, tmp_path / "drawn.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    with Image.open(find_photos()[1]) as body:
        assert plain.shape == drawn.shape == (body.height, body.width, 3)
    assert (plain != drawn).any()
    assert not [x for x in elsewhere if not x.startswith((url, "data:", "blob:"))]

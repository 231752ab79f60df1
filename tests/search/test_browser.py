"""The whole scenario in headless Chromium: drop a clip, choose seconds, search, filter, play, more like this, export.

Needs `pip install selenium` and the system's chromium and chromedriver. With WT_JAX_SHOTS=FOLDER it leaves pictures of the
pages.
"""

import os
import pathlib
import socket
import threading
import time
import zipfile

import pytest
import support.search  # noqa: F401  skips all where the extra is missing
from support.browser import By, Chrome, Keys, Select, WebDriverWait, as_phone, browser, requests

from wt_jax.search.engine import Engine
from wt_jax.search.web import serve
from wt_jax.search.web.app import Limits, create_app
from wt_jax.search.web.security import Tokens

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def link(index):
    """The link of a running server."""
    import uvicorn

    tokens = Tokens()
    app = create_app(Engine(index), tokens, serve.host_names("127.0.0.1"), Limits(readers=1))
    sock = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{sock.getsockname()[1]}/?token={tokens.token}"
    server.should_exit = True
    thread.join(20)


class Person:
    """Somebody at the page."""

    def __init__(self, driver: Chrome):
        self.driver = driver

    def until(self, condition, seconds: float = 60):
        return WebDriverWait(self.driver, seconds, 0.1).until(lambda _: condition())

    def find(self, css: str):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css: str):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def settled(self) -> None:
        self.until(lambda: self.all("#results .tile") and not self.all("#results[aria-busy]"))

    def scores(self) -> list[float]:
        return [float(node.text) for node in self.all("#results .score b")]

    def drop(self, path: pathlib.Path) -> None:
        """Drop a file on the page: a field of the test's own holds it, as a browser gives files to no script."""
        self.driver.execute_script(
            "const field = document.createElement('input'); field.type = 'file'; field.id = 'held'; document.body.append(field)"
        )
        self.find("#held").send_keys(str(path))
        self.driver.execute_script(
            "const data = new DataTransfer(), field = document.querySelector('#held'); data.items.add(field.files[0]);"
            "field.remove(); const event = new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true});"
            "document.querySelector('#drop').dispatchEvent(event)"
        )

    def shoot(self, name: str) -> None:
        if folder := os.environ.get("WT_JAX_SHOTS"):
            time.sleep(1)
            self.driver.save_screenshot(str(pathlib.Path(folder) / f"{name}.png"))


@pytest.fixture
def person(link, tmp_path):
    driver = browser(tmp_path)
    driver.get(link)
    yield Person(driver)
    driver.quit()


def test_the_whole_scenario(person, archive, tmp_path, link):
    driver = person.driver
    person.settled()
    assert "token" not in driver.current_url
    person.drop(archive / "b" / "04.mp4")
    person.until(lambda: person.find("#cutter").is_displayed())
    person.until(lambda: driver.execute_script("return document.querySelector('#preview').readyState >= 2"))
    driver.execute_script(
        "for (const [id, s] of [['cut-from', 1], ['cut-to', 2]]) { const e = document.getElementById(id);"
        "e.value = s; e.dispatchEvent(new Event('input')) }"
    )
    person.find("#cut-search").click()
    person.until(lambda: person.all("#results .score"))
    person.settled()
    assert person.scores()[0] > 0.99
    assert "b/04.mp4" in person.find("#results .tile").text
    assert "q=c" in driver.current_url
    person.until(
        lambda: driver.execute_script(
            "const v = document.querySelector('#results video'); return v.currentTime > 0 && !v.paused"
        )
    )
    assert "above" in person.find("#results .score").text  # percentile of random pairs
    person.shoot("search")

    person.find("#cut-find").click()
    person.until(lambda: person.find("#results-title").text == "Where your clip may be")
    person.settled()
    assert "b/04.mp4" in person.find("#results .tile").text
    person.find("#cut-search").click()
    person.until(lambda: "alike first" in person.find("#results-title").text)
    person.settled()

    person.find("#filters summary").click()
    person.find("[name=one_per_video]").click()
    Select(person.find("[name=label]")).select_by_visible_text("a")
    person.until(lambda: len(person.all("#results .tile")) == 4 and not person.all("#results[aria-busy]"))
    assert all("· a" in tile.text for tile in person.all("#results .tile"))

    chosen = person.all("#results .tile")[1]
    name = chosen.find_element(By.CSS_SELECTOR, "a").text
    chosen.find_element(By.CSS_SELECTOR, ".like").click()
    person.until(lambda: "q=m" in driver.current_url)
    person.settled()
    person.until(lambda: person.scores() and person.scores()[0] > 0.99)
    assert name in person.find("#results .tile").text
    before = person.scores()
    person.all("#results .tile")[-1].send_keys("-")  # by keyboard: a counterexample
    person.until(lambda: len(person.all("#examples li")) == 2)
    person.settled()
    person.until(lambda: person.scores() != before)

    person.all("#results .tile")[1].find_element(By.CSS_SELECTOR, "[title^='Add']").click()
    person.until(lambda: len(person.all("#examples li:not(.minus)")) == 2)
    person.settled()

    names = {"csv": "moments.csv", "json": "moments.json", "list": "videos.csv", "fiftyone": "labels.json"}
    names |= {"clips": "moments.zip", "html": "moments.html"}
    for kind, file in names.items():
        Select(person.find("#export")).select_by_value(kind)
        person.until(lambda file=file: (tmp_path / file).exists())
    assert len((tmp_path / "moments.csv").read_text().splitlines()) == 5
    with zipfile.ZipFile(tmp_path / "moments.zip") as clips:
        assert len(clips.namelist()) == 4

    person.find("#results .tile a").click()
    person.until(lambda: person.all("#marks button"))
    person.all("#marks button")[-1].click()
    person.until(lambda: driver.execute_script("return document.querySelector('#player').currentTime > 0"))
    person.shoot("video")
    person.find("#copies").click()
    person.until(lambda: person.find("#copies-box").is_displayed())
    person.find("#from-here").click()
    person.until(lambda: person.all("#results .score"))
    for page, sign in (("map", "canvas#map"), ("duplicates", "#pairs"), ("about", "#about dd")):
        driver.get(driver.current_url.split("/", 3)[0] + "//" + driver.current_url.split("/")[2] + f"/{page}")
        person.until(lambda sign=sign: person.all(sign))
        person.shoot(page)

    host = link.split("/")[2]
    assert {address.split("/")[2] for address in requests(driver) if address.startswith("http")} == {host}
    faults = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert not faults


def test_it_is_used_by_keyboard_alone(person):
    driver = person.driver
    person.settled()
    driver.execute_script("document.querySelector('#results .tile').focus()")
    active = driver.switch_to.active_element
    assert active.get_attribute("aria-label")
    active.send_keys(Keys.ARROW_RIGHT)
    second = driver.switch_to.active_element
    assert second == person.all("#results .tile")[1]
    second.send_keys(Keys.ENTER)
    person.until(lambda: person.all("#results .score"))
    unnamed = driver.execute_script(
        "return [...document.querySelectorAll('button, a, input, select, video, canvas')].filter(e => e.offsetParent &&"
        "!(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.title ||"
        "e.closest('[aria-hidden]'))).map(e => e.outerHTML)"
    )
    assert unnamed == []


def test_nothing_moves_by_itself_where_motion_is_unwelcome(link, tmp_path):
    driver = browser(tmp_path, still=True)
    try:
        driver.get(link)
        person = Person(driver)
        person.settled()
        person.until(lambda: driver.execute_script("return document.querySelector('#results video').readyState >= 2"))
        time.sleep(1)
        assert driver.execute_script("return [...document.querySelectorAll('#results video')].every(v => v.paused)")
    finally:
        driver.quit()


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(link, tmp_path, dark):
    driver = browser(tmp_path, size="500,900", dark=dark)
    as_phone(driver, 360)
    try:
        driver.get(link)
        person = Person(driver)
        person.settled()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
        ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(20, 23, 26)") is dark
        person.shoot("phone-dark" if dark else "phone")
    finally:
        driver.quit()

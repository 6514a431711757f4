"""The book of the tutorials in a browser: headless Chromium, from the disk, without a network.

Building it runs every tutorial and every solution as a notebook; that happens once, in the fixture `book`.
"""

import json
import os
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest

REQUIRED = os.environ.get("TASNET_REQUIRE_PEERS") == "1"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PHONE = {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def browser():
    if not REQUIRED:
        pytest.importorskip("playwright", reason="playwright is missing: pip install '.[test]'")
        if CHROMIUM is None:
            pytest.skip("no Chromium is installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    assert CHROMIUM, "no Chromium is installed: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visits(browser, book):
    """Every page of the book, opened once: what was found there, by path below the book."""
    context = browser.new_context(offline=True, viewport={"width": 1000, "height": 900})
    found = {}
    for path in sorted(book.rglob("*.html")):
        page = context.new_page()
        errors, requests = [], []
        page.on(
            "console",
            lambda message: errors.append(message.text) if message.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("requestfailed", lambda request: errors.append(f"{request.url[:200]}: {request.failure}"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri(), wait_until="load")
        facts = page.evaluate(FACTS)
        page.set_viewport_size(PHONE)
        facts["phone_width"] = page.evaluate("document.documentElement.scrollWidth")
        found[path.relative_to(book).as_posix()] = facts | {"errors": errors, "requests": requests}
        page.close()
    context.close()
    return found


FACTS = """async () => {
  const ready = audio => new Promise(resolve => {
    const tell = () => resolve({duration: audio.duration, ready: audio.readyState});
    if (audio.readyState >= 2 || audio.error) tell();
    audio.addEventListener("loadeddata", tell);
    audio.addEventListener("error", tell);
    audio.preload = "auto";
    setTimeout(tell, 10000);
  });
  await document.fonts.ready;
  const size = element => { const box = element.getBoundingClientRect(); return [box.width, box.height]; };
  return {
    title: document.title,
    text: document.body.innerText,
    ids: [...document.querySelectorAll("[id]")].map(element => element.id),
    links: [...document.querySelectorAll("a")].map(element => element.getAttribute("href")),
    mathematics: [...document.querySelectorAll("math")].map(
      element => [element.getAttribute("alttext"), ...size(element)]),
    bad_mathematics: document.querySelectorAll("merror").length,
    pictures: [...document.querySelectorAll("img")].map(
      element => [element.getAttribute("src"), element.alt, element.naturalWidth, element.naturalHeight,
                  ...size(element)]),
    sounds: await Promise.all([...document.querySelectorAll("audio")].map(ready)),
    fonts: [...document.fonts].filter(font => font.status === "loaded").map(font => font.family),
    width: document.documentElement.scrollWidth,
  };
}"""


def tutorials(visits):
    """The pages of the tutorials themselves."""
    return {name: facts for name, facts in visits.items() if re.fullmatch(r"\d\d_\w+\.html", name)}


def test_every_tutorial_has_a_page_and_every_page_a_title(visits, book):
    assert len(tutorials(visits)) >= 19
    for name, facts in visits.items():
        assert facts["title"], name
    runs = json.loads((book / "runs.json").read_text())
    for name in runs:
        assert f"{name}.html" in visits
        assert (book / "notebooks" / f"{name}.ipynb").exists()


def test_pages_load_without_errors_and_without_a_network(visits):
    for name, facts in visits.items():
        assert facts["errors"] == [], name
        assert all(url.startswith(("file:", "data:", "blob:")) for url in facts["requests"]), name


def test_mathematics_is_rendered(visits):
    for name, facts in tutorials(visits).items():
        assert facts["mathematics"], name
        for latex, width, height in facts["mathematics"]:
            assert width > 3 and height > 3, (name, latex)
        assert "STIX Two Math" in " ".join(facts["fonts"]), name
    for name, facts in visits.items():
        assert facts["bad_mathematics"] == 0, name
        if not name.startswith("source/"):
            prose = re.sub(r"(?m)^.*[`\"'#=].*$", "", facts["text"])  # code may hold a backslash
            assert "$$" not in prose, name
            assert not re.search(r"\\(frac|sum|begin|hat|partial|sqrt)\b", prose), name


def test_sounds_can_be_played(visits):
    assert sum(len(facts["sounds"]) for facts in visits.values()) >= 20
    for name, facts in visits.items():
        for sound in facts["sounds"]:
            assert sound["ready"] >= 2, name  # HAVE_CURRENT_DATA
            assert sound["duration"] > 0.05, name


def test_pictures_show_something(visits, book):
    import matplotlib.image

    for name, facts in tutorials(visits).items():
        assert len(facts["pictures"]) >= 2, name  # the map, and what is to be seen
        for source, alt, width, height, shown_width, shown_height in facts["pictures"]:
            assert alt and alt != "figure", (name, source)
            assert width >= 400 and height >= 100, (name, source)
            assert shown_width > 200 and shown_height > 50, (name, source)
            pixels = matplotlib.image.imread(
                book / name.rsplit("/", 1)[0] / source if "/" in name else book / source
            )
            assert pixels[..., :3].std() > 0.01, (name, source)  # not one colour


def test_links_lead_somewhere(visits, book):
    base = book.as_uri() + "/"
    for name, facts in visits.items():
        for link in facts["links"]:
            url, anchor = urldefrag(urljoin(base + name, link))
            if url.startswith("http"):
                continue
            target = Path(unquote(urlparse(url).path))
            assert target.is_file(), (name, link)
            if anchor and target.suffix == ".html":
                assert unquote(anchor) in visits[target.relative_to(book).as_posix()]["ids"], (name, link)


def test_previous_and_next_lead_through_all_tutorials(visits, book):
    order = sorted(tutorials(visits))
    contents = [link for link in visits["index.html"]["links"] if link in order]
    assert set(contents) == set(order)
    for before, after in zip(order, order[1:]):
        assert after in visits[before]["links"] and before in visits[after]["links"]
        assert re.search(rf'rel="next" href="{after}"', (book / before).read_text())
        assert re.search(rf'rel="prev" href="{before}"', (book / after).read_text())


def test_nothing_sticks_out_sideways(visits):
    for name, facts in visits.items():
        assert facts["width"] <= 1000, name
        assert facts["phone_width"] <= PHONE["width"], name


def test_the_checks_can_fail(browser, tmp_path):
    """A page with one of each mistake: the facts that the tests above look at show all of them."""
    (tmp_path / "page.html").write_text(
        "<title>t</title><math><merror></merror></math><img src='none.png'>"
        "<audio src='data:audio/wav;base64,AAAA'></audio>"
        "<script>console.error('oops')</script><div style='width: 900px; height: 1px'></div><p>$$\\frac12$$</p>"
    )
    page = browser.new_page(viewport=PHONE)
    errors = []
    page.on("console", lambda message: errors.append(message.text))
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())
    facts = page.evaluate(FACTS)
    assert "oops" in errors and any("none.png" in error for error in errors)
    assert facts["bad_mathematics"] == 1 and facts["mathematics"][0][1] < 3
    assert facts["pictures"][0][2] == 0
    assert facts["sounds"][0]["ready"] < 2
    assert facts["width"] > PHONE["width"]
    assert "$$" in facts["text"] and facts["fonts"] == []

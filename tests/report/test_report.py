"""The report: right for every kind of study, and a page that a real browser shows as it should."""

import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from rich.console import Console

from tests.support.service import TUNE
from tests.support.studies import (
    PRETRAIN,
    finish,
    made,
    never_begun,
    records_in,
    small,
)
from trainables.merits import MERITS
from trainables.outcome import End
from tune_srgan.report.best import write_best
from tune_srgan.report.data import report_data
from tune_srgan.report.figures import MARKS
from tune_srgan.report.files import Format, html, markdown, write
from tune_srgan.report.handover import write_for_opensr
from tune_srgan.search.importance import importances
from tune_srgan.store import lease
from tune_srgan.store.studies import study_in
from tune_srgan.store.study_folder import StudyFolder

CHROMIUM = shutil.which("chromium")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"

SECTIONS = ["How the game went", "All trials", "History", "What matters", "What the image is worth"]
SECTIONS += ["Schedules as applied", "How surely: further seeds and exploitability", "Images", "The account"]
SECTIONS += ["Table of all trials", "How it was measured"]


@pytest.fixture(scope="module")
def real(finished):
    """A real study of eight trials, searched and confirmed; its folder."""
    return finished("confirmed")[0] / "runs" / "tiny"


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


def opened(browser, file, width=1400, scheme="light"):
    """The page in a fresh window, and what it said and asked for."""
    shown = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    said, asked = [], []
    shown.on("console", lambda message: said.append(message.text))
    shown.on("pageerror", lambda error: said.append(str(error)))
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(file.as_uri())
    return shown, said, [url for url in asked if not url.startswith(("file:", "data:"))]


CONTRAST = """() => {
  const channel = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = text => {
    const n = text.match(/[\\d.]+/g).map(Number);
    return n.length > 3 && n[3] === 0 ? null : n.slice(0, 3);
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const found = parse(getComputedStyle(e).backgroundColor);
      if (found) return found;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const unseen = ["script", "style", "title"].includes(element.tagName.toLowerCase());
    if (unseen || !walker.currentNode.textContent.trim()) continue;
    const style = getComputedStyle(element);
    const ink = parse(element.closest("svg") ? style.fill : style.color);
    if (!ink) continue;
    const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([element.tagName, walker.currentNode.textContent.trim().slice(0, 40), ratio]);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.browser
@pytest.mark.ray
def test_a_browser_shows_the_report_of_a_real_study(browser, real, width, scheme):
    shown, said, asked = opened(browser, real / "report.html", width, scheme)
    assert said == []
    assert asked == []
    assert [head.inner_text() for head in shown.locator("h2").all()] == SECTIONS
    for name in ("balance", "parallel", "history", "importance", "slices", "plane", "spectrum", "schedules"):
        assert shown.locator(f"#{name} svg").bounding_box()["height"] > 50
        assert shown.locator(f"#{name} svg path").count() > 5
        assert shown.locator(f"#{name} svg text").count() > 1
    assert shown.locator("#parallel svg title").count() == 8  # a line a trial, named
    figures = [row.inner_text().split()[0] for row in shown.locator("#quality tbody tr").all()]
    assert figures == [name for name in MERITS if name not in ("shift", "lpips", "dists")]  # its crops are 16 px
    assert shown.locator("#plane svg [id^=trial]").count() == 8
    assert "Trained on " in shown.inner_text("body")
    assert shown.evaluate("document.images.length") in (2, 4)  # of winner and baseline: images, and a map of each
    assert shown.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 50)")
    assert shown.evaluate(CONTRAST) == []
    assert shown.evaluate("document.documentElement.scrollWidth") == width  # wide things scroll by themselves
    shown.add_style_tag(content="* { font-family: monospace !important; letter-spacing: 1px; }")
    assert shown.evaluate("document.documentElement.scrollWidth") == width  # with any machine's letters


@pytest.mark.browser
@pytest.mark.ray
def test_the_table_sorts_and_filters(browser, real):
    shown, said, _ = opened(browser, real / "report.html")

    def column(index):
        cells = shown.locator(f"#trials tbody tr:visible td:nth-child({index + 1})")
        return [cell.get_attribute("data-value") or cell.inner_text() for cell in cells.all()]

    heads = [head.inner_text().split()[0] for head in shown.locator("#trials th").all()]
    cost, weight = heads.index("cost"), heads.index("weight")
    for at in (cost, weight):
        shown.locator("#trials th button").nth(at).click()
        values = [float(value) for value in column(at)]
        assert values == sorted(values)
        shown.locator("#trials th button").nth(at).click()
        assert [float(value) for value in column(at)] == sorted(values, reverse=True)
    ends = column(heads.index("ended"))
    assert len(ends) == 8
    shown.locator("input[data-end=balanced]").uncheck()
    assert column(heads.index("ended")) == [end for end in ends if end != "balanced"]
    shown.locator("input[data-end=balanced]").check()
    shown.locator("#filter").fill("try_first")
    assert column(heads.index("by")) == ["try_first"]
    assert shown.locator("#shown").inner_text() == "1 of 8 trials"
    assert said == []


@pytest.mark.browser
@pytest.mark.ray
def test_links_lead_to_the_records(browser, real):
    shown, _, _ = opened(browser, real / "report.html")
    links = [link.get_attribute("href") for link in shown.locator("#trials a").all()]
    assert len(links) == 8 + len(list(real.glob("trials/*/readings.jsonl")))  # one that is capped at once has none
    assert all((real / link).is_file() for link in links)


@pytest.mark.ray
def test_every_format_is_written_beside_the_page(real):
    formats = [part for kind in ("md", "json") for part in ("--format", kind)]
    command = [sys.executable, str(TUNE), "report", str(real), *formats]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    found = json.loads((real / "report.json").read_text())
    assert len(found["trials"]) == 8
    answer = (
        f"Winner: trial {found['answer']['number']}, in balance from step {found['answer']['steps']} to the end at 100."
    )
    assert answer in (real / "report.md").read_text()
    assert answer in (real / "report.html").read_text()
    assert (real / "best.yaml").exists()
    assert set(found["images"][0]["columns"]) == {"LR", "bicubic", "after pretraining", "at the end", "HR"}
    figures = found["quality"][str(found["images"][0]["number"])]["at the end"]
    assert figures["psnr"] > 5
    assert 0 <= figures["ssim"] <= 1
    assert figures["sam"] > 0
    assert found["spectra"]["power"].keys() == {"truth", "bicubic", "after pretraining", "at the end"}
    assert found["account"]["search"]["sharing"] > 0


@pytest.mark.ray
def test_status_says_where_a_study_stands(real):
    command = [sys.executable, str(TUNE), "status", str(real)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "best so far by trial:" in text
    assert "at work: none" in text
    found = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout)
    assert sum(found["trials"].values()) == 8
    assert sum(found["confirmations"].values()) == found["wanted"]["in_all"] - 8 >= 4  # two candidates on two seeds
    assert found["steps_left_at_most"] == 0
    assert found["best"]["cost"] == found["best_so_far"][-1]
    assert found["running"] == []


def html_of(study, folder):
    return html(report_data(study, folder, records_in(study, folder), importances))


def test_a_study_of_one_trial(tmp_path):
    study, folder = made(tmp_path, ["balanced"])
    text = html_of(study, folder)
    assert "Winner: trial 0, in balance from step 60 to the end at 200." in text
    assert "Not confirmed on further seeds yet" in text
    assert "Importance needs six trials" in text
    assert "The baseline" not in text  # it is the winner


def test_a_study_that_has_not_begun(tmp_path):
    text = html_of(*made(tmp_path, []))
    assert "No trial has kept the balance." in text
    assert "nan" not in text


def test_without_balance_it_says_what_stood_in_the_way(tmp_path):
    study, folder = made(tmp_path, ["exhausted"] * 8)
    text = html_of(study, folder)
    assert "No trial has kept the balance." in text
    assert "the discriminator cannot order real over generated" in text
    assert 'id="importance"' not in text  # all alike: nothing parts them
    assert "The patience of" not in text


def test_failed_diverged_and_running_trials_are_shown_as_what_they_are(tmp_path):
    study, folder = made(tmp_path, ["balanced", "failed", "diverged", "capped", "lost", None, "exhausted"])
    found = report_data(study, folder, records_in(study, folder), importances)
    assert [trial["end"] for trial in found["trials"]] == [
        "balanced", "failed", "diverged", "capped", "lost", "unfinished", "exhausted"
    ]  # fmt: skip
    assert [trial["cost"] is None for trial in found["trials"]] == [False, True, True, False, False, True, False]
    text = html(found)
    assert 'class="text failed"' in text
    assert text.count("(censored)</td>") == 3
    assert (found["running"], found["stopped"]) == (False, "interrupted")


@pytest.mark.browser
def test_names_that_hold_html_are_text(browser, tmp_path):
    study, folder = made(tmp_path, ["balanced", "failed"])
    evil = "<script>document.title='gone'</script><img src=x onerror=alert(1)>"
    outcome = folder.trial(1).path / "outcome.json"
    outcome.write_text(json.dumps(json.loads(outcome.read_text()) | {"cause": evil}))
    folder.trial(0).complain(evil)
    header = folder.trial(0).path / "trial.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"proposed_by": evil}))
    file = write(report_data(study, folder, records_in(study, folder), importances), tmp_path, Format.HTML)
    assert "<script>document" not in file.read_text()
    shown, said, asked = opened(browser, file)
    assert shown.title() == "small: sweep report"
    assert said == asked == []
    assert evil in shown.locator("#trials").inner_text()


@pytest.mark.browser
@pytest.mark.long
def test_five_hundred_trials_in_time_and_size(browser, tmp_path):
    ends = ["balanced", "exhausted", "capped", "balanced", "failed"] * 100
    study, folder = made(tmp_path, ends)
    began = time.monotonic()
    file = write(report_data(study, folder, records_in(study, folder), importances), tmp_path, Format.HTML)
    assert time.monotonic() - began < 20  # the issue's own bound
    assert file.stat().st_size < 8e6
    shown, said, _ = opened(browser, file)
    assert shown.locator("#trials tbody tr").count() == 500
    assert shown.locator("#parallel svg title").count() == 500
    assert said == []


def test_a_page_that_is_watched_loads_itself_again_until_the_study_ends(tmp_path):
    study, folder = made(tmp_path, ["balanced", None])
    with lease.hold(folder.storage(), folder.address, lambda: None):
        found = report_data(study, folder, records_in(study, folder))
    assert "while the study runs" in html(found)
    assert 'http-equiv="refresh"' in html(found, watched=True)
    assert 'http-equiv="refresh"' not in html(found)
    found = report_data(study, folder, records_in(study, folder))
    assert "while the study runs" not in html(found)
    assert 'http-equiv="refresh"' not in html(found, watched=True)


def test_every_end_with_a_cost_has_a_mark_in_the_history():
    assert set(MARKS) == {end for end in End if end.has_cost}


def test_what_is_saved_is_said(tmp_path):
    study, folder = made(tmp_path, ["exhausted", "balanced", "balanced", "balanced"])
    answer = report_data(study, folder, records_in(study, folder))["answer"]
    assert answer["number"] == 1
    assert answer["baseline"] == {"number": 0, "end": "exhausted", "cost": answer["baseline"]["cost"], "trained": 200}
    assert answer["random"] == {"count": 3, "kept": 3, "median": 68 + 4}
    assert "had not kept it by step 200 (exhausted)" in html_of(study, folder)
    assert "median cost is 72 steps: 1.1 times" in html_of(study, folder)


def test_a_baseline_that_was_never_started_is_said_and_not_drawn(tmp_path):
    study, folder = made(tmp_path, [None, "balanced"])
    never_begun(folder, study, 0)
    found = report_data(study, folder, records_in(study, folder))
    assert list(found["curves"]) == ["1"]
    assert "was never started: it could not win any more" in html(found)
    assert "never started" in markdown(found)


def test_what_never_began_does_not_count_among_the_best(tmp_path):
    """Forty trials of which thirty cost the same: what parts the ten from them is their pretraining."""
    study, folder = made(tmp_path, [None] * 40)
    for number in range(40):
        good = folder.trial(number).header()["values"][PRETRAIN] == 20 and number < 30
        finish(folder, study, number, since=60 + number) if good else never_begun(folder, study, number)
    shares = importances(study, records_in(study, folder).search)
    assert shares[PRETRAIN][0] > 0.5


@pytest.mark.ray
def test_the_winners_generator_outlives_its_checkpoint(real, tmp_path):
    kept = StudyFolder(tmp_path / "kept")
    shutil.copytree(real, kept.path)
    study = study_in(kept)
    best = write_best(study, kept, records_in(study, kept))
    kept.trial(best.number).checkpoint.unlink()
    generator = kept.best_generator.read_bytes()
    write_best(study, kept, records_in(study, kept))
    assert kept.best_generator.read_bytes() == generator
    kept.best_configuration.write_text("# of another trial")
    write_best(study, kept, records_in(study, kept))
    assert not kept.best_generator.exists()


@pytest.mark.ray
def test_the_dashboard_is_served_on_loopback_with_notes_and_images(real):
    pytest.importorskip("optuna_dashboard")
    import socket
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, str(TUNE), "dashboard", str(real), "--port", str(port)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert f"http://127.0.0.1:{port}/dashboard" in server.stdout.readline()
        until = time.monotonic() + 60
        while True:
            try:
                told = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=5))
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.3)
        (summary,) = told["study_summaries"]
        detail = json.load(
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies/{summary['study_id']}", timeout=10)
        )
        assert len(detail["trials"]) == 8
        assert all(
            "in balance from step" in t["note"]["body"] or "censored" in t["note"]["body"] for t in detail["trials"]
        )
        images = [re.search(r"!\[samples\]\((.*?)\)", trial["note"]["body"]) for trial in detail["trials"]]
        assert sum(image is not None for image in images) >= 7  # a trial that is capped at once has none
        place = next(image for image in images if image).group(1)
        image = urllib.request.urlopen(f"http://127.0.0.1:{port}{place}", timeout=10).read()
        assert image.startswith(b"\x89PNG")
    finally:
        server.kill()
        server.wait()


@pytest.mark.ray
def test_a_port_that_is_taken_is_one_clear_error(real):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [sys.executable, str(TUNE), "dashboard", str(real), "--port", str(port)], capture_output=True, text=True
        )
    assert ended.returncode == 2
    assert f"port {port}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_ruined_generator_is_not_handed_over(tmp_path, capsys):
    document = small()
    document["training"]["Generator"] = {"n_blocks": 1, "n_channels": 4, "large_kernel_size": 3}
    document["training"]["Discriminator"] = {"model_type": "patchgan", "n_blocks": 2, "base_channels": 4}
    study, folder = made(tmp_path, ["ruined"], document)
    (record,) = records_in(study, folder).search
    record.trial.checkpoint.write_bytes(b"what is left of it")
    write_for_opensr(study, folder, record, tmp_path, Console(), Console(stderr=True, width=200))
    assert "its checkpoint is not handed out" in capsys.readouterr().err
    assert [file.name for file in tmp_path.glob("small-*")] == ["small-opensr-srgan.yaml"]

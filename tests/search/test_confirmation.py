"""Confirmation: the same further seeds for the best configurations; the median decides, and ties are told."""

import json
import math
from html import unescape

import pytest
from rich.console import Console

from tests.support.studies import (
    PATIENCE,
    PRETRAIN,
    VALUES,
    confirm,
    confirm_all,
    finish,
    loaded,
    open_study,
    records_in,
    small,
    start,
)
from trainables.dotted import flatten
from tune_srgan.console import ending
from tune_srgan.report.best import write_best
from tune_srgan.report.data import report_data
from tune_srgan.report.files import html, markdown
from tune_srgan.report.terminal import print_report
from tune_srgan.report.words import confirmation_texts
from tune_srgan.run.clean import clean
from tune_srgan.search.confirmation import candidates, compared, confirmed, difference, missing, winner
from tune_srgan.store.records import record_of
from tune_srgan.store.study_folder import StudyFolder


@pytest.fixture
def study(tmp_path):
    return loaded(tmp_path, small() | {"confirm": {"top": 2, "seeds": 3}})


@pytest.fixture
def folder(study, tmp_path):
    """Four balanced trials, the second a twin of the first, and one that was not; seed 0."""
    found = StudyFolder(tmp_path / "runs" / study.study)
    open_study(found, study)
    for number, since in enumerate((60, 60, 80, 100, None)):
        start(found, study, number, VALUES | {PATIENCE: 4 if number < 2 else 4 + number})
        finish(found, study, number, *(("balanced", since) if since else ("exhausted",)))
    return found


def test_the_best_are_confirmed_none_twice(folder, study):
    assert [record.number for record in candidates(study, records_in(study, folder))] == [0, 2]


def test_seeds_are_paired_and_the_training_is_the_trials_own(folder, study):
    trials = missing(study, folder, records_in(study, folder))
    assert [trial.place for trial in trials] == [
        f"confirm/{number:05d}-{seed}" for seed in (1, 2, 3) for number in (0, 2)
    ]
    assert [trial.configuration().Training.seed for trial in trials] == [1, 1, 2, 2, 3, 3]
    settings = [flatten(trial.configuration().model_dump()) for trial in (folder.trial(2), trials[1])]
    assert {key for key in settings[0] if settings[0][key] != settings[1][key]} == {"Training.seed"}
    assert trials[1].header()["values"] == folder.trial(2).header()["values"]
    assert (trials[1].number, trials[1].confirms, trials[1].name) == (2, 1, "2 seed +1")
    assert missing(study, folder, records_in(study, folder)) == trials  # created once


def test_the_median_over_the_further_seeds_decides(folder, study):
    assert winner(study, records_in(study, folder)).number == 0  # nothing is confirmed yet
    confirm_all(folder, study, n0=(120, 60, 140), n2=(80, 100, 60))
    found = confirmed(study, records_in(study, folder))
    assert [(one.record.number, one.median) for one in found] == [(2, 80), (0, 120)]
    assert winner(study, records_in(study, folder)).number == 2
    assert missing(study, folder, records_in(study, folder)) == []


def test_half_a_confirmation_decides_nothing(folder, study):
    confirm_all(folder, study, n0=(120, 60), n2=(100, 100, 100))
    assert [one.record.number for one in confirmed(study, records_in(study, folder))] == [2]
    assert [trial.place for trial in missing(study, folder, records_in(study, folder))] == ["confirm/00000-3"]
    assert winner(study, records_in(study, folder)).number == 0  # its last seed may yet keep it ahead


def test_what_never_kept_a_balance_again_wins_nothing(folder, study):
    confirm_all(folder, study, n0=(None, None, None), n2=(None, None, None))
    assert winner(study, records_in(study, folder)).number == 0  # the search's best, for want of anything better


def test_more_seeds_that_keep_it_go_before_a_lower_median(folder, study):
    confirm_all(folder, study, n0=(60, None, 60), n2=(120, 100, 124))
    found = confirmed(study, records_in(study, folder))
    assert [(one.record.number, one.kept, one.median) for one in found] == [(2, 3, 120), (0, 2, 60)]
    assert winner(study, records_in(study, folder)).number == 2


def test_seeds_are_counted_not_sorted_as_text(folder, tmp_path):
    study = loaded(tmp_path, small() | {"confirm": {"top": 1, "seeds": 11}})
    confirm_all(folder, study, n0=(60, None, *range(80, 116, 4)))
    (found,) = confirmed(study, records_in(study, folder))
    assert found.costs == [60, math.inf, *range(80, 116, 4)]
    fewer = loaded(tmp_path, small() | {"confirm": {"top": 1, "seeds": 3}})
    assert confirmed(fewer, records_in(fewer, folder))[0].costs == [60, math.inf, 80]
    assert missing(fewer, folder, records_in(fewer, folder)) == []


def test_what_may_still_win_keeps_its_checkpoint_and_a_generator_is_never_anothers(folder, study):
    missing(study, folder, records_in(study, folder))
    for number in range(5):
        folder.trial(number).checkpoint.write_bytes(b"x")
    assert clean(study, folder, records_in(study, folder)) == 3
    assert [trial.number for trial in folder.trials() if trial.checkpoint.exists()] == [0, 2]
    for number in (0, 2):
        folder.trial(number).checkpoint.unlink()
    folder.best_generator.write_bytes(b"of another trial")
    write_best(study, folder, records_in(study, folder))
    assert not folder.best_generator.exists()


def test_a_seed_without_balance_is_later_than_any(folder, study):
    confirm_all(folder, study, n0=(None, 60, None), n2=(120, 120, None))
    found = confirmed(study, records_in(study, folder))
    assert [one.record.number for one in found] == [2, 0]
    assert found[1].median == math.inf
    assert len(found[1].held) == 1


def test_what_is_still_balanced_later_is_counted(folder, study):
    missing(study, folder, records_in(study, folder))
    confirm(folder, 0, 1, 60, later="#.#.#....")
    confirm(folder, 0, 2, 164)  # too late to be kept for a third of the training
    confirm(folder, 0, 3, 60)
    (found,) = confirmed(study, records_in(study, folder))
    assert found.kept == 2
    assert [(held.readings, held.balanced) for held in found.held] == [(36, 30), (36, 36)]
    assert [dict(held.missed) for held in found.held] == [{"rank": 6}, {}]
    data = report_data(study, folder, records_in(study, folder))
    [one] = data["confirmed"]
    assert one["kept"] == 2
    assert one["share"] == pytest.approx((30 / 36 + 1) / 2)
    said = "Trial 0: 6 of 72 readings since the balance miss the condition “the discriminator cannot order real over"
    assert confirmation_texts(data)[0].startswith(said)


def test_the_baseline_is_trained_on_the_same_seeds_to_be_compared_with_and_never_wins(folder, tmp_path):
    study = loaded(tmp_path, small() | {"confirm": {"top": 1, "seeds": 3, "baseline": True}})
    start(folder, study, 5, VALUES | {PATIENCE: 12}, "try_first")
    finish(folder, study, 5, "exhausted")
    places = [trial.place for trial in missing(study, folder, records_in(study, folder))]
    assert places == [f"confirm/0000{number}-{seed}" for seed in (1, 2, 3) for number in (0, 5)]
    confirm_all(folder, study, n0=(120, None, 100), n5=(60, 60, 60))
    records = records_in(study, folder)
    assert [one.record.number for one in confirmed(study, records)] == [5, 0]
    assert winner(study, records).number == 0


def test_paired_differences_have_the_interval_of_students_t():
    mean, low, high = difference([2.0, 4.0, 3.0, math.nan], [1.0, 1.0, 1.0, 1.0])
    assert mean == 2.0
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5), rel=1e-6)
    assert difference([1.0, math.inf], [0.0, 0.0]) is None


def test_seeds_are_compared_in_pairs_and_three_tell_nothing_apart(folder, study):
    confirm_all(folder, study, n0=(120, 100, 140), n2=(80, 100, 60))
    better, worse = confirmed(study, records_in(study, folder))
    assert compared(better, worse) == (2, 0, 0.5)
    console = Console(record=True, width=120)
    print_report(report_data(study, folder, records_in(study, folder)), folder, console)
    text = " ".join(console.export_text().split())
    assert "Winner: trial 2, in balance from step 80 to the end at 200." in text
    assert "Confirmed on 3 further seed(s)" in text
    assert "80, 100, 60" in text
    assert "faster on 2, slower on 0 of 3 seeds (sign test p 0.50): a tie" in text


def test_five_of_five_tell_two_apart(folder, tmp_path):
    study = loaded(tmp_path, small() | {"confirm": {"top": 2, "seeds": 5}})
    confirm_all(folder, study, n0=(120,) * 5, n2=(80,) * 5)
    assert compared(*confirmed(study, records_in(study, folder))) == (5, 0, 0.0625)


def test_no_confirmation_where_none_is_wanted_or_nothing_was_balanced(folder, tmp_path):
    study = loaded(tmp_path, small() | {"confirm": {"top": 0}})
    assert missing(study, folder, records_in(study, folder)) == []
    assert confirmed(study, records_in(study, folder)) == []
    assert winner(study, records_in(study, folder)).number == 0


def test_the_default_is_four_by_five(tmp_path):
    confirm = loaded(tmp_path).confirm
    assert (confirm.top, confirm.seeds) == (4, 5)


def test_a_confirmations_record_is_judged_like_any(folder, study):
    missing(study, folder, records_in(study, folder))
    confirm(folder, 0, 1, 60)
    record = record_of(folder.confirmation(0, 1), study)
    assert (record.number, record.cost, record.trained_steps, record.values[PRETRAIN]) == (0, 60.0, 200, 20)
    assert record.account == {"executed": 200, "sharing": 0, "capping": 0}


def test_what_a_side_gains_is_said_where_its_controls_held_and_what_was_not_measured_everywhere(folder, tmp_path):
    study = loaded(tmp_path, small() | {"confirm": {"top": 1, "seeds": 3}})
    missing(study, folder, records_in(study, folder))
    blind = {"warm_100_bicubic": 0.9, "fresh_300_real": 0.7}
    confirm(folder, 0, 1, 60, **blind, gain_d=0.5)
    confirm(folder, 0, 2, 60, **blind, gain_g_pretrained=0.001, gain_g=0.9)
    confirm(folder, 0, 3, 60, fresh_300_bicubic=0.5, warm_100=0.8)
    data = report_data(study, folder, records_in(study, folder))
    (one,) = data["confirmed"]
    assert one["probes"]["warm, 100 steps"] == 0.8  # of the one seed whose controls held
    assert one["probes"]["warm, 300 steps"] == 0.9
    assert one["probes"]["fresh, 300 steps"] is None
    assert one["gains"] == {"d": 0.0625, "g": 0.375, "p_g": 0.25, "psnr": -5.75, "gap": 0.0625 + 0.375}
    gained = "100 more steps of D alone would gain 0.06 nats, of G alone 0.38 nats (-5.8 dB PSNR, D(G(x)) +0.25)"
    lost = [
        "warm, 100 steps: not measured on 2 of 3 seeds (its control failed: rank of real over bicubic 0.9, wanted",
        "fresh, 300 steps: not measured on 3 of 3 seeds (its control failed: rank of real over other real 0.7, wanted",
        "D's gain: not measured on 2 of 3 seeds",
        "G's gain: not measured on 1 of 3 seeds (its control failed: gain of the generator from before the game 0.001,",
    ]
    terminal = Console(record=True, width=300)
    print_report(data, folder, terminal)
    shown = terminal.export_text(clear=False)
    page = unescape(html(data))
    for text in (shown, markdown(data), page):
        assert f"{gained}: duality gap 0.44 nats." in text
        assert all(line in text for line in lost)
    assert "<td>not measured</td>" in page
    assert next(line for line in shown.splitlines() if "3 of 3  " in line).count("not measured") == 1


def test_no_number_is_shown_of_what_was_measured_on_no_seed(folder, tmp_path):
    study = loaded(tmp_path, small() | {"confirm": {"top": 1, "seeds": 1}})
    missing(study, folder, records_in(study, folder))
    confirm(folder, 0, 1, 60, warm_100_real=0.7, gain_g_ignorant=0.3)
    data = report_data(study, folder, records_in(study, folder))
    assert data["confirmed"][0]["gains"] == dict.fromkeys(("d", "g", "p_g", "psnr", "gap"))
    said = "D alone would gain (not measured), of G alone (not measured): duality gap (not measured)."
    assert said in " ".join(confirmation_texts(data))
    assert "exploitability not measured" in ending(records_in(study, folder).confirmations[0])
    confirm(folder, 0, 1, 60)
    assert "exploitability –" in ending(records_in(study, folder).confirmations[0])


def test_what_was_confirmed_before_gains_were_measured_shows_none(folder, study):
    confirm_all(folder, study, n0=(60, 60, 60), n2=(80, 80, 80))
    for record in records_in(study, folder).confirmations:
        lines = [json.loads(line) for line in record.trial.readings_file.read_text().splitlines()]
        kept = [{k: v for k, v in line.items() if "gain" not in k and "moved" not in k} for line in lines]
        record.trial.readings_file.write_text("".join(json.dumps(line) + "\n" for line in kept))
    data = report_data(study, folder, records_in(study, folder))
    assert [one["gains"] for one in data["confirmed"]] == [None, None]
    assert data["confirmed"][0]["probes"]["warm, 100 steps"] == 0.9
    assert "nats" not in " ".join(confirmation_texts(data))

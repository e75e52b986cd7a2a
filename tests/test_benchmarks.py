"""The suite of benchmarks: one form of results, one command; those that need nothing else are tried."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import figures, suite
from benchmarks.__main__ import every, main
from benchmarks.suite import Measure, Row, benchmark

# those that need nothing but the package: some seconds each, and up to some minutes
SECONDS = ["own_network", "conv_in_scan", "fractal", "adaptive_guidance", "peers"]
MINUTES = ["step_cost", "guidance_cost", "roofline", "token_speed", "memory", "ehrlich", "toys", "rewards"]
OF_COMMANDS = ("demo.json", "comparison.json")  # `demo` and `compare` write these, in a form of their own


def made(calls):
    @benchmark(quick={"n": 1}, packages=(), judge="none")
    def counted(n: int = 3, name: str = "a", folder: Path | None = None, known: list = ()) -> Iterator[Row]:
        """How many?"""
        for i in range(n):
            if {"i": i} not in [row["case"] for row in known]:
                calls.append(i)
                yield Row(
                    {"i": i},
                    {"square": Measure(float(i * i), 0.5, "m"), "name": name, "none": float("nan")},
                    {"calls": i},
                )

    return counted


def test_a_result_is_written_row_by_row_and_goes_on_where_it_stopped(tmp_path, capsys):
    calls, out = [], tmp_path / "r.json"
    counted = made(calls)
    suite.run("counted", counted, ["--n", "2", "--out", str(out), "--folder", "x"])
    result = json.loads(out.read_text())
    assert result["benchmark"] == "counted"
    assert result["settings"] == {"n": 2, "name": "a", "judge": "none"}
    assert result["rows"][1] == {
        "case": {"i": 1},
        "measures": {
            "square": {"value": 1.0, "error": 0.5, "unit": "m"},
            "name": {"value": "a"},
            "none": {"value": None},
        },
        "cost": {"calls": 1},
    }
    assert "i 1: square 1 ± 0.5 m" in capsys.readouterr().out
    result["rows"].pop()
    out.write_text(json.dumps(result))
    suite.run("counted", counted, ["--n", "2", "--out", str(out)])
    assert calls == [0, 1, 1]  # the first row was known
    suite.run("counted", counted, ["--quick", "--name", "b", "--out", str(out)])  # other settings begin anew
    assert calls == [0, 1, 1, 0]
    assert len(json.loads(out.read_text())["rows"]) == 1


def test_every_benchmark_has_a_name_of_its_own_and_asks_a_question(monkeypatch, capsys):
    assert len(every()) >= 30
    for name, (_, question) in every().items():
        assert question.endswith("?"), name
    monkeypatch.setattr("sys.argv", ["benchmarks", "step_cots"])
    with pytest.raises(SystemExit, match="did you mean step_cost"):
        main()
    monkeypatch.setattr("sys.argv", ["benchmarks", "--list"])
    main()
    listed = capsys.readouterr().out
    assert [name for name in every() if name not in listed] == []


def test_every_result_has_the_one_form():
    found = [path for path in sorted(figures.RESULTS.glob("*.json")) if path.name not in OF_COMMANDS]
    assert len(found) >= 35
    for path in found:
        result = json.loads(path.read_text())
        assert {"about", "settings", "rows"} <= set(result), path.name
        cases = [json.dumps(row["case"]) for row in result["rows"]]
        assert len(set(cases)) == len(cases), path.name
        for row in result["rows"]:
            assert set(row) == {"case", "measures", "cost"}, path.name
            assert all({"value"} <= set(m) <= {"value", "error", "unit"} for m in row["measures"].values()), path.name


def run_quick(name, monkeypatch, tmp_path):
    """Its rows are of the form of the result that is stored."""
    out = tmp_path / f"{name}.json"
    monkeypatch.setattr("sys.argv", ["benchmarks", name, "--quick", "--out", str(out)])
    main()
    rows = json.loads(out.read_text())["rows"]
    stored = sorted(figures.RESULTS.glob(f"{name}*.json"))
    for row in rows:
        assert any(m["value"] is not None for m in row["measures"].values()) or row["cost"]
    if stored:
        kinds = {tuple(row["case"]) for row in json.loads(stored[0].read_text())["rows"]}
        assert {tuple(row["case"]) for row in rows} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize("name", SECONDS)
def test_what_needs_nothing_else_runs(name, monkeypatch, tmp_path):
    run_quick(name, monkeypatch, tmp_path)


@pytest.mark.release
@pytest.mark.parametrize("name", MINUTES)
def test_what_takes_minutes_runs(name, monkeypatch, tmp_path):
    run_quick(name, monkeypatch, tmp_path)

import json
from dataclasses import replace

import pytest

from captum_robust.audit import AuditReport, ModelCheck, Verdict
from captum_robust.audit.render import render
from captum_robust.audit.report import SCHEMA, write_text

KEYS = {
    "schema", "settings", "circumstances", "n_examples", "accuracy", "explanations", "refused",
    "agreement", "rules", "rows", "model_check",
}  # fmt: skip
EXPLANATION = {
    "verdict", "reason", "values", "failed", "indicators", "errors", "randomized", "examples",
}  # fmt: skip


def test_the_schema_changes_only_with_its_version(report, tmp_path):
    report.to_json(tmp_path / "a.json")
    known = json.loads((tmp_path / "a.json").read_text())
    assert known["schema"] == SCHEMA == "captum_robust.audit/1"
    assert set(known) == KEYS
    assert set(known["explanations"]["gradient"]) == EXPLANATION
    assert set(known["explanations"]["gradient"]["values"]["sensitivity"]) == {
        "mean", "low", "high", "n",
    }  # fmt: skip


def test_json_comes_back(report, tmp_path):
    report.to_json(tmp_path / "a.json")
    known = AuditReport.from_json(tmp_path / "a.json")
    assert (
        known.as_json()["explanations"]["gradient"]["values"]
        == (report.as_json()["explanations"]["gradient"]["values"])
    )
    assert known.summary() == report.summary()
    assert known.rules == report.rules
    assert known.model_check == report.model_check
    assert known.rows == report.rows


def test_text_where_numbers_belong_is_refused(report, tmp_path):
    known = report.as_json()
    known["explanations"]["gradient"]["values"]["sensitivity"]["mean"] = "high"
    (tmp_path / "a.json").write_text(json.dumps(known))
    with pytest.raises(ValueError, match=r"not a whole audit report.*holds text where numbers"):
        AuditReport.from_json(tmp_path / "a.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "captum_robust.audit/0"}', "\xff"])
def test_what_is_not_a_report_is_refused(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="is not"):
        AuditReport.from_json(path)


def test_a_table_has_a_row_for_each_explanation(report):
    table = report.table()
    rows = table.to_dict("records") if hasattr(table, "to_dict") else table
    (row,) = rows
    assert row["explanation"] == "gradient"
    assert row["attacked"] == report.explanations["gradient"].left()[-1][1].mean


def test_a_summary_names_every_explanation_once(report):
    found = report.explanations["gradient"]
    verdicts = dict(zip("abc", Verdict, strict=True))
    several = replace(
        report, explanations={n: replace(found, verdict=v) for n, v in verdicts.items()}
    )
    text = [sentence for sentence in several.summary() if "of 3" in sentence]
    assert len(text) == 3
    assert all(text_of.count("1 of 3") == 1 for text_of in text)
    none = replace(report, explanations={}, model_check=ModelCheck(None))
    assert none.summary() == ["No explanation could be measured."]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "no folder" / "a.html", "text")
    path = tmp_path / "a.html"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_cautions_name_what_is_no_better_than_chance(report):
    found = report.explanations["gradient"]

    def with_values(randomized=0.2, **means):
        values = {name: replace(found.values["flipping"], mean=x) for name, x in means.items()}
        return replace(found, values=values, randomized=randomized).cautions()

    fine = {"infidelity": 0.1, "infidelity_random": 0.3, "flipping": 0.2, "flipping_random": 0.5}
    assert with_values(**fine) == []
    (one,) = with_values(**{**fine, "infidelity": 0.3})
    assert "infidelity 0.3, of a random order 0.3" in one
    (one,) = with_values(**{**fine, "flipping": 0.6})
    assert "flipping 0.6, of a random order 0.5" in one
    (one,) = with_values(**fine, randomized=0.7)
    assert "rank correlation 0.70" in one
    assert with_values(randomized=None) == []


def test_a_page_shows_cautions(report):
    found = report.explanations["gradient"]
    shown = replace(report, explanations={"gradient": replace(found, randomized=0.9)})
    assert "Caution: It resembles the explanation of the same model with random" in render(
        shown, "T"
    )
    hidden = replace(report, explanations={"gradient": replace(found, randomized=0.1, values={})})
    assert "Caution" not in render(hidden, "T")

"""What is written about metrics: the table, the alerts, the board, and that they name only what there is."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from prometheus_server import DEPLOY, alert_queries, board_queries, require_binaries

from paceline.actors.errors import ConfigError
from paceline.cluster.metrics import names, table
from paceline.cluster.metrics.names import BY_NAME

ROOT = Path(__file__).resolve().parent.parent


class TestDocument:
    def test_its_table_is_the_newest(self, tmp_path: Path) -> None:
        document = ROOT / "docs" / "metrics.md"
        assert table.main([str(document), "--check"]) == 0, "python -m paceline.cluster.metrics.table docs/metrics.md"
        old = tmp_path / "old.md"
        old.write_text(document.read_text().replace(names.ROUNDS.help, "Something else."))
        assert table.main([str(old), "--check"]) == 1
        assert table.main([str(old)]) == 0
        assert old.read_text() == document.read_text()

    def test_a_file_without_marks_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "page.md").write_text("# Nothing\n")
        with pytest.raises(ConfigError, match="end of metrics"):
            table.main([str(tmp_path / "page.md")])

    def test_it_explains_every_alert_and_no_other(self) -> None:
        told = set(re.findall(r"^\| `(Paceline\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
        assert told == {alert for alert, _ in alert_queries()}


class TestQueries:
    """The board's and the alerts', without a Prometheus; `test_live_metrics` asks a real one."""

    @pytest.mark.parametrize(("title", "query"), [*board_queries("paceline"), *alert_queries()])
    def test_they_name_only_metrics_and_labels_that_there_are(self, title: str, query: str) -> None:
        assert not re.search(r"\$[a-z_{]", query), f"{title}: a variable that is not filled in"
        found = re.findall(r"(paceline_[a-z0-9_]+)(?:\{([^}]*)\})?", query)
        assert found, title
        for written, matchers in found:
            metric = BY_NAME.get(written) or BY_NAME[re.sub(r"_(bucket|count|sum)$", "", written)]
            assert (written != metric.name) == (metric.kind == "histogram"), f"{title}: {written}"
            assert set(re.findall(r"(\w+)[=!]", matchers)) <= set(metric.labels), f"{title}: {written}"

    def test_promtool_takes_configuration_and_rules(self) -> None:
        require_binaries()
        for kind, path in (("config", "prometheus.yml"), ("config", "ray.yml"), ("rules", "alerts.yml")):
            checked = subprocess.run(
                ["promtool", "check", kind, str(DEPLOY / "prometheus" / path)], capture_output=True, text=True
            )
            assert checked.returncode == 0, checked.stdout + checked.stderr

    def test_every_alert_fires_where_it_should_and_none_over_a_healthy_cluster(self) -> None:
        require_binaries()
        folder = DEPLOY / "prometheus"
        checked = subprocess.run(
            ["promtool", "test", "rules", "alerts_test.yml"], cwd=folder, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
        fired = set(re.findall(r'(?:alertname="|alertname: )(Paceline\w+)', (folder / "alerts_test.yml").read_text()))
        assert fired == {alert for alert, _ in alert_queries()}

    def test_the_board_can_be_loaded_anywhere(self) -> None:
        """No data source of somebody's Grafana is written into it, and panels do not overlap."""
        board = json.loads((DEPLOY / "grafana" / "paceline.json").read_text())
        assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "prefix", "drafter"}
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, panel["title"]
            assert all(x < 24 for x, _ in cells)
            taken |= cells
            for part in (panel, *panel.get("targets", [])):
                assert part.get("datasource", {"uid": "${datasource}"})["uid"] == "${datasource}"
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])

"""Runs on a Ray cluster of two nodes on this machine, one of which is killed while it is at a run."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers import tiny_model

pytest.importorskip("ray")

import ray
from ray.cluster_utils import Cluster

from steadytune.comparison.candidates import candidates
from steadytune.comparison.cells import plan_cells
from steadytune.comparison.compare import compare
from steadytune.comparison.engines import ray as engine_ray
from steadytune.comparison.engines.execute import execute
from steadytune.comparison.engines.ray import RayEngine
from steadytune.comparison.engines.ray_task import packed, unpack
from steadytune.comparison.plan import RunPlan
from steadytune.comparison.records import RunRecord, read_comparison, read_record
from steadytune.comparison.reporter import SilentListener
from steadytune.errors import SettingsError
from steadytune.settings.compare import CompareSettings

tiny_folder = tiny_model.tiny_folder

pytestmark = pytest.mark.cluster

MEMORY = 80_000_000
#: Long enough that a node can be killed in the middle.
LONG = 3000  # long enough to be stopped in the middle on any machine

Settings = Callable[..., CompareSettings]


@pytest.fixture
def settings(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Comparisons of two methods on a few rows; the paths are relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    for name, seed in (("train", 0), ("validation", 1), ("test", 2)):
        tiny_model.write_csv(tmp_path / f"{name}.csv", tiny_model.rows(24, seed=seed))

    def make(**changes: Any) -> CompareSettings:
        values: dict[str, Any] = {
            "model": str(tiny_folder),
            "train_file": "train.csv",
            "validation_file": "validation.csv",
            "test_file": "test.csv",
            "methods": "none,noisytune",
            "max_length": 16,
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "learning_rates": [1e-3],
            "seeds": 2,
            "logging_steps": 1,
            "output_dir": "compared",
        }
        return CompareSettings(**values | changes)

    return make


def plans(settings: CompareSettings) -> list[RunPlan]:
    (cell,) = plan_cells(settings)
    seeds, rate = settings.all_seeds, settings.learning_rates[0]
    return [cell.plan(c, rate, seed, evaluate_test=True) for seed in seeds for c in candidates(settings)]


def with_more_steps(plan: RunPlan) -> RunPlan:
    """The same run under another key, as it would be with another number of updates."""
    settings = plan.settings.model_copy(update={"max_steps": LONG, "save_steps": 50, "logging_steps": 50})
    return dataclasses.replace(plan, settings=settings)


def elsewhere(plan: RunPlan) -> RunPlan:
    """The same run in another folder."""
    changed = plan.settings.model_copy(update={"output_dir": f"here/runs/{plan.key}"})
    return dataclasses.replace(plan, settings=changed)


class Watched(SilentListener):
    """Remembers what runs tell, and calls back on steps."""

    def __init__(self, on_step: Callable[[RunPlan, int], None] = lambda plan, done: None) -> None:
        self.on_step = on_step
        self.begun: list[str] = []
        self.notes: list[str] = []
        self.steps: dict[str, list[int]] = {}

    def started(self, plan: RunPlan) -> None:
        self.begun.append(plan.key)

    def step(self, plan: RunPlan, done: int, total: int, loss: float | None) -> None:
        self.steps.setdefault(plan.key, []).append(done)
        self.on_step(plan, done)

    def note(self, plan: RunPlan, text: str) -> None:
        self.notes.append(text)

    def warning(self, plan: RunPlan, kind: str, text: str) -> None:
        self.notes.append(text)


def scores(record: RunRecord) -> Any:
    return record.status, record.metrics["after"], record.training["curve"]


@pytest.fixture(scope="module")
def quiet_ray() -> Iterator[None]:
    """Workers find this checkout and the tests' modules; they take one thread each."""
    before = dict(os.environ)
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    yield
    os.environ.clear()
    os.environ |= before


@pytest.fixture
def cluster(quiet_ray: None) -> Iterator[Cluster]:
    """A head that runs nothing itself, and two nodes with room for one run each."""
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY},
    )
    yield made
    ray.shutdown()
    made.shutdown()


def add_node(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=MEMORY)


def node_processes(node: Any) -> list[psutil.Process]:
    """Everything of a node: its workers, and what started them."""
    raylets = [psutil.Process(p.process.pid) for kind in node.all_processes.values() for p in kind]
    return [child for raylet in raylets for child in raylet.children(recursive=True)] + raylets


def kill(node: Any, only: str = "") -> None:
    """End a node as a power cut does, or only its processes of a name."""
    for process in node_processes(node):
        try:
            if only in process.name() + " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
        except psutil.Error:
            continue


class TestCluster:
    def test_a_node_that_is_killed_in_mid_run_costs_no_run(self, cluster, settings) -> None:
        nodes = [add_node(cluster) for _ in range(2)]
        made = [with_more_steps(plan) for plan in plans(settings())[:3]]
        killed: list[float] = []

        def kill_one(plan: RunPlan, done: int) -> None:
            both = [key for key, steps in watch.steps.items() if steps[-1] < LONG]
            if not killed and len(both) == 2 and min(watch.steps[key][-1] for key in both) > 60:
                killed.append(time.monotonic())
                kill(nodes[0])

        watch = Watched(kill_one)
        engine = RayEngine(Path("compared"), cluster.address)
        assert engine.workers == 2
        records = {record.key: record for record in engine.run(made, watch)}
        engine.close()

        assert killed
        lost = {key for key in watch.begun if watch.begun.count(key) > 1}
        assert len(lost) == 1, "exactly the run on the killed node begins again"
        assert len([note for note in watch.notes if "lost with its node" in note]) == 1
        assert sorted(records) == sorted(plan.key for plan in made)
        (key,) = lost
        assert any("Continuing from" in note for note in watch.notes), "it goes on from its checkpoint"
        assert all(read_record(plan.folder) == records[plan.key] for plan in made)
        here = execute(elsewhere(next(plan for plan in made if plan.key == key)))
        assert scores(records[key]) == scores(here), "as on one machine without a loss"

        again_engine = RayEngine(Path("compared"), cluster.address)
        again_watch = Watched()
        assert len(list(again_engine.run(made, again_watch))) == len(made)
        assert not again_watch.begun

    def test_a_run_whose_process_always_dies_fails_and_the_others_go_on(self, cluster, settings, monkeypatch) -> None:
        node = add_node(cluster)
        doomed, *others = plans(settings())
        doomed = with_more_steps(doomed)

        def kill_worker(plan: RunPlan, done: int) -> None:
            if plan.key == doomed.key:
                kill(node, only="make_run")

        engine = RayEngine(Path("compared"), cluster.address, retries=1)
        watch = Watched(kill_worker)
        records = {record.key: record for record in engine.run([doomed, *others], watch)}
        engine.close()
        assert {records[plan.key].status for plan in others} == {"finished"}
        assert records[doomed.key].status == "failed"
        assert "lost 2 times with its node or process" in (records[doomed.key].error or "")
        assert watch.begun.count(doomed.key) == 2

    def test_a_node_that_does_not_share_the_folder_sends_the_files(self, cluster, settings, monkeypatch) -> None:
        add_node(cluster)
        made = plans(settings(seeds=1))
        engine = RayEngine(Path("compared"), cluster.address)
        submit = engine._submit
        monkeypatch.setattr(engine, "_submit", lambda plan, marker: submit(plan, marker.with_name("not-there")))
        records = list(engine.run(made, SilentListener()))
        engine.close()
        assert [record.status for record in records] == ["finished"] * 2
        for plan in made:
            names = {path.name for path in plan.folder.iterdir()}
            assert {"record.json", "metrics.json", "config.yaml", "log.jsonl", "model"} <= names
            assert (plan.folder / "model" / "model.safetensors").is_file()

    def test_stopping_leaves_a_checkpoint_that_another_engine_goes_on_from(self, cluster, settings) -> None:
        add_node(cluster)
        (plan, *_) = [with_more_steps(plan) for plan in plans(settings())]

        class EnoughError(Exception):
            pass

        def stop(plan: RunPlan, done: int) -> None:
            if done > 60:
                raise EnoughError

        engine = RayEngine(Path("compared"), cluster.address)
        with pytest.raises(EnoughError):
            list(engine.run([plan], Watched(stop)))
        engine.close()
        saved = [int(path.name.rpartition("-")[2]) for path in plan.folder.glob("checkpoints/checkpoint-*")]
        assert any(updates % 50 for updates in saved), "one beside those of every 50 updates"
        assert read_record(plan.folder) is None
        record = execute(plan)
        assert scores(record)[:2] == scores(execute(elsewhere(plan)))[:2]

    def test_a_node_with_other_code_is_not_used_silently(self, cluster, settings) -> None:
        add_node(cluster)
        plan, *_ = plans(settings())
        other = dataclasses.replace(plan, fingerprint={**plan.fingerprint, "code": "other"})
        engine = RayEngine(Path("compared"), cluster.address)
        (record,) = engine.run([other], SilentListener())
        engine.close()
        assert record.status == "failed"
        assert "has another version of steadytune" in (record.error or "")

    def test_each_run_takes_a_gpu_where_the_cluster_has_some(self, cluster, settings) -> None:
        # Nothing here is a GPU: Ray counts what a node says it has.
        cluster.add_node(num_cpus=4, num_gpus=2, object_store_memory=MEMORY)
        made = [with_more_steps(plan) for plan in plans(settings())[:3]]
        at_once: list[int] = []
        free: list[float] = []

        def look(plan: RunPlan, done: int) -> None:
            at_once.append(sum(steps[-1] < LONG for steps in watch.steps.values()))
            free.append(ray.available_resources().get("GPU", 0.0))

        watch = Watched(look)
        engine = RayEngine(Path("compared"), cluster.address)
        assert engine.workers == 2, "two GPUs, though there are four processors"
        records = list(engine.run(made, watch))
        assert [record.status for record in records] == ["finished"] * 3
        assert max(at_once) == 2
        assert min(free) == 0.0
        assert ray.cluster_resources()["GPU"] == 2.0
        engine.close()

    def test_a_cluster_without_gpus_refuses_runs_that_need_one(self, cluster) -> None:
        add_node(cluster)
        with pytest.raises(SettingsError, match=r"1 GPU.* has 0"):
            RayEngine(Path("compared"), cluster.address, gpus=1)

    def test_results_land_under_a_url(self, cluster, settings, tmp_path) -> None:
        add_node(cluster)
        given = settings(engine="ray", ray_address=cluster.address, seeds=1, output_dir=f"file://{tmp_path}/kept")
        found = compare(given)
        assert [r.status for r in found.cells[0].runs] == ["finished", "finished"]
        for record in found.cells[0].runs:
            assert read_record(tmp_path / "kept" / "runs" / record.key) is not None
        assert read_comparison(tmp_path / "kept") == found
        assert len(list((tmp_path / "kept").glob("runs/*/model/model.safetensors"))) == 1


def test_a_cluster_is_started_here_without_an_address(quiet_ray, settings, monkeypatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    made = plans(settings(seeds=1))
    engine = RayEngine(Path("compared"), workers=2)
    assert engine.workers == 2
    assert [(record.status, record.error) for record in engine.run(made, SilentListener())] == [("finished", None)] * 2
    engine.close()
    assert not ray.is_initialized()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense", "ray://", "auto"])
def test_a_cluster_that_cannot_be_reached_is_one_line(quiet_ray, address: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--ray-address") as caught:
        RayEngine(tmp_path, address)
    assert "\n" not in str(caught.value)


def test_without_ray_the_line_says_what_to_install(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'steadytune\[ray\]'"):
        RayEngine(tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_that_arrive_replace_old_ones(settings) -> None:
    plan, *_ = plans(settings())
    execute(plan)
    content, before = packed(plan.folder), files(plan.folder)
    (plan.folder / "log.jsonl").write_text("old")
    (plan.folder / "model" / "old").write_text("old")
    unpack(content, plan)
    assert files(plan.folder) == before
    assert not list(plan.folder.parent.glob("*.arrived"))


def test_rooms_are_counted_by_what_is_scarcest() -> None:
    assert engine_ray._room({"CPU": 16, "GPU": 2}, cpus=1, gpus=1) == 2
    assert engine_ray._room({"CPU": 16}, cpus=4, gpus=0) == 4
    assert engine_ray._room({}, cpus=1, gpus=0) == 1

"""Which configuration a kernel gets: the layers, the buckets, and tables that cannot be used."""

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest
from support.places import ROOT
from support.table_files import CONFIG, FORWARD, H100, WORK, content, entry

from sdn_triton.bench.problems.providers import PROVIDERS
from sdn_triton.tuning import lookup, use_table
from sdn_triton.tuning.buckets import bucket_of
from sdn_triton.tuning.configs import KernelConfig, Target, config_from_json, config_to_json
from sdn_triton.tuning.defaults import Work, default_config
from sdn_triton.tuning.lookup import config_for
from sdn_triton.tuning.resources import why_not
from sdn_triton.tuning.tables import TableError, read_table

H100_PCIE = Target("cuda", 90, 114)
A100 = Target("cuda", 80, 108)
OTHER = KernelConfig(32, 8, 64, 64, 4, 1)


@pytest.fixture(autouse=True)
def no_tables(monkeypatch, tmp_path):
    """Nothing from the machine that runs the tests: no tables of its user, none shipped."""
    monkeypatch.setenv(lookup.ENVIRONMENT, "")
    monkeypatch.setattr(lookup, "SHIPPED", tmp_path / "shipped")
    (tmp_path / "shipped").mkdir()
    use_table(None)
    yield
    monkeypatch.undo()
    use_table(None)


def write(path, *entries, **changes):
    path.write_text(json.dumps(content(*entries, **changes)))
    return path


def sizes(config):
    return {name: value for name, value in config_to_json(config).items() if name not in ("block_w", "splits")}


def test_the_heuristic_is_the_last_layer():
    assert config_for(FORWARD, WORK, H100) == default_config(FORWARD, WORK, H100)
    assert config_for(FORWARD, WORK, H100).source == "heuristic"


def test_the_layers_in_their_order(tmp_path, monkeypatch):
    """User's, shipped, family, heuristic: with each one that goes the next one answers."""
    user = write(tmp_path / "user.json", entry(OTHER))
    shipped = write(tmp_path / "shipped" / "h100.json")
    family = write(tmp_path / "shipped" / "pcie.json", entry(OTHER), target=H100_PCIE, name="NVIDIA H100 PCIe")
    use_table(user)
    assert sizes(config_for(FORWARD, WORK, H100)) == sizes(OTHER)
    assert config_for(FORWARD, WORK, H100).source == f"user's table {user}"
    use_table(None)
    assert sizes(config_for(FORWARD, WORK, H100)) == sizes(CONFIG)
    assert config_for(FORWARD, WORK, H100).source == f"shipped table {shipped}"
    shipped.unlink()
    use_table(None)
    assert sizes(config_for(FORWARD, WORK, H100)) == sizes(OTHER)
    assert config_for(FORWARD, WORK, H100).source == f"same family, NVIDIA H100 PCIe: shipped table {family}"
    family.unlink()
    use_table(None)
    assert config_for(FORWARD, WORK, H100).source == "heuristic"


def test_a_user_s_table_for_another_gpu_of_the_family_comes_after_the_shipped_one(tmp_path):
    use_table(write(tmp_path / "pcie.json", entry(OTHER), target=H100_PCIE))
    with pytest.warns(RuntimeWarning, match="for sm_90 with 132"):
        found = config_for(FORWARD, WORK, H100)
    assert found.source.startswith("same family")
    write(tmp_path / "shipped" / "h100.json")
    lookup._forget()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert config_for(FORWARD, WORK, H100).source.startswith("shipped table")


def test_the_latest_given_table_comes_first_then_the_environment_then_the_cache(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{n}.json", entry(KernelConfig(32, 8, 32, 64, 4, n))) for n in (1, 2, 3)]
    monkeypatch.setenv(lookup.ENVIRONMENT, os.pathsep.join(map(str, paths[:2])))
    use_table(None)
    assert config_for(FORWARD, WORK, H100).num_stages == 1
    use_table(paths[2])
    assert config_for(FORWARD, WORK, H100).num_stages == 3
    use_table(None)
    monkeypatch.delenv(lookup.ENVIRONMENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lookup.user_folder().mkdir(parents=True)
    write(lookup.user_folder() / "any.json", entry(KernelConfig(32, 8, 32, 64, 4, 4)))
    use_table(None)
    assert config_for(FORWARD, WORK, H100).num_stages == 4


def test_a_folder_may_hold_tables_of_several_gpus_without_a_word(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    write(folder / "a100.json", target=A100, name="A100")
    write(folder / "h100.json", entry(OTHER))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        use_table(folder)
        assert sizes(config_for(FORWARD, WORK, H100)) == sizes(OTHER)
        assert sizes(config_for(FORWARD, WORK, A100)) == sizes(CONFIG)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        (dict(rows=60, columns=66), True),
        (dict(channels=250), False),  # not in eights
        (dict(channels=248), True),
        (dict(channels=192), False),
        (dict(outputs=129), False),
        (dict(images=16), False),
        (dict(taps=25), False),
        (dict(groups=4), False),
        (dict(arithmetic="fp16"), False),
        (dict(channels_last=False), False),
    ],
    ids=str,
)
def test_buckets_are_magnitudes(change, same, tmp_path):
    use_table(write(tmp_path / "table.json", entry(OTHER)))
    found = config_for(FORWARD, WORK._replace(**change), H100)
    assert found.source.startswith("user's table") == same
    assert not config_for("fusion_forward", WORK, H100).source.startswith("user's table")


def test_no_bucket_has_an_exact_image_size():
    assert {"rows", "columns", "images", "h", "w"}.isdisjoint(bucket_of(WORK)._fields)


def test_a_configuration_is_fitted_to_the_image(tmp_path):
    kernel = "fusion_weight_gradient"
    row = Work("bf16", 1, rows=1, columns=8192, channels=256, outputs=256)
    square = row._replace(rows=64, columns=128)
    few = row._replace(columns=4097)
    config = KernelConfig(64, 8, 32, 64, 4, 2, splits=64)
    use_table(write(tmp_path / "table.json", entry(config, kernel, row)))
    assert bucket_of(row) == bucket_of(square) == bucket_of(few)
    assert config_for(kernel, row, H100).block_h == 1
    assert config_for(kernel, square, H100).block_w == 8
    assert config_for(kernel, row, H100).splits == 64
    tiny = Work("bf16", 1, 1, 65, 256, 256)
    use_table(write(tmp_path / "tiny.json", entry(config, kernel, tiny)))
    assert config_for(kernel, tiny, H100).splits == 2


def missing(path):
    path.unlink()


def truncated(path):
    path.write_text(path.read_text()[:-20])


def nested(path):
    path.write_text("[" * 100_000)


def binary(path):
    path.write_bytes(b"\xff\xfe\x00")


def directory_in_its_place(path):
    path.unlink()
    path.mkdir()
    (path / "broken.json").write_text("{}")


def changed(**changes):
    return lambda path: path.write_text(json.dumps(content(**changes)))


def of_entry(**changes):
    return lambda path: path.write_text(json.dumps(content(entry(**changes))))


def of_config(**changes):
    return lambda path: path.write_text(
        json.dumps(content({**entry(), "config": {**config_to_json(CONFIG), **changes}}))
    )


BROKEN = {
    "missing": (missing, "No such file"),
    "truncated": (truncated, "no valid JSON"),
    "nested": (nested, "no valid JSON"),
    "binary": (binary, "no valid JSON"),
    "folder-with-a-stranger": (directory_in_its_place, "broken.json: not a table"),
    "schema": (changed(schema=2), "its schema is 2"),
    "no-device": (changed(device={}), "the device needs"),
    "odd-device": (changed(device={**content()["device"], "architecture": []}), "malformed"),
    "entries-no-list": (changed(entries=3), "malformed"),
    "entry-no-object": (changed(entries=["x"]), "entry 1: an entry needs"),
    "unknown-kernel": (of_entry(kernel="magic"), "no kernel 'magic'"),
    "unverified": (of_entry(verified=False), "not verified"),
    "no-time": (of_entry(microseconds=0), "no time"),
    "no-run": (of_entry(run=7), "no run 7"),
    "unknown-key": (of_config(block_q=3), "no block_q"),
    "wrong-type": (of_config(block_p="64"), "block_p must be of type int"),
    "true-is-no-number": (of_config(num_stages=True), "num_stages must be of type int"),
    "impossible": (of_config(block_p=48), "powers of two"),
    "bucket": (of_entry(bucket={"channels": 1}), "a bucket must have"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_table_that_cannot_be_used_warns_once_and_is_passed_over(name, tmp_path, monkeypatch):
    path = write(tmp_path / "table.json")
    spoil, reason = BROKEN[name]
    spoil(path)
    monkeypatch.setenv(lookup.ENVIRONMENT, str(path))
    lookup._forget()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for rows in (64, 65, 66):
            assert config_for(FORWARD, WORK._replace(rows=rows), H100).source == "heuristic"
        assert config_for(FORWARD, WORK, A100).source == "heuristic"
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert str(path) in str(warning.message)
    assert reason in str(warning.message)


def test_a_file_that_may_not_be_read_is_passed_over(tmp_path, monkeypatch):
    path = write(tmp_path / "table.json")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.warns(RuntimeWarning, match=f"{path}: Permission denied"):
        use_table(path)
    assert config_for(FORWARD, WORK, H100).source == "heuristic"


def test_a_read_only_table_in_a_read_only_folder_is_used(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    path = write(folder / "table.json")
    path.chmod(0o444)
    folder.chmod(0o555)
    try:
        use_table(path)
        assert config_for(FORWARD, WORK, H100).source == f"user's table {path}"
    finally:
        folder.chmod(0o755)


def test_a_foreign_table_warns_once_for_each_gpu(tmp_path):
    use_table(write(tmp_path / "table.json", target=A100, name="NVIDIA A100"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for rows in (64, 65):
            assert config_for(FORWARD, WORK._replace(rows=rows), H100).source == "heuristic"
    (warning,) = caught
    assert "table.json: it is for NVIDIA A100 (sm_80 with 108" in str(warning.message)


def test_what_cannot_run_on_the_target_is_passed_over(tmp_path):
    """A configuration for more shared memory than there is, in a table that claims to be for this GPU."""
    large = KernelConfig(256, 8, 128, 256, 8, 4)
    assert "shared memory" in (why_not(FORWARD, "bf16", large, H100) or "")
    use_table(write(tmp_path / "table.json", entry(large)))
    with pytest.warns(
        RuntimeWarning, match=r"table\.json: its configuration of difference_forward cannot run on sm_90"
    ):
        found = config_for(FORWARD, WORK, H100)
    assert found.source == "heuristic"


def test_a_provider_without_tables(tmp_path):
    """Whoever looks up, and in whichever thread: autograd goes back in threads of its own."""
    use_table(write(tmp_path / "table.json"))
    without = PROVIDERS["triton-default"].around

    def source() -> str:
        return config_for(FORWARD, WORK, H100).source

    with ThreadPoolExecutor(1) as other_thread:
        assert source().startswith("user's table")
        with without():
            with without():
                assert source() == other_thread.submit(source).result() == "heuristic"
            assert source() == other_thread.submit(source).result() == "heuristic"
        assert source() == other_thread.submit(source).result() == f"user's table {tmp_path / 'table.json'}"


def test_files_are_read_once(tmp_path, monkeypatch):
    use_table(write(tmp_path / "table.json"))

    def refuse(*args, **kwargs):
        raise AssertionError("a file was touched")

    with monkeypatch.context() as patch:
        for name in ("read_text", "glob", "open", "exists", "is_dir"):
            patch.setattr(Path, name, refuse)
        patch.setattr("builtins.open", refuse)
        patch.setattr(os.path, "isdir", refuse)
        found = [config_for(FORWARD, WORK._replace(rows=rows), H100).source for rows in range(40, 60)]
        config_for("fusion_forward", WORK, H100)
    assert any(source.startswith("user's table") for source in found)


def test_every_process_chooses_alike(tmp_path):
    path = write(tmp_path / "table.json")
    code = (
        "from sdn_triton.tuning.lookup import config_for; from sdn_triton.tuning.defaults import *\n"
        "from sdn_triton.tuning.configs import Target\n"
        "for kernel in KERNELS:\n"
        "    for n in (1, 3, 8):\n"
        "        print(config_for(kernel, Work('bf16', n, 64, 64, 256, 256, taps=9), Target('cuda', 90, 132)))"
    )
    environment = {**os.environ, lookup.ENVIRONMENT: str(path), "PYTHONPATH": str(ROOT)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert str(path) in runs[0]


def test_a_configuration_through_json_and_back():
    written = json.loads(json.dumps(config_to_json(CONFIG)))
    assert config_from_json(written, CONFIG.source) == CONFIG
    assert set(written) == {field.name for field in fields(KernelConfig)} - {"source"}
    del written["splits"]
    assert config_from_json(written, "table").splits == 1
    del written["block_p"]
    with pytest.raises(ValueError, match="needs block_p"):
        config_from_json(written, "table")


def test_reading_a_table_says_what_is_wrong(tmp_path):
    with pytest.raises(TableError, match="No such file"):
        read_table(tmp_path / "none.json")
    table = read_table(write(tmp_path / "table.json"))
    assert table.is_for(H100)
    assert not table.is_for(H100_PCIE)
    assert table.is_in_family_of(H100_PCIE)
    assert not table.is_in_family_of(A100)

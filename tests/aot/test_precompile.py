"""What is compiled ahead is found by the launches that follow, here or where an archive was carried to."""

import json
import tarfile
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton")
from triton import knobs

from sdn_triton.aot.compile import TARGETS, OfflineDriver, active_driver
from sdn_triton.bench.gpu import archive, precompile, specialisations
from sdn_triton.bench.gpu.archive import ArchiveError, keys_of, pack, unpack
from sdn_triton.bench.gpu.examples import ExampleTask
from sdn_triton.bench.gpu.precompile import Compilation, compile_all, main
from sdn_triton.bench.gpu.specialisations import Specialisation, collected
from sdn_triton.bench.gpu.where import Place
from sdn_triton.bench.problems.launches import EXAMPLES
from sdn_triton.launch import plan
from sdn_triton.tuning.pretended import pretended
from sdn_triton.tuning.shapes import LayerShape

PLACE = Place("sm_90")
TASK = ExampleTask(next(example for example in EXAMPLES if example.name == "resize"), "bf16")


class IdleDriver(OfflineDriver):
    """A device that loads kernels and launches nothing."""

    def __init__(self):
        super().__init__(PLACE.target)
        self._index += 8000  # kernels are kept by it, and nobody else is to find these
        self.launched = []
        properties = {"max_shared_mem": PLACE.target.shared_bytes, "multiprocessor_count": PLACE.target.multiprocessors}
        self.utils = SimpleNamespace(load_binary=self.load, get_device_properties=lambda device: properties)

    def load(self, name, binary, shared_bytes, device):
        assert binary.startswith(b"\x7fELF")
        return None, name, 0, 0, 1024

    def launcher_cls(self, source, metadata):
        return lambda x, y, z, stream, name, *others: self.launched.append(name)


@pytest.fixture
def cache(tmp_path):
    """An empty cache of Triton's; in memory there is nothing either."""
    with knobs.cache.scope():
        knobs.cache.dir = str(tmp_path / "cache")
        yield tmp_path / "cache"


def launch(task):
    """What a real launch of an example finds in the cache: True for each kernel that was there."""
    driver = IdleDriver()
    plan._plans.clear()
    found = []
    kernels = {launch.kernel for launch in task.launches(PLACE)}
    for kernel in kernels:
        kernel.device_caches.pop(driver.get_current_device(), None)
    with pretended(PLACE.target), active_driver(driver), knobs.compilation.scope(), torch.no_grad():
        knobs.compilation.listener = lambda *, cache_hit, **others: found.append(cache_hit)
        task.example.call(task.arguments(torch.device("cpu")), "triton")
    assert driver.launched
    plan._plans.clear()
    return found


def specialisations_of(task):
    with collected(PLACE.target) as found, torch.no_grad():
        task.example.call(task.arguments(torch.device("meta")), "triton")
    return list(found)


def test_what_this_process_has_compiled_is_found_too(cache):
    first = specialisations_of(TASK)
    assert first
    with active_driver(OfflineDriver(PLACE.target)):
        for kernel in first:
            kernel.compile()
    assert specialisations_of(TASK) == first


def test_a_launch_finds_what_was_compiled_ahead(cache, tmp_path):
    """Also in another folder, to which an archive was unpacked."""
    tasks = [Compilation(s) for s in specialisations_of(TASK)]
    assert [task.specialisation.name for task in tasks] == ["resize_gradient_kernel"]
    assert not cache.exists()
    rows = compile_all(tasks, PLACE, processes=2)
    assert [(row["ok"], row["was_there"]) for row in rows] == [(True, False)]
    assert launch(TASK) == [True]
    assert compile_all(tasks, PLACE, processes=1)[0]["was_there"]

    parts = {"smoke": [rows[0]["folder"]], "bench": []}
    files = [tmp_path / f"kernels.tar.{compression}" for compression in ("gz", "xz")]
    sizes = [pack(file, cache, parts, {"triton": triton.__version__}) for file in files]
    assert sizes == [file.stat().st_size for file in files]
    assert sizes[1] < sizes[0]
    cache.rename(tmp_path / "gone")
    for file in files:
        knobs.cache.dir = str(tmp_path / file.suffix)
        assert unpack(file, tmp_path / file.suffix)["parts"] == parts
        assert launch(TASK) == [True]
    knobs.cache.dir = str(tmp_path / "empty")
    assert launch(TASK) == [False]


def test_a_kernel_that_does_not_compile_costs_only_itself(cache, capsys):
    (right,) = specialisations_of(TASK)
    wrong = Specialisation(right.module, "another", right.data)
    rows = compile_all([Compilation(s) for s in (wrong, right)], PLACE, processes=1)
    assert [row["ok"] for row in rows] == [False, True]
    assert "has no attribute 'another'" in rows[0]["why"]
    assert precompile.report("smoke", rows) == {
        "kernels": 2, "were there": 0, "compiled": 1, "not reached": 0, "failed": 1
    }  # fmt: skip
    assert "smoke: 2 kernels, 1 compiled, 1 failed" in capsys.readouterr().out


def test_no_time_is_said(cache):
    tasks = [Compilation(s) for s in specialisations_of(TASK)]
    (row,) = compile_all(tasks, PLACE, processes=1, seconds=0.0)
    assert (row["ok"], row["why"]) == (None, "not reached: the time was up")


def test_the_command(cache, tmp_path, monkeypatch, capsys):
    """Compile, pack, unpack, with a part that has one kernel."""

    def of_smoke(arch):
        with torch.no_grad():
            TASK.example.call(TASK.arguments(torch.device("meta")), "triton")

    monkeypatch.setattr(specialisations, "of_smoke", of_smoke)
    file, counts = tmp_path / "kernels.tar.gz", tmp_path / "counts.json"
    command = ["--part", "smoke", "--processes", "1", "--cache", str(cache)]
    assert main([*command, "--json", str(counts), "--archive", str(file)]) == 0
    assert json.loads(counts.read_text())["parts"]["smoke"]["compiled"] == 1
    assert "1 kernels (1 of smoke)" in capsys.readouterr().out
    assert main(["--cache", str(tmp_path / "other"), "--unpack", str(file)]) == 0
    assert capsys.readouterr().out == f"1 kernels (1 of smoke) in {tmp_path / 'other'}\n"
    assert main([*command[:-1], str(tmp_path / "other")]) == 0
    assert "1 were there" in capsys.readouterr().out

    monkeypatch.setattr(precompile, "own_keys", lambda: "those of another build")
    assert main(["--cache", str(tmp_path / "third"), "--unpack", str(file)]) == 0
    assert "none of them will be found here" in capsys.readouterr().out
    monkeypatch.setattr(archive, "LARGEST", 100)
    assert main([*command, "--archive", str(file)]) == 1
    assert "MiB, and 0.0 MiB can be carried" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--archive", "kernels.zip"], "the name of an archive ends in .gz or .xz, got kernels.zip"),
        (["--arch", "gfx942"], "invalid choice: 'gfx942'"),
        (["--part", "all"], "invalid choice: 'all'"),
        (["--shape", "c=0"], "c must"),
        (["--unpack", "nothing.tar.gz"], "there is no file 'nothing.tar.gz'"),
    ],
)
def test_what_cannot_be_done_is_said(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_what_is_no_archive_is_said(tmp_path, capsys):
    path = tmp_path / "kernels.tar.gz"
    path.write_text("no archive")
    assert main(["--cache", str(tmp_path), "--unpack", str(path)]) == 1
    assert "is no archive of kernels" in capsys.readouterr().err
    with tarfile.open(path, "w:gz"):
        pass
    with pytest.raises(ArchiveError, match="is no archive of kernels"):
        unpack(path, tmp_path)


def test_keys_of_another_package(tmp_path, monkeypatch):
    """They are those of its files: its own package's are its own; a changed library has others."""
    from triton.runtime import cache as triton_cache

    package = tmp_path / "package"
    here = triton_cache.__file__.removesuffix("/runtime/cache.py")
    (package / "triton").mkdir(parents=True)
    for name in ("__init__.py", "runtime", "compiler", "backends", "language"):
        (package / "triton" / name).symlink_to(f"{here}/{name}")
    (package / "triton" / "_C").mkdir()
    library = package / "triton" / "_C" / "libtriton.so"
    library.symlink_to(f"{here}/_C/libtriton.so")
    # Triton follows no link to itself: it hashes what lies beside the file that it was told.
    assert keys_of(package) == triton_cache.triton_key()
    library.unlink()
    library.write_bytes(b"that of another Python")
    assert keys_of(package) != triton_cache.triton_key()
    with pytest.raises(ArchiveError, match="there is no triton in"):
        keys_of(tmp_path)
    (package / "triton" / "__init__.py").unlink()
    (package / "triton" / "__init__.py").write_text('__version__ = "1.0.0"\n')
    with pytest.raises(ArchiveError, match=f"is not {triton.__version__}, which runs here"):
        keys_of(package)


def test_parts(monkeypatch):
    """The benchmark's kernels are those of its passes, the tuner's are those of its first candidates."""
    with collected(TARGETS["sm_90"]) as found:
        specialisations.of_bench("sm_90", "quick")
    names = {s.name for s in found}
    assert names > {"difference_forward_kernel", "difference_weight_gradient_kernel", "moments_gradient_kernel"}
    assert names > {"fusion_forward_kernel", "fusion_data_gradient_kernel", "resize_gradient_kernel"}
    counts = []
    for count in (1, 4):
        with collected(TARGETS["sm_90"]) as found:
            specialisations.of_tune("sm_90", [LayerShape.parse("c=64,h=32,w=32")], count)
        counts.append(sum(s.name == "paired_forward_kernel" for s in found))
    assert counts == [1, 4]


@pytest.mark.long
def test_the_kernel_tests_tell_what_they_launch():
    found = {s.name for s in specialisations.of_tests("sm_90", 2, float("inf"))}
    assert found > {"difference_forward_kernel", "paired_forward_kernel", "paired_block_forward_kernel"}

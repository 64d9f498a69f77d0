"""The tuner without a GPU: kernels are interpreted, and clock and timer are given."""

import json
import re
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from sdn_triton import explain, feature_fusion, semantic_difference_conv2d
from sdn_triton.aot.compile import ToolError
from sdn_triton.backend import is_interpreted
from sdn_triton.bench.commands import tune
from sdn_triton.bench.measuring.rounds import Timing
from sdn_triton.bench.terminal import Table
from sdn_triton.bench.tuner.trials import Trial, Unit, units_of
from sdn_triton.bench.tuner.tuner import Tuner, exported, label, merged
from sdn_triton.cli import main
from sdn_triton.launch.run import Launch
from sdn_triton.tuning import lookup, record_shapes, use_table
from sdn_triton.tuning.configs import INTERPRETER, KernelConfig, Target, config_to_json
from sdn_triton.tuning.precision import convolutions_in
from sdn_triton.tuning.shapes import LayerShape, read_shapes
from sdn_triton.tuning.spaces import candidates
from sdn_triton.tuning.tables import TableError, read_table

pytestmark = pytest.mark.skipif(not is_interpreted(), reason="needs TRITON_INTERPRET=1")

CPU = torch.device("cpu")
SHAPE = LayerShape.parse("n=2,c=5,o=7,h=5,w=6,dtype=fp32,contrast=channel")
A, B, C = (KernelConfig(32, 8, 16, block, 4, 1) for block in (16, 32, 64))


@pytest.fixture(autouse=True)
def no_tables(monkeypatch):
    monkeypatch.setenv(lookup.ENVIRONMENT, "")
    use_table(None)
    yield
    use_table(None)


class Bench:
    """A clock that every trial moves on by a second, and a timer that knows how fast each configuration is."""

    def __init__(self, **microseconds):
        self.microseconds, self.now, self.timed = microseconds, 0.0, []

    def clock(self):
        return self.now

    def time_calls(self, calls, device, seconds, rounds):
        self.now += 1
        self.timed.append(list(calls))
        found = {}
        for name, call in calls.items():
            call()
            block = re.search(r"block_o=(\d+)", name)[1]
            found[name] = Timing((self.microseconds.get(f"o{block}", 50.0) * 1e-6,))
        return found


def unit_of(kernel="difference_forward", shape=SHAPE):
    (unit,) = [unit for unit in units_of([shape], INTERPRETER) if unit.kernel == kernel]
    return unit


def tuner_at(path, bench, budget=1000.0, configs=(A, B, C)):
    return Tuner(
        path,
        CPU,
        INTERPRETER,
        budget,
        time_calls=bench.time_calls,
        clock=bench.clock,
        space=lambda kernel, work, target: configs,
    )


def spoil(monkeypatch, when, how):
    """Do something to a launch's arguments after it ran, for some launches."""
    run = Launch.start

    def spoiled(self):
        run(self)
        if when(self):
            how(self.arguments)

    monkeypatch.setattr(Launch, "start", spoiled)


def test_the_fastest_wins_and_the_table_says_why(tmp_path):
    path = tmp_path / "table.json"
    bench = Bench(o16=30, o32=10, o64=20)
    entry = tuner_at(path, bench).run(unit_of(), 100)
    assert entry["config"] == config_to_json(B)
    assert entry["microseconds"] == pytest.approx(10)
    assert (entry["runner_up"]["config"], entry["runner_up"]["microseconds"]) == (config_to_json(C), pytest.approx(20))
    assert (entry["heuristic"]["config"], entry["heuristic"]["microseconds"]) == (config_to_json(A), pytest.approx(30))
    assert entry["verified"] is True
    assert entry["complete"] is True
    assert entry["rejected"] == []
    assert LayerShape.parse(entry["shape"]) == SHAPE
    content = json.loads(path.read_text())
    (run,) = content["runs"]
    assert {"time", "device", "torch", "triton", "ptxas", "git"} <= run.keys()
    assert {"revision", "dirty", "changes"} == run["git"].keys()
    assert content["device"]["kind"] == "interpreter"
    assert read_table(path).configs[unit_of().kernel, unit_of().bucket] == replace(B, source=str(path))


def test_candidates_are_timed_in_turns_with_the_fastest_so_far(tmp_path):
    bench = Bench(o16=30, o32=10, o64=20)
    tuner_at(tmp_path / "table.json", bench).run(unit_of(), 100)
    names = {config: label(config_to_json(config)) for config in (A, B, C)}
    assert bench.timed[:3] == [[names[A]], [names[B], names[A]], [names[C], names[B]]]
    assert bench.timed[3] == [names[B], names[C], names[A]]


WRONG = {
    "twice-too-much": (lambda a: a["y_ptr"].mul_(2), "output: error"),
    "a-thousandth": (lambda a: a["y_ptr"].mul_(1.001), "output: error"),
    "one-pixel": (lambda a: a["y_ptr"][-1, -1, -1, -1].add_(1), "output: error"),
    "not-written": (lambda a: a["y_ptr"][0, 0, 0, 0].fill_(float("nan")), "output: error nan"),
    "not-repeatable": (lambda a: a["y_ptr"].mul_(1 + 1e-7 * torch.rand(())), "two runs differ"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.sampled(2)
def test_a_wrong_candidate_is_rejected_however_fast(name, tmp_path, monkeypatch):
    how, reason = WRONG[name]
    spoil(monkeypatch, lambda launch: launch.config.block_o == B.block_o, how)
    bench = Bench(o16=30, o32=10, o64=20)
    entry = tuner_at(tmp_path / "table.json", bench).run(unit_of(), 100)
    assert entry["config"] == config_to_json(C)
    (rejected,) = entry["rejected"]
    assert rejected["config"] == config_to_json(B)
    assert reason in rejected["reason"]
    assert all(label(config_to_json(B)) not in names for names in bench.timed)


HAZARD = "it is not run: 67 instructions use registers of an unfinished product; ..."


def test_a_candidate_with_a_hazard_is_not_run(tmp_path, monkeypatch):
    """However right its results are: they may be so by chance."""
    ran, looked = [], []
    monkeypatch.setattr(Launch, "start", lambda self, start=Launch.start: (ran.append(self.config), start(self)))
    target = Target("cuda", 90, 132)

    def why_not_run(trial, config, given):
        looked.append((config, given))
        return HAZARD if config.block_o == B.block_o else None

    monkeypatch.setattr(Trial, "why_not_run", why_not_run)
    tuner = tuner_at(tmp_path / "table.json", Bench(o16=30, o32=10, o64=20))
    tuner.target = target
    entry = tuner.run(unit_of(), 100)
    assert entry["config"] == config_to_json(C)
    assert entry["rejected"] == [{"config": config_to_json(B), "reason": HAZARD}]
    assert {config.block_o for config in ran} == {A.block_o, C.block_o}
    assert {config.block_o for config, _ in looked} == {A.block_o, B.block_o, C.block_o}
    assert {given for _, given in looked} == {target}
    table = Table("", [""] * 6)
    assert tune._add_row(table, "unit", entry) == 0, "it gave no wrong results: it was not asked for any"
    assert table.notes == []


def test_where_machine_code_cannot_be_read_the_table_says_so(tmp_path, monkeypatch):
    def why_not_run(trial, config, target):
        raise ToolError("this triton comes without a nvdisasm that runs")

    monkeypatch.setattr(Trial, "why_not_run", why_not_run)
    path = tmp_path / "table.json"
    tuner_at(path, Bench(), configs=(A,)).run(unit_of(), 100)
    (entry,) = json.loads(path.read_text())["entries"]
    assert entry["verified"] is True
    assert "not checked: this triton comes without a nvdisasm" in entry["unchecked"]
    table = Table("", [""] * 6)
    tune._add_row(table, "unit", entry)
    assert table.notes == [f"UNCHECKED: unit: {entry['unchecked']}"]
    assert exported(json.loads(path.read_text()))["entries"][0]["unchecked"] == entry["unchecked"]


def test_memory_that_no_kernel_writes_is_noticed(monkeypatch):
    """The poison itself: a launch that does nothing leaves NaN."""
    monkeypatch.setattr(Launch, "start", lambda self: None)
    assert "error nan" in (Trial(unit_of(), CPU).why_wrong(A) or "")


SHAPES = {
    "difference": SHAPE,
    "fp16": replace(SHAPE, dtype="fp16", contrast="scalar", border="zero_flux"),
    "paired": LayerShape.parse("c=32,h=4,w=5,dtype=fp16"),
    "edges": LayerShape.parse("c=128,o=8,h=4,w=5,dtype=fp16"),
    "depthwise": LayerShape.parse("c=4,o=8,h=5,w=6,groups=4,dtype=fp32,contrast=scalar,layout=contiguous"),
    "vector": LayerShape.parse("c=4,cg=3,h=5,w=6,similarity=vector,dtype=fp32,contrast=scalar,stride=2x1"),
    "fusion": LayerShape.parse("op=fusion,c=4,cg=5,o=3,h=4,w=5,dtype=fp32"),
}
UNITS = [
    pytest.param(unit, id=f"{name}-{unit.kernel}")
    for name, shape in SHAPES.items()
    for unit in units_of([shape], INTERPRETER)
]


@pytest.mark.parametrize("unit", UNITS)
def test_the_heuristic_is_right_for_every_kernel(unit: Unit):
    config = candidates(unit.kernel, unit.work, INTERPRETER)[0]
    assert Trial(unit, CPU).why_wrong(config) is None


WRITTEN = {
    "difference_forward": ("y_ptr",),
    "difference_data_gradient": ("du_ptr", "dv_ptr", "contrast_sums_ptr"),
    "difference_weight_gradient": ("dweight_ptr", "dbias_ptr"),
    "depthwise_forward": ("y_ptr",),
    "depthwise_data_gradient": ("du_ptr", "dv_ptr", "contrast_sums_ptr"),
    "depthwise_weight_gradient": ("dweight_ptr", "dbias_ptr"),
    "similarity": ("s_ptr",),
    "similarity_gradient": ("dv_ptr", "contrast_sums_ptr"),
    "tap_products": ("h_ptr",),
    "edge_products": ("h_ptr",),
    "fusion_forward": ("z_ptr",),
    "fusion_data_gradient": ("du_ptr", "dy_ptr", "scale_sums_ptr", "shift_sums_ptr"),
    "fusion_weight_gradient": ("dweight_ptr", "dbias_ptr"),
}


@pytest.mark.parametrize(
    ("kernel", "pointer"), [(kernel, pointer) for kernel, pointers in WRITTEN.items() for pointer in pointers]
)
@pytest.mark.sampled(8)
def test_every_result_of_every_kernel_is_checked(kernel, pointer, monkeypatch):
    families = {"depthwise": "depthwise", "similarity": "vector", "fusion": "fusion", "tap": "paired", "edge": "edges"}
    name = families.get(kernel.split("_")[0], "difference")
    unit = unit_of(kernel, SHAPES[name])
    trial, config = Trial(unit, CPU), candidates(kernel, unit.work, INTERPRETER)[0]

    def scale(arguments):
        if arguments.get(pointer) is not None:
            arguments[pointer].mul_(1.01)

    spoil(monkeypatch, lambda launch: launch.tuned_as == kernel, scale)
    assert "error" in (trial.why_wrong(config) or "")


def test_a_candidate_that_does_not_run_is_rejected_with_the_reason(tmp_path, monkeypatch):
    from triton.runtime.errors import OutOfResources

    import sdn_triton.launch.difference_conv as launch

    class Small:
        __name__ = "difference_forward_kernel"
        kernel = launch.difference_forward_kernel

        def __getitem__(self, grid):
            def run(**arguments):
                if arguments["BLOCK_O"] > 32:
                    raise OutOfResources(300_000, 232_448, "shared memory")
                self.kernel[grid](**arguments)

            return run

    monkeypatch.setattr(launch, "difference_forward_kernel", Small())
    entry = tuner_at(tmp_path / "table.json", Bench(o16=30, o32=10, o64=1)).run(unit_of(), 100)
    assert entry["config"] == config_to_json(B)
    (rejected,) = entry["rejected"]
    assert rejected["config"] == config_to_json(C)
    assert rejected["reason"].startswith("it does not run: out of resource: shared memory, Required: 300000")


@pytest.mark.long
def test_the_budget_ends_the_trials_and_a_later_run_goes_on(tmp_path):
    path = tmp_path / "table.json"
    first = Bench(o16=30, o32=10, o64=20)
    tuner = tuner_at(path, first)
    entry = tuner.run(unit_of(), 2)
    assert [row["config"]["block_o"] for row in entry["timed"]] == [32, 16]
    assert "complete" not in entry
    assert entry["config"] == config_to_json(B)
    assert not tuner.is_complete(unit_of())
    second = Bench(o16=30, o32=10, o64=5)
    tuner = tuner_at(path, second)
    entry = tuner.run(unit_of(), 100)
    assert entry["config"] == config_to_json(C)
    assert tuner.is_complete(unit_of())
    assert second.timed[0] == [label(config_to_json(C)), label(config_to_json(B))]
    assert len(second.timed) == 2  # the one that was left, and the final
    content = json.loads(path.read_text())
    assert len(content["entries"]) == 1
    assert content["unfinished"] == []
    assert content["entries"][0]["run"] == 1


@pytest.mark.long
@pytest.mark.parametrize("crash", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_a_crash_leaves_a_valid_table_and_its_cause_is_not_tried_again(crash, tmp_path):
    path = tmp_path / "table.json"
    finished = unit_of("difference_weight_gradient")
    bench = Bench(o16=30)
    tuner = tuner_at(path, bench)
    tuner.run(finished, 100)

    def dies(calls, *arguments):
        if label(config_to_json(B)) in calls:
            raise crash("an illegal memory access was encountered")
        return bench.time_calls(calls, *arguments)

    tuner.time_calls = dies
    with pytest.raises(crash):
        tuner.run(unit_of(), 100)
    assert list(read_table(path).configs) == [(finished.kernel, finished.bucket)]
    assert list(tmp_path.iterdir()) == [path]
    entry = tuner_at(path, Bench(o16=30, o32=10, o64=20)).run(unit_of(), 100)
    assert entry["rejected"] == [{"config": config_to_json(B), "reason": "the process ended while it was tried"}]
    assert entry["config"] == config_to_json(C)


@pytest.mark.long
def test_a_write_that_fails_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    tuner = tuner_at(path, Bench())
    tuner.run(unit_of(), 100)
    before = path.read_text()

    def full(content, file, **options):
        file.write('{"schema": 1, "dev')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sdn_triton.tuning.files.json.dump", full)
    with pytest.raises(OSError, match="No space"):
        tuner.run(unit_of("difference_weight_gradient"), 100)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.long
def test_a_file_that_is_no_table_of_this_gpu_is_not_touched(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("{")
    with pytest.raises(TableError, match="cannot be gone on with"):
        tuner_at(path, Bench())
    path.unlink()
    tuner_at(path, Bench()).run(unit_of(), 100)
    before = path.read_text()
    with pytest.raises(TableError, match="for another GPU"):
        Tuner(path, CPU, Target("cuda", 90, 132), 1.0)
    assert path.read_text() == before


def test_tuning_inside_a_graph_capture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="CUDA graph is being captured"):
        Tuner(tmp_path / "table.json", torch.device("cuda"), Target("cuda", 90, 132), 1.0)


@pytest.mark.long
def test_what_was_tuned_is_looked_up_and_gives_the_same_results(tmp_path):
    """From explain()'s command to a table to the next call."""
    x, v, k = torch.randn(2, 5, 5, 6), torch.randn(2, 5, 5, 6), torch.randn(7, 5, 3, 3)

    def call():
        return semantic_difference_conv2d(x, v, k, padding=1, backend="triton")

    before = call()
    text = str(explain(call))
    assert "(interpreter)" in text
    (command,) = re.findall(r"to tune this shape: sdn-triton tune --shape (\S+)", text)
    path = tmp_path / "table.json"
    tuner = tuner_at(path, Bench(o32=1))
    for unit in units_of([LayerShape.parse(command)], INTERPRETER):
        tuner.run(unit, 100)
    use_table(path)
    assert str(explain(call)).count(f"user's table {path}") == 4
    torch.testing.assert_close(call(), before)


@pytest.mark.long
def test_fusions_are_found_again_too(tmp_path):
    x, y, k = torch.randn(2, 4, 5, 6), torch.randn(2, 5, 5, 6), torch.randn(3, 9, 1, 1)

    def call():
        return feature_fusion(x, y, k, backend="triton")

    (command,) = re.findall(r"sdn-triton tune --shape (\S+)", str(explain(call)))
    path = tmp_path / "table.json"
    tuner = tuner_at(path, Bench())
    for unit in units_of([LayerShape.parse(command)], INTERPRETER):
        tuner.run(unit, 100)
    use_table(path)
    assert str(explain(call)).count(f"user's table {path}") == 3


@pytest.mark.long
def test_an_export_has_what_decided_and_joins_what_is_shipped(tmp_path):
    path = tmp_path / "table.json"
    tuner = tuner_at(path, Bench(o16=30, o32=10, o64=20))
    tuner.run(unit_of(), 100)
    tuner.run(unit_of("difference_weight_gradient"), 100)
    content = json.loads(path.read_text())
    first = exported(content)
    assert all("timed" not in entry for entry in first["entries"])
    assert [entry["candidates"] for entry in first["entries"]] == [3, 3]
    newer = tuner_at(tmp_path / "newer.json", Bench(o16=1))
    newer.run(unit_of(), 100)
    both = merged(first, exported(json.loads((tmp_path / "newer.json").read_text())))
    assert [(entry["kernel"], entry["run"], entry["config"]["block_o"]) for entry in both["entries"]] == [
        ("difference_weight_gradient", 0, 32),
        ("difference_forward", 1, 16),
    ]
    assert len(both["runs"]) == 2


def test_export_puts_the_table_into_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(tune, "SHIPPED", tmp_path)
    monkeypatch.setattr(tune, "device_slug", lambda device: "some-gpu")
    path = tmp_path / "own" / "table.json"
    path.parent.mkdir()
    tuner_at(path, Bench()).run(unit_of(), 100)
    for _ in range(2):
        assert tune.export(path, CPU) == tmp_path / "some-gpu.json"
    assert len(read_table(tmp_path / "some-gpu.json").configs) == 1


def test_shapes_of_a_model_are_recorded_and_read(tmp_path):
    from sdn_triton import SDNNeck

    path = tmp_path / "shapes.json"
    neck = SDNNeck([4, 8])
    with record_shapes(path) as shapes:
        for _ in range(2):
            neck([torch.randn(1, 4, 8, 8), torch.randn(1, 8, 4, 4)])
    assert read_shapes(path) == list(shapes)
    assert [(shape.op, shape.c, shape.h) for shape in shapes] == [
        ("difference", 4, 8),
        ("fusion", 4, 8),
        ("difference", 8, 4),
        ("fusion", 8, 4),
    ]
    neck([torch.randn(1, 4, 9, 9), torch.randn(1, 8, 4, 4)])
    assert len(shapes) == 4


def test_shapes_are_written_after_an_error_too(tmp_path):
    path = tmp_path / "shapes.json"
    x = torch.randn(1, 4, 8, 8)
    with convolutions_in("tf32"), pytest.raises(RuntimeError, match="later"), record_shapes(path):  # noqa: PT012
        semantic_difference_conv2d(x, x, torch.randn(2, 4, 3, 3), padding=1, diffusivity="rational")
        semantic_difference_conv2d(x.double(), x.double(), torch.randn(2, 4, 3, 3).double())
        raise RuntimeError("later")
    (shape,) = read_shapes(path)
    assert (shape.o, shape.diffusivity, shape.dtype, shape.layout) == (2, "rational", "tf32", "contiguous")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_shapes_through_text_and_json(shape):
    assert LayerShape.parse(str(shape)) == shape
    assert LayerShape.from_json(json.loads(json.dumps(shape.as_json()))) == shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c=4", "h must be given"),
        ("c=4,h=4,w=4,x=1", "a shape has no x"),
        ("c=4,h=4,w=4,dtype=int8", "dtype must be one of"),
        ("c=4,h=4,w=4,kernel=2x2", "kernel must be odd"),
        ("c=4,h=4,w=4,kernel=3", "kernel must be like"),
        ("c=4,h=4,w=4,groups=3", "must divide"),
        ("c=4,cg=3,h=4,w=4", "cg must be c=4"),
        ("c=4,h=1,w=1,padding=0x0", "is empty"),
        ("c=4,h", "is not KEY=VALUE"),
        ("c=four,h=4,w=4", "c must be like 0"),
    ],
)
def test_wrong_shapes_say_so(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LayerShape.parse(text)


def test_shapes_of_one_bucket_are_tuned_once():
    near = replace(SHAPE, h=4)
    assert len(units_of([SHAPE, near], INTERPRETER)) == 4
    assert len(units_of([SHAPE, replace(SHAPE, h=50, w=60)], INTERPRETER)) == 8


# The command itself.


def test_tune_on_the_interpreter_end_to_end(tmp_path, capsys):
    path = tmp_path / "table.json"
    options = ["--device", "cpu", "--shape", str(SHAPE), "--table", str(path)]
    assert main(["tune", *options, "--budget", "0.01"]) == 0
    shown = capsys.readouterr()
    assert "[1/4" in shown.err
    assert "4 of 4 have candidates left: the same command goes on." in shown.out
    assert "not reached" in shown.out
    assert len(read_table(path).configs) >= 1
    content = json.loads(path.read_text())
    for entry in content["entries"]:
        entry["complete"] = True
    path.write_text(json.dumps(content))
    assert main(["tune", *options, "--budget", "0.01"]) == 0
    assert len(json.loads(path.read_text())["entries"]) == 2


def test_tune_ends_with_1_where_a_configuration_was_wrong(tmp_path, monkeypatch, capsys):
    spoil(monkeypatch, lambda launch: launch.name.startswith("difference_forward"), lambda a: a["y_ptr"].mul_(2))
    path = tmp_path / "table.json"
    options = ["tune", "--device", "cpu", "--shape", str(SHAPE), "--table", str(path), "--budget", "0.01"]
    assert main(options) == 1
    assert "WRONG: difference_forward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no shapes: use --network"),
        (["--shape", "c=4"], "h must be given"),
        (["--shapes", "no-such-file.json"], "No such file"),
        (["--network", "vgg"], "choose from"),
        (["--network", "segformer-b0", "--device", "cpu", "--export"], "ships what was measured on a GPU"),
        (["--network", "segformer-b0", "--static", "sm_1"], "choose from"),
        (["--shape", "c=4,h=4,w=4", "--static", "sm_90"], "TRITON_INTERPRET is set"),
    ],
    ids=lambda value: "-".join(value)[2:40] if isinstance(value, list) else "",
)
def test_wrong_options_of_tune_say_so(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["tune", *options])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="about a machine without a GPU")
def test_without_a_gpu_tune_offers_the_ranking(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["tune", "--shape", "c=64,h=32,w=32"])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert "there is no GPU here" in shown
    assert "sdn-triton tune --static sm_90 --shape op=difference,c=64,h=32,w=32,dtype=bf16" in shown


def test_the_shapes_of_a_network_and_what_changes_them(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr(tune, "_tune", lambda args, shapes, device: seen.extend(shapes) or 0)
    assert main(["tune", "--network", "segformer-b0", "--dtype", "fp16", "--batch", "2", "--device", "cpu"]) == 0
    assert len(seen) == 8
    assert str(seen[0]) == "op=difference,n=2,c=32,h=128,w=128,dtype=fp16"

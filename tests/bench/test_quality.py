"""The experiment of docs/quality.md: its scenes, networks, statistics and files, and that its tables are up to date."""

import json
import math
import re
from contextlib import nullcontext
from itertools import chain

import numpy as np
import pytest
import torch
from support.places import ROOT

from sdn_triton import SDNNeck
from sdn_triton.bench.quality import __main__ as command
from sdn_triton.bench.quality import summary
from sdn_triton.bench.quality.convergence import by_backend, by_plain_operations, compare_paths
from sdn_triton.bench.quality.experiment import FULL, Job, Plan, Results, describe_task, execute
from sdn_triton.bench.quality.network import (
    BASE,
    SWEEPS,
    VARIANTS,
    build_network,
    live_parameters,
    set_suggested_contrast,
)
from sdn_triton.bench.quality.scenes import CLASSES, edge_statistics, make_scenes
from sdn_triton.bench.quality.training import Setting, batches, border_separation, responses, run, train

CPU = torch.device("cpu")
TINY = Setting(size=32, training_scenes=24, test_scenes=6, steps=4, batch=4)
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


# Scenes


def test_scenes_repeat_and_differ():
    one, again, other = (make_scenes(4, 48, seed) for seed in ((1, 0), (1, 0), (0, 1)))
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.labels, again.labels)
    assert not torch.equal(one.labels, other.labels)
    assert one.images.shape == (4, 1, 48, 48)
    assert one.labels.shape == (4, 48, 48)


@pytest.mark.parametrize("noise", [0.0, 0.6], ids=["clean", "noisy"])
def test_edges_inside_a_class_are_as_strong_as_those_between(noise):
    """What the task is about: neither differences of neighbours nor gradients tell a border."""
    statistics = edge_statistics(make_scenes(64, 64, 5, noise=noise))
    assert 0.85 < statistics["neighbour_ratio"] < 1.1
    assert 0.85 < statistics["gradient_ratio"] < 1.1
    assert 0.4 < statistics["gradient_separation"] < 0.53


def test_brightness_tells_no_class_and_classes_are_even():
    scenes = make_scenes(200, 64, 6, noise=0.0)
    values = [scenes.images[:, 0][scenes.labels == c] for c in range(CLASSES)]
    shares = torch.tensor([len(own) for own in values]) / scenes.labels.numel()
    assert shares.min() > 0.15
    assert max(abs(float(own.mean())) for own in values) < 0.03
    *gratings, chequer = (float(own.std()) for own in values)
    assert max(gratings) < 1.15 * min(gratings)
    # The page says so: its finer period is blurred more. That makes edges inside it weaker than those to the others.
    assert 0.55 < chequer / max(gratings) < 0.65


def test_edge_statistics_see_an_edge_where_there_is_one():
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[:, :, 8:] = 1
    step = make_scenes(1, 16, 0)._replace(images=5.0 * labels.unsqueeze(1) + 0.01 * torch.randn(1, 1, 16, 16))
    statistics = edge_statistics(step._replace(labels=labels))
    assert statistics["neighbour_ratio"] > 100
    assert statistics["gradient_separation"] > 0.99
    assert statistics["border_share"] == 2 / 16


# Networks


@pytest.mark.parametrize("name", [variant.name for variant in BASE if variant.name != "none"])
def test_parameters_that_matter_are_as_many(name):
    """By hand for the SDN neck, whose convolutions have 8 taps that count; within 3 % of it for the others."""
    neck = 0
    for own, guide in ((16, 32), (32, 64), (64, 64)):
        neck += 8 * own * own + 2 * own + (2 * own * own + own)  # convolution, normalisation, fusion
        neck += (guide * own + own) if guide != own else 0  # projection
    neck += 9 * 64 * 64 + 64  # the deepest stage's own guidance
    expected = live_parameters(build_network(VARIANTS["none"], CLASSES, 0)) + neck
    found = live_parameters(build_network(VARIANTS[name], CLASSES, 0))
    assert found == expected if name == "sdn" else abs(found / expected - 1) < 0.035


def test_parameters_that_do_not_matter_have_no_gradient():
    network = build_network(VARIANTS["sdn"], CLASSES, 0)
    scenes = make_scenes(2, 32, 0)
    network(scenes.images).square().sum().backward()
    still = sum(int((p.grad == 0).sum()) for name, p in network.named_parameters() if name.endswith("sdc.weight"))
    assert live_parameters(network) == sum(p.numel() for p in network.parameters()) - still


@every_variant
def test_every_variant_starts_alike_trains_and_answers(variant):
    network, other = build_network(variant, CLASSES, 3), build_network(VARIANTS["none"], CLASSES, 3)
    if variant.name != "wide":
        for part in ("encoder", "decoder"):
            own, same = (getattr(n, part).state_dict() for n in (network, other))
            assert all(torch.equal(own[key], same[key]) for key in same)
    scenes = make_scenes(4, 32, 0)
    if variant.suggested:
        set_suggested_contrast(network, scenes.images)
    before = [p.detach().clone() for p in network.parameters()]
    losses = train(network, scenes, Setting(size=32, training_scenes=4, steps=3, batch=2), 0)
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
    moved = [not torch.equal(old, new) for old, new in zip(before, network.parameters())]
    assert all(moved)
    maps = responses(network, scenes.images)
    assert maps.keys() == {"image_gradient", "feature_gradient"} | ({"response"} if network.neck else set())
    for values in maps.values():
        assert 0 <= border_separation(values, scenes.labels) <= 1


def test_responses_are_those_of_the_layers():
    """As a hook sees them in a call of the whole network."""
    images = make_scenes(2, 32, 1).images
    for name in ("conv", "conv_guided", "cdc", "sdn", "own", "deepest"):
        network = build_network(VARIANTS[name], CLASSES, 0)
        block = network.neck.stages[0]
        seen = []
        layer = block.conv if name in ("conv", "cdc") else block.sdc
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
        network.eval()
        network.fusion = None
        with torch.no_grad():
            block(*_entering(network, images))
        torch.testing.assert_close(responses(network, images)["response"], seen[0].norm(dim=1))


def _entering(network, images):
    """What enters the finest block of a network."""
    seen = []
    block = network.neck.stages[0]
    handle = block.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    network(images)
    handle.remove()
    return seen[0]


def test_suggested_contrast_is_the_median_of_each_stage():
    network = build_network(VARIANTS["sdn"], CLASSES, 0)
    images = make_scenes(2, 32, 1).images
    values = set_suggested_contrast(network, images)
    guides = network.neck.align_guidance(network.encoder(images))
    for stage, guide, value in zip(network.neck.stages, guides, values, strict=True):
        assert stage.sdc.contrast == value
        sizes = [(guide - torch.roll(guide, shift, (-2, -1)))[..., 1:, 1:-1].abs() for shift in ((0, 1), (1, 0), (1, 1), (1, -1))]  # fmt: skip  # noqa: E501
        below = torch.cat([(own[own > 0] <= value).float() for own in sizes]).mean()
        assert 0.45 < below < 0.55  # of almost all pairs


# Training


def test_training_repeats_and_learns():
    setting = Setting(size=32, training_scenes=64, steps=40, batch=8)
    scenes = make_scenes(64, 32, 0)
    one, again = (train(build_network(VARIANTS["sdn"], CLASSES, 0), scenes, setting, 0) for _ in range(2))
    assert one == again
    assert sum(one[-5:]) < 0.8 * sum(one[:5])


def test_batches_pass_over_everything_and_are_the_same_for_a_seed():
    setting = Setting(training_scenes=12, batch=4, steps=6)
    found = [indices.tolist() for indices in batches(setting, 0)]
    assert sorted(chain(*found[:3])) == sorted(chain(*found[3:])) == list(range(12))
    assert found == [indices.tolist() for indices in batches(setting, 0)] != [i.tolist() for i in batches(setting, 1)]


# The comparison of paths, here the eager path against PyTorch's own operations


def without_guidance_gradient(network):
    for stage in network.neck.stages:
        stage.sdc.forward = lambda u, v, forward=stage.sdc.forward: forward(u, v.detach())
    return nullcontext()


def with_another_contrast(network):
    for stage in network.neck.stages:
        stage.sdc.contrast = 1.1
    return nullcontext()


def not_a_number(network):
    network.decoder.classify.bias.data.fill_(torch.nan)
    return nullcontext()


SHORT = Setting(size=48, training_scenes=64, steps=14)


def test_two_paths_train_alike():
    found = compare_paths(SHORT, 0, CPU, ("eager", by_backend("eager")), ("plain", by_plain_operations))
    assert found.alike, found.checks()
    assert json.loads(json.dumps(found.describe()))["alike"]
    assert len(found.losses["plain"]) == SHORT.steps


@pytest.mark.parametrize("wrong", [without_guidance_gradient, with_another_contrast, not_a_number])
@pytest.mark.sampled(1)
def test_a_wrong_path_is_found(wrong):
    found = compare_paths(SHORT, 0, CPU, ("eager", by_backend("eager")), ("wrong", wrong))
    assert not found.alike, found.checks()


def test_backends_are_set_everywhere():
    network = build_network(VARIANTS["sdn"], CLASSES, 0)
    by_backend("triton")(network)
    layers = [module for module in network.modules() if hasattr(module, "backend")]
    assert len(layers) == 6
    assert all(layer.backend == "triton" for layer in layers)


@pytest.mark.gpu
def test_triton_trains_as_eager():
    paths = [(name, by_backend(name)) for name in ("eager", "triton")]
    found = compare_paths(Setting(training_scenes=256, steps=60), 0, torch.device("cuda"), *paths)
    assert found.alike, found.checks()


# Files and statistics


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A file with two seeds of every variant, after four steps."""
    path = tmp_path_factory.mktemp("quality") / "tiny.json"
    found = Results(path, TINY, CPU, ["test"])
    describe_task(TINY, found)
    for _, record, pictures in execute(Plan(TINY, seeds=2, sweep_seeds=2).jobs(), CPU, workers=0):
        found.add(record, pictures)
    return path


def test_plan():
    jobs = [(job.variant.name, job.seed) for job in Plan(TINY, seeds=3, sweep_seeds=1).jobs()]
    assert len(jobs) == len(set(jobs)) == 3 * len(BASE) + len(SWEEPS)
    assert [seed for _, seed in jobs] == sorted(seed for _, seed in jobs)


@pytest.mark.long
def test_runs_are_carried_on(results):
    again = Results(results, TINY, CPU, ["test"])
    assert all(again.has(variant, seed) for variant in VARIANTS.values() for seed in (0, 1))
    assert not again.has(VARIANTS["sdn"], 2)
    assert len(again.content["sessions"]) == 2
    record, _ = run(VARIANTS["sdn"], TINY, 1, CPU)
    (before,) = (r for r in again.content["runs"] if (r["variant"], r["seed"]) == ("sdn", 1))
    assert record["figures"] == pytest.approx(before["figures"], nan_ok=True)
    with pytest.raises(ValueError, match="another setting or device"):
        Results(results, Setting(steps=5), CPU, ["test"])


def test_a_file_from_before_a_setting_was_one_is_carried_on():
    assert "stride" not in summary.load(summary.FIGURES)["setting"]
    assert Results(summary.FIGURES, FULL.setting, CPU, ["test"]).has(VARIANTS["sdn"], 0)


@pytest.mark.long
def test_the_processes_compute_the_same(results):
    ((_, record, _),) = execute([Job(VARIANTS["none"], TINY, 0)], CPU, workers=1)
    (before,) = (r for r in summary.load(results)["runs"] if (r["variant"], r["seed"]) == ("none", 0))
    assert record["losses"] == pytest.approx(before["losses"], rel=1e-5)


def test_pictures(results):
    pytest.importorskip("matplotlib", reason="draws with matplotlib, of the extra bench")
    from sdn_triton.bench.quality import figures

    files = figures.draw(results)
    assert [file.suffix for file in files] == [".png", ".svg"] * 4
    assert all(file.stat().st_size > 5000 for file in files)
    wrong = np.array([[0, 1], [2, 2]])
    shown = figures.coloured(wrong, np.array([[0, 1], [2, 3]]))
    assert (shown[1, 1] == 0).all()
    assert (shown[1, 0] > 0).any()


def test_differences_by_hand():
    one, other = {0: 0.5, 1: 0.7, 2: 0.6, 9: 0.0}, {0: 0.4, 1: 0.5, 2: 0.3, 8: 1.0}
    found = summary.paired_difference(one, other)  # 0.1, 0.2, 0.3: deviation 0.1
    assert found.seeds == 3
    assert found.mean == pytest.approx(0.2)
    assert found.half_width == pytest.approx(4.303 * 0.1 / 3**0.5)
    assert str(found) == "+20.00 ± 24.84"
    assert summary.paired_difference({0: 1.0}, {0: 0.5}).half_width is None
    with pytest.raises(ValueError, match="share no seed"):
        summary.paired_difference({0: 1.0}, {1: 0.5})


@pytest.mark.parametrize(("freedom", "quantile"), summary.T_QUANTILES.items())
def test_student_quantiles(freedom, quantile):
    """The density integrates to 95 % between minus and plus the quantile."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    t = np.linspace(-quantile, quantile, 200_001)
    density = scale * (1 + t**2 / freedom) ** (-(freedom + 1) / 2)
    assert np.trapezoid(density, t) == pytest.approx(0.95, abs=5e-5)


@pytest.mark.long
def test_tables_hold_every_variant_and_are_well_formed(results):
    text = summary.markdown(summary.load(results))
    for variant in VARIANTS.values():
        assert variant.title in text
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.strip().splitlines()}) == 1


def test_a_page_without_marks_is_an_error(results):
    with pytest.raises(ValueError, match="found 0"):
        summary.with_tables("# A page", summary.markdown(summary.load(results)))


def test_the_page_is_up_to_date():
    """If this fails: python -m sdn_triton.bench.quality --docs bench/results/quality/cpu.json"""
    page = summary.PAGE.read_text()
    assert page == summary.with_tables(page, summary.markdown(summary.load(summary.FIGURES)))


def test_every_picture_of_the_page_is_there():
    names = re.findall(r"!\[.*?\]\((.*?)\)", summary.PAGE.read_text())
    assert len(names) >= 4
    for name in names:
        assert (summary.PAGE.parent / name).is_file()


# The command


def test_table_command(results, capsys):
    assert command.main(["--table", str(results)]) == 0
    assert "| SDN |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "nowhere.json"], "there is no file nowhere.json"),
        (["--workers", "0"], "argument --workers: '0' is not a positive whole number"),
        (["--table", "a", "--docs", "b"], "not allowed with"),
        (["--json", "{results}", "--quick"], "another setting or device"),
    ],
    ids=["no-file", "workers", "both", "other-setting"],
)
def test_wrong_options(arguments, message, results, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main([a.format(results=results) for a in arguments] + ["--device", "cpu"])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


# The demonstration on an image


def test_demonstration(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="draws with matplotlib, of the extra bench")
    Image = pytest.importorskip("PIL.Image", reason="reads an image with pillow, of the extra networks")
    from sdn_triton.bench.experiments import demo_image

    monkeypatch.setattr(demo_image, "TRAINING", TINY)
    photo, picture = tmp_path / "photo.png", tmp_path / "out.png"
    pixels = (np.indices((40, 60, 3)).sum(0) * 2).astype(np.uint8)
    Image.fromarray(pixels).save(photo)
    assert demo_image.main([str(photo), "--network", "small", "--size", "32", "48", "--output", str(picture)]) == 0
    assert "small network" in capsys.readouterr().out
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 500
    with pytest.raises(SystemExit):
        demo_image.main([str(tmp_path / "nowhere.png")])
    assert "there is no file" in capsys.readouterr().err
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(SystemExit):
        demo_image.main([str(tmp_path / "text.png"), "--network", "small"])
    assert "not an image" in capsys.readouterr().err


def test_demonstration_on_segformer():
    pytest.importorskip("transformers", reason="runs a SegFormer of transformers, of the extra networks")
    from sdn_triton.bench.experiments import demo_image

    found = demo_image.through_segformer(torch.randn(1, 3, 64, 96), None)
    assert [tuple(maps.shape[1:]) for maps in found.before] == [(32, 16, 24), (64, 8, 12), (160, 4, 6), (256, 2, 3)]
    assert [maps.shape for maps in found.after] == [maps.shape for maps in found.before]
    assert all(not torch.equal(a, b) for a, b in zip(found.before, found.after))


def test_principal_components():
    """Three channels that vary independently come back in order of their variance, up to sign."""
    from sdn_triton.bench.experiments import demo_image

    features = torch.randn(1, 3, 20, 20) * torch.tensor([1.0, 100.0, 10.0]).view(1, 3, 1, 1)
    components = demo_image.principal_components(features)
    for component, channel in zip(components, (1, 2, 0), strict=True):
        correlation = np.corrcoef(component.flatten(), features[0, channel].flatten())[0, 1]
        assert abs(correlation) > 0.95
    shown = demo_image.colours(demo_image.principal_components(features[:, :1]))
    assert shown.shape == (20, 20, 3)
    assert (shown.min(), shown.max()) == (0, 1)


def test_components_turn_towards_others():
    """Features in another basis, and shifted, get the colours that they had."""
    from sdn_triton.bench.experiments import demo_image

    features = torch.randn(1, 3, 20, 20) * torch.tensor([1.0, 100.0, 10.0]).view(1, 3, 1, 1)
    basis, _ = torch.linalg.qr(torch.randn(8, 3))
    components = demo_image.principal_components(features)
    others = -demo_image.principal_components(torch.einsum("oc,nchw->nohw", basis, features) + 5)
    assert not torch.allclose(others, components, rtol=1e-3, atol=1e-3)
    assert torch.allclose(demo_image.turned(others, components), components, rtol=1e-3, atol=1e-3)


def test_the_neck_of_the_sweep_is_the_library_neck_but_for_the_guidance():
    own, theirs = build_network(VARIANTS["deepest"], CLASSES, 0).neck, SDNNeck((16, 32, 64))
    assert [stage.project.in_channels for stage in own.stages if stage.project] == [64, 64]
    assert [stage.project.in_channels for stage in theirs.stages if stage.project] == [32, 64]


@pytest.mark.parametrize("place", ["sdn_triton/contrast.py", "docs/segmentation.md"])
def test_what_is_said_of_the_contrast_was_measured(place):
    tables, text = summary.PAGE.read_text(), re.sub(r"\s+", " ", (ROOT / place).read_text())
    (suggested,) = re.findall(r"changes mIoU by (-\d\.\d\d ± \d\.\d\d)", text)
    assert f"| suggest_contrast - SDN | 5 | {suggested} |" in tables
    (low,) = re.findall(r"0\.03 costs (\d\.\d\d ± \d\.\d\d)", text)
    assert f"| contrast 0.03 - SDN | 5 | -{low} |" in tables


def test_the_readme_leads_to_the_page():
    assert "docs/quality.md" in (ROOT / "README.md").read_text()

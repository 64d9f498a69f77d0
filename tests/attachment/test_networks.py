"""attach on real networks of other frameworks: one contract for all of them."""

import copy
import io
import re
import subprocess
import sys

import pytest
import torch
from support.places import ROOT
from support.pyramid_network import stir
from support.sampling import sample
from support.tiny_networks import CASES, CLASSES, Case, SumHead
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sdn_triton import SDNNeck, attach, detach

every_network = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def image() -> Tensor:
    return torch.randn(2, 3, 64, 64)


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Every floating-point tensor that the model returns; dropout and the like by one seed."""
    torch.manual_seed(7)
    leaves = pytree.tree_leaves(model(x))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) > 0 and all(torch.equal(a, b) for a, b in zip(one, other))


def attached(case: Case, x: Tensor, **options) -> tuple[nn.Module, SDNNeck]:
    model = case.made()
    return model, attach(model, case.at, example=x, **case.options, **options)


@every_network
@pytest.mark.sampled(5)
def test_zero_init_changes_nothing_in_evaluation_or_training(case):
    model, x = case.made(), image()
    twin = copy.deepcopy(model)
    neck = attach(twin, case.at, example=x, zero_init=True, **case.options)
    assert [stage.sdc.in_channels for stage in neck.stages] == list(case.channels(model))
    for training in (False, True):
        model.train(training), twin.train(training)
        assert equal(outputs(model, x), outputs(twin, x))
    assert all(torch.equal(value, twin.state_dict()[key]) for key, value in model.state_dict().items())


@every_network
def test_what_enters_the_part_went_through_the_neck(case):
    x = image()
    model, neck = attached(case, x)
    stir(neck)
    host, seen = model.get_submodule(case.host), []
    forward = host.forward
    host.forward = lambda *args, **kwargs: seen.append(case.entering(args, kwargs)) or forward(*args, **kwargs)
    with torch.no_grad():
        sharpened = outputs(model, x)
        detach(model, case.at)
        plain = outputs(model, x)
        entered, encoded = seen
        assert equal(entered, list(neck(encoded)))
    assert not equal(sharpened, plain)


@every_network
def test_gradients_reach_every_parameter_of_the_neck(case):
    x = image()
    model, neck = attached(case, x, learn_contrast=True)
    model.train()
    sum(output.square().sum() for output in outputs(model, x)).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert all(stage.sdc.weight.grad.abs().sum() > 0 for stage in neck.stages)


# One for each way in which features come, and one whose graph breaks: tracing a network takes seconds.
@pytest.mark.parametrize(
    "name", sample(CASES, lambda name: name in ("segformer", "torchvision-fcn", "monai-basicunet"))
)
@pytest.mark.sampled(1)
def test_compiled(name):
    case, x = CASES[name], image()
    model, neck = attached(case, x)
    stir(neck)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    expected = outputs(model, x)
    got = outputs(torch.compile(model, fullgraph=case.fullgraph, backend=backend), x)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)
    # The weights of its difference convolutions are inputs of the graphs, and used there.
    used = {
        str(node.target) for graph in graphs for node in graph.graph.nodes if node.op == "placeholder" and node.users
    }
    assert len([name for name in used if "sdn_neck" in name and "sdc_parameters_weight" in name]) == len(neck.stages)


@every_network
@pytest.mark.sampled(5)
def test_saved_loaded_and_detached(case):
    x = image()
    model = case.made()
    plain, keys = outputs(model, x), list(model.state_dict())
    neck = attach(model, case.at, example=x, **case.options)
    stir(neck)
    expected, file = outputs(model, x), io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    again = case.made()
    attach(again, case.at, case.channels(again), **case.options)
    assert again.load_state_dict(torch.load(file))
    assert equal(outputs(again, x), expected)
    for one in (model, again):
        detach(one, case.at)
        assert equal(outputs(one, x), plain)
        assert list(one.state_dict()) == keys


def test_saved_as_transformers_saves(tmp_path):
    """from_pretrained makes the model without a neck; the neck's weights are in the same file, under its own names."""
    x, case = image(), CASES["segformer"]
    model, neck = attached(case, x)
    stir(neck)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert not equal(outputs(again, x), outputs(model, x))
    weights = pytest.importorskip("safetensors.torch").load_file(tmp_path / "model.safetensors")
    prefix = "decode_head.sdn_neck."
    other = attach(again, "decode_head", again.config.hidden_sizes)
    other.load_state_dict({key.removeprefix(prefix): w for key, w in weights.items() if key.startswith(prefix)})
    assert equal(outputs(again, x), outputs(model, x))


CONFIG = f"""
custom_imports = dict(imports=["sdn_triton.integrations.mmseg"], allow_failed_imports=False)
model = dict(
    type="EncoderDecoder",
    neck=dict(type="SDNNeck", in_channels=[4, 6], zero_init=True, contrast=0.5),
    decode_head=dict(type="SumHead", in_channels=[4, 6]),
)
num_classes = {CLASSES}
"""


@pytest.fixture
def mmseg_registry():
    """A registry below mmengine's, as mmsegmentation has one, with the two parts of it that this test needs."""
    registry = pytest.importorskip("mmengine.registry", reason="mmengine is not installed: `make test` installs it")
    models = registry.Registry("model", parent=registry.MODELS, scope="mmseg_for_test")

    @models.register_module()
    class EncoderDecoder(nn.Module):
        """Calls backbone, neck and head as mmsegmentation's class of this name does."""

        def __init__(self, neck, decode_head):
            super().__init__()
            self.backbone = nn.ModuleList([nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)])
            self.neck = models.build(neck)
            self.decode_head = models.build(decode_head)

        def forward(self, inputs):
            fine = self.backbone[0](inputs)
            return self.decode_head(self.neck((fine, self.backbone[1](fine))))

    models.register_module(module=SumHead)
    yield models
    registry.MODELS.children.pop("mmseg_for_test")


def test_a_neck_by_its_name_in_a_configuration(mmseg_registry):
    from mmengine import Config

    model, x = mmseg_registry.build(Config.fromstring(CONFIG, ".py").model).eval(), image()
    assert isinstance(model.neck, SDNNeck)
    assert [(stage.sdc.in_channels, stage.sdc.contrast) for stage in model.neck.stages] == [(4, 0.5), (6, 0.5)]
    with_neck = model(x)
    fine = model.backbone[0](x)
    assert torch.equal(with_neck, model.decode_head([fine, model.backbone[1](fine)]))
    torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="eager")(x), with_neck)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None for p in model.neck.parameters())
    again = mmseg_registry.build(Config.fromstring(CONFIG, ".py").model)
    assert again.load_state_dict(model.state_dict())


def test_without_mmengine_the_error_says_what_to_install():
    code = "import sys; sys.modules['mmengine'] = None; import sdn_triton.integrations.mmseg"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: sdn_triton.integrations.mmseg needs mmengine: pip install mmengine" in done.stderr


def test_the_library_imports_no_framework():
    code = (
        "import sys; sys.path.insert(0, 'tests'); import torch; from torch import nn; import sdn_triton; "
        "model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)); "
        "sdn_triton.attach(model, '1', example=torch.ones(1, 3, 8, 8)); model(torch.ones(1, 3, 8, 8)); "
        "from support.tiny_networks import imported; print(sorted(imported()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_every_network_has_its_line_in_the_documents():
    """And every line its case, but mmsegmentation: `test_a_neck_by_its_name_in_a_configuration` is about that."""
    table = (ROOT / "docs" / "networks.md").read_text().partition("\n\n## ")[0].lower()
    lines = re.findall(r"^\| (.+) \| (.+) \| (.+) \| .+ \|$", table, re.MULTILINE)[1:]
    of_cases = {
        name: {
            line
            for line in lines
            if line[0].partition(" ")[0] in case.requires and name.rpartition("-")[2] in line[1] and case.at in line[2]
        }
        for name, case in CASES.items()
    }
    assert [name for name, found in of_cases.items() if not found] == [], "no line in the table of docs/networks.md"
    without_case = {line[0] for line in set(lines).difference(*of_cases.values())}
    assert without_case == {"mmsegmentation"}, "a line of docs/networks.md without a case in tiny_networks.py"

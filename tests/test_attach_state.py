"""attach: parameters, checkpoints, copies, compilers, several processes; detach."""

import copy
import io
import pickle

import pytest
import torch
import torch.distributed as dist
from pyramid_network import CALLS, CHANNELS, attributes, image, make, stir
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from sdn_triton import SDNNeck, attach, decomposed, detach


def outputs_and_keys(model: nn.Module, x: Tensor) -> list:
    """Outputs, gradients and statistics of a step in evaluation and in training, and the state's keys."""
    model = copy.deepcopy(model)
    found = [model(x).detach(), list(model.state_dict())]
    model.train()
    torch.manual_seed(5)  # dropout
    output = model(x)
    output.square().sum().backward()
    return [*found, output.detach(), *(p.grad for p in model.parameters()), *model.buffers()]


def same(one: list, other: list) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one, other)
    )


@pytest.mark.parametrize("side", ["input", "output"])
def test_detach_restores_the_model_bit_for_bit(side):
    at = {"input": "decode_head", "output": "encoder"}[side]
    model, x = make(), image()
    before, held = outputs_and_keys(model, x), attributes(model)
    neck = attach(model, at, example=x, side=side)
    stir(neck)
    model.train()
    model(x)
    model.decode_head.norm.reset_running_stats()
    model.eval()
    assert not same(outputs_and_keys(model, x), before)
    assert detach(model, at, side=side) is neck
    assert same(outputs_and_keys(model, x), before)
    assert attributes(model) == held


def test_zero_init_changes_no_output():
    model, x = make(), image()
    before = model(x)
    attach(model, "decode_head", example=x, zero_init=True)
    assert torch.equal(model(x), before)
    model.train()
    torch.manual_seed(1)
    trained = model(x)
    detach(model, "decode_head")
    torch.manual_seed(1)
    assert torch.equal(model(x), trained)


def test_the_neck_is_part_of_the_model():
    model = make()
    own = set(model.state_dict())
    neck = attach(model, "decode_head", CHANNELS, learn_contrast=True)
    assert set(model.state_dict()) - own == {f"decode_head.sdn_neck.{key}" for key in neck.state_dict()}
    assert {id(p) for p in neck.parameters()} <= {id(p) for p in model.parameters()}
    assert not neck.training
    model.train()
    assert neck.training
    model.double()
    assert {p.dtype for p in neck.parameters()} == {torch.float64}
    model.to("meta")
    assert {p.device.type for p in neck.parameters()} == {"meta"}


def test_options_device_and_dtype():
    neck = attach(make().double(), "decode_head", CHANNELS, similarity="vector", contrast=0.3)
    assert {p.dtype for p in neck.parameters()} == {torch.float64}
    assert neck.stages[0].sdc.similarity == "vector"
    assert neck.stages[0].sdc.contrast == 0.3
    assert {p.dtype for p in attach(make(), "decode_head", CHANNELS, dtype=torch.float64).parameters()} == {
        torch.float64
    }
    assert {p.device.type for p in attach(make().to("meta"), "decode_head", CHANNELS).parameters()} == {"meta"}
    assert not attach(make().eval(), "decode_head", CHANNELS).training
    assert attach(make().train(), "decode_head", CHANNELS).training


def test_weights_load_before_and_after():
    x, pretrained = image(), make().state_dict()
    before, after = make(), make()
    before.load_state_dict(pretrained)
    attach(before, "decode_head", CHANNELS, zero_init=True)
    neck = attach(after, "decode_head", CHANNELS, zero_init=True)
    missing, unexpected = after.load_state_dict(pretrained, strict=False)
    assert unexpected == []
    counters = {key for key in neck.state_dict() if key.endswith("num_batches_tracked")}  # never called missing
    assert set(missing) == {f"decode_head.sdn_neck.{key}" for key in neck.state_dict().keys() - counters}
    assert torch.equal(before(x), after(x))
    stir(neck)
    again = make()
    attach(again, "decode_head", CHANNELS)
    assert again.load_state_dict(after.state_dict())
    assert torch.equal(again(x), after(x))


def _saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def first_argument(head, features):
    return head(features)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": _saved,
}


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES.keys())
def test_a_copy_has_a_neck_of_its_own(duplicate, side):
    at = {"input": "decode_head", "output": "encoder"}[side]
    model, x = make(call=first_argument), image()
    plain = model(x)
    neck = attach(model, at, example=x, side=side)
    stir(neck)
    expected = model(x)
    twin = duplicate(model)
    assert torch.equal(twin(x), expected)
    own = twin.get_submodule(f"{at}.sdn_neck")
    assert own is not neck
    stir(own)
    assert torch.equal(model(x), expected)
    assert not torch.equal(twin(x), expected)
    assert detach(twin, at, side=side) is own
    assert torch.equal(twin(x), plain)
    assert torch.equal(model(x), expected)


def test_a_part_copied_alone_takes_its_neck_along():
    model, x = make(), image()
    neck = attach(model, "decode_head", CHANNELS)
    stir(neck)
    expected = model(x)
    head = copy.deepcopy(model.decode_head)
    other = make()
    other.encoder, other.decode_head = model.encoder, head
    assert torch.equal(other(x), expected)


def test_an_average_averages_the_neck():
    model = make(call=first_argument)
    neck = attach(model, "decode_head", CHANNELS)
    average = AveragedModel(model)
    average.update_parameters(model)
    first = neck.guidance.weight.detach().clone()
    stir(neck)
    average.update_parameters(model)
    expected = (first + neck.guidance.weight.detach()) / 2
    torch.testing.assert_close(average.module.decode_head.sdn_neck.guidance.weight.detach(), expected)
    x = image()
    before = average(x)
    stir(average.module.decode_head.sdn_neck)
    assert not torch.equal(average(x), before)


def test_other_parameters_for_one_call():
    model, x = make(), image()
    neck = attach(model, "decode_head", CHANNELS, zero_init=True)
    before = model(x)
    zeros = {f"decode_head.sdn_neck.{n}": torch.zeros_like(p) for n, p in neck.named_parameters()}
    assert not torch.equal(functional_call(model, zeros, (x,)), before)
    assert torch.equal(model(x), before)


def test_a_neck_replaced_is_the_one_that_runs():
    """Wrappers (checkpointing, compilation) put another module in the neck's place."""
    model, x = make(), image()
    neck = attach(model, "decode_head", CHANNELS)
    calls = []

    class Wrapper(nn.Module):
        def forward(self, features):
            calls.append(len(features))
            return neck(features)

    model.decode_head.sdn_neck = Wrapper()
    model(x)
    assert calls == [3]


def test_every_call_of_the_part_passes_the_neck():
    model, x = make(call=lambda head, f: head(f) + head([g * 2 for g in f])), image()
    neck = attach(model, "decode_head", example=x)
    calls = []
    neck.register_forward_hook(lambda *_: calls.append(1))
    stir(neck)
    output = model(x)
    assert len(calls) == 2
    features = model.encoder(x)
    head, detached = model.decode_head, detach(model, "decode_head")
    assert torch.equal(output, head(list(detached(features))) + head(list(detached([2 * f for f in features]))))


def test_a_part_that_calls_itself():
    class Recursive(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)

        def forward(self, x, depth=2):
            return x if depth == 0 else self.conv(self(nn.functional.avg_pool2d(x, 2), depth - 1))

    model, x = nn.ModuleDict({"part": Recursive()})["part"], torch.randn(2, 4, 16, 16)
    neck = attach(model, "", 4)
    stir(neck.eval())
    detached = copy.deepcopy(neck)

    def expected(x, depth=2):
        (x,) = detached(x)
        return x if depth == 0 else model.conv(expected(nn.functional.avg_pool2d(x, 2), depth - 1))

    torch.testing.assert_close(model(x), expected(x))


def test_two_necks_at_one_part_run_in_turn():
    model, x = make(), image()
    first = attach(model, "decode_head", CHANNELS)
    second = attach(model, "decode_head", CHANNELS, name="second")
    stir(first)
    stir(second)
    model(x)
    entered = model.decode_head.seen[0][0]
    assert all(torch.equal(a, b) for a, b in zip(entered, second(first(model.encoder(x)))))
    assert detach(model, "decode_head") is first
    model(x)
    assert all(torch.equal(a, b) for a, b in zip(model.decode_head.seen[0][0], second(model.encoder(x))))


def count(model: nn.Module, **options):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return torch.compile(model, backend=backend, **options), graphs


@pytest.mark.parametrize(
    ("call", "dynamic"),
    [
        ("list", None),
        ("keywords", None),
        ("ordered dict", None),
        ("coarse to fine", None),
        ("list", True),
        ("keywords", True),
    ],
)
def test_compiled_in_one_graph(call, dynamic):
    torch.compiler.reset()
    model = make(call=CALLS[call])
    stir(attach(model, "decode_head", CHANNELS))
    compiled, graphs = count(model, fullgraph=True, dynamic=dynamic)
    x = image()
    output = compiled(x)
    assert torch.equal(compiled(x), output)
    assert len(graphs) == 1
    torch.testing.assert_close(output, model(x))
    assert "sdn_neck" in graphs[0].print_readable(print_output=False)
    if dynamic:
        larger = image(1, 64, 48)
        torch.testing.assert_close(compiled(larger), model(larger))


def test_selected_by_name_in_one_graph():
    torch.compiler.reset()
    model = make(call=CALLS["keywords"])
    stir(attach(model, "decode_head", (4, 8), select=["fine", "coarse"]))
    compiled, _ = count(model, fullgraph=True)
    x = image()
    torch.testing.assert_close(compiled(x), model(x))


def test_compiled_training_reaches_the_neck():
    torch.compiler.reset()
    model, x = make(), image()
    neck = attach(model, "decode_head", example=x)
    model.train()
    model.decode_head.dropout.p = 0.0
    twin = copy.deepcopy(model)
    torch.compile(model, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    twin(x).square().sum().backward()
    assert all(p.grad is not None for p in neck.parameters())
    for (name, p), q in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_what_was_compiled_before_notices():
    torch.compiler.reset()
    model, x = make(), image()
    plain = model(x)
    compiled, _ = count(model)
    torch.testing.assert_close(compiled(x), plain)
    stir(attach(compiled, "decode_head", example=x))  # what torch.compile returned, or what it was given
    with_neck = model(x)
    assert not torch.allclose(with_neck, plain)
    torch.testing.assert_close(compiled(x), with_neck)
    detach(model, "decode_head")
    torch.testing.assert_close(compiled(x), plain)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_with_dynamic_sizes(strict):
    model = make()
    stir(attach(model, "decode_head", example=image()))
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (image(2, 64, 80),), dynamic_shapes=(dynamic,), strict=strict)
    assert "decode_head.sdn_neck.guidance.weight" in program.state_dict
    x = image(3, 96, 64)
    torch.testing.assert_close(program.module()(x), model(x))


def test_onnx_of_a_network_with_a_neck():
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, x = make(), image(2, 64, 64)
    stir(attach(model, "decode_head", example=x))
    with decomposed():
        exported = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert {node.domain for node in exported.model.graph} == {""}
    session = runtime.InferenceSession(exported.model_proto.SerializeToString())
    (output,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(x).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_of_the_part(reentrant):
    gradients = []
    for call in (
        lambda head, f: head(*f),
        lambda head, f: checkpoint(head, *f, use_reentrant=reentrant),
    ):
        torch.manual_seed(0)
        model = make(call=call)
        neck = attach(model, "decode_head", CHANNELS)
        model(image()).square().sum().backward()
        gradients.append([p.grad for p in neck.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_autocast():
    model, x = make(), image()
    attach(model, "decode_head", example=x, zero_init=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x)
        detach(model, "decode_head")
        torch.testing.assert_close(output, model(x), rtol=0.02, atol=0.02)


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
def test_data_parallel_sees_the_neck_and_refuses_to_be_late():
    model, x = make(), image()
    neck = attach(model, "decode_head", CHANNELS)
    parallel = DistributedDataParallel(model)
    reduced = []
    parallel.register_comm_hook(None, lambda _, bucket: _done(reduced, bucket))
    parallel(x).square().sum().backward()
    assert set(map(id, neck.parameters())) <= set(reduced)
    with pytest.raises(ValueError, match=r"model is inside DistributedDataParallel.*attach it before"):
        attach(parallel, "module.encoder", 3)


def _done(reduced, bucket):
    reduced.extend(map(id, bucket.parameters()))
    future = torch.futures.Future()
    future.set_result(bucket.buffer())
    return future


def test_it_returns_a_neck_like_any_other():
    assert type(attach(make(), "decode_head", CHANNELS)) is SDNNeck


def test_a_part_that_is_compiled():
    """The neck goes inside, where the compiled part finds it, and is found there again."""
    plain, x = make(), image()
    model = copy.deepcopy(plain)
    model.decode_head = torch.compile(model.decode_head, backend="eager")
    for one in (plain, model):
        stir(attach(one, "decode_head", example=x))
    model.load_state_dict(dict(zip(model.state_dict(), plain.state_dict().values(), strict=True)))
    assert torch.equal(model(x), plain(x))
    detach(model, "decode_head")
    detach(plain, "decode_head")
    assert torch.equal(model(x), plain(x))


def test_a_part_in_a_checkpoint_wrapper():
    model, x = make(), image()
    model.decode_head = checkpoint_wrapper(model.decode_head)
    attach(model, "decode_head", CHANNELS)
    state = {name: value + 1 for name, value in model.state_dict().items()}
    assert model.load_state_dict(state).missing_keys == []
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.decode_head.sdn_neck.parameters())
    assert detach(model, "decode_head") is not None


@pytest.mark.parametrize("shard", [fully_shard, FullyShardedDataParallel], ids=["fully_shard", "FSDP"])
def test_sharded_parameters_refuse_a_late_neck(shard):
    """Ranks would train necks of their own."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        options = {"device_id": torch.device("cpu")} if shard is FullyShardedDataParallel else {}
        model = shard(make(), **options)
        at = next(name for name, _ in model.named_modules() if name.endswith("decode_head"))
        with pytest.raises(ValueError, match=r"(FSDP|FullySharded)\w*, which would not see the neck: attach it before"):
            attach(model, at, CHANNELS)
    finally:
        dist.destroy_process_group()

"""attach under compilers, exporters, checkpointing, autocast and in several processes."""

import copy

import pytest
import torch
import torch.distributed as dist
from support.agreement import terms_of_biases
from support.pyramid_network import CALLS, CHANNELS, image, make, stir
from support.sampling import sample
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from sdn_triton import attach, decomposed, detach


def count(model: nn.Module, **options):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return torch.compile(model, backend=backend, **options), graphs


IN_ONE_GRAPH = [
    ("list", None),
    ("keywords", None),
    ("ordered dict", None),
    ("coarse to fine", None),
    ("list", True),
    ("keywords", True),
]


@pytest.mark.parametrize(("call", "dynamic"), sample(IN_ONE_GRAPH, lambda call, dynamic: not dynamic))
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
    exact = copy.deepcopy(model).double()
    terms = terms_of_biases(exact)
    # Not the sum of squares: behind a normalisation that never changes, and its gradient is nothing but rounding.
    torch.compile(model, fullgraph=True, backend="aot_eager")(x).sin().sum().backward()
    exact(x.double().requires_grad_()).sin().sum().backward()
    assert all(p.grad is not None for p in neck.parameters())
    for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
        size = max(q.grad.abs().max().item(), terms.get(name, 0.0))
        assert (p.grad - q.grad).abs().max().item() <= 2e-5 * size, name


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


@pytest.mark.parametrize("strict", sample([False, True], lambda strict: not strict))
def test_exported_with_dynamic_sizes(strict):
    model = make()
    stir(attach(model, "decode_head", example=image()))
    dynamic = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (image(2, 64, 80),), dynamic_shapes=(dynamic,), strict=strict)
    assert "decode_head.sdn_neck.guidance.weight" in program.state_dict
    x = image(3, 96, 64)
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.long
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

"""The same things have the same names in every command, and columns say what they are."""

import pytest

from sdn_triton.cli import parser_for
from sdn_triton.tuning.shapes import LayerShape

COMMANDS = {"compare": ["compare"], "bench run": ["bench", "run"], "tune": ["tune"]}
COMMON = ("--network", "--size", "--batch", "--dtype", "--memory-format", "--device", "--budget")
SHORT = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def parsed(command: list[str], *options: str):
    return parser_for(command).parse_args([*command, *options])


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("option", COMMON)
def test_every_command_has_the_common_options(command, option, capsys):
    with pytest.raises(SystemExit):
        parsed(command, "--help")
    assert f"{option} " in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(("short", "name"), SHORT.items())
def test_dtypes_have_pytorchs_names_and_short_ones(command, short, name):
    found = [parsed(command, "--dtype", text).dtype for text in (name, short)]
    assert found[0] == found[1]
    assert name in str(found[0])


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_other_dtypes_are_refused_with_the_names_that_there_are(command, capsys):
    with pytest.raises(SystemExit):
        parsed(command, "--dtype", "float31")
    shown = capsys.readouterr().err
    assert all(name in shown for name in ("float31", *SHORT.values()))


def test_the_older_name_of_the_memory_format_is_understood():
    assert parsed(["tune"], "--layout", "contiguous").memory_format == "contiguous"
    assert parsed(["tune"], "--memory-format", "contiguous").memory_format == "contiguous"


@pytest.mark.parametrize(("short", "name"), SHORT.items())
def test_shapes_take_both_names_and_keep_one(short, name):
    assert LayerShape.parse(f"c=8,h=4,w=4,dtype={name}") == LayerShape.parse(f"c=8,h=4,w=4,dtype={short}")
    assert str(LayerShape.parse(f"c=8,h=4,w=4,dtype={name}")).endswith(f"dtype={short}")

"""Kernels of a few lines of PTX, to try one thing at a time."""

from __future__ import annotations

from torch import Tensor

from .findings import Findings
from .launch import run_launch
from .machine import Mode
from .program import Program
from .ptx import parse

MODULE = """
.version 8.3
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 shared[];
.visible .entry kernel(
{parameters}
)
.reqntid {threads}, 1, 1
{{
    .reg .pred %p<9>;
    .reg .b16 %rs<9>;
    .reg .b32 %r<99>;
    .reg .f32 %f<99>;
    .reg .b64 %rd<99>;
{loads}
    mov.u32 %r0, %tid.x;
    shl.b32 %r1, %r0, 2;
    mov.u32 %r2, shared;
    add.s32 %r3, %r2, %r1;
    mov.u32 %r4, %ctaid.x;
{body}
    ret;
}}
"""
"""``%r0`` is the thread, ``%r1`` four times that, ``%r2`` the begin of shared memory, ``%r3`` the thread's word there,
``%r4`` the program; ``%rd0`` and so on are the tensors."""


def module(body: str, tensors: int = 0, threads: int = 64) -> str:
    """PTX with this body."""
    return MODULE.format(
        parameters=",\n".join(f"    .param .u64 .ptr .global .align 1 kernel_param_{n}" for n in range(tensors)),
        loads="\n".join(f"    ld.param.b64 %rd{n}, [kernel_param_{n}];" for n in range(tensors)),
        threads=threads,
        body=body,
    )


def execute(
    body: str, *tensors: Tensor, threads: int = 64, shared: int = 1024, programs: int = 1, mode: Mode | None = None
) -> Findings:
    """Run it on these tensors, and return what was found."""
    found = Findings()
    program = Program(parse(module(body, len(tensors), threads)), shared)
    run_launch(program, (programs, 1, 1), ["*b32"] * len(tensors), tensors, mode or Mode(), found)
    return found

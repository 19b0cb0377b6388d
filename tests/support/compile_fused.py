"""Compile the kernels for a GPU that need not be there, in several forms, and print what each needs.

    python -m tests.support.compile_fused CAPABILITY …

For the first compute capability all forms of the kernel of the keys are compiled, for others the largest one.
Without TRITON_INTERPRET. It fails if a form does not compile.
"""

import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lemmse.estimator.fused.kernel import fused_kernel
from lemmse.estimator.fused.launch import widths_of
from lemmse.estimator.fused_hybrid.group_kernel import close_kernel, probe_kernel
from lemmse.estimator.fused_hybrid.group_sums import BLOCK
from lemmse.estimator.fused_hybrid.visits import PART
from tests.support.processes import run_process

POINTERS = {
    "planes": "*fp16",
    "precisions": "*fp16",
    "scales": "*fp32",
    "biases": "*fp32",
    "codes": "*u8",
    "norms": "*fp32",
    "targets": "*fp16",
    "centres": "*fp32",
    "unit": "fp32",
    "spans": "*i64",
    "listed": "*i64",
    "places": "*i64",
    "reference": "*fp32",
    "sums": "*fp32",
    "squares": "*fp32",
    "patches": "*fp32",
    "Q": "i32",
    "R": "i32",
    "N": "i32",
}
USUAL = {"P": 75, "BITS": 8, "SHIFT": 0, "PLANES": 2, "APART": False, "WEIGHTED": False, "REPEATED": False}
USUAL |= {
    "FINE": False,
    "V": 16,
    "ESS": False,
    "PATCH": 0,
    "SQUARES": False,
    "LISTED": False,
    "SPAN": 1 << 16,
    "BQ": 64,
    "BM": 64,
}
FORMS = (
    {},
    {
        "BITS": 16,
        "SHIFT": 7,
        "FINE": True,
        "REPEATED": True,
        "ESS": True,
        "PLANES": 3,
        "APART": True,
        "P": 363,
    },
    {"LISTED": True, "SPAN": 512},
    {"BITS": 32, "WEIGHTED": True, "PATCH": 64, "SQUARES": True, "ESS": True, "BM": 32},
)
CODES = {8: "*u8", 16: "*i16", 32: "*fp32"}
INPUTS = dict.fromkeys(("u", "square", "means", "leading", "constants"), "*fp32")
INPUTS |= {"query": "*i64", "blocks": "*i64", "G": "i32", "precision": "fp32"}
PROBE = INPUTS | {"masses": "*fp32", "heaviest": "*i64", "V": "i32"}
CLOSE = dict.fromkeys(("shrinkage", "log_z", "extent", "low", "high", "radius", "sums", "patches"), "*fp32")
CLOSE |= INPUTS | {"limit": "fp32", "forced": "*i32", "opened": "*i8", "Q": "i32"}
GROUPS = {"CHUNKS": 5, "LEADING": 2, "BQ": BLOCK, "BG": PART}
LEVELS = ({"E": 17, "PATCH": False}, {"E": 0, "PATCH": False}, {"E": 0, "PATCH": True})


def fused(form, capability):
    settings = USUAL | form
    width, chunks, tail = widths_of(settings["P"])
    settings |= {"K": width, "CHUNKS": chunks, "TAIL": tail}
    return compiled(fused_kernel, POINTERS | {"codes": CODES[settings["BITS"]]}, settings, capability)


def compiled(kernel, arguments, settings, capability):
    signature = {name: arguments.get(name, "constexpr") for name in kernel.arg_names}
    aligned = {
        (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*")
    }
    source = ASTSource(kernel, signature, settings, aligned)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": 4, "num_stages": 3})


def report(form, found):
    products = len(re.findall(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma", found.asm["ptx"]))
    with TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(found.asm["cubin"])
        asked = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(binary)]
        dumped = run_process(asked)
    dumped.check_returncode()
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", dumped.stdout).groups()
    print(
        f"{form}: {products} tensor products, {found.metadata.shared} bytes of shared memory, "
        f"{registers} registers, {stack} bytes spilled"
    )


if __name__ == "__main__":
    for number, capability in enumerate(map(int, sys.argv[1:])):
        for form in FORMS[-1:] if number else FORMS:
            report(form, fused(form, capability))
        for kernel, arguments, settings in (
            (probe_kernel, PROBE, {"GAIN": 2.0}),
            *((close_kernel, CLOSE, level | {"T": 3}) for level in LEVELS),
        ):
            report(settings, compiled(kernel, arguments, GROUPS | settings, capability))

"""Compile the kernels for a GPU that need not be there, in several forms, and print what each needs.

    python -m tests.support.compile_fused CAPABILITY

Without TRITON_INTERPRET. It fails if a form does not compile.
"""

import re
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lemmse.estimator.fused.kernel import fused_kernel
from lemmse.estimator.fused.launch import widths_of
from lemmse.estimator.fused_hybrid.group_kernel import closed_kernel, probe_kernel

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
    {"BITS": 32, "WEIGHTED": True, "PATCH": 64, "SQUARES": True, "ESS": True},
)
CODES = {8: "*u8", 16: "*i16", 32: "*fp32"}
SCORES = dict.fromkeys(("square", "spread", "gaussian", "constants"), "*fp32")
GROUPS = {"SPLIT": 512, "BQ": 16, "BG": 128}
PROBE = SCORES | {"masses": "*fp32", "heaviest": "*i64", "Q": "i32", "G": "i32", "precision": "fp32"}
CLOSED = SCORES | dict.fromkeys(("shift", "targets", "log_z", "limits", "sums", "masses"), "*fp32")
CLOSED |= {"summed": "*i8", "opened": "*i8", "Q": "i32", "G": "i32", "QG": "i64", "precision": "fp32"}


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
    return triton.compile(source, target=target, options={"num_warps": 4, "num_stages": 2})


if __name__ == "__main__":
    capability = int(sys.argv[1])
    for form in FORMS:
        found = fused(form, capability)
        products = len(re.findall(r"wgmma\.mma_async|mma\.sync", found.asm["ptx"]))
        print(f"{form}: {found.metadata.shared} bytes of shared memory, {products} tensor products")
    compiled(probe_kernel, PROBE, GROUPS | {"GAIN": 2.0}, capability)
    compiled(closed_kernel, CLOSED, GROUPS | {"T": 3, "PATCH": True}, capability)

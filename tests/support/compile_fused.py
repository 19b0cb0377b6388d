"""Compile the fused kernel for a GPU that need not be there, in several forms, and print what each needs.

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
    "reference": "*fp32",
    "sums": "*fp32",
    "squares": "*fp32",
    "patches": "*fp32",
    "Q": "i32",
    "R": "i32",
}
USUAL = {"P": 75, "BITS": 8, "SHIFT": 0, "PLANES": 2, "APART": False, "WEIGHTED": False, "REPEATED": False}
USUAL |= {
    "FINE": False,
    "V": 16,
    "ESS": False,
    "PATCH": 0,
    "SQUARES": False,
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
    {"BITS": 32, "WEIGHTED": True, "PATCH": 64, "SQUARES": True, "ESS": True},
)
CODES = {8: "*u8", 16: "*i16", 32: "*fp32"}


def compiled(form, capability):
    settings = USUAL | form
    width, chunks, tail = widths_of(settings["P"])
    settings |= {"K": width, "CHUNKS": chunks, "TAIL": tail}
    signature = POINTERS | {"codes": CODES[settings["BITS"]]} | dict.fromkeys(settings, "constexpr")
    aligned = {
        (fused_kernel.arg_names.index(name),): [["tt.divisibility", 16]]
        for name, kind in signature.items()
        if kind.startswith("*")
    }
    source = ASTSource(fused_kernel, signature, settings, aligned)
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": 4, "num_stages": 2})


if __name__ == "__main__":
    for form in FORMS:
        found = compiled(form, int(sys.argv[1]))
        products = len(re.findall(r"wgmma\.mma_async|mma\.sync", found.asm["ptx"]))
        print(f"{form}: {found.metadata.shared} bytes of shared memory, {products} tensor products")

"""The C++ library: compiled on first use (compiled_file.py), called through ctypes."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from models.backends.fused_cpu.compiled_file import compiled_file

# Concatenated to one translation unit, in this order, after those of `variant`.
SOURCES = (
    *("packing.hpp", "structures.hpp", "elementwise.hpp", "convolution.hpp", "few_positions.hpp"),
    *("forward.hpp", "backward.hpp", "symbols.hpp"),
    *("units.hpp", "units_back.hpp", "atan2_step.hpp", "entry.cpp"),
)

Index, Pointer = ctypes.c_int64, ctypes.c_void_p


def structure(name: str, **fields: type) -> type[ctypes.Structure]:
    """Make a ctypes structure; its fields must be in the order of the C++ one."""
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})


RIGHT_SIDES = ("qkv", "out", "gate_up", "down", "qkv_t", "out_t", "gate_up_t", "down_t")
LEFT_SIDES = ("mix_gate_up", "mix_down", "mix_gate_up_t", "mix_down_t")
CONVOLUTION = ("conv_taps", "conv_bias")
KEPT = (
    *("before", "q", "k", "v", "mixed", "mix_gate_up", "between", "after", "gate_up"),
    *("lse", "scale_between", "scale_after", "scale_mix_inner", "scale_inner"),
)
GRADIENTS = ("qkv", "out", "gate_up", "down", "mix_gate_up", "mix_down", *CONVOLUTION)
SIZES = ("rows", "length", "width", "heads", "head_dim", "inner", "mix_inner", "layers", "rms_gated")

Right = structure("Right", data=Pointer, inner=Index, columns=Index, block=Index)
PACKING_SIZES = ("outputs", "inputs", "output_block", "input_block")
Packing = structure(
    "Packing",
    **dict.fromkeys(PACKING_SIZES, Index),
    **dict.fromkeys(("weight", "transposed", "plain"), Pointer),
)
UNPACKING_SIZES = ("outputs", "inputs", "block", "by_output")
Unpacking = structure("Unpacking", **dict.fromkeys(UNPACKING_SIZES, Index), sum=Pointer, grad=Pointer)
Layer = structure(
    "Layer", **dict.fromkeys(RIGHT_SIDES, Right), **dict.fromkeys((*LEFT_SIDES, *CONVOLUTION), Pointer)
)
Kept = structure("Kept", **dict.fromkeys(KEPT, Pointer))
Gradients = structure("Gradients", **dict.fromkeys(GRADIENTS, Pointer))
Shape = structure("Shape", **dict.fromkeys(SIZES, Index), eps=ctypes.c_float, cos=Pointer, sin=Pointer)
# For networks of blocks over symbols and positions (symbols.hpp), which have two of the above per block.
SymbolShape = structure("SymbolShape", rows=Index, positions=Shape, symbols=Shape)

# For networks of units (units.hpp), whose layers are arrays of `Right` and gradients arrays of pointers, one per map.
POOL_SIZES, UNIT_SIZES = ("vectors", "size", "kind"), ("rows", "length", "width", "inner", "layers")
Pool = structure("Pool", members=Pointer, of_pair=Pointer, **dict.fromkeys(POOL_SIZES, Index))
UnitShape = structure(
    "UnitShape",
    **dict.fromkeys((*UNIT_SIZES, "kinds", "num_pools", "has_maximum"), Index),
    eps=ctypes.c_float,
    pools=Pointer,
)
# For the optimizer (atan2_step.hpp).
Moments = structure("Moments", **dict.fromkeys(("weight", "grad", "average", "square"), Pointer), size=Index)
FACTORS = ("decay", "grad_weight", "square_weight", "correction", "alpha")
StepFactors = structure("StepFactors", **dict.fromkeys(FACTORS, ctypes.c_float))
UnitKept = structure("UnitKept", before=Pointer, after=Pointer, gate_up=Pointer, scale=Pointer)


@dataclass(frozen=True)
class Variant:
    """The library for one dtype: the sources of its vectors and values, and a first line."""

    vectors: str
    values: str
    first_line: str = ""


def variant(dtype: torch.dtype) -> Variant | None:
    """Choose the variant of the library for a dtype on this processor; None if there is none.

    bfloat16 needs AVX-512 with bfloat16 products, and torch's own; float32 needs AVX2. The environment variable
    `ATEN_CPU_CAPABILITY` restricts the instructions, as it does for torch.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if dtype == torch.bfloat16 and capability == "AVX512":
        has_products = torch.cpu.get_capabilities().get("avx512_bf16", False)
        fits = has_products and torch.backends.mkldnn.is_available()
        return Variant("vectors_512.hpp", "bfloat16.hpp") if fits else None
    if dtype == torch.float32 and capability == "AVX512":
        return Variant("vectors_512.hpp", "float32.hpp")
    if dtype == torch.float32 and capability == "AVX2":
        # torch compiles for all instructions that the processor has, even if `ATEN_CPU_CAPABILITY` restricts them.
        return Variant("vectors_256.hpp", "float32.hpp", '#pragma GCC target("no-avx512f")')
    return None


def source(of: Variant) -> str:
    folder = Path(__file__).parent
    names = ("memory.hpp", of.vectors, of.values, *SOURCES)
    return "\n".join([of.first_line, *((folder / name).read_text() for name in names)])


@functools.cache
def load_library(of: Variant) -> ctypes.CDLL:
    """Compile and load the library. Raises RuntimeError if it does not compile, or its products are wrong here."""
    loaded = ctypes.CDLL(str(compiled_file(source(of))))
    applications = [
        getattr(loaded, f"{way}{of}") for way in ("forward", "backward") for of in ("", "_units", "_symbols")
    ]
    for function in applications:
        function.argtypes = [Pointer, Pointer, Index, *[Pointer] * 4]
    loaded.pack_weights.argtypes = loaded.unpack_gradients.argtypes = [Pointer, Index]
    loaded.sum_rows_by_id.argtypes = [Pointer, Index, Index, Pointer, Pointer]
    loaded.unpack_gradients.restype = loaded.sum_rows_by_id.restype = None
    loaded.adam_atan2.argtypes = [Pointer, Index, Pointer]
    for function in (*applications, loaded.pack_weights, loaded.adam_atan2, loaded.check):
        function.restype = ctypes.c_char_p
    if message := loaded.check():
        raise RuntimeError(message.decode())
    return loaded

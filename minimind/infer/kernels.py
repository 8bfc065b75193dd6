"""Products of a few rows with narrow weights, compiled for the processor they run on.

One row of a product reads every weight once and multiplies it once, so what it costs is reading. Here weights are read
as they lie, widened to fp32 in registers and multiplied there: 52 MB of bf16 take what reading 52 MB takes. Libraries
either lay weights out anew at each call, widen them slowly, or need a processor that multiplies bf16.

What is compiled is written as LLVM's intermediate language, with vectors of a stated length, so that the order of every
sum is stated too: a row of a product is the same to the bit however many rows it is multiplied with, and on however
many threads. Threads are those of torch, through the OpenMP that it came with.

Axes: N rows, K inputs, F outputs. Not here: many rows, which are multiplied faster in blocks (`products`).
"""

import ctypes
import platform
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from llvmlite import binding, ir
from torch import Tensor

Width = Literal["bf16", "fp16", "int8"]

_SUMS = 2
"""Sums of a row and an output, each of as many numbers as a vector holds. More would not fit into registers."""
_MOST_ROWS = 4
"""Rows that are multiplied with a weight at a time."""
_OUTPUTS = 16
"""Outputs whose weights stay in the cache while all rows go past."""
_LEAST_WORK = 1 << 16
"""Weights; threads are woken for more."""

_F32, _I32, _I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_NARROW = {"bf16": ir.IntType(16), "fp16": ir.HalfType(), "int8": ir.IntType(8)}
_FIELDS = ("rows", "weights", "scales", "outputs", "row_count", "input_count", "output_count")
"""What a product is given, 8 bytes each: four addresses and three numbers."""


@cache
def fits(inputs: int) -> bool:
    """Whether there is a kernel for so many inputs, on this processor."""
    features = binding.get_host_cpu_features()
    widens = features.get("fma") and features.get("f16c") if platform.machine() in ("x86_64", "AMD64") else True
    return bool(widens) and platform.machine() in ("x86_64", "AMD64", "aarch64", "arm64") and not inputs % _step()


def narrow_product(weight_FK: Tensor, scale_F: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """x·Wᵀ, times `scale_F`: fp32 rows N×K to fp32 N×F, with weights in bf16, fp16 or int8 on a CPU."""
    widths: dict[torch.dtype, Width] = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.int8: "int8"}
    kernel = _kernel(widths[weight_FK.dtype])
    weight_FK = weight_FK.contiguous()
    outputs, inputs = weight_FK.shape
    scale_F = torch.ones(outputs) if scale_F is None else scale_F.float().contiguous()
    weights, scales, threaded = weight_FK.data_ptr(), scale_F.data_ptr(), weight_FK.numel() >= _LEAST_WORK

    def product(x_NK: Tensor) -> Tensor:
        x_NK, y_NF = x_NK.contiguous(), torch.empty(len(x_NK), outputs)
        fields = (x_NK.data_ptr(), weights, scales, y_NF.data_ptr(), len(x_NK), inputs, outputs)
        kernel((ctypes.c_int64 * len(_FIELDS))(*fields), torch.get_num_threads() if threaded else 1)
        return y_NF

    product.weights = weight_FK, scale_F  # type: ignore[attr-defined]  # only their addresses are used above
    return product


@cache
def _kernel(width: Width) -> Callable[[object, int], None]:
    """Fields and a number of threads → nothing; outputs are written."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten(), opt=3
    )
    openmp = _openmp()
    module = binding.parse_assembly(str(_Writer(width, threaded=openmp is not None).module))
    module.verify()
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    compiler = binding.create_mcjit_compiler(module, machine)
    compiler.finalize_object()
    kernel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(compiler.get_function_address("product"))
    kernel.kept = compiler, openmp  # type: ignore[attr-defined]  # the code is freed with its compiler
    return kernel


@cache
def _openmp() -> ctypes.CDLL | None:
    """The OpenMP whose threads torch uses, its functions known to the compiler; None where it is not to be found."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    for path in sorted(set(re.findall(r"/\S*lib[gi]?omp\d?[-.]\S*", maps))):
        library = ctypes.CDLL(path)
        names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
        if all(hasattr(library, name) for name in names):
            for name in names:
                binding.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
            return library
    return None


def _lanes() -> int:
    """Numbers of fp32 that a vector holds."""
    return 16 if binding.get_host_cpu_features().get("avx512f") else 8


def _step() -> int:
    return _SUMS * _lanes()


class _Tile(NamedTuple):
    """Some rows and one output: addresses of their first numbers."""

    rows: list[ir.Value]
    weight: ir.Value


class _Writer:
    """Writes a kernel: `_OUTPUTS` of a thread at a time, `_MOST_ROWS` rows at a time."""

    def __init__(self, width: Width, *, threaded: bool) -> None:
        self.module = ir.Module("products")
        self._width, self._narrow, self._lanes = width, _NARROW[width], _lanes()
        self._vector = ir.VectorType(_F32, self._lanes)
        self._fma = ir.Function(
            self.module, ir.FunctionType(self._vector, [self._vector] * 3), f"llvm.fma.v{self._lanes}f32"
        )
        self._entry(self._outputs(), threaded)

    def _entry(self, outputs: ir.Function, threaded: bool) -> None:
        """`product(fields, threads)`: `outputs` on every thread."""
        entry = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [_I64.as_pointer(), _I64]), "product")
        builder = ir.IRBuilder(entry.append_basic_block())
        fields, threads = entry.args

        def alone() -> None:
            builder.call(outputs, [fields, _I64(0), _I64(1)])

        if threaded:
            part = self._part(outputs)
            kind = ir.FunctionType(ir.VoidType(), [part.type, _I64.as_pointer(), _I32, _I32])
            parallel = ir.Function(self.module, kind, "GOMP_parallel")
            with builder.if_else(builder.icmp_signed(">", threads, _I64(1))) as (many, one):
                with many:
                    builder.call(parallel, [part, fields, builder.trunc(threads, _I32), _I32(0)])
                with one:
                    alone()
        else:
            alone()
        builder.ret_void()

    def _part(self, outputs: ir.Function) -> ir.Function:
        """`part(fields)`: what a thread does, its share of the outputs."""
        part = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [_I64.as_pointer()]), "part")
        builder = ir.IRBuilder(part.append_basic_block())
        asks = (
            ir.Function(self.module, ir.FunctionType(_I32, []), f"omp_get_{what}")
            for what in ("thread_num", "num_threads")
        )
        number, count = (builder.sext(builder.call(ask, []), _I64) for ask in asks)
        builder.call(outputs, [part.args[0], number, count])
        builder.ret_void()
        return part

    def _outputs(self) -> ir.Function:
        """`outputs(fields, number, count)`: the outputs of thread `number` of `count`."""
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), [_I64.as_pointer(), _I64, _I64]), "outputs")
        b = self._b = ir.IRBuilder(function.append_basic_block())
        given, number, count = function.args
        fields = {name: b.load(b.gep(given, [_I64(place)])) for place, name in enumerate(_FIELDS)}
        pointers = {"rows": _F32, "weights": self._narrow, "scales": _F32, "outputs": _F32}
        self._fields = fields | {name: b.inttoptr(fields[name], to.as_pointer()) for name, to in pointers.items()}
        first, stop = (b.sdiv(b.mul(fields["output_count"], at), count) for at in (number, b.add(number, _I64(1))))
        self._loop(
            first, stop, _OUTPUTS, lambda at: self._some_outputs(at, self._least(b.add(at, _I64(_OUTPUTS)), stop))
        )
        b.ret_void()
        return function

    def _some_outputs(self, first: ir.Value, stop: ir.Value) -> None:
        """Some outputs of all rows."""
        b, rows = self._b, self._fields["row_count"]
        whole = b.mul(b.sdiv(rows, _I64(_MOST_ROWS)), _I64(_MOST_ROWS))

        def of_rows(row: ir.Value, count: int) -> None:
            self._loop(first, stop, 1, lambda output: self._sums(row, count, output))

        self._loop(_I64(0), whole, _MOST_ROWS, lambda row: of_rows(row, _MOST_ROWS))
        for rest in range(1, _MOST_ROWS):
            with b.if_then(b.icmp_signed("==", b.sub(rows, whole), _I64(rest))):
                of_rows(whole, rest)

    def _least(self, one: ir.Value, other: ir.Value) -> ir.Value:
        return self._b.select(self._b.icmp_signed("<", one, other), one, other)

    def _sums(self, first_row: ir.Value, rows: int, output: ir.Value) -> None:
        """One output of some rows: sums of vectors over the inputs, then of their numbers, in the same order always."""
        b, inputs, outputs = self._b, self._fields["input_count"], self._fields["output_count"]
        numbers = [b.add(first_row, _I64(row)) for row in range(rows)]
        tile = _Tile(
            [b.gep(self._fields["rows"], [b.mul(number, inputs)]) for number in numbers],
            b.gep(self._fields["weights"], [b.mul(output, inputs)]),
        )
        sums = [ir.Constant(self._vector, [0.0] * self._lanes)] * (rows * _SUMS)
        scale = b.load(b.gep(self._fields["scales"], [output]))
        for number, parts in zip(numbers, self._over_inputs(tile, sums, inputs), strict=True):
            total = parts[0]
            for part in parts[1:]:
                total = b.fadd(total, part)
            place = b.add(b.mul(number, outputs), output)
            b.store(b.fmul(self._folded(total), scale), b.gep(self._fields["outputs"], [place]))

    def _over_inputs(self, tile: _Tile, zeros: list[ir.Value], inputs: ir.Value) -> list[list[ir.Value]]:
        """The `_SUMS` vectors of each row after all inputs."""
        b, before = self._b, self._b.block
        head, body, end = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        at, sums = b.phi(_I64), [b.phi(self._vector) for _ in zeros]
        b.cbranch(b.icmp_signed("<", at, inputs), body, end)
        b.position_at_end(body)
        new = []
        for number in range(_SUMS):
            place = b.add(at, _I64(number * self._lanes))
            weights = self._wide(b.gep(tile.weight, [place]))
            for row, start in enumerate(tile.rows):
                row_vector = b.load(b.bitcast(b.gep(start, [place]), self._vector.as_pointer()), align=4)
                new.append(b.call(self._fma, [weights, row_vector, sums[number * len(tile.rows) + row]]))
        new = [b.add(at, _I64(_step())), *new]
        for phi, first, later in zip([at, *sums], [_I64(0), *zeros], new, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(later, body)
        b.branch(head)
        b.position_at_end(end)
        return [sums[row :: len(tile.rows)] for row in range(len(tile.rows))]

    def _wide(self, address: ir.Value) -> ir.Value:
        """A vector of weights in fp32."""
        b, narrow = self._b, ir.VectorType(self._narrow, self._lanes)
        weights = b.load(b.bitcast(address, narrow.as_pointer()), align=1)
        if self._width == "bf16":  # the upper half of an fp32
            whole = ir.VectorType(_I32, self._lanes)
            return b.bitcast(b.shl(b.zext(weights, whole), ir.Constant(whole, [16] * self._lanes)), self._vector)
        return b.fpext(weights, self._vector) if self._width == "fp16" else b.sitofp(weights, self._vector)

    def _folded(self, vector: ir.Value) -> ir.Value:
        """The sum of a vector's numbers: halves onto each other until one is left."""
        b, size = self._b, self._lanes
        while size > 1:
            size //= 2
            halves = ([*range(size)], [*range(size, 2 * size)])
            chosen = (ir.Constant(ir.VectorType(_I32, size), places) for places in halves)
            vector = b.fadd(*(b.shuffle_vector(vector, vector, places) for places in chosen))
        return b.extract_element(vector, _I32(0))

    def _loop(self, first: ir.Value, stop: ir.Value, step: int, body: Callable[[ir.Value], None]) -> None:
        b, before = self._b, self._b.block
        head, inside, end = (b.append_basic_block() for _ in range(3))
        b.branch(head)
        b.position_at_end(head)
        at = b.phi(_I64)
        b.cbranch(b.icmp_signed("<", at, stop), inside, end)
        b.position_at_end(inside)
        body(at)
        at.add_incoming(first, before)
        at.add_incoming(b.add(at, _I64(step)), b.block)
        b.branch(head)
        b.position_at_end(end)

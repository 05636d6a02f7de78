"""Compile the kernels for a GPU (compute capability 9.0) that need not be there; test_kernels.py runs it."""

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from trainables.gpu import dense, kernels, norm_kernels

HALF, WHOLE = "*bf16", "*fp32"
IMAGES = {"raw": HALF, "skip": HALF, "result": HALF, "gradient": HALF, "into_raw": HALF, "bias": WHOLE, "slope": WHOLE}
IMAGES |= {"shares": WHOLE, "fixed": "fp32"}
DENSE = dict.fromkeys(("source", "weight", "mask", "skip", "outer", "target", "second"), HALF) | {"bias": WHOLE}
DENSE |= dict.fromkeys(("scale", "skip_scale", "second_scale"), "fp32")


def build(function, types, warps=4, stages=3, **constants):
    names = function.arg_names
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert built.metadata.shared <= 232_448, function  # bytes a multiprocessor of that GPU can give one program
    return built.asm["ptx"]


def main():
    small = {"CHANNELS": 64, "PADDED": 64, "ROWS": 64}
    for shuffle, skip in ((False, True), (True, False)):
        build(kernels.finish_forward, IMAGES, LEARNT=True, SKIP=skip, SHUFFLE=shuffle, **small)
    backward = {"SUMS": True, "WRITE": True, "SHUFFLE": False, "REPEATS": 2}
    build(kernels.finish_backward, IMAGES, LEARNT=False, SIGNED=True, **backward, **small)
    build(kernels.column_sums, {"source": HALF, "target": WHOLE}, CHANNELS=192, PADDED=256, ROWS=32, REPEATS=2)
    build(kernels.sum_shares, {"shares": WHOLE, "target": HALF}, COLUMNS=65, ROWS=256, REPEATS=2, WIDTH=32)
    norms = IMAGES | {"statistics": WHOLE, "weight": WHOLE, "shift": WHOLE, "sums": WHOLE}
    norms |= {"running_mean": WHOLE, "running_variance": WHOLE, "count": "*i64", "momentum": "fp32", "eps": "fp32"}
    build(norm_kernels.norm_sums, norms, REPEATS=2, **small)
    build(norm_kernels.norm_statistics, norms, RUNNING=True, CHANNELS=64, ROWS=256, REPEATS=2, WIDTH=32)
    build(norm_kernels.norm_forward, norms, AFFINE=True, LEARNT=True, SKIP=True, **small)
    for second in (False, True):
        build(norm_kernels.norm_backward, norms, SECOND=second, AFFINE=True, LEARNT=True, REPEATS=2, **small)
    build(kernels.gather_taps, {"planes": HALF, "result": HALF}, KERNEL=9, BANDS=3, PIXELS=1024)
    build(kernels.scatter_taps, {"image": HALF, "planes": HALF}, KERNEL=9, BANDS=3, PIXELS=1024)
    crops = {"pool": WHOLE, "crops": "*i32", "result": WHOLE}
    build(kernels.cut_crops, crops, COLUMN=2, BANDS=3, PADDED=4, PIXELS=256)
    products = [
        build(
            kernels.weight_gradient,
            {"x": HALF, "gradient": HALF, "shares": WHOLE},
            **{"FAN_IN": 64, "FAN_OUT": 64, "ROWS": 64, "REPEATS": 9},
        )
    ]
    for tile in (dense.LARGE, dense.SMALL):
        for part, back in ((0, False), (4, False), (0, True), (4, True)):
            shape = {"FEATURES": 64, "GROWTH": 32, "SKIP": 64, "OUTER": 64, "TARGET": 192, "SECOND": 192 if back else 0}
            block, warps, stages = tile
            products.append(
                build(kernels.dense_layer, DENSE, warps, stages, PART=part, BACKWARD=back, BLOCK=block, **shape)
            )
    assert all("wgmma" in product for product in products)  # the matrix unit's own instructions


if __name__ == "__main__":
    main()
